//! The socket over a temporary path: answers, refusals, hostile peers, take-over.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    client::{self, ClientError},
    status::samples,
    *,
};

struct Fixed(Result<(), &'static str>);

impl StatusSource for Fixed {
    fn status(&self) -> Result<Status, Box<dyn Error + Send + Sync>> {
        self.0.map(|()| samples::status()).map_err(Into::into)
    }
}

fn start(path: &Path, source: Fixed) -> tokio::task::JoinHandle<()> {
    let control = Control::bind(path).expect("binds");
    tokio::spawn(async move { control.serve(Arc::new(source)).await })
}

/// What the server says to raw bytes.
async fn say(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.expect("connects");
    stream.write_all(bytes).await.expect("writes");
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_status_goes_over_the_socket_unchanged() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("run/control.sock");
    let server = start(&path, Fixed(Ok(())));
    assert_eq!(client::status(&path).await.expect("answers"), samples::status());
    let mode = fs::metadata(&path).expect("stat").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    server.abort();
}

#[tokio::test]
async fn failures_come_back_in_words() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("control.sock");
    assert!(matches!(client::status(&path).await, Err(ClientError::NotRunning(_))));
    let server = start(&path, Fixed(Err("the maps are gone")));
    let error = client::status(&path).await.expect_err("fails");
    assert_eq!(error.to_string(), "the maps are gone");
    server.abort();
}

#[tokio::test]
async fn wrong_requests_get_the_right_refusal() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("control.sock");
    let server = start(&path, Fixed(Ok(())));
    for (request, status) in [
        ("GET /v2/status HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        ("DELETE /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", "405"),
        ("GET /v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", "413"),
        ("nonsense\r\n\r\n", "400"),
        ("GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", "200"),
    ] {
        let answer = say(&path, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
    }
    let head = format!("GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let answer = say(&path, head.as_bytes()).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    assert!(client::status(&path).await.is_ok(), "still there");
    server.abort();
}

#[tokio::test]
async fn idle_peers_do_not_keep_others_waiting() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("control.sock");
    let server = start(&path, Fixed(Ok(())));
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(UnixStream::connect(&path).await.expect("connects"));
    }
    let asked = tokio::time::timeout(Duration::from_secs(3), client::status(&path)).await;
    assert!(asked.expect("in time").is_ok());
    server.abort();
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced_and_a_live_ones_is_not() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("control.sock");
    // What kill -9 leaves: a file that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
    assert!(path.exists());
    let first = Control::bind(&path).expect("takes over");
    assert!(matches!(Control::bind(&path), Err(ControlError::Busy { .. })));
    drop(first);
    assert!(!path.exists(), "removed at the end");
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0, "nothing left behind");
}

#[test]
fn only_root_and_the_agents_own_user_may_ask_without_the_group() {
    assert!(may_ask(0, 0));
    assert!(may_ask(rustix::process::geteuid().as_raw(), 12_345));
    assert!(!may_ask(4_000_000_000, 4_000_000_000));
}
