//! Which key comes next: reproducible from a seed, uniform or by Zipf's law.

use crate::zipf::Zipf;

/// Length of every key: decimal digits with leading zeros.
pub const KEY_BYTES: usize = 16;
/// Largest key space: what the digits can count, and what a float holds exactly.
pub const KEYS_MAX: u64 = 1 << 53;

/// The keys of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeySpace {
    /// Number of distinct keys, at least 1 and at most [`KEYS_MAX`].
    pub count: u64,
    pub seed: u64,
    /// Exponent of Zipf's law, above 0; key 0 is then the most popular. `None`: uniform.
    pub zipf_theta: Option<f64>,
}

/// SplitMix64: fast, good enough for load, the same on every machine.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`, by multiplication; the bias is below 2^-11 for any key space.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The keys that one connection draws.
#[derive(Debug, Clone)]
pub struct Keys {
    rng: Rng,
    count: u64,
    zipf: Option<Zipf>,
}

impl Keys {
    /// `stream` tells connections apart: each draws keys of its own, whatever the others do.
    pub fn new(space: &KeySpace, stream: u64) -> Self {
        // One step of a generator of its own, so that neighbouring streams do not overlap.
        let seed = Rng::new(space.seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95)).next_u64();
        Self {
            rng: Rng::new(seed),
            count: space.count,
            zipf: space.zipf_theta.map(|theta| Zipf::new(space.count, theta)),
        }
    }

    pub fn draw(&mut self) -> u64 {
        match &self.zipf {
            Some(zipf) => zipf.draw(&mut self.rng) - 1,
            None => self.rng.below(self.count),
        }
    }

    /// Draws the first key of a request with that many pairs; the others are spread evenly over the key
    /// space from there, so that no key comes twice. At most as many as there are keys.
    pub fn draw_many(&mut self, pairs: usize) -> impl Iterator<Item = u64> {
        let (first, count) = (self.draw(), self.count);
        let stride = (count / pairs as u64).max(1);
        (0..pairs as u64).map(move |number| (first + number * stride) % count)
    }

    /// True in `percent` of all calls.
    pub fn chance(&mut self, percent: u8) -> bool {
        self.rng.below(100) < u64::from(percent)
    }
}

/// The key's digits.
pub fn digits(mut key: u64) -> [u8; KEY_BYTES] {
    let mut text = [b'0'; KEY_BYTES];
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (key % 10) as u8;
        key /= 10;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(space: &KeySpace, stream: u64) -> Vec<u64> {
        let mut keys = Keys::new(space, stream);
        (0..1_000).map(|_| keys.draw()).collect()
    }

    /// The same seed draws the same keys; another seed or connection draws others; all are in range.
    #[test]
    fn draws_are_reproducible_and_in_range() {
        for zipf_theta in [None, Some(0.99)] {
            let space = KeySpace { count: 1_000, seed: 7, zipf_theta };
            let first = draws(&space, 0);
            assert_eq!(first, draws(&space, 0));
            assert_ne!(first, draws(&space, 1));
            assert_ne!(first, draws(&KeySpace { seed: 8, ..space }, 0));
            assert!(first.iter().all(|key| *key < space.count));
        }
    }

    #[test]
    fn uniform_reaches_every_key() {
        let mut keys = Keys::new(&KeySpace { count: 10, seed: 1, zipf_theta: None }, 0);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[keys.draw() as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1_200).contains(count)), "{seen:?}");
    }

    /// The keys of one request are distinct, also when it takes all that there are.
    #[test]
    fn keys_of_one_request_are_distinct() {
        for (count, pairs) in [(100, 100), (101, 100), (100_000, 100), (1, 1)] {
            let mut keys = Keys::new(&KeySpace { count, seed: 1, zipf_theta: None }, 0);
            for _ in 0..100 {
                let mut drawn: Vec<_> = keys.draw_many(pairs).collect();
                drawn.sort_unstable();
                drawn.dedup();
                assert_eq!(drawn.len(), pairs);
                assert!(drawn.iter().all(|key| *key < count));
            }
        }
    }

    #[test]
    fn keys_have_sixteen_digits() {
        assert_eq!(&digits(0), b"0000000000000000");
        assert_eq!(&digits(120_345), b"0000000000120345");
        assert_eq!(&digits(KEYS_MAX), b"9007199254740992");
    }
}
