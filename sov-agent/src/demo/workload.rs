//! A workload: a process that takes its tag, does its probes one after the other, and says what it saw.
//! One JSON line per probe on stdout.

use std::{
    ffi::CString,
    io::{self, BufRead as _, Write as _},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto},
};

use super::{
    lab::{ROUTER_MAC, UPLINK, workload},
    packet,
    plan::{Kind, Probe, Seen, Via},
};

/// After this nobody answers any more.
const TIMEOUT: Duration = Duration::from_millis(300);
const LINE: &[u8] = b"sovereign?";

/// Reads probes from stdin until its end.
pub fn run() -> anyhow::Result<()> {
    super::lab::die_with_parent()?;
    rustix::thread::set_name(c"workload")?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let probe: Probe = serde_json::from_str(&line?)?;
        let seen = attempt(&probe)?;
        serde_json::to_writer(&mut out, &seen)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

/// An error is one of the set-up; what the policy does to the traffic is in the answer.
fn attempt(probe: &Probe) -> anyhow::Result<Seen> {
    let mark = if probe.via == Via::Mark { probe.tag.mark() } else { 0 };
    Ok(match probe.kind {
        Kind::Tcp => tcp(probe, mark)?,
        Kind::Udp | Kind::LateUdp => udp(probe, mark)?,
        Kind::Icmp => icmp(probe, mark)?,
        Kind::Frame => frame(probe, mark)?,
    })
}

fn tcp(probe: &Probe, mark: u32) -> io::Result<Seen> {
    let socket = open(probe, SocketType::STREAM, None)?;
    set_mark(&socket, mark)?;
    bind(&socket, probe)?;
    let to = SocketAddr::new(probe.destination, probe.port);
    let start = Instant::now();
    let mut result = rustix::net::connect(&socket, &to).map_err(io::Error::from);
    if result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EINPROGRESS)) {
        result = ready(&socket, PollFlags::OUT)
            .and_then(|()| Ok(rustix::net::sockopt::socket_error(&socket)??));
    }
    let seen = Seen::new(start, result);
    if seen.error.is_some() {
        return Ok(seen);
    }
    let answered = rustix::net::send(&socket, LINE, rustix::net::SendFlags::NOSIGNAL).is_ok()
        && ready(&socket, PollFlags::IN).is_ok()
        && receive(&socket).is_ok_and(|answer| answer == LINE);
    Ok(Seen { answered, ..seen })
}

fn udp(probe: &Probe, mark: u32) -> io::Result<Seen> {
    let socket = open(probe, SocketType::DGRAM, None)?;
    let to = SocketAddr::new(probe.destination, probe.port);
    bind(&socket, probe)?;
    report_drops(&socket, probe)?;
    let flags = rustix::net::SendFlags::NOSIGNAL;
    let (start, mut result);
    if probe.kind == Kind::LateUdp {
        rustix::net::connect(&socket, &to)?;
        set_mark(&socket, mark)?;
        start = Instant::now();
        result = rustix::net::send(&socket, LINE, flags).map_err(io::Error::from);
        if result.is_ok() {
            // The ICMP error that refuses a packet is an error of the socket's next call.
            result = refusal(&socket).map_or(result, Err);
        }
    } else {
        set_mark(&socket, mark)?;
        start = Instant::now();
        result = rustix::net::sendto(&socket, LINE, flags, &to).map_err(io::Error::from);
    }
    Ok(Seen::new(start, result.map(|_| ())))
}

/// The error that waits at a socket, if one comes soon.
fn refusal(socket: &OwnedFd) -> Option<io::Error> {
    let limit = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    poll(&mut [PollFd::new(socket, PollFlags::empty())], Some(&limit)).ok()?;
    rustix::net::sockopt::socket_error(socket).ok()?.err().map(io::Error::from)
}

