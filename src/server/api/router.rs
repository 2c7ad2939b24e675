//! Which address does what, and what is asked of every request.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use super::error::ApiError;
use super::{chat, completions};
use crate::server::app::App;
use crate::server::page_routes;

/// A body that has not come whole by then never will.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

pub fn router(app: Arc<App>) -> Router {
    let api = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route_layer(from_fn_with_state(Arc::clone(&app), authorised));
    api.route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .merge(page_routes::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&app), counted))
        .with_state(app)
}

async fn completions(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let body = read(&app, body).await?;
    completions::complete(app, &body).await
}

async fn chat_completions(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let body = read(&app, body).await?;
    chat::chat(app, &body).await
}

async fn read(app: &App, body: Body) -> Result<Bytes, ApiError> {
    let limit = app.options.max_body_size;
    let read = tokio::select! {
        read = timeout(BODY_TIMEOUT, to_bytes(body, limit)) => read,
        () = app.closing() => return Err(ApiError::closed(&app.closed().unwrap_or_default())),
    };
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(match std::error::Error::source(&error) {
            Some(source) if source.is::<LengthLimitError>() => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {limit} bytes (--max-body-size)"),
            ),
            _ => ApiError::new(
                StatusCode::BAD_REQUEST,
                format!("the body cannot be read: {error}"),
            ),
        }),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()),
        )),
    }
}

async fn models(State(app): State<Arc<App>>) -> Response {
    Json(json!({"object": "list", "data": [about(&app)]})).into_response()
}

async fn model(
    State(app): State<Arc<App>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Response, ApiError> {
    match name == app.options.model_name {
        true => Ok(Json(about(&app)).into_response()),
        false => {
            let message = format!("the model '{name}' does not exist here");
            Err(ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found"))
        }
    }
}

fn about(app: &App) -> serde_json::Value {
    json!({
        "id": app.options.model_name,
        "object": "model",
        "created": app.created,
        "owned_by": "batchlab",
        "max_model_len": app.context(),
    })
}

/// The process answers.
async fn health() -> StatusCode {
    StatusCode::OK
}

/// Requests are accepted.
async fn ready(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    match app.closed() {
        None => Ok(StatusCode::OK),
        Some(cause) => Err(ApiError::closed(&cause)),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let failed =
        |e: std::fmt::Error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string());
    let text = app.metrics.text().map_err(failed)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn unknown(request: Request) -> ApiError {
    let message = format!("there is no {} {}", request.method(), request.uri().path());
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(request: Request) -> ApiError {
    let message = format!(
        "{} does not take {}",
        request.uri().path(),
        request.method()
    );
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn authorised(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(key) = &app.options.api_key else {
        return Ok(next.run(request).await);
    };
    let given = headers.get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    match given.is_some_and(|given| given.ct_eq(key.as_bytes()).into()) {
        true => Ok(next.run(request).await),
        false => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "the API key is missing or wrong; send the header 'Authorization: Bearer KEY'",
        )
        .code("invalid_api_key")),
    }
}

async fn counted(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    app.metrics.responded(response.status().as_u16());
    response
}
