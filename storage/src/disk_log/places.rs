//! Where in the segments the entries are: four bytes for each.
//!
//! Follows the disk, not the callers: it knows what is durable, and of that also what a truncation that is still
//! under way will remove. Who asks only for entries that the log holds and has not cached gets them right, for
//! what is under way is cached. Does no I/O.

use std::collections::VecDeque;
use std::ops::Range;

/// Place of a record: its distance from the beginning of the segment, counted in bytes of payload.
pub(crate) type Place = u32;

/// All segments that exist, oldest first.
#[derive(Default)]
pub(crate) struct Places {
    segments: VecDeque<Entries>,
}

/// The entries of one segment; their indexes have no hole.
struct Entries {
    segment: u64,
    /// Index of the first; means nothing when there is none.
    first: u64,
    places: Vec<Place>,
}

/// Some entries in a row of one segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub segment: u64,
    pub first: u64,
    pub places: Vec<Place>,
}

impl Entries {
    fn range(&self) -> Range<u64> {
        if self.places.is_empty() {
            return 0..0;
        }
        self.first..self.first + self.places.len() as u64
    }
}

impl Entries {
    /// About how many bytes its entries take from the one at `index` on, which it has. A segment that is closed
    /// is counted as full.
    fn bytes_from(&self, index: u64, is_newest: bool, segment_bytes: u64) -> u64 {
        let place = |index: u64| self.places.get(usize::try_from(index - self.first).unwrap_or(usize::MAX));
        let last = u64::from(self.places.last().copied().unwrap_or(0));
        let end = if is_newest { last } else { last.max(segment_bytes) };
        end - u64::from(place(index).copied().unwrap_or(0))
    }
}

impl Places {
    /// About how many bytes the entries behind `index` take on disk. `segment_bytes` is the size of a file.
    pub(crate) fn bytes_behind(&self, index: u64, segment_bytes: u64) -> u64 {
        let mut bytes = 0;
        for (place, entries) in self.segments.iter().enumerate() {
            let from = entries.range().start.max(index.saturating_add(1));
            if from < entries.range().end {
                bytes += entries.bytes_from(from, place + 1 == self.segments.len(), segment_bytes);
            }
        }
        bytes
    }

    /// Index of the first of the newest entries that take about `bytes_max` on disk, at most; 0 when all do.
    pub(crate) fn first_within(&self, bytes_max: u64, segment_bytes: u64) -> u64 {
        let mut left = bytes_max;
        for (place, entries) in self.segments.iter().enumerate().rev() {
            let range = entries.range();
            if range.is_empty() {
                continue;
            }
            let is_newest = place + 1 == self.segments.len();
            let bytes = entries.bytes_from(range.start, is_newest, segment_bytes);
            if bytes > left {
                let fits = |index: u64| entries.bytes_from(index, is_newest, segment_bytes) <= left;
                let mut without = range.start..range.end;
                // Places grow, so the entries that do not fit come first.
                while !without.is_empty() {
                    let middle = without.start + (without.end - without.start) / 2;
                    if fits(middle) {
                        without.end = middle;
                    } else {
                        without.start = middle + 1;
                    }
                }
                return without.start;
            }
            left -= bytes;
        }
        0
    }

    /// Numbers of the segments that nothing is written to any more.
    pub(crate) fn closed(&self) -> Vec<u64> {
        let all = self.segments.iter().map(|entries| entries.segment);
        all.take(self.segments.len().saturating_sub(1)).collect()
    }

    /// Adds the newest segment, unless it was added before.
    pub(crate) fn add_segment(&mut self, segment: u64) {
        if self.segments.back().is_some_and(|newest| newest.segment == segment) {
            return;
        }
        self.segments.push_back(Entries { segment, first: 0, places: Vec::new() });
    }

    /// Adds an entry of the newest segment.
    pub(crate) fn push(&mut self, index: u64, place: Place) {
        let Some(newest) = self.segments.back_mut() else { return };
        if newest.places.is_empty() {
            newest.first = index;
        }
        debug_assert_eq!(newest.first + newest.places.len() as u64, index, "no hole");
        newest.places.push(place);
    }