fn icmp(probe: &Probe, mark: u32) -> io::Result<Seen> {
    let v6 = probe.destination.is_ipv6();
    let protocol = if v6 { ipproto::ICMPV6 } else { ipproto::ICMP };
    let socket = open(probe, SocketType::RAW, Some(protocol))?;
    set_mark(&socket, mark)?;
    report_drops(&socket, probe)?;
    let message = packet::echo_request(v6, probe.number);
    let to = SocketAddr::new(probe.destination, 0);
    let start = Instant::now();
    let flags = rustix::net::SendFlags::NOSIGNAL;
    if let Err(e) = rustix::net::sendto(&socket, &message, flags, &to) {
        return Ok(Seen::new(start, Err(e.into())));
    }
    // A raw socket hears every ICMP message: the identifier tells whose reply it is.
    while start.elapsed() < TIMEOUT && ready(&socket, PollFlags::IN).is_ok() {
        let answer = match receive(&socket) {
            Ok(answer) => answer,
            Err(refused) => return Ok(Seen::new(start, Err(refused))),
        };
        // IPv4 raw sockets get the IP header, IPv6 ones do not.
        let at = if v6 { 0 } else { usize::from(answer.first().copied().unwrap_or(0) & 15) * 4 };
        let kind = if v6 { 129 } else { 0 };
        if answer.get(at) == Some(&kind)
            && answer.get(at + 4..at + 6) == Some(&probe.number.to_be_bytes())
        {
            return Ok(Seen { answered: true, ..Seen::new(start, Ok(())) });
        }
    }
    Ok(Seen::new(start, Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))))
}

fn frame(probe: &Probe, mark: u32) -> io::Result<Seen> {
    let v6 = probe.destination.is_ipv6();
    let ethertype = if v6 { libc::ETH_P_IPV6 } else { libc::ETH_P_IP } as u16;
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_mark(&socket, mark)?;
    let name = CString::new(UPLINK)?;
    // SAFETY: zero is a valid value of this struct of integers.
    let mut to: libc::sockaddr_ll = unsafe { mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = ethertype.to_be();
    // SAFETY: `name` ends with a NUL and lives through the call.
    to.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&ROUTER_MAC);
    let source = workload(probe.destination);
    let packet = packet::udp(source, probe.number, probe.destination, probe.port);
    let start = Instant::now();
    // SAFETY: packet and address are live, and their lengths are passed along.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    let result = if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    Ok(Seen::new(start, result))
}

impl Seen {
    fn new(start: Instant, result: io::Result<()>) -> Self {
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Self { error: result.err().map(|e| name(&e)), answered: false, nanoseconds }
    }
}

/// The errno that applications know.
fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".into(),
        Some(libc::EACCES) => "EACCES".into(),
        Some(libc::ENOBUFS) => "ENOBUFS".into(),
        Some(libc::ETIMEDOUT) => "ETIMEDOUT".into(),
        Some(libc::ECONNREFUSED) => "ECONNREFUSED".into(),
        Some(libc::ENETUNREACH) => "ENETUNREACH".into(),
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH".into(),
        _ => error.to_string(),
    }
}

fn open(probe: &Probe, kind: SocketType, protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let family =
        if probe.destination.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, kind, flags, protocol)?)
}

/// The far side counts by source port.
fn bind(socket: &OwnedFd, probe: &Probe) -> io::Result<()> {
    let any: IpAddr = match probe.destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Ok(rustix::net::bind(socket, &SocketAddr::new(any, probe.number))?)
}

fn set_mark(socket: &OwnedFd, mark: u32) -> io::Result<()> {
    if mark == 0 { Ok(()) } else { set(socket, libc::SOL_SOCKET, libc::SO_MARK, mark as i32) }
}

/// As ping does: a packet that is dropped on the way out is an error of the call.
fn report_drops(socket: &OwnedFd, probe: &Probe) -> io::Result<()> {
    match probe.destination {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
    }
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: an int is what these options take, and its size is passed along.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn ready(socket: &OwnedFd, flags: PollFlags) -> io::Result<()> {
    let limit = Timespec::try_from(TIMEOUT).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(socket, flags)], Some(&limit))? {
        0 => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        _ => Ok(()),
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 2048];
    let (length, _) = rustix::net::recv(socket, &mut buffer[..], rustix::net::RecvFlags::empty())?;
    buffer.truncate(length);
    Ok(buffer)
}
