//! What is answered while the model loads: that the process is there, and is not ready yet.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::api::{ApiError, health};
use super::http;

/// Until it is dropped; connections that are open get their one answer.
pub async fn answer(listener: &TcpListener, places: &Arc<Semaphore>) -> Infallible {
    let router = Router::new()
        .route("/health", get(health).fallback(not_ready))
        .fallback(not_ready);
    loop {
        let (place, stream) = http::next(listener, places).await;
        let service = TowerToHyperService::new(router.clone());
        // Kept alive it would stay with this router when the model is there.
        let connection = http::http1()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
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
