//! A bar on standard error while a run goes on; nothing when that is no terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Pause between two looks at the clock for the bar.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Drawn by the thread that measures, so that no other thread takes time from the servers.
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    next: Instant,
    /// The bar shows what is done, and not the time that has passed.
    counts: bool,
}

impl Progress {
    /// `length`: how long it goes on.
    pub fn new(what: &str, length: Duration) -> Self {
        Self::build(what, u64::try_from(length.as_millis()).unwrap_or(u64::MAX), false)
    }

    /// `total`: how many there are to do.
    pub fn counting(what: &str, total: u64) -> Self {
        Self::build(what, total, true)
    }

    fn build(what: &str, total: u64, counts: bool) -> Self {
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}")
            .expect("the template is a constant that indicatif accepts");
        let bar = ProgressBar::new(total).with_style(style).with_prefix(what.to_owned());
        let began = Instant::now();
        Self { bar, began, next: began, counts }
    }

    /// `done`: what was done so far, such as requests.
    pub fn show(&mut self, now: Instant, done: u64) {
        if now < self.next || self.bar.is_hidden() {
            return;
        }
        self.next = now + REDRAW_INTERVAL;
        let elapsed = now - self.began;
        let passed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.bar.set_position(if self.counts { done } else { passed });
        self.bar.set_message(format!("{:.0}/s", done as f64 / elapsed.as_secs_f64().max(0.001)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
