//! Query parameters of a listing, besides those of every read.

use bytes::Bytes;
use vaultdb_kv::limits::{LIST_ITEMS_DEFAULT, LIST_ITEMS_MAX};
use vaultdb_kv::ListQuery;

use crate::cursor::{BadCursor, Cursor};
use crate::key_path::percent_decode;
use crate::params::{decode, once, parse_bool, refuse};
use crate::problem::{Code, Problem};

/// What was asked for, each at most once. Bytes that are empty count as not given.
#[derive(Debug, Default)]
pub(crate) struct ListParams {
    prefix: Option<Bytes>,
    start: Option<Bytes>,
    end: Option<Bytes>,
    reverse: Option<bool>,
    keys_only: Option<bool>,
    limit: Option<usize>,
    cursor: Option<Bytes>,
}

impl ListParams {
    /// # Errors
    /// 400 `invalid_parameter` for a malformed or repeated parameter.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut params = Self::default();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            params.take(&decode(name)?, value)?;
        }
        let bytes = [&mut params.prefix, &mut params.start, &mut params.end, &mut params.cursor];
        for given in bytes {
            *given = given.take().filter(|bytes| !bytes.is_empty());
        }
        Ok(params)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        match name {
            "prefix" => once(&mut self.prefix, "prefix", parse_bytes("prefix", value)?),
            "start" => once(&mut self.start, "start", parse_bytes("start", value)?),
            "end" => once(&mut self.end, "end", parse_bytes("end", value)?),
            "reverse" => once(&mut self.reverse, "reverse", parse_bool("reverse", &decode(value)?)?),
            "keys_only" => once(&mut self.keys_only, "keys_only", parse_bool("keys_only", &decode(value)?)?),
            "limit" => once(&mut self.limit, "limit", parse_limit(&decode(value)?)?),
            "cursor" => once(&mut self.cursor, "cursor", parse_bytes("cursor", value)?),
            _ => Ok(()),
        }
    }

    /// What a listing that begins lists.
    pub(crate) fn query(&self) -> ListQuery {
        ListQuery {
            prefix: self.prefix.clone().unwrap_or_default(),
            start: self.start.clone().unwrap_or_default(),
            end: self.end.clone(),
            reverse: self.reverse.unwrap_or_default(),
            keys_only: self.keys_only.unwrap_or_default(),
        }
    }

    /// Most items of a page.
    ///
    /// # Errors
    /// 400 `invalid_parameter` past the limit, which it names.
    pub(crate) fn page_items_max(&self) -> Result<usize, Problem> {
        match self.limit {
            Some(limit) if limit > LIST_ITEMS_MAX => {
                let problem = refuse("limit", format!("must be from 1 to {LIST_ITEMS_MAX}"));
                Err(problem.with_limit(LIST_ITEMS_MAX as u64))
            }
            given => Ok(given.unwrap_or(LIST_ITEMS_DEFAULT)),
        }
    }

    /// Most items of a stream.
    pub(crate) fn stream_items_max(&self) -> Option<usize> {
        self.limit
    }

    pub(crate) fn has_cursor(&self) -> bool {
        self.cursor.is_some()
    }

    /// Where to go on, if anywhere.
    ///
    /// # Errors
    /// 400 `invalid_parameter` for what is no cursor, 410 `cursor_expired` for one of another version.
    pub(crate) fn cursor(&self) -> Result<Option<Cursor>, Problem> {
        let decoded = self.cursor.as_ref().map(|text| Cursor::decode(text)).transpose();
        decoded.map_err(|bad| match bad {
            BadCursor::Malformed => refuse("cursor", "is not one that this server gave, or not whole"),
            BadCursor::Foreign => expired(),
        })
    }

    /// A request that goes on may repeat what it lists, but not change it.
    ///
    /// # Errors
    /// 400 `invalid_parameter`.
    pub(crate) fn check_unchanged(&self, query: &ListQuery) -> Result<(), Problem> {
        let bytes = [
            ("prefix", &self.prefix, Some(&query.prefix)),
            ("start", &self.start, Some(&query.start)),
            ("end", &self.end, query.end.as_ref()),
        ];
        let flags =
            [("reverse", self.reverse, query.reverse), ("keys_only", self.keys_only, query.keys_only)];
        let changed = bytes.iter().find(|(_, given, own)| given.is_some() && given.as_ref() != *own);
        let changed = changed.map(|(name, ..)| *name);
        let flag = flags.iter().find(|(_, given, own)| given.is_some_and(|given| given != *own));
        match changed.or(flag.map(|(name, ..)| *name)) {
            Some(name) => Err(refuse(name, "differs from that of the listing which the cursor continues")),
            None => Ok(()),
        }
    }
}

