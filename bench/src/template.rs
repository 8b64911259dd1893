//! Requests as finished bytes, into which only the keys are patched.

use std::fmt::Write;
use std::ops::Range;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;

use crate::keys::{digits, Rng, KEY_BYTES};
use crate::values::Values;

/// Length of a key in base64, padding included.
const KEY_BASE64_BYTES: usize = KEY_BYTES.div_ceil(3) * 4;

/// How a key is written into its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Plain,
    Base64,
}

/// One request. Its length never changes, whatever its keys.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where each key begins.
    places: Vec<usize>,
    spelling: Spelling,
}

impl Template {
    /// `PUT /v1/kv/{key}`; `query` is empty or begins with `?`.
    pub fn put(host: &str, query: &str, value: &str) -> Self {
        Self::build("PUT", host, &[Part::Text("/v1/kv/"), Part::Key, Part::Text(query)], &[Part::Text(value)])
    }

    /// `GET /v1/kv/{key}`.
    pub fn get(host: &str, query: &str) -> Self {
        Self::build("GET", host, &[Part::Text("/v1/kv/"), Part::Key, Part::Text(query)], &[])
    }

    /// `POST /key` with as many pairs, all of one value.
    pub fn batch(host: &str, query: &str, value: &str, pairs: usize) -> Self {
        let mut body = vec![Part::Text("{\"")];
        for pair in 0..pairs {
            if pair > 0 {
                body.push(Part::Text("\",\""));
            }
            body.extend([Part::Key, Part::Text("\":\""), Part::Text(value)]);
        }
        body.push(Part::Text("\"}"));
        Self::build("POST", host, &[Part::Text("/key"), Part::Text(query)], &body)
    }

    /// `POST /key` with these keys, each with its own value.
    pub fn pairs(host: &str, keys: Range<u64>, values: &Values) -> Self {
        let mut body = String::from("{");
        let mut value = Vec::new();
        for key in keys {
            values.write(key, &mut value);
            let comma = if body.len() > 1 { "," } else { "" };
            let _infallible =
                write!(body, "{comma}\"{key:0width$}\":\"{}\"", value.escape_ascii(), width = KEY_BYTES);
        }
        body.push('}');
        Self::build("POST", host, &[Part::Text("/key")], &[Part::Text(&body)])
    }

    /// `POST /v3/kv/put` of etcd's JSON gateway.
    pub fn etcd_put(host: &str, value: &str) -> Self {
        let value = STANDARD.encode(value);
        let body = [
            Part::Text("{\"key\":\""),
            Part::KeyBase64,
            Part::Text("\",\"value\":\""),
            Part::Text(&value),
            Part::Text("\"}"),
        ];
        Self::build("POST", host, &[Part::Text("/v3/kv/put")], &body)
    }

    fn build(method: &str, host: &str, path: &[Part<'_>], body: &[Part<'_>]) -> Self {
        let mut template = Self { bytes: Vec::new(), places: Vec::new(), spelling: Spelling::Plain };
        template.push(&[Part::Text(method), Part::Text(" ")]);
        template.push(path);
        template.push(&[Part::Text(" HTTP/1.1\r\nhost: "), Part::Text(host), Part::Text("\r\n")]);
        if method != "GET" {
            let length: usize = body.iter().map(Part::len).sum();
            template.push(&[Part::Text(&format!("content-length: {length}\r\n"))]);
        }
        template.push(&[Part::Text("\r\n")]);
        template.push(body);
        template
    }

    fn push(&mut self, parts: &[Part<'_>]) {
        for part in parts {
            match part {
                Part::Text(text) => self.bytes.extend_from_slice(text.as_bytes()),
                Part::Key | Part::KeyBase64 => {
                    self.places.push(self.bytes.len());
                    self.bytes.resize(self.bytes.len() + part.len(), b'0');
                    if matches!(part, Part::KeyBase64) {
                        self.spelling = Spelling::Base64;
                    }
                }
            }
        }
    }

    /// Writes keys into their places, one for each.
    pub fn patch(&mut self, keys: impl IntoIterator<Item = u64>) {
        for (place, key) in self.places.iter().zip(keys) {
            let key = digits(key);
            match self.spelling {
                Spelling::Plain => self.bytes[*place..*place + KEY_BYTES].copy_from_slice(&key),
                Spelling::Base64 => {
                    let out = &mut self.bytes[*place..*place + KEY_BASE64_BYTES];
                    STANDARD.encode_slice(key, out).expect("the place is as long as any key in base64");
                }
            }
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    Text(&'a str),
    Key,
    KeyBase64,
}

impl Part<'_> {
    fn len(&self) -> usize {
        match self {
            Part::Text(text) => text.len(),
            Part::Key => KEY_BYTES,
            Part::KeyBase64 => KEY_BASE64_BYTES,
        }
    }
}

/// A value of letters and digits: legal in JSON as it is, and not compressed to nothing by the store.
pub fn value_text(rng: &mut Rng, bytes: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    (0..bytes).map(|_| char::from(LETTERS[rng.below(LETTERS.len() as u64) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(mut template: Template) -> String {
        template.patch(1..);
        String::from_utf8(template.bytes).expect("text")
    }

    #[test]
    fn requests_to_the_letter() {
        assert_eq!(
            patched(Template::put("h:1", "?ack=leader", "abc")),
            "PUT /v1/kv/0000000000000001?ack=leader HTTP/1.1\r\nhost: h:1\r\ncontent-length: 3\r\n\r\nabc"
        );
        assert_eq!(
            patched(Template::get("h:1", "?consistency=stale")),
            "GET /v1/kv/0000000000000001?consistency=stale HTTP/1.1\r\nhost: h:1\r\n\r\n"
        );
        assert_eq!(
            patched(Template::batch("h:1", "", "v", 2)),
            "POST /key HTTP/1.1\r\nhost: h:1\r\ncontent-length: 47\r\n\r\n\
             {\"0000000000000001\":\"v\",\"0000000000000002\":\"v\"}"
        );
        assert_eq!(
            patched(Template::pairs("h:1", 8..10, &Values::new(1, 2))),
            "POST /key HTTP/1.1\r\nhost: h:1\r\ncontent-length: 49\r\n\r\n\
             {\"0000000000000008\":\"08\",\"0000000000000009\":\"09\"}"
        );
        assert_eq!(
            patched(Template::etcd_put("h:1", "abc")),
            "POST /v3/kv/put HTTP/1.1\r\nhost: h:1\r\ncontent-length: 49\r\n\r\n\
             {\"key\":\"MDAwMDAwMDAwMDAwMDAwMQ==\",\"value\":\"YWJj\"}"
        );
    }

    /// A template that is used again holds the new keys and nothing of the old ones.
    #[test]
    fn keys_are_overwritten() {
        let mut template = Template::get("h", "");
        template.patch([9_999_999_999_999_999]);
        template.patch([1]);
        assert!(template.bytes().starts_with(b"GET /v1/kv/0000000000000001 "));
    }

    #[test]
    fn values_differ_by_seed_only() {
        let text = |seed| value_text(&mut Rng::new(seed), 100);
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        assert_eq!(text(1).len(), 100);
    }
}
