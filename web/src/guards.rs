//! The headers that make a write conditional or repeatable: `If-Match`, `If-None-Match`
//! (RFC 9110, section 13.1) and `Idempotency-Key`.
//!
//! Must never let a header of these pass that is not honoured in full: a client that believes in a
//! condition which nobody checks loses updates.

use actix_web::http::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};
use vaultdb_kv::limits::CONDITION_TAGS_MAX;
use vaultdb_kv::{Command, Condition, Guarded, IdempotencyKey, Revision, Write};

use crate::problem::{Code, Problem};

/// Names a request, so that its repetition is answered and not applied again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Under what a write takes effect. Mostly nothing.
#[derive(Debug, Default)]
pub(crate) struct Guards {
    conditions: Vec<Condition>,
    key: Option<IdempotencyKey>,
}

impl Guards {
    /// # Errors
    /// 400 `invalid_parameter` naming the header.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut guards = Guards::default();
        if headers.contains_key(IF_MATCH) {
            guards.conditions.push(match tags(headers, &IF_MATCH)? {
                Tags::Any => Condition::Present,
                Tags::Of(revisions) => Condition::Revisions(revisions),
            });
        }
        if headers.contains_key(IF_NONE_MATCH) {
            guards.conditions.push(match tags(headers, &IF_NONE_MATCH)? {
                Tags::Any => Condition::Absent,
                Tags::Of(revisions) => Condition::NotRevisions(revisions),
            });
        }
        let mut keys = headers.get_all(IDEMPOTENCY_KEY);
        if let Some(value) = keys.next() {
            if keys.next().is_some() {
                return Err(refuse(&IDEMPOTENCY_KEY, "given more than once"));
            }
            // Bytes outside of visible ASCII are refused below like any other.
            let key = IdempotencyKey::new(String::from_utf8_lossy(value.as_bytes()));
            guards.key = Some(key.map_err(|bad| refuse(&IDEMPOTENCY_KEY, bad.to_string()))?);
        }
        Ok(guards)
    }

    /// # Errors
    /// 400 `invalid_parameter` when there is a condition: a write of many keys has no one revision.
    pub(crate) fn without_conditions(self) -> Result<Self, Problem> {
        let name = match self.conditions.first() {
            None => return Ok(self),
            Some(Condition::Revisions(_) | Condition::Present) => IF_MATCH,
            Some(Condition::NotRevisions(_) | Condition::Absent) => IF_NONE_MATCH,
        };
        Err(refuse(&name, "a write of pairs has no single key to compare with, use PUT /v1/kv/{key}"))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.key.is_none()
    }

    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The command that does `write` under these guards.
    pub(crate) fn command(self, write: Write) -> Command {
        if self.is_empty() {
            return write.into();
        }
        Command::Guarded(Box::new(Guarded::new(write, self.conditions, self.key)))
    }
}

/// Whether `If-None-Match` of a read names this revision: the client need not be sent it again. A tag that
/// this server never made names none.
pub(crate) fn is_current(headers: &HeaderMap, revision: Revision) -> bool {
    let is_named = |tag: &str| {
        // Weak comparison (RFC 9110, section 13.1.2).
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let digits = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        tag == "*" || digits.is_some_and(|digits| digits == revision.to_string())
    };
    headers
        .get_all(IF_NONE_MATCH)
        .filter_map(|value| value.to_str().ok())
        .any(|text| text.split(',').any(|tag| is_named(tag.trim())))
}

/// Refuses every guard, where none is honoured.
///
/// # Errors
/// 400 `invalid_parameter` naming the header and `where_not`.
pub(crate) fn refuse_guards(headers: &HeaderMap, where_not: &'static str) -> Result<(), Problem> {
    for name in [IF_MATCH, IF_NONE_MATCH, IDEMPOTENCY_KEY] {
        if headers.contains_key(&name) {
            return Err(refuse(&name, format!("not supported {where_not}, so nothing was done")));
        }
    }
    Ok(())
}

fn refuse(name: &HeaderName, reason: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidParameter, format!("header {name}: {reason}"))
}

enum Tags {
    /// `*`
    Any,
    Of(Vec<Revision>),
}

