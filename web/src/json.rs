//! The JSON bodies that requests carry, read strictly and with what is wrong named.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;
use vaultdb_kv::limits::BATCH_PAIRS_MAX;
use vaultdb_kv::{BadInput, Key, Limits, Value};

use crate::key_path::echo;
use crate::problem::{Code, Problem};

/// Body of `POST /join`. Unknown fields are ignored: a newer node may say more.
#[derive(Debug, Deserialize)]
pub(crate) struct JoinBody {
    pub(crate) id: String,
    pub(crate) addr: String,
    #[serde(default)]
    pub(crate) http_addr: Option<String>,
    #[serde(default)]
    pub(crate) instance: Option<String>,
    /// The node is to stay a learner.
    #[serde(default)]
    pub(crate) learner: bool,
}

/// Body of `POST /v1/leader`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaderBody {
    #[serde(default)]
    pub(crate) name: Option<String>,
}

/// Reads a body that is one JSON object.
///
/// # Errors
/// 400 `invalid_json` with line and column.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // serde would also read a struct from an array, field by field.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::new(Code::InvalidJson, "the body is an array, not an object"));
    }
    serde_json::from_slice(body).map_err(invalid)
}

/// Reads the body of `POST /key`: an object of strings, in its order.
///
/// # Errors
/// 400 `invalid_json` or `invalid_key`, 413 with the limit that was met.
pub(crate) fn parse_pairs(body: &[u8], limits: &Limits) -> Result<Vec<(Key, Value)>, Problem> {
    let mut parsed = Pairs::default();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    PairsSeed(&mut parsed).deserialize(&mut deserializer).map_err(invalid)?;
    deserializer.end().map_err(invalid)?;
    if let Some(problem) = parsed.problem {
        return Err(problem);
    }
    if parsed.seen > BATCH_PAIRS_MAX {
        return Err(BadInput::TooManyPairs { pairs: parsed.seen }.into());
    }
    limits.check_pairs(&parsed.pairs)?;
    Ok(parsed.pairs)
}

fn invalid(error: serde_json::Error) -> Problem {
    Problem::new(Code::InvalidJson, error.to_string())
}

#[derive(Default)]
struct Pairs {
    /// At most [`BATCH_PAIRS_MAX`]; what comes after is counted and dropped.
    pairs: Vec<(Key, Value)>,
    seen: usize,
    /// The first pair that breaks a rule. Reading goes on, so that broken JSON is told first.
    problem: Option<Problem>,
}

impl Pairs {
    fn push(&mut self, key: &str, value: Text) {
        self.seen += 1;
        if self.problem.is_some() || self.seen > BATCH_PAIRS_MAX {
            return;
        }
        match (Key::new(Bytes::copy_from_slice(key.as_bytes())), value) {
            (Ok(key), Text::String(value)) => self.pairs.push((key, value)),
            (Err(bad), _) => self.problem = Some(bad.into()),
            (Ok(_), Text::Other(kind)) => {
                let detail = format!("the value of {} is {kind}, not a string", echo(key.as_bytes()));
                self.problem = Some(Problem::new(Code::InvalidJson, detail));
            }
        }
    }
}

struct PairsSeed<'p>(&'p mut Pairs);

impl<'de> DeserializeSeed<'de> for PairsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PairsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(key)) = map.next_key()? {
            let value = map.next_value()?;
            self.0.push(&key, value);
        }
        Ok(())
    }
}

/// An object's key, borrowed from the body unless it holds an escape.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// A pair's value: a string, or what it is instead.
enum Text {
    String(Value),
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text::String(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text::Other("a number"))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(body: &str) -> Vec<(Key, Value)> {
        parse_pairs(body.as_bytes(), &Limits::default()).expect(body)
    }

    /// Strings of any content are read, in order, escapes decoded once.
    #[test]
    fn reads_pairs() {
        let got = pairs(" {\"a\":\"1\", \"\\u00e9\\n\":\"\\ud83d\\ude00\\u0000\", \"a\":\"\"} \n");
        let want: Vec<(Key, Value)> = [("a", "1"), ("é\n", "😀\0"), ("a", "")]
            .into_iter()
            .map(|(k, v)| (Key::new(k).expect("short"), Bytes::from(v)))
            .collect();
        assert_eq!(got, want);
    }

    /// Everything else is refused whole, with the reason and the key named.
    #[test]
    fn refuses_pairs() {
        for (body, code, named) in [
            ("", Code::InvalidJson, "line 1"),
            ("{}", Code::InvalidJson, "no pairs"),
            ("[]", Code::InvalidJson, "an object of strings"),
            ("\"x\"", Code::InvalidJson, "an object of strings"),
            ("{\"a\":1}", Code::InvalidJson, "\"a\" is a number"),
            ("{\"a\":-1.5}", Code::InvalidJson, "\"a\" is a number"),
            ("{\"x\":\"1\",\"b\":null}", Code::InvalidJson, "\"b\" is null"),
            ("{\"a\":[1,{}]}", Code::InvalidJson, "\"a\" is an array"),
            ("{\"a\":{\"b\":\"c\"}}", Code::InvalidJson, "\"a\" is an object"),
            ("{\"a\":true}", Code::InvalidJson, "\"a\" is a boolean"),
            ("{\"a\":\"1\"} x", Code::InvalidJson, "trailing"),
            ("{\"a\":\"1\",}", Code::InvalidJson, "line 1"),
            ("{\"a\":1,", Code::InvalidJson, "EOF"),
            ("{\"a\":\"\\ud800\"}", Code::InvalidJson, "line 1"),
            ("{\"\":\"1\"}", Code::InvalidKey, "at least one byte"),
        ] {
            let problem = parse_pairs(body.as_bytes(), &Limits::default()).expect_err(body);
            assert_eq!(problem.code, code, "{body}");
            assert!(problem.detail.contains(named), "{body}: {}", problem.detail);
        }
        assert!(parse_pairs(b"{\"a\":\"\xff\"}", &Limits::default()).is_err());
        assert!(parse_pairs("[".repeat(100_000).as_bytes(), &Limits::default()).is_err());
        assert!(
            parse_pairs(format!("{{\"a\":{}", "[".repeat(100_000)).as_bytes(), &Limits::default()).is_err()
        );
    }

    /// The limits are inclusive and named with their number.
    #[test]
    fn limits_of_pairs() {
        let many = |count: usize| {
            let pairs: Vec<String> = (0..count).map(|i| format!("\"{i}\":\"\"")).collect();
            format!("{{{}}}", pairs.join(","))
        };
        assert_eq!(pairs(&many(BATCH_PAIRS_MAX)).len(), BATCH_PAIRS_MAX);
        let problem = parse_pairs(many(300).as_bytes(), &Limits::default()).expect_err("300 pairs");
        assert_eq!((problem.code, problem.limit), (Code::BatchTooLarge, Some(128)));
        assert!(problem.detail.contains("300"));
        let long_key = format!("{{\"{}\":\"\"}}", "k".repeat(4097));
        let problem = parse_pairs(long_key.as_bytes(), &Limits::default()).expect_err("long key");
        assert_eq!((problem.code, problem.limit), (Code::KeyTooLarge, Some(4096)));
    }
}
