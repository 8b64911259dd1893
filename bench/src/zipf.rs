//! Draws ranks by Zipf's law without a table: rejection-inversion.
//!
//! Source: Hörmann and Derflinger 1996, "Rejection-inversion to generate variates from monotone
//! discrete distributions".

use crate::keys::Rng;

/// Ranks from 1 to `count`; rank k has weight 1 / k^theta.
#[derive(Debug, Clone)]
pub struct Zipf {
    count: f64,
    theta: f64,
    /// The integral of the hat at 1.5, less the weight of rank 1, and at `count` + 0.5.
    low: f64,
    high: f64,
    /// Within this distance of its rank a draw is accepted without a look at the hat.
    squeeze: f64,
}

impl Zipf {
    /// `theta` is above 0; at 1 and beyond it is allowed too.
    pub fn new(count: u64, theta: f64) -> Self {
        // Exact up to 2^53, and a key space is smaller.
        let count = count as f64;
        let mut zipf = Self { count, theta, low: 0.0, high: 0.0, squeeze: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(count + 0.5);
        zipf.squeeze = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    pub fn draw(&self, rng: &mut Rng) -> u64 {
        // At least about 0.7 of all draws are accepted whatever the parameters, so that it ends.
        loop {
            let u = self.high + rng.unit() * (self.low - self.high);
            let x = self.inverse(u);
            let k = x.round().clamp(1.0, self.count);
            if k - x <= self.squeeze || u >= self.integral(k + 0.5) - self.weight(k) {
                return k as u64;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    /// (x^(1 - theta) - 1) / (1 - theta), which is ln x for theta = 1.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let scaled = (1.0 - self.theta) * log;
        if scaled.abs() > 1e-8 {
            scaled.exp_m1() / scaled * log
        } else {
            log
        }
    }

    fn inverse(&self, x: f64) -> f64 {
        let scaled = (x * (1.0 - self.theta)).max(-1.0);
        if scaled.abs() > 1e-8 {
            (scaled.ln_1p() / scaled * x).exp()
        } else {
            x.exp()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each rank comes as often as its weight says, below, at and above theta = 1.
    #[test]
    fn ranks_follow_the_law() {
        const DRAWS: u32 = 200_000;
        const COUNT: u64 = 50;
        for theta in [0.5, 0.99, 1.0, 1.5] {
            let zipf = Zipf::new(COUNT, theta);
            let mut rng = Rng::new(1);
            let mut seen = [0_u32; COUNT as usize + 1];
            for _ in 0..DRAWS {
                seen[zipf.draw(&mut rng) as usize] += 1;
            }
            let total: f64 = (1..=COUNT).map(|k| (k as f64).powf(-theta)).sum();
            assert_eq!(seen[0], 0);
            for k in [1, 2, 10, COUNT] {
                let expected = f64::from(DRAWS) * (k as f64).powf(-theta) / total;
                // Five standard deviations of a binomial count.
                let slack = 5.0 * expected.sqrt();
                let got = f64::from(seen[k as usize]);
                assert!((got - expected).abs() < slack, "theta {theta}, rank {k}: {got} for {expected}");
            }
        }
    }

    #[test]
    fn one_key() {
        assert_eq!(Zipf::new(1, 0.99).draw(&mut Rng::new(7)), 1);
    }
}
