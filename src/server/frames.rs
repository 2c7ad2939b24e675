//! Server-sent events.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde::Serialize;

/// Events on their way.
#[derive(Default)]
pub struct Frames(BytesMut);

impl Frames {
    const LARGE: usize = 16 << 10;

    pub fn add(&mut self, event: &impl Serialize) {
        self.0.put_slice(b"data: ");
        // Writing to memory does not fail, and every event is made of texts and numbers.
        let written = serde_json::to_writer((&mut self.0).writer(), event);
        debug_assert!(written.is_ok());
        self.0.put_slice(b"\n\n");
    }

    pub fn add_some(&mut self, event: Option<impl Serialize>) {
        if let Some(event) = event {
            self.add(&event);
        }
    }

    /// The end of an answer, as OpenAI tells it.
    pub fn done(&mut self) {
        self.0.put_slice(b"data: [DONE]\n\n");
    }

    pub fn is_large(&self) -> bool {
        self.0.len() >= Self::LARGE
    }

    pub fn take(&mut self) -> Bytes {
        self.0.split().freeze()
    }
}

pub fn response(frames: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let frames = frames.map(Ok::<_, Infallible>);
    (headers, Body::from_stream(frames)).into_response()
}
