//! One error for the edge of the library, and the only place that maps errors to exit codes.

use crate::model::ModelError;
use crate::runner::RunnerError;
use crate::target::TargetError;
use crate::telemetry::TelemetryError;
use crate::workload::DriveError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line, or a file it names, asks for something impossible.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Runner(#[from] RunnerError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The server of `--target`.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Results could not be written or read.
    #[error("{0}")]
    Results(String),
    /// `batchlab serve` cannot go on.
    #[error("{0}")]
    Server(String),
    /// Ctrl-C; what was done is kept.
    #[error("interrupted; {0}")]
    Interrupted(String),
}

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Model(_) | Self::Runner(RunnerError::Model(_)) => 3,
            Self::Runner(_) | Self::Telemetry(_) => 4,
            Self::Results(_) => 5,
            Self::Target(_) => 6,
            Self::Server(_) => 7,
            Self::Interrupted(_) => 130,
        }
    }
}

impl From<DriveError> for Error {
    fn from(error: DriveError) -> Self {
        match error {
            DriveError::Refused(refusal) => Self::Usage(refusal.to_string()),
            DriveError::Runner(error) => Self::Runner(error),
            DriveError::Stopped => Self::Interrupted("the load was stopped".into()),
        }
    }
}
