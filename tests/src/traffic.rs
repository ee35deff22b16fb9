//! Workloads: who sends (namespace, cgroup, uid, mark, DSCP, source, interface) and what.
//!
//! Every action runs in a child process (`sov-traffic`), because cgroup and uid belong to a process.
//! The child gets its task as JSON and answers with JSON.

use std::{
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{cgroup::Cgroup, netns::Netns};

/// Socket settings and the action: the task of a child.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The child becomes this user once it runs: the binary may lie where only root may look.
    pub uid: Option<u32>,
    pub mark: Option<u32>,
    /// DSCP, 0 to 63.
    pub dscp: Option<u8>,
    pub source: Option<IpAddr>,
    pub interface: Option<String>,
    pub action: Action,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Action {
    /// Connects, sends a line, waits for its echo.
    Tcp { to: IpAddr, port: u16, timeout_ms: u64 },
    /// Connects, sends `bytes` and reads as many back: large enough for segmentation offload.
    TcpBulk { to: IpAddr, port: u16, bytes: usize },
    /// One send call of twenty segments (UDP_SEGMENT, as QUIC uses it).
    UdpSegments { to: IpAddr, port: u16 },
    /// Opens a connection, then sends one line for every line on the child's stdin.
    TcpHold { to: IpAddr, port: u16 },
    /// One datagram on a connected socket, then waits for the answer to it or for its refusal.
    UdpAsk { to: IpAddr, port: u16, payload: usize, timeout_ms: u64 },
    /// `count` datagrams to each destination, interleaved, each in a call of its own.
    Udp { to: Vec<IpAddr>, port: u16, count: u32, payload: usize, connected: bool },
    /// One echo request, waits for the reply.
    Ping { to: IpAddr, timeout_ms: u64 },
    /// Frames as they are through a packet socket.
    Frames { via: String, frames: Vec<Vec<u8>>, mode: FrameMode, repeat: u32 },
    /// Datagrams round robin over the destinations with sendmmsg, as fast as possible, until
    /// `packets` are sent or the child's stdin closes. One port per packet if `ports` is above 1.
    FloodUdp { to: Vec<IpAddr>, port: u16, ports: u16, packets: u64 },
    /// The same with frames through a packet socket: no socket hook sees them.
    FloodFrames { via: String, frames: Vec<Vec<u8>>, packets: u64 },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum FrameMode {
    Normal,
    /// Only the Ethernet header lies in the linear part of the buffer.
    TxRing,
    /// The socket says that the frames are of this ethertype.
    Claim(u16),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Echo or reply received (TCP, ping); every send succeeded (UDP, frames).
    pub ok: bool,
    /// errno of the first failure.
    pub errno: Option<i32>,
    /// Time until success or failure.
    pub micros: u64,
    /// Datagrams or frames that the kernel took.
    pub sent: u64,
    /// Send calls that failed.
    pub failed: u64,
    /// Successful sends by destination or frame.
    pub sent_each: Vec<u64>,
    /// Failed sends by destination or frame (floods).
    pub failed_each: Vec<u64>,
}

/// Who sends.
#[derive(Clone, Copy)]
pub struct Workload<'a> {
    ns: &'a Netns,
    cgroup: Option<&'a Cgroup>,
    uid: Option<u32>,
    mark: Option<u32>,
    dscp: Option<u8>,
    source: Option<IpAddr>,
    interface: Option<&'a str>,
}

impl<'a> Workload<'a> {
    /// A root process of no particular kind.
    pub fn new(ns: &'a Netns) -> Self {
        Self { ns, cgroup: None, uid: None, mark: None, dscp: None, source: None, interface: None }
    }
    pub fn cgroup(self, cgroup: &'a Cgroup) -> Self {
        Self { cgroup: Some(cgroup), ..self }
    }
    pub fn uid(self, uid: u32) -> Self {
        Self { uid: Some(uid), ..self }
    }
    pub fn mark(self, mark: u32) -> Self {
        Self { mark: Some(mark), ..self }
    }
    pub fn dscp(self, dscp: u8) -> Self {
        Self { dscp: Some(dscp), ..self }
    }
    pub fn source(self, source: IpAddr) -> Self {
        Self { source: Some(source), ..self }
    }
    pub fn interface(self, interface: &'a str) -> Self {
        Self { interface: Some(interface), ..self }
    }

    pub fn tcp(&self, to: IpAddr, port: u16) -> Result<Outcome> {
        self.run(Action::Tcp { to, port, timeout_ms: 1500 })
    }

    /// One unconnected datagram to port 9000 of each destination.
    pub fn udp(&self, to: &[IpAddr]) -> Result<Outcome> {
        self.run(Action::Udp {
            to: to.to_vec(),
            port: 9000,
            count: 1,
            payload: 16,
            connected: false,
        })
    }

    pub fn ping(&self, to: IpAddr) -> Result<Outcome> {
        self.run(Action::Ping { to, timeout_ms: 1000 })
    }

    pub fn frames(&self, via: &str, frames: Vec<Vec<u8>>, mode: FrameMode) -> Result<Outcome> {
        self.run(Action::Frames { via: via.to_owned(), frames, mode, repeat: 1 })
    }

    /// Runs the action to its end.
    pub fn run(&self, action: Action) -> Result<Outcome> {
        self.spawn(action)?.finish()
    }

    /// Starts the action and returns once its sockets are open.
    pub fn spawn(&self, action: Action) -> Result<Running> {
        let task = Task {
            uid: self.uid,
            mark: self.mark,
            dscp: self.dscp,
            source: self.source,
            interface: self.interface.map(str::to_owned),
            action,
        };
        let mut command = self.ns.command(child_binary()?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Owned by the closure: opening happens here, joining in the child, before it has a socket.
        let procs = match self.cgroup {
            Some(cgroup) => Some(std::fs::OpenOptions::new().write(true).open(cgroup.procs())?),
            None => None,
        };
        // SAFETY: one write to a file opened before the fork.
        unsafe {
            command.pre_exec(move || match procs.as_ref() {
                Some(mut procs) => procs.write_all(b"0"),
                None => Ok(()),
            });
        }
        Running::start(command, &task)
    }
}

/// A child at work. Dropped before its end, it is killed.
pub struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command, task: &Task) -> Result<Self> {
        let mut child = command.spawn().context("start sov-traffic")?;
        let stdin = child.stdin.as_mut().context("stdin of sov-traffic")?;
        serde_json::to_writer(&mut *stdin, task)?;
        stdin.write_all(b"\n")?;
        let output = BufReader::new(child.stdout.take().context("stdout of sov-traffic")?);
        let mut running = Self { child, output };
        let ready = running.line()?;
        ensure!(ready.trim() == "ready", "sov-traffic said {ready:?} instead of ready");
        Ok(running)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    /// One more line on a held connection; the outcome says whether its echo came back.
    pub fn poke(&mut self) -> Result<Outcome> {
        let stdin = self.child.stdin.as_mut().context("the child's stdin is closed")?;
        stdin.write_all(b"go\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells a flood to stop and returns what it did.
    pub fn stop(mut self) -> Result<Outcome> {
        drop(self.child.stdin.take());
        self.finish()
    }

    /// Waits for the end of the action.
    pub fn finish(mut self) -> Result<Outcome> {
        let line = self.line()?;
        let outcome = serde_json::from_str(&line).with_context(|| format!("outcome {line:?}"))?;
        drop(self.child.stdin.take());
        self.child.wait()?;
        Ok(outcome)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `sov-traffic` beside the test binary (`target/debug/deps/..`) or in its folder.
fn child_binary() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("sov-traffic"))
        .find(|path| path.exists())
        .with_context(|| format!("sov-traffic is not built beside {}", exe.display()))
}

/// Waits for a condition, polling every 5 ms; false when the time is over.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = std::time::Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
