//! Items of listings as JSON, written where the store has them, without an intermediate tree.

use std::io::Write;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use vaultdb_kv::{ListItem, Page, Revision};

const OPEN: &[u8] = b"{\"items\":[";

/// Appends an item to a page that [`close`] ends.
pub(crate) fn element(item: &ListItem<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(if out.is_empty() { OPEN } else { b"," });
    object(item, out);
}

/// Appends an item and the end of its line.
pub(crate) fn line(item: &ListItem<'_>, out: &mut Vec<u8>) {
    object(item, out);
    out.push(b'\n');
}

/// Makes the whole answer of a page whose items [`element`] wrote.
pub(crate) fn close(page: Page, next: Option<&str>, revision: Revision) -> Vec<u8> {
    let mut json = page.body;
    if json.is_empty() {
        json.extend_from_slice(OPEN);
    }
    json.extend_from_slice(b"],\"next\":");
    serde_json::to_writer(&mut json, &next).expect(INFALLIBLE);
    write!(json, ",\"revision\":{revision}}}").expect(INFALLIBLE);
    json
}

const INFALLIBLE: &str = "writing to a vector cannot fail";

fn object(item: &ListItem<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    member("key", item.key, out);
    if let Some(value) = item.value {
        out.push(b',');
        member("value", value, out);
    }
    write!(out, ",\"revision\":{}}}", item.revision).expect(INFALLIBLE);
}

/// Text as it is; bytes that are no text in base64 under a name of their own.
fn member(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            out.extend_from_slice(b"\":");
            serde_json::to_writer(out, text).expect(INFALLIBLE);
        }
        Err(_) => {
            out.extend_from_slice(b"_base64\":\"");
            let begin = out.len();
            // Four letters for each three bytes that are begun.
            out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
            STANDARD.encode_slice(bytes, &mut out[begin..]).expect("there is room for the padding, too");
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(items: &[(&[u8], Option<&[u8]>)], next: Option<&str>) -> String {
        let mut page = Page::empty();
        for (revision, (key, value)) in items.iter().enumerate() {
            let revision = revision as u64 + 1;
            element(&ListItem { key, value: *value, revision }, &mut page.body);
        }
        String::from_utf8(close(page, next, 9)).expect("text")
    }

    /// Text stands as it is, escaped; other bytes are in base64; an empty value is not an absent one.
    #[test]
    fn items_as_json() {
        assert_eq!(page(&[], None), r#"{"items":[],"next":null,"revision":9}"#);
        let items: [(&[u8], Option<&[u8]>); 4] = [
            (b"a\"\n", Some(b"")),
            ("é".as_bytes(), None),
            (b"\xff", Some(b"\0\x01")),
            (b"k", Some(b"\xff\xfe\xfd\xfc")),
        ];
        let want = concat!(
            r#"{"items":[{"key":"a\"\n","value":"","revision":1},{"key":"é","revision":2},"#,
            r#"{"key_base64":"/w==","value":"\u0000\u0001","revision":3},"#,
            r#"{"key":"k","value_base64":"//79/A==","revision":4}],"next":"c","revision":9}"#,
        );
        assert_eq!(page(&items, Some("c")), want);
        let mut lines = Vec::new();
        line(&ListItem { key: b"k", value: Some(b"v"), revision: 3 }, &mut lines);
        assert_eq!(lines, b"{\"key\":\"k\",\"value\":\"v\",\"revision\":3}\n");
    }
}
