//! The small HTTP server under the control socket and the metrics: limits, answers, one connection.
//!
//! A request has 16 KiB of head and no body, is answered once, and the connection is closed. A peer has ten
//! seconds in all; 64 connections are served at a time, the rest waits in the kernel's queue.

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{StatusSource, status::Status};

const HEAD_BYTES: usize = 16 << 10;
const HEAD_TIME: Duration = Duration::from_secs(5);
const CONNECTION_TIME: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 64;

/// Lets in so many connections at a time.
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS)))
    }

    /// Waits for room; the ticket gives it back when dropped.
    pub(crate) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        // Fails only when closed, and nobody closes it.
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

/// A complete answer.
pub(crate) struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json<T: Serialize>(value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self { status: StatusCode::OK, kind: "application/json", body }
            }
            Err(e) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
        }
    }

    pub(crate) fn text(kind: &'static str, body: String) -> Self {
        Self { status: StatusCode::OK, kind, body: body.into_bytes() }
    }

    pub(crate) fn error(status: StatusCode, text: &str) -> Self {
        let body = format!("{}\n", serde_json::json!({ "error": text })).into_bytes();
        Self { status, kind: "application/json", body }
    }
}

impl From<Answer> for Response<Full<Bytes>> {
    fn from(answer: Answer) -> Self {
        let mut response = Self::new(Full::from(answer.body));
        *response.status_mut() = answer.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
        if answer.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}

/// Serves one connection. `handle` gets method and path.
pub(crate) async fn converse<S, H, F>(stream: S, handle: H)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Method, String) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = if request.body().is_end_stream() {
            Ok(handle(request.method().clone(), request.uri().path().to_owned()))
        } else {
            Err(Answer::error(StatusCode::PAYLOAD_TOO_LARGE, "the request must have no body"))
        };
        async move {
            let answer = match answer {
                Ok(answer) => answer.await,
                Err(refusal) => refusal,
            };
            Ok::<_, Infallible>(Response::from(answer))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What a peer does wrong is its own loss; hyper has answered it where an answer was possible.
    match timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => log::debug!("a request failed: {e}"),
        Err(_) => log::debug!("a request took longer than {} s", CONNECTION_TIME.as_secs()),
    }
}

/// Asks `source` on a thread that may block.
pub(crate) async fn ask(source: Arc<dyn StatusSource>) -> Result<Status, String> {
    match tokio::task::spawn_blocking(move || source.status()).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(e)) => Err(e.to_string()),
        Err(e) => Err(format!("the status could not be made: {e}")),
    }
}

/// After a failed accept: usually no file descriptors are left, and trying at once would only spin.
pub(crate) async fn rest(error: &io::Error, what: &str) {
    log::warn!("{what}: cannot accept a connection: {error}");
    sleep(Duration::from_millis(100)).await;
}
