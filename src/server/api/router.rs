//! Which address does what, and what is asked of every request.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::HttpBody;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::BytesMut;
use futures_util::StreamExt;
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use super::error::ApiError;
use super::fields::Fields;
use super::request_log::refusals;
use super::{chat, completions};
use crate::server::app::App;
use crate::server::page_routes;
use crate::server::patience::Progress;

/// A body that has not come whole by then never will.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Before the API key.
const BEARER: &[u8] = b"Bearer ";

pub fn router(app: Arc<App>) -> Router {
    let api = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
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
        .layer(from_fn(refusals))
        .with_state(app)
}

async fn completions(
    State(app): State<Arc<App>>,
    Extension(progress): Extension<Progress>,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = read(&app, request, completions::Asked::read).await?;
    asked.job(&app).await?.run(app, &progress).await
}

async fn chat_completions(
    State(app): State<Arc<App>>,
    Extension(progress): Extension<Progress>,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = read(&app, request, chat::Asked::read).await?;
    asked.job(&app).await?.run(app, &progress).await
}

/// What an endpoint reads in the body's fields; the body itself is gone before its answer begins.
async fn read<T: Send + 'static>(
    app: &Arc<App>,
    request: Request,
    of: fn(&App, Fields) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let body = body(app, request).await?;
    let (bytes, reader) = (body.len(), Arc::clone(app));
    let read = move || of(&reader, Fields::parse(&body)?);
    super::done(app.turns.take_if_large(bytes, read).await)
}

/// The whole body. Errors: it is packed, too large, broken or late, or the server ends before it is there.
async fn body(app: &App, request: Request) -> Result<BytesMut, ApiError> {
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        let message = "bodies with a content-encoding are not supported; send plain JSON";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    tokio::select! {
        biased;
        () = app.closing() => Err(ApiError::closed(&app.closed().unwrap_or_default())),
        whole = timeout(BODY_TIMEOUT, collect(request, app.options.max_body_size)) => {
            let message = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
            whole.unwrap_or_else(|_| Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message)))
        }
    }
}

async fn collect(request: Request, limit: usize) -> Result<BytesMut, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes (--max-body-size)");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    // Told before it is sent, where its length is known.
    if request.body().size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    let mut parts = request.into_body().into_data_stream();
    while let Some(part) = parts.next().await {
        let broken = |e| ApiError::new(StatusCode::BAD_REQUEST, format!("the body broke off: {e}"));
        let part = part.map_err(broken)?;
        if whole.len() + part.len() > limit {
            return Err(too_large());
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole)
}

async fn models(State(app): State<Arc<App>>) -> Response {
    Json(json!({"object": "list", "data": [about(&app)]})).into_response()
}

async fn model(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let message = match name {
        Ok(Path(name)) if name == app.options.model_name => {
            return Ok(Json(about(&app)).into_response());
        }
        Ok(Path(name)) => format!("the model '{name}' does not exist here"),
        Err(error) => format!("no model has this name: {error}"),
    };
    Err(ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found"))
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
pub async fn health() -> StatusCode {
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
    let given = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    let given = given.and_then(|value| value.split_at_checked(BEARER.len()));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER));
    match given.is_some_and(|(_, given)| given.ct_eq(key.as_bytes()).into()) {
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
