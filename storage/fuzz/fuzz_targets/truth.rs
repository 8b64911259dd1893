//! Writes a true log, damages it once, and holds recovery to what it promises: refuse, or find everything; only of
//! the last batch, when it may be one that was not written to the end, nothing need be left.

use crate::disk_log::record::{self, Facts, Record};
use crate::disk_log::sector::{self, SECTOR_BYTES};
use crate::input::{name, Input};
use crate::log_rules;
use crate::sim_disk::Image;
use crate::types::{LogId, Vote};
use crate::Blob;

const SEGMENT_BYTES: usize = 4096;

#[derive(Default)]
struct Log {
    image: Image,
    segment: u64,
    content: Vec<u8>,
    batch: u64,
    facts: Facts,
    durable: Facts,
    entries: Vec<(LogId, Blob)>,
    payload: Vec<u8>,
    /// Where the last batch is in the last segment.
    last_batch: std::ops::Range<usize>,
}

impl Log {
    fn step(&mut self, input: &mut Input<'_>) {
        let (next, term) = self.facts.last.map_or((1, 1), |last| (last.index + 1, last.term));
        let argument = input.byte();
        match input.byte() % 8 {
            0..=3 => {
                let id = LogId { term: term + u64::from(argument % 5 == 4), index: next };
                let blob = Blob(vec![argument; usize::from(input.byte()) * 5]);
                record::put(&mut self.payload, &Record::Entry(id, &blob.0));
                self.entries.push((id, blob));
                self.facts.last = Some(id);
            }
            4 => {
                let vote = Vote { term: u64::from(argument), node_id: 1, committed: argument & 1 == 1 };
                if log_rules::check_vote(self.facts.vote, vote).is_ok() {
                    record::put(&mut self.payload, &Record::Vote(vote));
                    self.facts.vote = Some(vote);
                }
            }
            5 => {
                let index = next.saturating_sub(u64::from(argument % 8));
                let held = self.entries.iter().map(|(id, _)| *id).find(|id| id.index == index);
                if let Some(id) =
                    held.filter(|id| self.facts.committed.is_none_or(|saved| id.index > saved.index))
                {
                    record::put(&mut self.payload, &Record::Committed(id));
                    self.facts.committed = Some(id);
                }
            }
            6 => {
                let index = next.saturating_sub(u64::from(argument % 8));
                let held = self.entries.iter().map(|(id, _)| *id).find(|id| id.index == index);
                if let Some(keep) =
                    held.filter(|id| self.facts.committed.is_none_or(|saved| id.index >= saved.index))
                {
                    record::put(&mut self.payload, &Record::Truncate(Some(keep)));
                    self.entries.retain(|(id, _)| id.index <= keep.index);
                    self.facts.last = Some(keep);
                }
            }
            _ => {
                let index = (next + 3).saturating_sub(u64::from(argument % 16));
                let held = self.entries.iter().map(|(id, _)| *id).find(|id| id.index == index);
                let upto = held.unwrap_or(LogId { term, index });
                if self.facts.purged.map_or(index > 0, |purged| index > purged.index)
                    && (held.is_some() || index >= next)
                {
                    record::put(&mut self.payload, &Record::Purge(upto));
                    self.entries.retain(|(id, _)| id.index > index);
                    self.facts.purged = Some(upto);
                    if self.facts.last.is_none_or(|last| last.index <= index) {
                        self.facts.last = Some(upto);
                    }
                }
            }
        }
    }

    fn commit(&mut self) {
        if self.payload.is_empty() {
            return;
        }
        let sectors = sector::sectors_of(self.payload.len()) as usize;
        if !self.content.is_empty() && self.content.len() + sectors * SECTOR_BYTES > SEGMENT_BYTES {
            self.close_segment();
        }
        if self.content.is_empty() {
            let mut state = Vec::new();
            record::put(&mut state, &Record::State(self.durable));
            self.payload.splice(0..0, state);
        }
        let at = self.content.len();
        let mut framed = Vec::new();
        sector::frame(&mut framed, self.segment, (at / SECTOR_BYTES) as u64, self.batch, &self.payload);
        self.content.extend_from_slice(&framed);
        self.last_batch = at..self.content.len();
        self.payload.clear();
        self.durable = self.facts;
        self.batch += 1;
    }

    fn close_segment(&mut self) {
        let mut content = std::mem::take(&mut self.content);
        content.resize(content.len().max(SEGMENT_BYTES), 0);
        self.image.insert(name(self.segment), content);
        self.segment += 1;
    }
}

pub fn check(input: &mut Input<'_>) {
    let mut log = Log { segment: 1, batch: 1, ..Log::default() };
    let mut before = (Facts::default(), Vec::new());
    let batches = input.byte() % 32;
    for _ in 0..batches {
        let was = (log.facts, log.entries.clone());
        let batch = log.batch;
        for _ in 0..input.byte() % 6 {
            log.step(input);
        }
        log.commit();
        if log.batch != batch {
            before = was;
        }
    }
    let last = name(log.segment);
    log.close_segment();
    let truth = (log.facts, log.entries);

    // One damage: of which it is known whether it may look like an unfinished last batch.
    let mut image = log.image;
    let count = image.len() as u64;
    let damaged = name(1 + u64::from(input.byte()) % count);
    let content = image.get_mut(&damaged).expect("one of them");
    let at = usize::from(input.short()) % content.len();
    let in_last = damaged == last && log.last_batch.contains(&at);
    let mut may_be_unfinished = false;
    match input.byte() % 4 {
        0 => content[at] ^= input.byte().max(1),
        1 => content[at] = input.byte(),
        2 => {
            let end = (at + usize::from(input.short())).min(content.len());
            content[at..end].fill(0);
            may_be_unfinished = damaged == last && at < log.last_batch.end && at >= log.last_batch.start;
        }
        _ => {
            content.truncate(at);
            may_be_unfinished = damaged == last && at < log.last_batch.end && at >= log.last_batch.start;
        }
    }
    // The marker alone set to zero looks like a sector that was not written to its end.
    may_be_unfinished |= in_last && at % SECTOR_BYTES == SECTOR_BYTES - 1;
    // A batch may be cut off with all that comes after it, when nothing else is left of what follows.
    let nothing_behind = damaged == last && at < log.last_batch.start;
    match crate::open(&image) {
        None => {}
        Some(found) if found == truth => {}
        Some(found) if may_be_unfinished && found == before => {}
        Some(_) if nothing_behind && image[&damaged].iter().skip(at).all(|byte| *byte == 0) => {}
        Some(found) => {
            panic!("damaged at byte {at} of {damaged}, found {:?} instead of {:?}", found.0, truth.0)
        }
    }
}
