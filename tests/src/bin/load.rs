//! `sov-load`: sends what the benchmark orders, as fast as one thread can, and says what it cost.
//! See `sov_tests::load`.

use std::{
    collections::HashMap,
    fs, io,
    io::{BufRead, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use sov_tests::{
    cpu,
    lab::{SOURCE4, SOURCE6},
    load::{Answer, Call, Order, Setup},
    packet::{UDP, ip4, ip6, udp},
    sock,
};

/// Messages per sendmmsg call.
const BATCH: usize = 64;
/// Bytes of a datagram: with its headers the smallest Ethernet frame of IPv4.
const PAYLOAD: usize = 18;

fn main() -> Result<()> {
    let stdin = io::stdin();
    let mut lines = stdin.lock().lines();
    let setup: Setup = serde_json::from_str(&lines.next().context("no setup")??)?;
    let sender = Sender::open(setup);
    let mut sender = match sender {
        Ok(sender) => sender,
        Err(error) => return say(&failed(&error)),
    };
    say(&Answer::default())?;
    for line in lines {
        let order: Order = serde_json::from_str(&line?)?;
        say(&sender.obey(order).unwrap_or_else(|error| failed(&error)))?;
    }
    Ok(())
}

fn failed(error: &anyhow::Error) -> Answer {
    Answer { error: Some(format!("{error:#}")), ..Answer::default() }
}

fn say(answer: &Answer) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Destinations in the forms that the two kinds of sockets take.
struct List {
    frames: Vec<Vec<u8>>,
    addresses: Vec<libc::sockaddr_in6>,
    /// Bytes of an address: sockaddr_in lies in the front of a sockaddr_in6.
    length: u32,
    next: usize,
}

struct Sender {
    setup: Setup,
    raw: OwnedFd,
    udp: [OwnedFd; 2],
    lists: HashMap<String, List>,
}

impl Sender {
    fn open(setup: Setup) -> Result<Self> {
        if let Some(cgroup) = &setup.cgroup {
            fs::write(cgroup, "0").with_context(|| format!("join {}", cgroup.display()))?;
        }
        cpu::pin(setup.cpu);
        let raw = sock::packet_socket(&setup.interface, 0).context("packet socket")?;
        let udp = [
            sock::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
            sock::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?,
        ];
        for fd in [&raw, &udp[0], &udp[1]] {
            sock::set(fd, libc::SOL_SOCKET, libc::SO_MARK, &setup.mark)?;
            sock::set(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &(8i32 << 20))?;
        }
        Ok(Self { setup, raw, udp, lists: HashMap::new() })
    }

    fn obey(&mut self, order: Order) -> Result<Answer> {
        match order {
            Order::Keep { name, file } => {
                let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
                let list = self.prepare(&addresses(&bytes));
                self.lists.insert(name, list);
                Ok(Answer::default())
            }
            Order::Raw { name, packets, call } => self.flood(&name, packets, call, true),
            Order::Udp { name, packets, call } => self.flood(&name, packets, call, false),
            Order::Trips { to, port, count } => trips(&self.setup, to, port, count),
            Order::Stream { to, port, millis } => stream(&self.setup, to, port, millis),
        }
    }

    fn prepare(&self, to: &[IpAddr]) -> List {
        let payload = [0x5a; PAYLOAD];
        let port = self.setup.port;
        let frame = |to: &IpAddr| match *to {
            IpAddr::V4(a) => {
                ip4(SOURCE4, a, UDP).frame(&udp(SOURCE4.into(), *to, 40_000, port, &payload))
            }
            IpAddr::V6(a) => {
                ip6(SOURCE6, a, UDP).frame(&udp(SOURCE6.into(), *to, 40_000, port, &payload))
            }
        };
        let v6 = to.first().is_some_and(IpAddr::is_ipv6);
        let length =
            if v6 { size_of::<libc::sockaddr_in6>() } else { size_of::<libc::sockaddr_in>() };
        List {
            frames: to.iter().map(frame).collect(),
            addresses: to.iter().map(|to| address(*to, port)).collect(),
            length: length as u32,
            next: 0,
        }
    }

    fn flood(&mut self, name: &str, packets: u32, call: Call, raw: bool) -> Result<Answer> {
        let list = self.lists.get_mut(name).with_context(|| format!("no list {name}"))?;
        let v6 = list.length as usize == size_of::<libc::sockaddr_in6>();
        let fd = if raw { &self.raw } else { &self.udp[usize::from(v6)] };
        let mut payload = [0x5au8; PAYLOAD];
        let mut vectors =
            [libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: PAYLOAD }; BATCH];
        // SAFETY: integers and pointers; zero is a valid value.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (message, vector) in messages.iter_mut().zip(&mut vectors) {
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        let mut answer = Answer::default();
        let (wall, thread) = (cpu::wall_ns(), cpu::thread_ns());
        while answer.sent + answer.refused < u64::from(packets) {
            for i in 0..BATCH {
                let at = list.next;
                list.next = if at + 1 == list.frames.len() { 0 } else { at + 1 };
                if raw {
                    vectors[i].iov_base = list.frames[at].as_mut_ptr().cast();
                    vectors[i].iov_len = list.frames[at].len();
                } else {
                    messages[i].msg_hdr.msg_name = (&raw mut list.addresses[at]).cast();
                    messages[i].msg_hdr.msg_namelen = list.length;
                }
            }
            let mut at = 0;
            while at < BATCH {
                let sent = match call {
                    Call::Many => send_many(fd, &mut messages[at..]),
                    Call::One => send_one(fd, &messages[at].msg_hdr),
                };
                match sent {
                    Ok(count) => {
                        answer.sent += count as u64;
                        at += count;
                    }
                    // The first of them was dropped or refused: on with the next.
                    Err(error) if is_refusal(&error) => {
                        answer.refused += 1;
                        at += 1;
                    }
                    Err(error) => return Err(error).context("sending"),
                }
            }
        }
        answer.cpu_ns = cpu::thread_ns() - thread;
        answer.wall_ns = cpu::wall_ns() - wall;
        Ok(answer)
    }
}

/// How many of the messages the kernel took, at least one.
fn send_many(fd: &OwnedFd, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    // SAFETY: the messages and what they point to outlive the call.
    let count =
        unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
    sock::check(count).map(|count| count as usize)
}

fn send_one(fd: &OwnedFd, message: &libc::msghdr) -> io::Result<usize> {
    // SAFETY: as above.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), message, 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(1) }
}

/// A packet that a hook dropped (ENOBUFS from a packet socket) or refused (EPERM).
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EPERM))
}

