//! Length mixes: `32`, `16-64` (uniform), or weighted parts such as `32:0.7,256-512:0.3`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use rand::{Rng, RngExt};

/// Weighted ranges of lengths in tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthMix {
    parts: Vec<(RangeInclusive<usize>, f64)>,
    text: String,
}

impl LengthMix {
    pub fn max(&self) -> usize {
        self.parts.iter().map(|(r, _)| *r.end()).max().unwrap_or(0)
    }

    pub fn draw(&self, rng: &mut impl Rng) -> usize {
        let total: f64 = self.parts.iter().map(|(_, w)| w).sum();
        let mut at = rng.random_range(0.0..total);
        for (range, weight) in &self.parts {
            if at < *weight {
                return rng.random_range(range.clone());
            }
            at -= weight;
        }
        // Rounding may leave `at` at the very end of the last part.
        self.max()
    }
}

impl fmt::Display for LengthMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for LengthMix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| {
            format!(
                "'{part}' is not a length; write 32, 16-64 or a mix such as 32:0.7,256-512:0.3, \
                 with lengths of at least 1 and weights above 0"
            )
        };
        let parts = text.split(',').map(|part| {
            let (range, weight) = part.split_once(':').unwrap_or((part, "1"));
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let parsed = (
                low.trim().parse(),
                high.trim().parse(),
                weight.trim().parse::<f64>(),
            );
            match parsed {
                (Ok(low), Ok(high), Ok(weight))
                    if 1 <= low && low <= high && weight > 0.0 && weight.is_finite() =>
                {
                    Ok((low..=high, weight))
                }
                _ => Err(wrong(part)),
            }
        });
        let parts: Vec<_> = parts.collect::<Result<_, _>>()?;
        // Drawing needs the sum of the weights.
        if !parts.iter().map(|(_, w)| w).sum::<f64>().is_finite() {
            return Err(wrong(text));
        }
        Ok(Self {
            parts,
            text: text.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn mixes_parse_and_draw_their_weights() {
        let mix: LengthMix = "32:3,100-200:1".parse().unwrap();
        let mut rng = rand_pcg::Pcg64::seed_from_u64(1);
        let draws: Vec<usize> = (0..4000).map(|_| mix.draw(&mut rng)).collect();
        let short = draws.iter().filter(|&&n| n == 32).count();
        assert!((2800..3200).contains(&short), "{short}");
        assert!(draws.iter().all(|&n| n == 32 || (100..=200).contains(&n)));
        assert_eq!(mix.max(), 200);
        assert_eq!(mix.to_string(), "32:3,100-200:1");
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "0",
            "-3",
            "8-4",
            "4:0",
            "4:nan",
            "4:-1",
            "x",
            "4,",
            "1e3",
            "4:inf",
            "4:1e308,5:1e308",
        ] {
            let error = bad.parse::<LengthMix>().unwrap_err();
            assert!(error.contains("is not a length"), "{bad}: {error}");
        }
    }
}
