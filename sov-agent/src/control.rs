//! The control socket: HTTP/1.1 with JSON on a unix socket, for this host's administrators.
//!
//! Says what is (`GET /v1/status`) and changes nothing. The socket is 0660 and group `sov` where that group
//! exists, and the peer's credentials are checked again for every connection. Requests are bounded in size,
//! time and number; a wrong one gets an answer, never a crash. `control/http.rs` has the limits.

pub mod client;
pub(crate) mod http;
pub mod status;

use std::{
    error::Error,
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper::{Method, StatusCode};
use tokio::net::{UnixListener, UnixStream};

use self::{
    http::{Answer, Gate},
    status::Status,
};
use crate::flowlog::host::{group_id, is_member};

/// Where the agent listens by default.
pub const DEFAULT_SOCKET: &str = "/run/sov/control.sock";
/// The group that may ask.
const GROUP: &str = "sov";

/// What the control socket and the metrics ask. May block for some milliseconds (it reads kernel maps).
pub trait StatusSource: Send + Sync + 'static {
    fn status(&self) -> Result<Status, Box<dyn Error + Send + Sync>>;
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("control socket {}: cannot {action}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("control socket {}: an agent is already listening; stop it first", path.display())]
    Busy { path: PathBuf },
}

/// A bound control socket. Dropping it removes the socket file.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file: a successor's must not be removed.
    identity: Option<(u64, u64)>,
}

impl Control {
    /// Binds `path`, replacing what a dead agent left there. Must be called inside a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let io = |action| {
            let path = path.to_owned();
            move |source| ControlError::Io { action, path, source }
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.is_dir()) {
            fs::create_dir_all(dir).map_err(io("create its folder"))?;
        }
        if StdUnixStream::connect(path).is_ok() {
            return Err(ControlError::Busy { path: path.to_owned() });
        }
        // Bound under another name, given its mode and group, and only then put in place: there is no
        // moment at which the wrong people can connect.
        let name = format!(".{}.{}", file_name(path), std::process::id());
        let fresh = path.with_file_name(name);
        // A leftover of a crash with our pid.
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(io("bind"))?;
        let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o660))
            .and_then(|()| match group_id(GROUP) {
                Some(group) => chown(&fresh, None, Some(group)),
                None => Ok(()),
            })
            .and_then(|()| fs::rename(&fresh, path));
        if let Err(source) = placed {
            let _ = fs::remove_file(&fresh);
            return Err(io("set up")(source));
        }
        Ok(Self { listener, path: path.to_owned(), identity: identity(path) })
    }

    /// Answers until the future is dropped.
    pub async fn serve(&self, source: Arc<dyn StatusSource>) {
        let gate = Gate::new();
        loop {
            let ticket = gate.enter().await;
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let source = Arc::clone(&source);
                    tokio::spawn(async move {
                        converse(stream, source).await;
                        drop(ticket);
                    });
                }
                Err(e) => http::rest(&e, "control socket").await,
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn converse(stream: UnixStream, source: Arc<dyn StatusSource>) {
    let allowed = stream.peer_cred().is_ok_and(|peer| may_ask(peer.uid(), peer.gid()));
    http::converse(stream, move |method, path| {
        let source = Arc::clone(&source);
        async move {
            if !allowed {
                let text = format!("only root and members of the group {GROUP} may ask");
                return Answer::error(StatusCode::FORBIDDEN, &text);
            }
            route(&method, &path, source).await
        }
    })
    .await;
}

fn may_ask(uid: u32, gid: u32) -> bool {
    let own = rustix::process::geteuid().as_raw();
    uid == 0 || uid == own || group_id(GROUP).is_some_and(|g| g == gid) || is_member(uid, GROUP)
}

async fn route(method: &Method, path: &str, source: Arc<dyn StatusSource>) -> Answer {
    match (method, path) {
        (&Method::GET, "/v1/status") => match http::ask(source).await {
            Ok(status) => Answer::json(&status),
            Err(text) => Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &text),
        },
        (_, "/v1/status") => Answer::error(StatusCode::METHOD_NOT_ALLOWED, "use GET"),
        _ => Answer::error(StatusCode::NOT_FOUND, "no such resource; there is /v1/status"),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests;
