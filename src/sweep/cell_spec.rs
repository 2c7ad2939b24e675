//! One setting to measure.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LoadSpec, MeasureOptions};
use crate::Error;
use crate::batching::{Continuous, Dynamic, Policy, Static};
use crate::scheduler::Padding;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    Static,
    Dynamic,
    Continuous,
    /// Whatever a server does.
    Server,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
            Self::Continuous => "continuous",
            Self::Server => "server",
        })
    }
}

/// One setting to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellSpec {
    pub policy: PolicyKind,
    /// Rows that run together, at most: `--max-num-seqs` of `continuous`. Of a server, which keeps its
    /// own to itself, the clients of a closed loop; 0 of its other loads.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub batch_size: usize,
    /// None for `static`, which does not watch the time, and for `continuous` without a prefill
    /// window.
    pub window_ms: Option<f64>,
    /// `continuous` is always ragged; a server is taken for it.
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

    /// Without batch size and load: "dynamic 10 ms", "static", "dynamic 0 ms ragged".
    pub fn setting(&self) -> String {
        let window = self.window_ms.map_or(String::new(), |w| format!(" {w} ms"));
        format!("{}{window}{}", self.policy, self.padding_name())
    }

    /// With the batch size: "batch 8 static", "server".
    pub fn sized_setting(&self) -> String {
        match self.policy {
            PolicyKind::Server => self.setting(),
            _ => format!("{} {}", self.size(), self.setting()),
        }
    }

    /// "batch 8", of a server "8 clients".
    pub fn size(&self) -> String {
        match (self.policy, self.batch_size) {
            (PolicyKind::Server, 1) => "1 client".into(),
            (PolicyKind::Server, clients) => format!("{clients} clients"),
            (_, size) => format!("batch {size}"),
        }
    }

    /// After a policy that may pad, what is not usual.
    fn padding_name(&self) -> &'static str {
        match (self.policy, self.padding) {
            (PolicyKind::Continuous | PolicyKind::Server, _) | (_, Padding::Padded) => "",
            (_, Padding::Ragged) => " ragged",
        }
    }

    /// The policy of this setting. Errors: only a server knows it.
    pub fn policy(&self, options: &MeasureOptions) -> Result<Box<dyn Policy>, Error> {
        let window = Duration::from_secs_f64(self.window_ms.unwrap_or_default() / 1e3);
        Ok(match self.policy {
            PolicyKind::Static => Box::new(Static {
                batch_size: self.batch_size,
            }),
            PolicyKind::Dynamic => Box::new(Dynamic {
                max_batch_size: self.batch_size,
                window,
                preferred_sizes: options
                    .preferred_batch_sizes
                    .iter()
                    .copied()
                    .filter(|&size| size < self.batch_size)
                    .collect(),
            }),
            PolicyKind::Continuous => Box::new(Continuous {
                max_num_seqs: self.batch_size,
                max_num_batched_tokens: options.max_num_batched_tokens,
                prefill_window: window,
            }),
            PolicyKind::Server => {
                let message = "a server's cell cannot be measured here; give --target";
                return Err(Error::Usage(message.into()));
            }
        })
    }
}

fn is_unknown(batch_size: &usize) -> bool {
    *batch_size == 0
}

impl fmt::Display for CellSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.policy == PolicyKind::Server {
            return write!(f, "server, {}", self.load);
        }
        write!(f, "{} batch {}", self.policy, self.batch_size)?;
        if let Some(window) = self.window_ms {
            write!(f, " window {window} ms")?;
        }
        write!(f, "{}, {}", self.padding_name(), self.load)
    }
}
