//! When missed probes become a verdict: with hysteresis, so that one slow answer changes nothing.

/// What the last probe means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing that was not known before.
    Unchanged,
    Recovered,
    Degraded,
    Failed,
}

/// Counts the probes that one actor missed in a row.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    generation: u64,
    missed: u32,
}

impl Judge {
    /// A newly built actor is not judged by what its predecessor missed.
    pub fn follow(&mut self, generation: u64) {
        if self.generation != generation {
            *self = Self { generation, missed: 0 };
        }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn answered(&mut self, degraded_at: u32) -> Verdict {
        let was_degraded = self.missed >= degraded_at;
        self.missed = 0;
        if was_degraded {
            Verdict::Recovered
        } else {
            Verdict::Unchanged
        }
    }

    pub fn missed(&mut self, degraded_at: u32, failed_at: u32) -> Verdict {
        self.missed = self.missed.saturating_add(1);
        // Said again with each further miss: the first word may have been lost.
        if self.missed >= failed_at {
            Verdict::Failed
        } else if self.missed == degraded_at {
            Verdict::Degraded
        } else {
            Verdict::Unchanged
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One missed probe is forgiven; two degrade, four fail, an answer in between starts anew.
    #[test]
    fn hysteresis() {
        let mut judge = Judge::default();
        judge.follow(1);
        assert_eq!(judge.missed(2, 4), Verdict::Unchanged);
        assert_eq!(judge.answered(2), Verdict::Unchanged);
        assert_eq!(judge.missed(2, 4), Verdict::Unchanged);
        assert_eq!(judge.missed(2, 4), Verdict::Degraded);
        assert_eq!(judge.answered(2), Verdict::Recovered);
        for expected in [Verdict::Unchanged, Verdict::Degraded, Verdict::Unchanged, Verdict::Failed] {
            assert_eq!(judge.missed(2, 4), expected);
        }
        judge.follow(2);
        assert_eq!(judge.missed(2, 4), Verdict::Unchanged, "a new actor has a new record");
    }
}
