//! The real binary as a daemon under test: its own state, run and pin folders, inside a namespace.
//!
//! A [`Host`] is what survives the agent (state, pins); an [`Agent`] is one run of it. Unmounting the
//! host's bpffs drops the last references, so nothing stays attached after a test.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::{Netns, run};

/// The binary under test: `SOV_AGENT_BIN`, or `sov-agent` beside the test binaries.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SOV_AGENT_BIN") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("sov-agent"))
        .find(|path| path.exists())
        .with_context(|| {
            format!("sov-agent is not built beside {}; `cargo build -p sov-agent`", exe.display())
        })
}

/// Folders of one node: journal, control socket, pins.
pub struct Host {
    dir: TempDir,
}

impl Host {
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sovt-").tempdir()?;
        for name in ["state", "run", "bpf", "in"] {
            fs::create_dir(dir.path().join(name))?;
        }
        run(Command::new("mount").args(["-t", "bpf", "none"]).arg(dir.path().join("bpf")))?;
        Ok(Self { dir })
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }
    pub fn pin_dir(&self) -> PathBuf {
        self.dir.path().join("bpf/sov")
    }
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    /// Pins of this ABI version.
    pub fn pin(&self, name: &str) -> PathBuf {
        self.pin_dir().join(format!("v{}", sov_common::abi::ABI_VERSION)).join(name)
    }

    /// Writes an input file (a policy, data) and returns its path.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.dir.path().join("in").join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        Ok(path)
    }

    /// A command of the binary with this host's folders, run in `ns`.
    pub fn command(&self, ns: &Netns) -> Result<Command> {
        Ok(self.command_of(ns, binary()?))
    }

    /// The same for any program, for example a shell that runs the binary.
    pub fn command_of(&self, ns: &Netns, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = ns.command(program);
        command
            .env("SOV_STATE_DIR", self.state_dir())
            .env("SOV_RUN_DIR", self.run_dir())
            .env("SOV_PIN_DIR", self.pin_dir())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the binary to its end.
    pub fn cli(&self, ns: &Netns, args: &[&str]) -> Result<Output> {
        Ok(self.command(ns)?.args(args).output()?)
    }

    /// Every record in the journal, oldest file first.
    pub fn records(&self) -> Result<Vec<Value>> {
        let mut files = vec![];
        for entry in fs::read_dir(self.state_dir().join("flows")).into_iter().flatten() {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "jsonl" || e == "json") {
                files.push(path);
            }
        }
        files.sort();
        let mut records = vec![];
        for path in files {
            for line in fs::read_to_string(&path)?.lines().filter(|line| !line.is_empty()) {
                records.push(
                    serde_json::from_str(line)
                        .with_context(|| format!("{}: not JSON: {line}", path.display()))?,
                );
            }
        }
        Ok(records)
    }

    /// Waits until a record satisfies `wanted`; the time that took.
    pub fn wait_record(
        &self,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<(Value, Duration)> {
        let start = Instant::now();
        loop {
            // The last line may be half written while the agent appends: look again.
            if let Ok(records) = self.records()
                && let Some(found) = records.into_iter().find(|r| wanted(r))
            {
                return Ok((found, start.elapsed()));
            }
            if start.elapsed() > limit {
                bail!("no such record after {limit:?}; the journal has {:#?}", self.records());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path().join("bpf")).status();
    }
}

/// One run of `sov-agent run`. Dropped, it is killed.
pub struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts the agent in `ns` and waits until it serves its control socket.
    pub fn start(host: &Host, ns: &Netns, args: &[&str]) -> Result<Self> {
        let agent = Self::spawn(host, ns, args)?;
        agent.wait_ready(host)
    }

    /// Starts it with a policy text on the uplink.
    pub fn with_policy(host: &Host, ns: &Netns, policy: &str) -> Result<Self> {
        let path = host.write("policy.toml", policy)?;
        let path = path.to_str().context("temporary path is not UTF-8")?;
        Self::start(host, ns, &["--policy", path, "--interface", crate::lab::UPLINK])
    }

    /// Starts it and does not wait.
    pub fn spawn(host: &Host, ns: &Netns, args: &[&str]) -> Result<Self> {
        // A socket left by a killed predecessor must not count as an answer.
        let _ = fs::remove_file(host.socket());
        let log = host.dir.path().join(format!("agent-{}.log", unique()));
        let stderr = File::create(&log)?;
        let child = host
            .command(ns)?
            .arg("run")
            .args(args)
            .stdout(stderr.try_clone()?)
            .stderr(stderr)
            .spawn()
            .context("start sov-agent run")?;
        Ok(Self { child, log })
    }

    fn wait_ready(mut self, host: &Host) -> Result<Self> {
        let start = Instant::now();
        loop {
            if UnixStream::connect(host.socket()).is_ok() {
                return Ok(self);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("sov-agent run ended with {status} before it was ready:\n{}", self.log());
            }
            ensure!(
                start.elapsed() < Duration::from_secs(20),
                "sov-agent run is not ready after 20 s:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything that the agent has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGHUP: reads policy and data again. Returns once the agent says that it has.
    pub fn reload(&self, host: &Host) -> Result<()> {
        let generation = || -> Result<u64> {
            let status = control_get(&host.socket(), "/v1/status")?;
            status["policy"]["generation"].as_u64().context("the status has a generation")
        };
        let before = generation()?;
        // SAFETY: a signal to our own child that has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGHUP) };
        let start = Instant::now();
        while generation()? == before {
            ensure!(start.elapsed() < Duration::from_secs(10), "no reload:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM and wait; the exit status and everything printed.
    pub fn stop(mut self) -> Result<(ExitStatus, String)> {
        // SAFETY: a signal to our own child that has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, self.log()));
            }
            ensure!(start.elapsed() < Duration::from_secs(10), "no end 10 s after SIGTERM");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// GET on the control socket; the body as JSON.
pub fn control_get(socket: &Path, path: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: sov\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.contains(" 200 "), "control socket: {head}");
    Ok(serde_json::from_str(body)?)
}

fn unique() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
