//! The sender of the benchmark, as the benchmark sees it: a process in a network namespace that keeps
//! its sockets and destinations, and answers each order with what it sent and what that cost.
//!
//! One JSON line per order, one per answer. The process ends when its stdin closes.

use std::{
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::netns::Netns;

/// The first line that the process reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Where raw frames leave.
    pub interface: String,
    /// Socket mark.
    pub mark: u32,
    /// CPU to stay on.
    pub cpu: usize,
    /// `cgroup.procs` of a cgroup to join.
    pub cgroup: Option<PathBuf>,
    /// Port of datagrams.
    pub port: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Keeps a list of destinations of one family under a name. The file holds 16 bytes of each, in
    /// network order, IPv4 addresses mapped.
    Keep { name: String, file: PathBuf },
    /// Frames through a packet socket, the list round robin from the last place on.
    Raw { name: String, packets: u32, call: Call },
    /// The same as datagrams of an unconnected socket.
    Udp { name: String, packets: u32, call: Call },
    /// Round trips of one byte over one TCP connection.
    Trips { to: IpAddr, port: u16, count: u32 },
    /// Sends over one TCP connection as fast as it takes.
    Stream { to: IpAddr, port: u16, millis: u64 },
}

/// How packets are handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// 64 to a sendmmsg call. A refused packet ends the call and is tried again at the front of the
    /// next one: not for traffic that is blocked.
    Many,
    /// A sendmsg call for each.
    One,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Packets that the kernel took; bytes of a stream.
    pub sent: u64,
    /// Packets that it refused or dropped in the call.
    pub refused: u64,
    pub wall_ns: u64,
    /// CPU time of the sending thread, soft interrupts on top of it included.
    pub cpu_ns: u64,
    /// Nanoseconds of each round trip.
    pub trips: Vec<u32>,
    pub error: Option<String>,
}

/// A running sender; dropped, it ends.
pub struct Load {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Load {
    /// `binary`: the program `sov-load`.
    pub fn start(ns: &Netns, binary: &Path, setup: &Setup) -> Result<Self> {
        let mut child = ns
            .command(binary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("stdout of sov-load")?);
        let mut load = Self { child, orders, answers };
        load.write(setup)?;
        load.read()?;
        Ok(load)
    }

    /// Gives an order and waits for its answer.
    pub fn order(&mut self, order: &Order) -> Result<Answer> {
        self.begin(order)?;
        self.finish()
    }

    /// Gives an order; [`Load::finish`] must follow. For two senders at once.
    pub fn begin(&mut self, order: &Order) -> Result<()> {
        self.write(order)
    }

    pub fn finish(&mut self) -> Result<Answer> {
        self.read()
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let stdin = self.orders.as_mut().context("sov-load has no stdin")?;
        serde_json::to_writer(&mut *stdin, line)?;
        stdin.write_all(b"\n")?;
        stdin.flush().context("sov-load has ended")
    }

    fn read(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            bail!("sov-load has ended");
        }
        let answer: Answer = serde_json::from_str(&line)?;
        match answer.error {
            Some(error) => bail!("sov-load: {error}"),
            None => Ok(answer),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}
