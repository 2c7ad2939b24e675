//! OpenAI's API: requests as JSON in, answers and errors in its shapes out.

mod answer;
mod chat;
mod completions;
mod error;
mod fields;
mod params;
mod prompts;
mod request_log;
mod router;
mod size;

use axum::http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;

pub use error::ApiError;
pub use router::{health, router};

use self::fields::Fields;
use super::admission::NoPlace;
use super::app::App;

/// Reads `model`, which may be missing: there is only one.
fn served_model(app: &App, fields: &mut Fields) -> Result<(), ApiError> {
    let served = &app.options.model_name;
    match fields.take::<String>("model")? {
        Some(asked) if &asked != served => {
            let message =
                format!("the model '{asked}' does not exist here; this server has '{served}'");
            let error = ApiError::field("model", message).code("model_not_found");
            Err(error.status(StatusCode::NOT_FOUND))
        }
        _ => Ok(()),
    }
}

/// As many places, or why there are none.
fn places(app: &App, count: usize) -> Result<Vec<OwnedSemaphorePermit>, ApiError> {
    let none = |none: NoPlace| {
        app.closed()
            .map_or(none.into(), |cause| ApiError::closed(&cause))
    };
    app.admission.places(count).map_err(none)
}

/// A worker's own result, or that there is none.
fn done<T>(work: Result<Result<T, ApiError>, JoinError>) -> Result<T, ApiError> {
    let gone = |_| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "a worker of the server failed",
        )
    };
    work.map_err(gone)?
}
