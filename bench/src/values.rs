//! What a prefill writes under each key, so that a read can be checked without keeping the values.

use crate::keys::{digits, Rng, KEY_BYTES};
use crate::template::value_text;

/// Distinct places at which a value may begin within the text that all of them share. Neighbouring keys begin
/// far apart, so that the store cannot compress their values into each other.
const PLACES: u64 = 64 * 1024;
/// Steps from one key's place to the next one's; odd, so that all places are used.
const STRIDE: u64 = 7_919;

/// The values of all keys.
#[derive(Debug, Clone)]
pub struct Values {
    text: Vec<u8>,
    bytes: usize,
}

impl Values {
    /// The same for the same seed and size.
    pub fn new(seed: u64, bytes: usize) -> Self {
        let tail = bytes.saturating_sub(KEY_BYTES);
        Self { text: value_text(&mut Rng::new(seed), PLACES as usize + tail).into_bytes(), bytes }
    }

    /// Puts the key's value in place of what `out` holds: the last of its digits, as many as fit, then text.
    pub fn write(&self, key: u64, out: &mut Vec<u8>) {
        let head = self.bytes.min(KEY_BYTES);
        let begin = (key.wrapping_mul(STRIDE) % PLACES) as usize;
        out.clear();
        out.extend_from_slice(&digits(key)[KEY_BYTES - head..]);
        out.extend_from_slice(&self.text[begin..begin + self.bytes - head]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each value has its size, is the same every time, and differs from that of any other key nearby.
    #[test]
    fn values_are_told_apart() {
        for bytes in [0, 5, 16, 17, 100] {
            let (values, again) = (Values::new(1, bytes), Values::new(1, bytes));
            let (mut one, mut other) = (Vec::new(), Vec::new());
            for key in 0..1_000 {
                values.write(key, &mut one);
                again.write(key, &mut other);
                assert_eq!((one.len(), &one), (bytes, &other));
                again.write(key + 1, &mut other);
                assert!(bytes == 0 || one != other, "{key}");
            }
        }
    }
}
