//! Rotary position embedding (Su et al. 2021): the angles, and how long contexts scale them.

use std::f32::consts::PI;

/// Pair i of a head of width D is turned by position · θ^(−2i/D), scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// θ
    pub theta: f32,
    pub scaling: RopeScaling,
}

/// How a model that was trained on short contexts reads longer ones; HF's `rope_type`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    Default,
    /// Every frequency is divided by `factor` (Chen et al. 2023).
    Linear {
        factor: f32,
    },
    /// Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between blended.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_max_positions: usize,
    },
}

impl Rope {
    /// `[D/2]` radians a position, in the order and the precision of HF.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                self.scaling.apply(1.0 / self.theta.powf(exponent))
            })
            .collect()
    }

    /// `[positions, D/2]` cosine and sine of each angle.
    pub fn table(&self, head_dim: usize, positions: usize) -> Vec<[f32; 2]> {
        let frequencies = self.frequencies(head_dim);
        (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f))
            .map(|angle| [angle.cos(), angle.sin()])
            .collect()
    }
}

impl RopeScaling {
    fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => {
                let original = original_max_positions as f32;
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original / high_freq_factor {
                    return frequency;
                }
                if wavelength > original / low_freq_factor {
                    return frequency / factor;
                }
                let high = (original / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                (1.0 - high) * frequency / factor + high * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: RopeScaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };

    #[test]
    fn frequencies_by_hand() {
        let rope = |scaling| Rope {
            theta: 10_000.0,
            scaling,
        };
        assert_eq!(rope(RopeScaling::Default).frequencies(4), [1.0, 0.01]);
        let halved = rope(RopeScaling::Linear { factor: 2.0 });
        assert_eq!(halved.frequencies(4), [0.5, 0.005]);
        let table = halved.table(4, 3);
        assert_eq!(table.len(), 3 * 2);
        assert_eq!(table[..2], [[1.0, 0.0]; 2]);
        assert_eq!(table[4], [1f32.cos(), 1f32.sin()]);
    }

    #[test]
    fn llama3_keeps_short_waves_stretches_long_ones_and_blends_between() {
        // Wavelengths of 2048 and 8192 positions are the two ends.
        let at = |wavelength: f32| LLAMA3.apply(2.0 * PI / wavelength) * wavelength / (2.0 * PI);
        // 8192 / 4096 = 2, a third of the way from 1 to 4.
        let blended = 2.0 / 3.0 / 8.0 + 1.0 / 3.0;
        for (wavelength, kept) in [(1000.0, 1.0), (20_000.0, 0.125), (4096.0, blended)] {
            assert!((at(wavelength) - kept).abs() < 1e-6, "{wavelength}");
        }
    }
}
