//! What the process has left of files and memory, whether it is run, and whether the wall's clock can be believed.

use std::time::Duration;

use super::{Seen, Watch};
use crate::figures::{Clocks, ProcessFigures};
use crate::judge::Finding;
use crate::options::HealthOptions;

/// Of what is limited, this part in use is a failure: the next file may be refused.
const USED_PERCENT_FAILED: u64 = 98;

/// Something that is over as soon as it is seen: shown for a while.
#[derive(Default)]
struct Incident(Option<(Finding, Duration)>);

impl Incident {
    fn begin(&mut self, found: Finding, seen: &Seen<'_>) {
        self.0 = Some((found, seen.now + seen.options.incident_shown));
    }

    fn get(&self, seen: &Seen<'_>) -> Option<Finding> {
        self.0.as_ref().filter(|(_, until)| seen.now < *until).map(|(found, _)| found.clone())
    }
}

#[derive(Default)]
pub(super) struct Process {
    last: Option<Clocks>,
    pause: Incident,
}

impl Watch for Process {
    fn look(&mut self, seen: &Seen<'_>) -> Option<Finding> {
        let last = self.last.replace(seen.clocks);
        let gap =
            last.map_or(Duration::ZERO, |last| seen.clocks.steady.saturating_duration_since(last.steady));
        let late = gap.saturating_sub(seen.options.probe_interval);
        if late > seen.options.pause_degraded {
            let reason = format!("the process was not run for {} ms", late.as_millis());
            self.pause.begin(Finding::degraded(reason), seen);
        }
        let limits = match seen.process {
            None => None,
            Some(Err(reason)) => {
                Some(Finding::degraded(format!("the process cannot be looked at: {reason}")))
            }
            Some(Ok(figures)) => {
                let parts = [files(figures, seen.options), memory(figures, seen.options)];
                parts.into_iter().flatten().max_by_key(|found| found.state)
            }
        };
        Some(limits.or_else(|| self.pause.get(seen)).unwrap_or_else(Finding::healthy))
    }
}

fn percent(part: u64, of: u64) -> u64 {
    part.saturating_mul(100) / of.max(1)
}

fn files(figures: &ProcessFigures, options: &HealthOptions) -> Option<Finding> {
    let max = figures.open_files_max?;
    let used = percent(figures.open_files, max);
    if used >= USED_PERCENT_FAILED {
        return Some(Finding::failed(format!(
            "over {USED_PERCENT_FAILED} % of the {max} files allowed are open"
        )));
    }
    let limit = options.open_files_percent_degraded;
    (used >= limit).then(|| Finding::degraded(format!("over {limit} % of the {max} files allowed are open")))
}

fn memory(figures: &ProcessFigures, options: &HealthOptions) -> Option<Finding> {
    let max = match options.memory_bytes_max {
        0 => figures.memory_bytes,
        max => max,
    };
    let limit = options.memory_percent_degraded;
    let over = limit > 0 && percent(figures.resident_bytes, max) >= limit;
    over.then(|| {
        Finding::degraded(format!("the process uses over {limit} % of its {} MiB of memory", max >> 20))
    })
}

/// Nothing that matters depends on this clock; people and certificates do.
#[derive(Default)]
pub(super) struct WallClock {
    last: Option<Clocks>,
    jump: Incident,
}

impl Watch for WallClock {
    fn look(&mut self, seen: &Seen<'_>) -> Option<Finding> {
        if let Some(last) = self.last.replace(seen.clocks) {
            let passed = seen.clocks.steady.saturating_duration_since(last.steady);
            let expected = last.wall + passed;
            let jump = expected.abs_diff(seen.clocks.wall);
            if jump > seen.options.clock_jump_degraded {
                let way = if seen.clocks.wall < expected { "back" } else { "forward" };
                let reason = format!("the clock was set {way} by {} ms", jump.as_millis());
                self.jump.begin(Finding::degraded(reason), seen);
            }
        }
        Some(self.jump.get(seen).unwrap_or_else(Finding::healthy))
    }
}
