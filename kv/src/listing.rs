//! Listings: which keys, in what order, and how they are handed out page by page.

use bytes::Bytes;

use crate::key::Key;
use crate::Revision;

/// Which keys a listing holds and what it tells of them. The same for all of its pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Keys begin with this; empty for all.
    pub prefix: Bytes,
    /// The smallest key, inclusive; empty for all.
    pub start: Bytes,
    /// Past the largest key.
    pub end: Option<Bytes>,
    /// From the largest key to the smallest.
    pub reverse: bool,
    /// Without values.
    pub keys_only: bool,
}

/// Keys from `lower`, inclusive, to `upper`, exclusive; without an upper bound to the last one. Never empty
/// by its bounds alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyBounds {
    pub lower: Vec<u8>,
    pub upper: Option<Vec<u8>>,
}

impl ListQuery {
    /// Where the keys that follow `after` in the order of the listing lie, or all of them; `None` when there
    /// can be none.
    pub fn bounds(&self, after: Option<&Key>) -> Option<KeyBounds> {
        let mut lower = self.start.as_ref().max(&self.prefix[..]).to_vec();
        let mut upper = successor(&self.prefix);
        if let Some(end) = self.end.as_deref() {
            lower_to(&mut upper, end);
        }
        match after.map(Key::as_bytes) {
            Some(last) if self.reverse => lower_to(&mut upper, last),
            Some(last) => {
                // The very next key after `last`.
                let next = [last, &[0]].concat();
                lower = lower.max(next);
            }
            None => {}
        }
        let is_empty = upper.as_ref().is_some_and(|upper| *upper <= lower);
        (!is_empty).then_some(KeyBounds { lower, upper })
    }
}

/// The first key that is larger than all keys with the prefix, if any key is.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

fn lower_to(upper: &mut Option<Vec<u8>>, bound: &[u8]) {
    if upper.as_deref().is_none_or(|upper| bound < upper) {
        *upper = Some(bound.to_vec());
    }
}

/// A key with its value, where the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListItem<'a> {
    pub key: &'a [u8],
    /// `None` in a listing of keys alone.
    pub value: Option<&'a [u8]>,
    /// Revision of the write that set it.
    pub revision: Revision,
}

/// Appends an item to a page. Called for each item where the store has it, so that values are copied once,
/// into the form in which they leave the node.
pub type EncodeItem = fn(&ListItem<'_>, &mut Vec<u8>);

/// One step of a listing.
#[derive(Debug, Clone)]
pub struct PageRequest {
    pub query: ListQuery,
    /// The last key of the page before.
    pub after: Option<Key>,
    /// Most items; at least 1.
    pub items_max: usize,
    /// Most bytes of keys and values as the store has them, values only if they are told. An item that is
    /// larger makes a page of its own.
    pub bytes_max: usize,
    pub encode: EncodeItem,
}

/// What one step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The items, encoded one after the other.
    pub body: Vec<u8>,
    pub items: usize,
    /// The last key of this page, if others follow it.
    pub next: Option<Key>,
}

impl Page {
    /// No items, and none to follow.
    pub fn empty() -> Self {
        Self { body: Vec::new(), items: 0, next: None }
    }
}

/// Fills one page: keeps its limits and remembers where it ends. Stores push what they find, in order.
#[derive(Debug)]
pub struct PageFiller<'r> {
    request: &'r PageRequest,
    page: Page,
    bytes: usize,
    last: Vec<u8>,
}

impl<'r> PageFiller<'r> {
    pub fn new(request: &'r PageRequest) -> Self {
        Self { request, page: Page::empty(), bytes: 0, last: Vec::new() }
    }

    /// Takes the next item of the range; `false` when it belongs to the next page, and then this one is full.
    pub fn push(&mut self, key: &[u8], value: &[u8], revision: Revision) -> bool {
        let value = (!self.request.query.keys_only).then_some(value);
        let bytes = self.bytes + key.len() + value.map_or(0, <[u8]>::len);
        let is_full = self.page.items >= self.request.items_max || bytes > self.request.bytes_max;
        if is_full && self.page.items > 0 {
            self.page.next = Key::new(std::mem::take(&mut self.last)).ok();
            return false;
        }
        self.bytes = bytes;
        self.page.items += 1;
        self.last.clear();
        self.last.extend_from_slice(key);
        (self.request.encode)(&ListItem { key, value, revision }, &mut self.page.body);
        true
    }

