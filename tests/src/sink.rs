//! Counts what arrives on the far side. Exact under any load: the kernel counts, nobody has to read.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{lab::FAR, netns::Netns, sock};

/// What a [`Counter`] counts.
#[derive(Clone, Copy)]
pub enum Filter {
    /// Every frame.
    All,
    /// Frames whose IPv4 or IPv6 destination lies in a prefix; VLAN-tagged frames do not match.
    Destination(IpAddr, u8),
}

/// A packet socket with a kernel filter whose statistics are the count.
pub struct Counter {
    fd: OwnedFd,
    total: std::cell::Cell<u64>,
}

impl Counter {
    /// Counts frames that arrive at `net0` of the internet.
    pub fn new(internet: &Netns, filter: Filter) -> Result<Self> {
        Self::on(internet, FAR, filter)
    }

    pub fn on(ns: &Netns, interface: &str, filter: Filter) -> Result<Self> {
        let fd = ns.run(|| -> Result<OwnedFd> {
            let fd = sock::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
            // The filter goes first: no frame is counted that it did not see.
            attach(&fd, &program(filter))?;
            let small: i32 = 1;
            sock::set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &small)?;
            // Our own side's frames (replies) are not arrivals.
            sock::set(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
            sock::bind_packet(&fd, interface, libc::ETH_P_ALL as u16)
                .with_context(|| format!("bind packet socket to {interface}"))?;
            Ok(fd)
        })?;
        Ok(Self { fd, total: 0.into() })
    }

    /// Frames that matched since the counter was made.
    pub fn count(&self) -> Result<u64> {
        // tp_packets includes what did not fit into the (tiny) buffer; reading resets both fields.
        // SAFETY: integers only; zero is a valid value.
        let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut size = size_of::<libc::tpacket_stats>() as u32;
        // SAFETY: `stats` and `size` describe a live buffer.
        sock::check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &mut size,
            )
        })?;
        self.total.set(self.total.get() + u64::from(stats.tp_packets));
        Ok(self.total.get())
    }

    /// Waits until the count reaches `expected` or nothing moves for 300 ms; returns the count.
    pub fn settle(&self, expected: u64) -> Result<u64> {
        let mut last = self.count()?;
        let mut since = Instant::now();
        while last < expected && since.elapsed() < Duration::from_millis(300) {
            thread::sleep(Duration::from_millis(2));
            let now = self.count()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }
}

fn program(filter: Filter) -> Vec<libc::sock_filter> {
    const LDH_ABS: u16 = 0x28;
    const LDW_ABS: u16 = 0x20;
    const AND: u16 = 0x54;
    const JEQ: u16 = 0x15;
    const RET: u16 = 0x06;
    let op = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    let mut code = vec![];
    if let Filter::Destination(address, length) = filter {
        let (ethertype, at, words): (u32, u32, Vec<u32>) = match address {
            IpAddr::V4(a) => (0x0800, 30, vec![a.into()]),
            IpAddr::V6(a) => {
                let bits = u128::from(a);
                (0x86dd, 38, (0..4).map(|i| (bits >> (96 - 32 * i)) as u32).collect())
            }
        };
        code.push(op(LDH_ABS, 12, 0));
        code.push(op(JEQ, ethertype, 0));
        for (i, word) in words.iter().enumerate() {
            let bits = u32::from(length).saturating_sub(32 * i as u32).min(32);
            if bits > 0 {
                let mask = u32::MAX << (32 - bits);
                code.push(op(LDW_ABS, at + 4 * i as u32, 0));
                code.push(op(AND, mask, 0));
                code.push(op(JEQ, word & mask, 0));
            }
        }
        // A failed comparison jumps to the last instruction: ret 0.
        let end = code.len() + 1;
        for (i, step) in code.iter_mut().enumerate() {
            if step.code == JEQ {
                step.jf = (end - i - 1) as u8;
            }
        }
    }
    code.push(op(RET, 64, 0));
    code.push(op(RET, 0, 0));
    code
}

fn attach(fd: &OwnedFd, code: &[libc::sock_filter]) -> Result<()> {
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    sock::set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).context("attach filter")
}

/// Records whole frames; for tests with few packets.
pub struct Recorder(OwnedFd);

impl Recorder {
    pub fn new(internet: &Netns) -> Result<Self> {
        Self::on(internet, FAR)
    }

    pub fn on(ns: &Netns, interface: &str) -> Result<Self> {
        let fd = ns.run(|| -> Result<OwnedFd> {
            let fd = sock::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
            sock::set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(16i32 << 20))?;
            sock::set(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
            sock::bind_packet(&fd, interface, libc::ETH_P_ALL as u16)?;
            Ok(fd)
        })?;
        Ok(Self(fd))
    }

    /// Every frame that has arrived since the last call. The link has no queue: a frame whose send
    /// call has returned is here after at most `wait`.
    pub fn take(&self, wait: Duration) -> Vec<Vec<u8>> {
        thread::sleep(wait);
        let mut frames = vec![];
        let mut buffer = vec![0u8; 65_536];
        loop {
            // SAFETY: the buffer is live and as long as said.
            let n = unsafe {
                libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            if n < 0 {
                return frames;
            }
            frames.push(buffer[..n as usize].to_vec());
        }
    }

    /// Frames by IP destination. Other frames are left out, and so is link scope: kernels speak ND and
    /// MLD whenever they like.
    pub fn by_destination(&self, wait: Duration) -> HashMap<IpAddr, usize> {
        let mut counts = HashMap::new();
        for frame in self.take(wait) {
            if let Some(address) = destination(&frame).filter(|address| !is_link(*address)) {
                *counts.entry(address).or_default() += 1;
            }
        }
        counts
    }
}

fn is_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_multicast() || a.is_link_local(),
        IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local(),
    }
}

/// IP destination of an Ethernet frame without VLAN tags.
pub fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let bytes: [u8; 4] = frame.get(30..34)?.try_into().ok()?;
            Some(Ipv4Addr::from(bytes).into())
        }
        [0x86, 0xdd] => {
            let bytes: [u8; 16] = frame.get(38..54)?.try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// A TCP server on every address of the internet: answers each connection with what it sent.
pub struct TcpEcho {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl TcpEcho {
    pub fn start(internet: &Netns, port: u16) -> Result<Self> {
        // The dual-stack wildcard takes IPv4 too.
        let listener = internet.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        thread::spawn(move || {
                            let _ = stream.set_nonblocking(false);
                            let mut buffer = [0u8; 4096];
                            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                                if stream.write_all(&buffer[..n]).is_err() {
                                    break;
                                }
                            }
                        });
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
