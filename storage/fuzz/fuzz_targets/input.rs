//! Makes choices, and files of a log, of the fuzzer's bytes.

use crate::disk_log::record::{self, Facts, Record};
use crate::disk_log::sector;
use crate::sim_disk::Image;
use crate::types::{LogId, Vote};

pub struct Input<'a>(pub &'a [u8]);

pub fn name(number: u64) -> String {
    format!("{number:016}.seg")
}

impl<'a> Input<'a> {
    /// Zero when there are no more.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Mostly small, and now and then as large as there is.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            small => u64::from(small),
        }
    }

    fn id(&mut self) -> LogId {
        LogId { term: self.number(), index: self.number() }
    }

    fn optional(&mut self) -> Option<LogId> {
        (self.byte() & 1 == 1).then(|| self.id())
    }

    fn vote(&mut self) -> Vote {
        Vote { term: self.number(), node_id: self.number(), committed: self.byte() & 1 == 1 }
    }

    pub fn raw_files(&mut self) -> Image {
        let mut image = Image::new();
        let first = u64::from(self.byte() % 3);
        for number in first..first + u64::from(self.byte() % 4) {
            let length = usize::from(self.short()) % 4097;
            image.insert(name(number), self.take(length).to_vec());
        }
        image
    }

    /// Sectors with checksums that are right, and in them records of any kind, in any order, or any bytes.
    pub fn records(&mut self) -> Image {
        let mut image = Image::new();
        let mut segment = u64::from(self.byte() % 3);
        let mut batch = u64::from(self.byte() % 3);
        let (mut content, mut payload, mut framed) = (Vec::new(), Vec::new(), Vec::new());
        while !self.is_empty() {
            match self.byte() % 12 {
                0 => {
                    let facts = Facts {
                        vote: (self.byte() & 1 == 1).then(|| self.vote()),
                        purged: self.optional(),
                        last: self.optional(),
                        committed: self.optional(),
                    };
                    record::put(&mut payload, &Record::State(facts));
                }
                1 | 2 => {
                    let (id, length) = (self.id(), usize::from(self.byte()) * 4);
                    record::put(&mut payload, &Record::Entry(id, self.take(length)));
                }
                3 => record::put(&mut payload, &Record::Vote(self.vote())),
                4 => record::put(&mut payload, &Record::Committed(self.id())),
                5 => record::put(&mut payload, &Record::Truncate(self.optional())),
                6 => record::put(&mut payload, &Record::Purge(self.id())),
                7 => {
                    let length = usize::from(self.byte());
                    payload.extend_from_slice(self.take(length));
                }
                8 => {
                    image.insert(name(segment), std::mem::take(&mut content));
                    segment += u64::from(self.byte() % 8 != 7);
                }
                9 => content.resize(content.len() + usize::from(self.short() % 1024), 0),
                _ => {
                    let at = (content.len() / sector::SECTOR_BYTES) as u64;
                    content.resize(at as usize * sector::SECTOR_BYTES, 0);
                    sector::frame(&mut framed, segment, at, batch, &payload);
                    content.extend_from_slice(&framed);
                    payload.clear();
                    batch = batch.wrapping_add(u64::from(self.byte() % 16 != 15));
                }
            }
        }
        image.insert(name(segment), content);
        image
    }
}