/// The content of a list's file.
fn addresses(bytes: &[u8]) -> Vec<IpAddr> {
    let (all, _) = bytes.as_chunks::<16>();
    all.iter().map(|octets| IpAddr::from(*octets).to_canonical()).collect()
}

fn address(to: IpAddr, port: u16) -> libc::sockaddr_in6 {
    // SAFETY: integers only; zero is a valid value.
    let mut out: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    match to {
        IpAddr::V6(a) => {
            out.sin6_family = libc::AF_INET6 as u16;
            out.sin6_port = port.to_be();
            out.sin6_addr.s6_addr = a.octets();
        }
        IpAddr::V4(a) => {
            // The front of a sockaddr_in6 has the place of a sockaddr_in: family, port, address.
            out.sin6_family = libc::AF_INET as u16;
            out.sin6_port = port.to_be();
            out.sin6_flowinfo = u32::from_ne_bytes(a.octets());
        }
    }
    out
}

/// A connected stream whose packets carry the mark from the first on.
fn connect(setup: &Setup, to: IpAddr, port: u16) -> Result<TcpStream> {
    let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = sock::socket(domain, libc::SOCK_STREAM, 0)?;
    sock::set(&fd, libc::SOL_SOCKET, libc::SO_MARK, &setup.mark)?;
    let name = address(to, port);
    let length = match to {
        IpAddr::V4(_) => size_of::<libc::sockaddr_in>(),
        IpAddr::V6(_) => size_of::<libc::sockaddr_in6>(),
    };
    // SAFETY: the address is live and as long as said.
    sock::check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const name).cast(), length as u32) })
        .with_context(|| format!("connect to {}", SocketAddr::new(to, port)))?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

fn trips(setup: &Setup, to: IpAddr, port: u16, count: u32) -> Result<Answer> {
    let mut stream = connect(setup, to, port)?;
    let mut answer = Answer { trips: Vec::with_capacity(count as usize), ..Answer::default() };
    let mut byte = [7];
    // The first fifty open the window and warm caches.
    for round in 0..count + 50 {
        let start = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        if round >= 50 {
            answer.trips.push(start.elapsed().as_nanos() as u32);
        }
    }
    answer.sent = u64::from(count);
    Ok(answer)
}

fn stream(setup: &Setup, to: IpAddr, port: u16, millis: u64) -> Result<Answer> {
    let mut stream = connect(setup, to, port)?;
    let block = vec![0x5a; 128 * 1024];
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_millis(20) {
        stream.write_all(&block)?;
    }
    let mut answer = Answer::default();
    let (wall, thread) = (cpu::wall_ns(), cpu::thread_ns());
    while cpu::wall_ns() - wall < millis * 1_000_000 {
        stream.write_all(&block)?;
        answer.sent += block.len() as u64;
    }
    answer.cpu_ns = cpu::thread_ns() - thread;
    answer.wall_ns = cpu::wall_ns() - wall;
    Ok(answer)
}
