//! The live page's routes: its files, and the snapshots as server-sent events.

use std::sync::Arc;

use async_stream::stream;
use axum::Router;
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::broadcast::error::RecvError;

use super::app::App;
use super::frames;
use super::live::{PageFile, page_files};
use super::patience::Progress;

/// Nothing from elsewhere, nothing inline.
const POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub fn routes() -> Router<Arc<App>> {
    let files = page_files().into_iter();
    let routes = Router::new().route("/live", get(live));
    files.fold(routes, |routes, file| {
        let file: &'static PageFile = Box::leak(Box::new(file));
        routes.route(file.path, get(async move || answer(file)))
    })
}

fn answer(file: &'static PageFile) -> Response {
    let headers = [
        (header::CONTENT_TYPE, file.content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, file.body.as_str()).into_response()
}

async fn live(State(app): State<Arc<App>>, Extension(progress): Extension<Progress>) -> Response {
    // It ends with its connection.
    progress.watching();
    let mut snapshots = app.live.subscribe();
    frames::response(stream! {
        loop {
            match snapshots.recv().await {
                Ok(snapshot) => yield snapshot,
                // One that cannot keep up misses some.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            }
        }
    })
}
