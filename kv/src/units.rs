//! Durations (`500ms`, `5s`) and sizes (`1MiB`) as people write them.

use std::time::Duration;

/// Reads `250us`, `500ms`, `5s`, `2m` or `1h`: a whole number and a unit, nothing else.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let scale_us: u64 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "" => return Err(format!("\"{text}\" has no unit: write it as 500ms or 5s")),
        _ => return Err(format!("\"{}\" has an unknown unit: use us, ms, s, m or h", text.escape_debug())),
    };
    let us = number.checked_mul(scale_us).ok_or_else(|| format!("\"{text}\" is too long"))?;
    Ok(Duration::from_micros(us))
}

/// Reads `512`, `512B`, `64KiB`, `1MiB` or `2GiB`: bytes.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let scale: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("\"{}\" has an unknown unit: use B, KiB, MiB or GiB", text.escape_debug())),
    };
    number.checked_mul(scale).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// Bytes in the largest unit of which there is one, with one decimal, rounded down.
pub fn show_size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number = digits
        .parse()
        .map_err(|_| format!("\"{}\" does not begin with a whole number", text.escape_debug()))?;
    Ok((number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        for bad in ["", "5", "s", "-1s", "1.5s", "5 s", "5d", "18446744073709551615h"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("7"), Ok(7));
        for bad in ["", "MiB", "1MB", "1mib", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
        for (bytes, shown) in
            [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (u64::MAX, "17179869183.9 GiB")]
        {
            assert_eq!(show_size(bytes), shown);
        }
    }
}
