//! Asking a running agent through its control socket.

use std::{io, path::Path, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use super::status::Status;

const TIME: Duration = Duration::from_secs(10);
/// Larger answers are not an agent's.
const ANSWER_BYTES: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the file is missing, or a dead agent left it.
    #[error("no agent is listening")]
    NotRunning(#[source] io::Error),
    #[error("may not be asked; be root or a member of the group sov")]
    Denied,
    #[error("cannot be reached")]
    Connect(#[source] io::Error),
    #[error("no answer within {} s", TIME.as_secs())]
    Slow,
    #[error("the answer is damaged: {0}")]
    Damaged(String),
    /// The agent's own words.
    #[error("{0}")]
    Refused(String),
}

/// `GET /v1/status`.
pub async fn status(socket: &Path) -> Result<Status, ClientError> {
    let body = timeout(TIME, get(socket, "/v1/status")).await.map_err(|_| ClientError::Slow)??;
    serde_json::from_slice(&body).map_err(|e| ClientError::Damaged(e.to_string()))
}

async fn get(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let damaged = |e: &dyn std::fmt::Display| ClientError::Damaged(e.to_string());
    let stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(e),
        io::ErrorKind::PermissionDenied => ClientError::Denied,
        _ => ClientError::Connect(e),
    })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| damaged(&e))?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|e| damaged(&e))?;
    let response = sender.send_request(request).await.map_err(|e| damaged(&e))?;
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES);
    let body = body.collect().await.map_err(|e| damaged(&e))?.to_bytes();
    driver.abort();
    if code.is_success() {
        return Ok(body);
    }
    let text = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|value| value.get("error")?.as_str().map(str::to_owned));
    Err(ClientError::Refused(text.unwrap_or_else(|| format!("the agent answered {code}"))))
}
