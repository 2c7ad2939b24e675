//! What is answered while the model loads: that the process is there, and is not ready yet.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::api::{ApiError, health, refusals};
use super::http;

/// Until it is dropped; connections that are open get their one answer.
pub async fn answer(listener: &TcpListener, max_connections: usize) -> Infallible {
    let router = Router::new()
        .route("/health", get(health))
        .fallback(not_ready)
        .layer(from_fn(refusals));
    let places = Arc::new(Semaphore::new(max_connections));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = http::next(listener).await;
        // The next request is for the server that is ready then.
        let connection = http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(http::HEADERS_TIMEOUT)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(router.clone()),
            );
        tokio::spawn(async move {
            let _place = place;
            // An error: the client has left.
            let _ = connection.await;
        });
    }
}

async fn not_ready() -> ApiError {
    ApiError::closed("the model is being loaded; try again later")
}
