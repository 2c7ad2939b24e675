//! One setting to measure.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LoadSpec;
use crate::batching::{Dynamic, Policy, Static};
use crate::scheduler::Padding;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    Static,
    Dynamic,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        })
    }
}

/// One setting to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellSpec {
    pub policy: PolicyKind,
    pub batch_size: usize,
    /// None for `static`, which does not watch the time.
    pub window_ms: Option<f64>,
    pub padding: Padding,
    pub prompts: String,
    pub output_len: String,
    pub load: LoadSpec,
}

impl CellSpec {
    /// The same prompts and output lengths.
    pub fn same_work(&self, other: &Self) -> bool {
        self.prompts == other.prompts && self.output_len == other.output_len
    }

    pub(super) fn policy(&self, preferred: &[usize]) -> Box<dyn Policy> {
        match self.policy {
            PolicyKind::Static => Box::new(Static {
                batch_size: self.batch_size,
            }),
            PolicyKind::Dynamic => Box::new(Dynamic {
                max_batch_size: self.batch_size,
                window: Duration::from_secs_f64(self.window_ms.unwrap_or_default() / 1e3),
                preferred_sizes: preferred
                    .iter()
                    .copied()
                    .filter(|&size| size < self.batch_size)
                    .collect(),
            }),
        }
    }
}

impl fmt::Display for CellSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} batch {}", self.policy, self.batch_size)?;
        if let Some(window) = self.window_ms {
            write!(f, " window {window} ms")?;
        }
        if self.padding == Padding::Ragged {
            f.write_str(" ragged")?;
        }
        write!(f, ", {}", self.load)
    }
}