/// The listing is gone, wherever it was.
pub(crate) fn expired() -> Problem {
    Problem::new(
        Code::CursorExpired,
        "the listing has ended, or another node or an earlier process of this one gave the cursor: begin \
         again without it",
    )
}

fn parse_bytes(name: &'static str, value: &str) -> Result<Bytes, Problem> {
    percent_decode(value)
        .map_err(|at| refuse(name, format!("holds a malformed percent-encoding at byte {at}")))
}

fn parse_limit(text: &str) -> Result<usize, Problem> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // More digits than a number can hold are a large number.
    let limit = is_number.then(|| text.parse().unwrap_or(usize::MAX));
    limit.filter(|limit| *limit > 0).ok_or_else(|| {
        let problem = refuse("limit", format!("must be from 1 to {LIST_ITEMS_MAX}"));
        problem.with_limit(LIST_ITEMS_MAX as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> ListParams {
        ListParams::parse(Some(query)).expect(query)
    }

    /// Bytes are decoded once, empty ones count as absent, other parameters are left to others.
    #[test]
    fn reads_parameters() {
        let params = parse("prefix=a%2F%00&start=%FF&end=b+c&reverse=true&keys_only=false&limit=7&timeout=x");
        let query = params.query();
        assert_eq!((&query.prefix[..], &query.start[..]), (&b"a/\0"[..], &b"\xff"[..]));
        assert_eq!(query.end.as_deref(), Some(&b"b+c"[..]));
        assert!(query.reverse && !query.keys_only);
        assert_eq!(params.page_items_max().expect("within"), 7);
        let empty = parse("prefix=&start=&end=&cursor=&%6cimit=10000");
        assert_eq!((empty.query(), empty.has_cursor()), (ListQuery::default(), false));
        assert_eq!(empty.page_items_max().expect("within"), 10_000);
        let none = parse("");
        assert_eq!((none.page_items_max().expect("default"), none.stream_items_max()), (1_000, None));
        assert_eq!(parse("limit=99999999999999999999999").stream_items_max(), Some(usize::MAX));
    }

    /// What is malformed, repeated or out of bounds is refused and named; of a limit also its number.
    #[test]
    fn refuses_parameters() {
        for (query, named, limit) in [
            ("prefix=%", "prefix", None),
            ("end=%zz", "end", None),
            ("prefix=a&prefix=a", "more than once", None),
            ("prefix=&prefix=a", "more than once", None),
            ("reverse", "reverse", None),
            ("keys_only=1", "keys_only", None),
            ("limit=0", "limit", Some(10_000)),
            ("limit=", "limit", Some(10_000)),
            ("limit=-1", "limit", Some(10_000)),
            ("limit=+1", "limit", Some(10_000)),
            ("limit=10001", "limit", Some(10_000)),
            ("cursor=AAAA", "cursor", None),
        ] {
            let refused = ListParams::parse(Some(query)).and_then(|params| {
                params.page_items_max()?;
                params.cursor()
            });
            let problem = refused.expect_err(query);
            assert_eq!((problem.code, problem.limit), (Code::InvalidParameter, limit), "{query}");
            assert!(problem.detail.contains(named), "{query}: {}", problem.detail);
        }
    }

    /// What is repeated with a cursor must be what it was.
    #[test]
    fn repeated_parameters_must_not_differ() {
        let own = parse("prefix=a&end=b&reverse=true").query();
        for same in ["", "prefix=a", "end=b&reverse=true&keys_only=false", "start=&limit=3"] {
            parse(same).check_unchanged(&own).expect(same);
        }
        for (other, named) in [
            ("prefix=b", "prefix"),
            ("start=a", "start"),
            ("end=c", "end"),
            ("reverse=false", "reverse"),
            ("prefix=a&keys_only=true", "keys_only"),
        ] {
            let problem = parse(other).check_unchanged(&own).expect_err(other);
            assert!(problem.detail.starts_with(named), "{}", problem.detail);
        }
        assert!(parse("end=b").check_unchanged(&ListQuery::default()).is_err());
    }
}
