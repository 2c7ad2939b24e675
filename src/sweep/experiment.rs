//! day2's experiments: what each one's grid is where the user names nothing else.

use super::{LoadChoice, PolicyKind, Reference};
use crate::scheduler::Padding;

/// What `--experiment` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Experiment {
    /// §5: batch sizes × wait windows, with as many clients as the batch size, then half their load.
    Day2,
    /// §3.1: static against dynamic when requests are few.
    FewRequests,
    /// §3.3: prompts of mixed lengths, padded against ragged.
    Padding,
    /// §4.3: outputs of mixed lengths against equal ones of the same mean.
    IdleRows,
    /// §4.3: prompts and outputs of mixed lengths, all there at once, under all three policies.
    MixedLengths,
    /// §2: every setting under the same offered load, from little to more than it can serve.
    Saturation,
}

/// The axes of an experiment. Prompts are length mixes of random tokens; none: one fixed prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    pub policies: Vec<PolicyKind>,
    pub batch_sizes: Vec<usize>,
    pub windows_ms: Vec<f64>,
    pub paddings: Vec<Padding>,
    pub input_lens: Vec<&'static str>,
    pub output_lens: Vec<&'static str>,
    pub load: LoadChoice,
}

impl Experiment {
    /// `burstiness` is that of the open loads; `batch_sizes` replaces the experiment's own, on which
    /// its load may depend.
    pub fn preset(self, batch_sizes: Option<&[usize]>, burstiness: f64) -> Preset {
        let sizes = |own: &[usize]| batch_sizes.unwrap_or(own).to_vec();
        let day2 = Preset {
            policies: vec![PolicyKind::Dynamic],
            batch_sizes: sizes(&[1, 4, 8]),
            windows_ms: vec![0.0, 10.0, 50.0],
            paddings: vec![Padding::Padded],
            input_lens: vec![],
            output_lens: vec!["32"],
            load: LoadChoice::day2(burstiness),
        };
        match self {
            Self::Day2 => day2,
            Self::FewRequests => Preset {
                policies: vec![PolicyKind::Static, PolicyKind::Dynamic],
                batch_sizes: sizes(&[8]),
                load: LoadChoice::Shares {
                    concurrency: None,
                    percents: vec![1.0, 10.0, 50.0],
                    of: Reference::OwnBatch,
                    burstiness,
                },
                ..day2
            },
            Self::Padding => Preset {
                batch_sizes: sizes(&[4, 8]),
                windows_ms: vec![0.0],
                paddings: vec![Padding::Padded, Padding::Ragged],
                input_lens: vec!["8-32:0.75,128-256:0.25"],
                load: LoadChoice::Closed { concurrency: None },
                ..day2
            },
            Self::IdleRows => Preset {
                batch_sizes: sizes(&[4, 8]),
                windows_ms: vec![0.0],
                // Both 36 tokens on average.
                output_lens: vec!["36", "8-64"],
                load: LoadChoice::Closed { concurrency: None },
                ..day2
            },
            Self::MixedLengths => Preset {
                policies: vec![
                    PolicyKind::Static,
                    PolicyKind::Dynamic,
                    PolicyKind::Continuous,
                ],
                batch_sizes: sizes(&[8]),
                windows_ms: vec![0.0],
                // Padding is another waste, which `padding` measures.
                paddings: vec![Padding::Ragged],
                input_lens: vec!["32-256"],
                output_lens: vec!["16-256"],
                load: LoadChoice::Offline,
            },
            Self::Saturation => Preset {
                windows_ms: vec![0.0, 10.0],
                load: LoadChoice::saturation(&day2.batch_sizes, burstiness),
                ..day2
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::Grid;
    use crate::workload::LengthMix;

    #[test]
    fn every_preset_is_a_valid_grid() {
        for experiment in [
            Experiment::Day2,
            Experiment::FewRequests,
            Experiment::Padding,
            Experiment::IdleRows,
            Experiment::MixedLengths,
            Experiment::Saturation,
        ] {
            let preset = experiment.preset(None, 1.0);
            for mix in preset.input_lens.iter().chain(&preset.output_lens) {
                mix.parse::<LengthMix>().unwrap();
            }
            let grid = Grid {
                policies: preset.policies,
                batch_sizes: preset.batch_sizes,
                windows_ms: preset.windows_ms,
                prefill_windows_ms: vec![],
                paddings: preset.paddings,
                prompts: vec!["p".into()],
                output_lens: preset.output_lens.iter().map(|o| (*o).into()).collect(),
                load: preset.load,
            };
            grid.validate().unwrap();
            assert!(!grid.cells().is_empty(), "{experiment:?}");
        }
    }
}
