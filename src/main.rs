//! The command line of batchlab.

mod cli;

use std::process::ExitCode;

use batchlab::Error;
use batchlab::model::ModelError;
use batchlab::runner::RunnerError;
use batchlab::target::TargetError;
use batchlab::workload::DriveError;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever a file or a driver put into the message.
            eprintln!("error: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::from(exit_code(error))
        }
    }
}

/// 1 for what is none of the library's errors, such as a closed stdout.
fn exit_code(error: anyhow::Error) -> u8 {
    error
        .downcast::<Error>()
        .or_else(|e| e.downcast::<ModelError>().map(Error::from))
        .or_else(|e| e.downcast::<RunnerError>().map(Error::from))
        .or_else(|e| e.downcast::<DriveError>().map(Error::from))
        .or_else(|e| e.downcast::<TargetError>().map(Error::from))
        .map_or(1, |e| e.exit_code())
}
