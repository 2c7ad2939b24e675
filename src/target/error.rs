/// Why a server cannot be measured, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("--target {url}: {cause}; {remedy}")]
    Unusable {
        url: String,
        cause: String,
        remedy: String,
    },
    /// Of a load nothing was answered.
    #[error(
        "--target {url}: all {requests} requests failed ({cause}); look at the server, then go on \
         with --resume"
    )]
    AllFailed {
        url: String,
        requests: usize,
        cause: String,
    },
    #[error("the client of --target could not be started: {0}")]
    Client(String),
    #[error("a thread of --target's client has ended; this is a bug of batchlab, please report it")]
    Ended,
}