    pub fn finish(self) -> Page {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(prefix: &[u8], start: &[u8], end: Option<&[u8]>) -> ListQuery {
        let end = end.map(Bytes::copy_from_slice);
        ListQuery {
            prefix: Bytes::copy_from_slice(prefix),
            start: Bytes::copy_from_slice(start),
            end,
            ..ListQuery::default()
        }
    }

    fn bounds(query: &ListQuery, after: Option<&[u8]>) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let after = after.map(|key| Key::new(key.to_vec()).expect("a key"));
        query.bounds(after.as_ref()).map(|bounds| (bounds.lower, bounds.upper))
    }

    /// Prefix, start and end intersect, whichever is the tightest.
    #[test]
    fn bounds_intersect() {
        let all = query(b"", b"", None);
        assert_eq!(bounds(&all, None), Some((vec![], None)));
        assert_eq!(bounds(&query(b"ab", b"", None), None), Some((b"ab".to_vec(), Some(b"ac".to_vec()))));
        assert_eq!(bounds(&query(b"a\xff", b"", None), None), Some((b"a\xff".to_vec(), Some(b"b".to_vec()))));
        assert_eq!(bounds(&query(b"\xff\xff", b"", None), None), Some((b"\xff\xff".to_vec(), None)));
        let inner = query(b"ab", b"abc", Some(b"abx"));
        assert_eq!(bounds(&inner, None), Some((b"abc".to_vec(), Some(b"abx".to_vec()))));
        let outer = query(b"ab", b"a", Some(b"b"));
        assert_eq!(bounds(&outer, None), Some((b"ab".to_vec(), Some(b"ac".to_vec()))));
        for nothing in [query(b"ab", b"b", None), query(b"", b"b", Some(b"b")), query(b"b", b"", Some(b"a"))]
        {
            assert_eq!(bounds(&nothing, None), None, "{nothing:?}");
        }
    }

    /// What follows a key does not hold it, in either direction.
    #[test]
    fn bounds_after_a_key() {
        let mut all = query(b"", b"", Some(b"x"));
        assert_eq!(bounds(&all, Some(b"k")), Some((b"k\0".to_vec(), Some(b"x".to_vec()))));
        assert_eq!(bounds(&all, Some(b"x")), None);
        all.reverse = true;
        assert_eq!(bounds(&all, Some(b"k")), Some((vec![], Some(b"k".to_vec()))));
        assert_eq!(bounds(&all, Some(b"z")), Some((vec![], Some(b"x".to_vec()))));
        let prefix = ListQuery { reverse: true, ..query(b"k", b"", None) };
        assert_eq!(bounds(&prefix, Some(b"k")), None);
    }

    /// A page ends at its limits, always holds an item, and says whether any follow.
    #[test]
    fn pages_end_at_their_limits() {
        let fill = |items_max, bytes_max, keys_only| {
            let query = ListQuery { keys_only, ..ListQuery::default() };
            let encode: EncodeItem = |item, out| out.extend_from_slice(item.key);
            let request = PageRequest { query, after: None, items_max, bytes_max, encode };
            let mut filler = PageFiller::new(&request);
            for key in ["a", "b", "c", "d", "e"] {
                if !filler.push(key.as_bytes(), b"12345", 1) {
                    break;
                }
            }
            let page = filler.finish();
            (String::from_utf8(page.body).expect("letters"), page.next.map(|key| key.as_bytes().to_vec()))
        };
        assert_eq!(fill(5, 100, false), ("abcde".into(), None));
        assert_eq!(fill(2, 100, false), ("ab".into(), Some(b"b".to_vec())));
        assert_eq!(fill(9, 18, false), ("abc".into(), Some(b"c".to_vec())));
        assert_eq!(fill(9, 17, false), ("ab".into(), Some(b"b".to_vec())));
        assert_eq!(fill(9, 1, false), ("a".into(), Some(b"a".to_vec())));
        assert_eq!(fill(9, 4, true), ("abcd".into(), Some(b"d".to_vec())));
    }
}