    /// Forgets all entries from `end` on.
    pub(crate) fn truncate(&mut self, end: u64) {
        for entries in self.segments.iter_mut().rev() {
            let range = entries.range();
            if range.end > end {
                let left = usize::try_from(end.saturating_sub(range.start)).unwrap_or(usize::MAX);
                entries.places.truncate(left);
            }
        }
    }

    /// Forgets segments, but the newest, as long as the oldest holds nothing behind `upto`. Their numbers.
    pub(crate) fn purge(&mut self, upto: u64) -> Vec<u64> {
        let mut purged = Vec::new();
        while self.segments.len() > 1 && self.segments[0].range().end <= upto.saturating_add(1) {
            purged.extend(self.segments.pop_front().map(|entries| entries.segment));
        }
        if let Some(first) =
            self.segments.front_mut().filter(|first| first.range().end <= upto.saturating_add(1))
        {
            // What comes next may be far behind, when a snapshot was installed.
            first.places.clear();
        }
        purged
    }

    /// Where the entries of `range` are, as far as the first of them and those after it are in one segment, and
    /// at most so many.
    pub(crate) fn find(&self, range: Range<u64>, count_max: usize) -> Option<Run> {
        let entries = self.segments.iter().find(|entries| entries.range().contains(&range.start))?;
        let from = usize::try_from(range.start - entries.first).ok()?;
        let count = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(count_max);
        let upto = entries.places.len().min(from.saturating_add(count));
        Some(Run {
            segment: entries.segment,
            first: range.start,
            places: entries.places[from..upto].to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept is measured by the files that it takes, and where it begins is found again from its size.
    #[test]
    fn measured_in_bytes() {
        let mut places = Places::default();
        assert_eq!((places.bytes_behind(0, 100), places.first_within(0, 100)), (0, 0));
        places.add_segment(1);
        (0..10).for_each(|index| places.push(index, index as u32 * 10));
        places.add_segment(2);
        (10..13).for_each(|index| places.push(index, (index as u32 - 10) * 20));
        places.add_segment(3);
        let behind = |index| places.bytes_behind(index, 100);
        assert_eq!([behind(0), behind(5), behind(9), behind(10), behind(12)], [190, 140, 100, 80, 0]);
        let first = |bytes| places.first_within(bytes, 100);
        assert_eq!(
            [first(0), first(79), first(80), first(100), first(139), first(140)],
            [13, 12, 11, 10, 7, 6]
        );
        assert_eq!([first(200), first(u64::MAX)], [0, 0]);
    }

    /// Entries are found where they were put last, and segments are given back oldest first, once nothing in
    /// them is left.
    #[test]
    fn put_truncate_purge() {
        let mut places = Places::default();
        places.add_segment(1);
        for index in 5..10 {
            places.push(index, index as u32 * 10);
        }
        places.add_segment(2);
        places.add_segment(3);
        for index in 10..13 {
            places.push(index, index as u32);
        }
        let run = |segment, first, places: &[Place]| Some(Run { segment, first, places: places.to_vec() });
        assert_eq!(places.find(8..12, 10), run(1, 8, &[80, 90]));
        assert_eq!(places.find(10..12, 1), run(3, 10, &[10]));
        assert_eq!(places.find(4..12, 10), None);
        assert_eq!(places.find(13..14, 10), None);

        places.truncate(8);
        assert_eq!(places.find(8..12, 10), None);
        places.push(8, 1);
        assert_eq!(places.find(6..12, 10), run(1, 6, &[60, 70]));
        assert_eq!(places.find(8..12, 10), run(3, 8, &[1]));

        assert_eq!(places.purge(6), []);
        assert_eq!(places.purge(7), [1, 2]);
        assert_eq!(places.purge(100), []);
        places.push(101, 7);
        assert_eq!(places.find(101..110, 10), run(3, 101, &[7]));
    }
}
