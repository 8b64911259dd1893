//! What one shard of the cache holds: a segmented LRU over two lists of the crate `lru`, bounded by bytes.
//!
//! What was read once is on probation; what is read again there is protected, and leaves only for something
//! else that was read again. So a scan, which reads each key once, displaces what is on probation and nothing
//! else (Karedla, Love and Wherry 1994, "Caching strategies to improve disk system performance").
//!
//! Invariant: a key is in one of the lists at most, and both together never take more than their bytes.

use lru::LruCache;
use vaultdb_kv::Versioned;

/// What an entry takes besides its key and value: list node, slot of the table, two allocations.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 160;

type Entry = (Box<[u8]>, Versioned);

struct Segment {
    entries: LruCache<Box<[u8]>, Versioned>,
    bytes: usize,
}

impl Segment {
    fn new() -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0 }
    }

    /// Adds a key that is not here, as the one that was used last.
    fn push(&mut self, (key, found): Entry) {
        self.bytes += entry_bytes(&key, &found.value);
        self.entries.put(key, found);
    }

    fn take(&mut self, key: &[u8]) -> Option<Entry> {
        let taken = self.entries.pop_entry(key);
        self.bytes -= taken.as_ref().map_or(0, |(key, found)| entry_bytes(key, &found.value));
        taken
    }

    fn take_least_recent(&mut self) -> Option<Entry> {
        let taken = self.entries.pop_lru();
        self.bytes -= taken.as_ref().map_or(0, |(key, found)| entry_bytes(key, &found.value));
        taken
    }

    /// Gives a key that is here another value, and leaves it in its place. Tells whether it is here.
    fn replace(&mut self, key: &[u8], new: &Versioned) -> bool {
        let Some(found) = self.entries.peek_mut(key) else { return false };
        self.bytes = self.bytes - entry_bytes(key, &found.value) + entry_bytes(key, &new.value);
        *found = new.clone();
        true
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

pub(crate) struct Segments {
    probation: Segment,
    protected: Segment,
    bytes_max: usize,
    protected_bytes_max: usize,
}

impl Segments {
    /// Both lists may take `bytes_max` bytes, what is protected so many percent of them.
    pub(crate) fn new(bytes_max: usize, protected_percent: usize) -> Self {
        let protected_bytes_max = bytes_max / 100 * protected_percent;
        Self { probation: Segment::new(), protected: Segment::new(), bytes_max, protected_bytes_max }
    }

    /// A read: what is found is protected from now on.
    pub(crate) fn get(&mut self, key: &[u8]) -> Option<Versioned> {
        if let Some(found) = self.protected.entries.get(key) {
            return Some(found.clone());
        }
        let entry = self.probation.take(key)?;
        let found = entry.1.clone();
        self.protected.push(entry);
        self.trim();
        Some(found)
    }

    /// A look that is no read.
    pub(crate) fn peek(&self, key: &[u8]) -> Option<&Versioned> {
        self.protected.entries.peek(key).or_else(|| self.probation.entries.peek(key))
    }

    /// Stores a value: in the place of the key's old one, else on probation.
    pub(crate) fn put(&mut self, key: &[u8], value: Versioned) {
        if !self.protected.replace(key, &value) && !self.probation.replace(key, &value) {
            self.probation.push((key.into(), value));
        }
        self.trim();
    }

    #[cfg(test)]
    pub(crate) fn is_on_probation(&self, key: &[u8]) -> bool {
        self.probation.entries.contains(key)
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if self.protected.take(key).is_none() {
            self.probation.take(key);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.protected.clear();
        self.probation.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.protected.entries.len() + self.probation.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.protected.bytes + self.probation.bytes
    }

    fn trim(&mut self) {
        while self.protected.bytes > self.protected_bytes_max {
            let Some(entry) = self.protected.take_least_recent() else { break };
            self.probation.push(entry);
        }
        while self.bytes() > self.bytes_max {
            if self.probation.take_least_recent().is_none() {
                break;
            }
        }
    }
}

/// What an entry counts.
pub(crate) fn entry_bytes(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_OVERHEAD_BYTES
}
