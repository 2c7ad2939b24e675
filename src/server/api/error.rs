//! Errors as OpenAI's API tells them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::SubmitError;
use crate::model::ModelError;
use crate::server::admission::NoPlace;
use crate::server::generation::GenerationError;

/// One error, as a status or, once an answer has begun, as its last event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    /// The field that is wrong.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    pub message: String,
    /// Seconds.
    retry_after: Option<u32>,
    /// The log has it with its request.
    is_told: bool,
}

/// In the extensions of an error's response: what the log does not have yet.
#[derive(Debug, Clone)]
pub struct Untold(pub String);

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            param: None,
            code: None,
            message: message.into(),
            retry_after: None,
            is_told: false,
        }
    }

    /// A field with a value that is not possible.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    pub fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub fn code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    pub fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    pub fn told(self) -> Self {
        Self {
            is_told: true,
            ..self
        }
    }

    pub fn queue_full() -> Self {
        let message = "the queue is full; try again later, or start the server with a larger --max-queue-size";
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
            .code("queue_full")
            .retry_after(1)
    }

    pub fn closed(cause: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, cause).retry_after(1)
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, bearer);
        }
        if !self.is_told {
            response.extensions_mut().insert(Untold(self.message));
        }
        response
    }
}

impl From<NoPlace> for ApiError {
    fn from(none: NoPlace) -> Self {
        match none {
            NoPlace::Now => Self::queue_full(),
            NoPlace::Ever { total } => Self::field(
                "n",
                format!(
                    "more answers are asked for than the server's {total} places; send fewer at once"
                ),
            ),
        }
    }
}

impl From<GenerationError> for ApiError {
    fn from(error: GenerationError) -> Self {
        match error {
            GenerationError::Refused(SubmitError::Refused(refusal)) => {
                Self::new(StatusCode::BAD_REQUEST, refusal.to_string())
                    .code("context_length_exceeded")
            }
            GenerationError::Refused(SubmitError::QueueFull(_)) => Self::queue_full(),
            GenerationError::Lost(cause) => {
                let message = format!("the engine failed: {cause}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("engine_failed")
            }
            GenerationError::CutOff => Self::closed(&error.to_string()),
            GenerationError::TimedOut(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()).code("timeout")
            }
            GenerationError::Text(error) => error.into(),
        }
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        Self::from(&error)
    }
}

/// In the words of a client, who knows no options of `generate` and no paths.
impl From<&ModelError> for ApiError {
    fn from(error: &ModelError) -> Self {
        match error {
            ModelError::NoChatTemplate { model } => Self::field(
                "messages",
                format!(
                    "{model} has no chat template; use /v1/completions, or start the server with \
                     --chat-template FILE"
                ),
            ),
            ModelError::ChatTemplate { cause, .. } => Self::field(
                "messages",
                format!("the chat template failed ({cause}); change the messages"),
            ),
            error => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}