/// Reads `*` or a list of strong entity tags, which may be spread over several lines of the header.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Tags, Problem> {
    let mut revisions = Vec::new();
    let mut any = 0;
    for value in headers.get_all(name) {
        let text = value.to_str().map_err(|_| refuse(name, "holds bytes that are not ASCII"))?;
        // Empty elements of a list are to be ignored (RFC 9110, section 5.6.1.2).
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            match tag {
                "*" => any += 1,
                tag => revisions.push(revision(name, tag)?),
            }
        }
    }
    match (any, revisions.len()) {
        (1, 0) => Ok(Tags::Any),
        (0, 1..=CONDITION_TAGS_MAX) => Ok(Tags::Of(revisions)),
        (0, 0) => Err(refuse(name, "is empty")),
        (0, _) => {
            let limit = CONDITION_TAGS_MAX as u64;
            Err(refuse(name, format!("has more than {limit} tags")).with_limit(limit))
        }
        (_, _) => Err(refuse(name, "* stands alone")),
    }
}

/// A tag as this server makes them: a revision in quotes.
fn revision(name: &HeaderName, tag: &str) -> Result<Revision, Problem> {
    let shown = tag.chars().take(64).collect::<String>();
    let shown = shown.escape_debug();
    if tag.starts_with("W/") {
        return Err(refuse(name, format!("{shown} is a weak tag, a write needs a strong one")));
    }
    let digits = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    // One way to write a revision: tags are compared by their characters, so "07" is not "7".
    let number = digits.and_then(|digits| {
        let revision: Revision = digits.parse().ok()?;
        (revision.to_string() == digits).then_some(revision)
    });
    number
        .ok_or_else(|| refuse(name, format!("{shown} is not a tag of this server: \"<revision>\" in quotes")))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn read(lines: &[(&str, &str)]) -> Result<Guards, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        Guards::read(&headers)
    }

    /// Lists, spread lists and `*` are read; both conditions may be given.
    #[test]
    fn reads_guards() {
        let all = [("if-match", " \"3\" , , \"5\""), ("if-match", "\"8\""), ("if-none-match", "*")];
        let guards = read(&all).expect("valid");
        assert_eq!(guards.conditions, [Condition::Revisions(vec![3, 5, 8]), Condition::Absent]);
        let guards = read(&[("if-match", "*"), ("if-none-match", "\"0\"")]).expect("valid");
        assert_eq!(guards.conditions, [Condition::Present, Condition::NotRevisions(vec![0])]);
        let guards = read(&[("idempotency-key", "\"8e03978e-40d5\"!")]).expect("valid");
        assert_eq!(guards.key.as_ref().map(IdempotencyKey::as_str), Some("\"8e03978e-40d5\"!"));
        let many = vec!["\"1\""; CONDITION_TAGS_MAX].join(",");
        assert!(read(&[("if-match", &many)]).is_ok());
        assert!(!read(&[]).expect("none").has_key());
    }

    /// What cannot be honoured to the letter is refused, with the header named.
    #[test]
    fn refuses_guards_that_are_malformed() {
        let too_many = vec!["\"1\""; CONDITION_TAGS_MAX + 1].join(",");
        let tags = [
            "",
            ",",
            "3",
            "\"",
            "\"\"",
            "\"a\"",
            "\"07\"",
            "\"+7\"",
            "\"-1\"",
            "\"1\" \"2\"",
            "W/\"3\"",
            "w/\"3\"",
            "*, \"3\"",
            "*,*",
            "**",
            "\"18446744073709551616\"",
            "\u{e9}",
            &too_many,
        ];
        for tag in tags {
            for name in ["if-match", "if-none-match"] {
                let problem = read(&[(name, tag)]).expect_err(tag);
                assert_eq!(problem.code, Code::InvalidParameter);
                assert!(problem.detail.contains(name), "{tag}: {}", problem.detail);
            }
        }
        let long = "k".repeat(129);
        for key in ["", "a b", "\u{e9}", &long] {
            let problem = read(&[("idempotency-key", key)]).expect_err(key);
            assert!(problem.detail.contains("idempotency-key"), "{}", problem.detail);
        }
        assert!(read(&[("idempotency-key", "a"), ("idempotency-key", "a")]).is_err());
    }
}
