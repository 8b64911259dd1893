//! A value as it was written, before it is known what it should be.
//!
//! Each reading either succeeds or gives a reason that quotes the value on one line.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use vaultdb_kv::units::{parse_duration, parse_size};

/// Most characters of a value that an error repeats.
const QUOTED_CHARS_MAX: usize = 80;

pub(crate) enum Raw {
    /// From a flag or a variable.
    Os(OsString),
    /// From a file.
    Toml(toml::Value),
}

/// The value in quotes, short and on one line.
pub(crate) fn quote(value: &str) -> String {
    let mut quoted: String = value.chars().take(QUOTED_CHARS_MAX).collect();
    if quoted.len() < value.len() {
        quoted.push('…');
    }
    format!("\"{}\"", one_line(&quoted))
}

/// The text with its control characters spelled out.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_debug());
        } else {
            line.push(c);
        }
    }
    line
}

/// A value of a file, about as it was written there.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(value) => value.clone(),
        toml::Value::Integer(value) => value.to_string(),
        toml::Value::Float(value) => value.to_string(),
        toml::Value::Boolean(value) => value.to_string(),
        toml::Value::Datetime(value) => value.to_string(),
        toml::Value::Array(values) => {
            format!("[{}]", values.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        toml::Value::Table(_) => "{…}".into(),
    }
}

impl Raw {
    fn quoted(&self) -> String {
        match self {
            Raw::Os(value) => quote(&value.to_string_lossy()),
            Raw::Toml(value) => quote(&shown(value)),
        }
    }

    fn wrong(&self, expected: &str) -> String {
        format!("{} is not {expected}", self.quoted())
    }

    pub(crate) fn text(&self) -> Result<&str, String> {
        match self {
            Raw::Os(value) => value.to_str().ok_or_else(|| self.wrong("UTF-8 text")),
            Raw::Toml(toml::Value::String(value)) => Ok(value),
            Raw::Toml(_) => Err(self.wrong("a string")),
        }
    }

    /// A path may hold any bytes, except where the file format cannot.
    pub(crate) fn path(&self) -> Result<PathBuf, String> {
        let path = match self {
            Raw::Os(value) => PathBuf::from(value),
            Raw::Toml(_) => PathBuf::from(self.text()?),
        };
        if path.as_os_str().is_empty() {
            return Err(self.wrong("a path"));
        }
        Ok(path)
    }

    pub(crate) fn boolean(&self) -> Result<bool, String> {
        match self {
            Raw::Toml(toml::Value::Boolean(value)) => Ok(*value),
            Raw::Toml(_) => Err(self.wrong("true or false")),
            Raw::Os(value) => match value.to_str() {
                Some("true" | "1") => Ok(true),
                Some("false" | "0") => Ok(false),
                _ => Err(self.wrong("true or false")),
            },
        }
    }

    /// A whole number within the range.
    pub(crate) fn number(&self, range: RangeInclusive<u64>) -> Result<u64, String> {
        let number = match self {
            Raw::Toml(toml::Value::Integer(value)) => u64::try_from(*value).ok(),
            Raw::Toml(_) => return Err(self.wrong("a whole number")),
            // `u64::from_str` takes a leading plus sign; people do not mean one.
            Raw::Os(value) => value
                .to_str()
                .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|text| text.parse().ok()),
        };
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.wrong(&format!("a whole number from {} to {}", range.start(), range.end())))
    }

    /// Milliseconds within the range: a whole number, or a duration such as `10m`.
    pub(crate) fn millis(&self, range: RangeInclusive<u64>) -> Result<u64, String> {
        let parse = |text: &str| {
            let duration = parse_duration(text).ok()?;
            u64::try_from(duration.as_millis()).ok()
        };
        let ms = match self {
            Raw::Toml(toml::Value::Integer(value)) => u64::try_from(*value).ok(),
            Raw::Toml(toml::Value::String(value)) => parse(value),
            Raw::Toml(_) => None,
            Raw::Os(value) => match value.to_str() {
                Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
                Some(text) => parse(text),
                None => None,
            },
        };
        ms.filter(|ms| range.contains(ms)).ok_or_else(|| {
            self.wrong(&format!("a time from {} to {} ms, such as 500ms or 10m", range.start(), range.end()))
        })
    }

    /// Bytes within the range: a whole number, or a size such as `64MiB`.
    pub(crate) fn bytes(&self, range: RangeInclusive<u64>) -> Result<u64, String> {
        let size = match self {
            Raw::Toml(toml::Value::Integer(value)) => u64::try_from(*value).ok(),
            Raw::Toml(toml::Value::String(value)) => parse_size(value).ok(),
            Raw::Toml(_) => None,
            Raw::Os(value) => value.to_str().and_then(|text| parse_size(text).ok()),
        };
        size.filter(|size| range.contains(size)).ok_or_else(|| {
            self.wrong(&format!("a size from {} to {} bytes, such as 64MiB", range.start(), range.end()))
        })
    }

    /// A list: an array of strings in a file; elsewhere, and in a file too, one string with commas.
    pub(crate) fn list(&self) -> Result<Vec<String>, String> {
        match self {
            Raw::Toml(toml::Value::Array(values)) => values
                .iter()
                .map(|value| match value {
                    toml::Value::String(text) => Ok(text.clone()),
                    _ => Err(self.wrong("a list of strings")),
                })
                .collect(),
            Raw::Toml(toml::Value::String(_)) | Raw::Os(_) => {
                Ok(self.text()?.split(',').map(|part| part.trim().to_owned()).collect())
            }
            Raw::Toml(_) => Err(self.wrong("a list of strings")),
        }
    }
}
