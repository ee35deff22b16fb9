//! The workload process of the tests: reads a task from stdin, opens its sockets, says `ready`, acts,
//! answers with an outcome. Decides nothing about what is right.

use std::{
    io::{self, BufRead, Write},
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    time::Instant,
};

use sov_tests::{
    packet,
    sock::{self, check},
    traffic::{Action, FrameMode, Outcome, Task},
};

fn main() -> io::Result<()> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let task: Task = serde_json::from_str(&line)?;
    // With a test run that dies, the child dies too.
    // SAFETY: prctl with plain integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if let Some(uid) = task.uid {
        // SAFETY: setresuid with plain integers.
        check(unsafe { libc::setresuid(uid, uid, uid) })?;
    }
    let outcome = match &task.action {
        Action::Tcp { to, port, timeout_ms } => tcp(&task, (*to, *port).into(), *timeout_ms)?,
        Action::TcpBulk { to, port, bytes } => tcp_bulk(&task, (*to, *port).into(), *bytes)?,
        Action::UdpSegments { to, port } => udp_segments(&task, (*to, *port).into())?,
        Action::UdpAsk { to, port, payload, timeout_ms } => {
            udp_ask(&task, (*to, *port).into(), *payload, *timeout_ms)?
        }
        Action::TcpHold { to, port } => return tcp_hold(&task, (*to, *port).into()),
        Action::Udp { to, port, count, payload, connected } => {
            udp(&task, to, *port, *count, *payload, *connected)?
        }
        Action::Ping { to, timeout_ms } => ping(&task, *to, *timeout_ms)?,
        Action::Frames { via, frames, mode: FrameMode::TxRing, repeat } => {
            tx_ring(&task, via, frames, *repeat)?
        }
        Action::Frames { via, frames, mode, repeat } => {
            send_frames(&task, via, frames, *mode, *repeat)?
        }
        Action::FloodUdp { to, port, ports, packets } => {
            flood_udp(&task, to, *port, *ports, *packets)?
        }
        Action::FloodFrames { via, frames, packets } => flood_frames(&task, via, frames, *packets)?,
    };
    answer(&outcome)
}

fn ready() -> io::Result<()> {
    println!("ready");
    io::stdout().flush()
}

fn answer(outcome: &Outcome) -> io::Result<()> {
    println!("{}", serde_json::to_string(outcome)?);
    io::stdout().flush()
}

/// A socket with the task's mark, DSCP, source address and interface.
fn open(task: &Task, to: IpAddr, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = sock::socket(domain, kind, protocol)?;
    if let Some(mark) = task.mark {
        sock::set(&fd, libc::SOL_SOCKET, libc::SO_MARK, &mark)?;
    }
    if let Some(dscp) = task.dscp {
        let value = i32::from(dscp) << 2;
        match to {
            IpAddr::V4(_) => sock::set(&fd, libc::IPPROTO_IP, libc::IP_TOS, &value)?,
            IpAddr::V6(_) => sock::set(&fd, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &value)?,
        }
    }
    if let Some(interface) = &task.interface {
        let mut name = [0u8; libc::IFNAMSIZ];
        name[..interface.len()].copy_from_slice(interface.as_bytes());
        sock::set(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)?;
    }
    if let Some(source) = task.source {
        with_address((source, 0).into(), |address, size| {
            // SAFETY: the address is valid for the call.
            check(unsafe { libc::bind(fd.as_raw_fd(), address, size) })
        })?;
    }
    Ok(fd)
}

/// Calls `f` with the C form of a socket address.
fn with_address<T>(to: SocketAddr, f: impl FnOnce(*const libc::sockaddr, u32) -> T) -> T {
    match to {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            f((&raw const address).cast(), size_of::<libc::sockaddr_in>() as u32)
        }
        SocketAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            f((&raw const address).cast(), size_of::<libc::sockaddr_in6>() as u32)
        }
    }
}

fn connect(fd: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    with_address(to, |address, size| {
        // SAFETY: the address is valid for the call.
        check(unsafe { libc::connect(fd.as_raw_fd(), address, size) }).map(drop)
    })
}

/// Timeouts for sends (which bound connect too) and receives.
fn limit(fd: &OwnedFd, millis: u64) -> io::Result<()> {
    let time =
        libc::timeval { tv_sec: (millis / 1000) as i64, tv_usec: (millis % 1000 * 1000) as i64 };
    sock::set(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &time)?;
    sock::set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)
}

fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    send_some(fd, bytes).map(drop)
}

/// How many bytes the kernel took.
fn send_some(fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the buffer is live and as long as said.
    let n = unsafe {
        libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is live and as long as said.
    let n = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

fn outcome(result: io::Result<()>, start: Instant) -> Outcome {
    let micros = start.elapsed().as_micros() as u64;
    match result {
        Ok(()) => Outcome { ok: true, micros, sent: 1, ..Outcome::default() },
        Err(e) => Outcome { errno: e.raw_os_error(), micros, failed: 1, ..Outcome::default() },
    }
}

fn echo(fd: &OwnedFd) -> io::Result<()> {
    send(fd, b"sovereign\n")?;
    let mut buffer = [0; 64];
    if receive(fd, &mut buffer)? == 0 {
        return Err(io::Error::from_raw_os_error(libc::ECONNRESET));
    }
    Ok(())
}

fn tcp(task: &Task, to: SocketAddr, timeout_ms: u64) -> io::Result<Outcome> {
    let fd = open(task, to.ip(), libc::SOCK_STREAM, 0)?;
    limit(&fd, timeout_ms)?;
    ready()?;
    let start = Instant::now();
    let result = connect(&fd, to).and_then(|()| echo(&fd));
    Ok(outcome(result, start))
}

fn tcp_bulk(task: &Task, to: SocketAddr, bytes: usize) -> io::Result<Outcome> {
    let fd = open(task, to.ip(), libc::SOCK_STREAM, 0)?;
    limit(&fd, 3000)?;
    ready()?;
    let start = Instant::now();
    let result = connect(&fd, to).and_then(|()| {
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let chunk = vec![0x5a; 256 * 1024];
                let mut left = bytes;
                while left > 0 {
                    let size = left.min(chunk.len());
                    left -= send_some(&fd, &chunk[..size])?;
                }
                Ok::<(), io::Error>(())
            });
            let mut buffer = vec![0; 256 * 1024];
            let mut left = bytes;
            while left > 0 {
                match receive(&fd, &mut buffer)? {
                    0 => return Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
                    n => left -= n,
                }
            }
            sender.join().expect("the sender does not panic")
        })
    });
    Ok(outcome(result, start))
}

fn udp_segments(task: &Task, to: SocketAddr) -> io::Result<Outcome> {
    const UDP_SEGMENT: i32 = 103;
    const SEGMENT: i32 = 1200;
    let fd = open(task, to.ip(), libc::SOCK_DGRAM, 0)?;
    sock::set(&fd, libc::SOL_UDP, UDP_SEGMENT, &SEGMENT)?;
    ready()?;
    let start = Instant::now();
    let bytes = vec![0x5a; SEGMENT as usize * 20];
    let result = connect(&fd, to).and_then(|()| send(&fd, &bytes));
    Ok(outcome(result, start))
}

fn udp_ask(task: &Task, to: SocketAddr, payload: usize, timeout_ms: u64) -> io::Result<Outcome> {
    let fd = open(task, to.ip(), libc::SOCK_DGRAM, 0)?;
    limit(&fd, timeout_ms)?;
    ready()?;
    let start = Instant::now();
    let bytes = vec![0x5a; payload];
    let asked = connect(&fd, to).and_then(|()| send(&fd, &bytes));
    let result = asked.and_then(|()| receive(&fd, &mut [0; 64]).map(drop));
    Ok(outcome(result, start))
}

fn tcp_hold(task: &Task, to: SocketAddr) -> io::Result<()> {
    let fd = open(task, to.ip(), libc::SOCK_STREAM, 0)?;
    limit(&fd, 1500)?;
    connect(&fd, to)?;
    echo(&fd)?;
    ready()?;
    for line in io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        answer(&outcome(echo(&fd), start))?;
    }
    answer(&Outcome::default())
}

fn udp(
    task: &Task,
    to: &[IpAddr],
    port: u16,
    count: u32,
    payload: usize,
    connected: bool,
) -> io::Result<Outcome> {
    let bytes = vec![0x5a; payload];
    let mut out = Outcome::default();
    ready()?;
    let start = Instant::now();
    for _ in 0..count {
        for destination in to {
            let address = SocketAddr::from((*destination, port));
            let fd = open(task, *destination, libc::SOCK_DGRAM, 0)?;
            let result = if connected {
                connect(&fd, address).and_then(|()| send(&fd, &bytes))
            } else {
                with_address(address, |address, size| {
                    // SAFETY: buffer and address are valid for the call.
                    let n = unsafe {
                        libc::sendto(
                            fd.as_raw_fd(),
                            bytes.as_ptr().cast(),
                            bytes.len(),
                            0,
                            address,
                            size,
                        )
                    };
                    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
                })
            };
            out.sent_each.push(u64::from(result.is_ok()));
            match result {
                Ok(()) => out.sent += 1,
                Err(e) => {
                    out.failed += 1;
                    out.errno = out.errno.or(e.raw_os_error());
                }
            }
        }
    }
    out.ok = out.failed == 0;
    out.micros = start.elapsed().as_micros() as u64;
    Ok(out)
}

fn ping(task: &Task, to: IpAddr, timeout_ms: u64) -> io::Result<Outcome> {
    let protocol = if to.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
    let fd = open(task, to, libc::SOCK_RAW, protocol)?;
    limit(&fd, timeout_ms)?;
    ready()?;
    let start = Instant::now();
    let result = (|| {
        connect(&fd, (to, 0).into())?;
        let id = std::process::id() as u16;
        let mut rest = id.to_be_bytes().to_vec();
        rest.extend_from_slice(b"\0\x01sovereign");
        // The kernel fills in the ICMPv6 checksum.
        send(&fd, &packet::icmp(if to.is_ipv4() { 8 } else { 128 }, 0, &rest))?;
        let mut buffer = [0; 256];
        loop {
            let n = receive(&fd, &mut buffer)?;
            // Raw IPv4 sockets deliver the IP header too.
            let message = if to.is_ipv4() { &buffer[20.min(n)..n] } else { &buffer[..n] };
            let reply = if to.is_ipv4() { 0 } else { 129 };
            if message.len() >= 6 && message[0] == reply && message[4..6] == id.to_be_bytes() {
                return Ok(());
            }
        }
    })();
    Ok(outcome(result, start))
}

fn frame_socket(task: &Task, via: &str, claim: u16) -> io::Result<OwnedFd> {
    let fd = sock::packet_socket(via, 0)?;
    if claim != 0 {
        sock::bind_packet(&fd, via, claim)?;
    }
    if let Some(mark) = task.mark {
        sock::set(&fd, libc::SOL_SOCKET, libc::SO_MARK, &mark)?;
    }
    Ok(fd)
}

fn send_frames(
    task: &Task,
    via: &str,
    frames: &[Vec<u8>],
    mode: FrameMode,
    repeat: u32,
) -> io::Result<Outcome> {
    let claim = if let FrameMode::Claim(ethertype) = mode { ethertype } else { 0 };
    let fd = frame_socket(task, via, claim)?;
    let address = sock::link_address(via, claim)?;
    let mut out = Outcome { sent_each: vec![0; frames.len()], ..Outcome::default() };
    ready()?;
    for _ in 0..repeat {
        for (i, frame) in frames.iter().enumerate() {
            // Without a claim, sendto with protocol 0 lets the kernel read it from the frame.
            // SAFETY: buffer and address are valid for the call.
            let n = unsafe {
                libc::sendto(
                    fd.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_ll>() as u32,
                )
            };
            if n < 0 {
                out.failed += 1;
                out.errno = out.errno.or(io::Error::last_os_error().raw_os_error());
            } else {
                out.sent += 1;
                out.sent_each[i] += 1;
            }
        }
    }
    out.ok = out.failed == 0;
    Ok(out)
}

/// PACKET_TX_RING: the kernel maps the ring's pages into the packet and copies only the link header.
fn tx_ring(task: &Task, via: &str, frames: &[Vec<u8>], repeat: u32) -> io::Result<Outcome> {
    const SLOT: usize = 2048;
    const SLOTS: usize = 64;
    const SEND_REQUEST: u32 = 1;
    /// TPACKET_ALIGN(sizeof(struct tpacket2_hdr)): where the frame starts in its slot.
    const DATA: usize = 32;
    let fd = frame_socket(task, via, 0)?;
    sock::set(&fd, libc::SOL_PACKET, libc::PACKET_VERSION, &1i32)?;
    let request: [u32; 4] = [(SLOT * SLOTS) as u32, 1, SLOT as u32, SLOTS as u32];
    sock::set(&fd, libc::SOL_PACKET, libc::PACKET_TX_RING, &request)?;
    // SAFETY: a fresh mapping of the ring that was just set up; checked below.
    let ring = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            SLOT * SLOTS,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if ring == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut out = Outcome { sent_each: vec![0; frames.len()], ..Outcome::default() };
    ready()?;
    let mut slot = 0;
    for _ in 0..repeat {
        for (i, frame) in frames.iter().enumerate() {
            assert!(frame.len() <= SLOT - DATA, "frame does not fit the ring's slot");
            // SAFETY: `slot` is below SLOTS, the frame fits (above), and the kernel has given the slot
            // back: send() below is synchronous.
            let status = unsafe {
                let base = ring.cast::<u8>().add(slot * SLOT);
                let status = base.cast::<u32>();
                base.add(4).cast::<u32>().write(frame.len() as u32);
                std::ptr::copy_nonoverlapping(frame.as_ptr(), base.add(DATA), frame.len());
                status.write_volatile(SEND_REQUEST);
                status
            };
            // SAFETY: no buffer is passed.
            let n = unsafe { libc::send(fd.as_raw_fd(), std::ptr::null(), 0, 0) };
            if n <= 0 {
                out.failed += 1;
                out.errno = out.errno.or(io::Error::last_os_error().raw_os_error());
                // SAFETY: as above; the slot is ours again after a failure. The kernel stays at it.
                unsafe { status.write_volatile(0) };
            } else {
                out.sent += 1;
                out.sent_each[i] += 1;
                slot = (slot + 1) % SLOTS;
            }
        }
    }
    out.ok = out.failed == 0;
    Ok(out)
}

/// Messages per sendmmsg call.
const BATCH: usize = 64;

/// True once the parent has closed our stdin.
fn told_to_stop() -> bool {
    let mut poll = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, no waiting.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

fn flood_udp(
    task: &Task,
    to: &[IpAddr],
    port: u16,
    ports: u16,
    packets: u64,
) -> io::Result<Outcome> {
    // One socket per family; addresses in C form are made once per (destination, port).
    let ports = ports.max(1);
    let mut sockets = [None, None];
    for destination in to {
        let family = usize::from(destination.is_ipv6());
        if sockets[family].is_none() {
            sockets[family] = Some(open(task, *destination, libc::SOCK_DGRAM, 0)?);
        }
    }
    let zeros = vec![0; to.len()];
    let mut out = Outcome { sent_each: zeros.clone(), failed_each: zeros, ..Outcome::default() };
    let mut payload = [0x5au8; 32];
    let mut iov = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    ready()?;
    let start = Instant::now();
    let mut next = 0u64;
    while out.sent + out.failed < packets {
        for (family, socket) in sockets.iter().enumerate() {
            let Some(fd) = socket else { continue };
            let mut chosen = vec![];
            for _ in 0..BATCH * 2 {
                let which = (next % to.len() as u64) as usize;
                let port = port + ((next / to.len() as u64) % u64::from(ports)) as u16;
                next += 1;
                if usize::from(to[which].is_ipv6()) == family {
                    chosen.push((which, SocketAddr::from((to[which], port))));
                }
                if chosen.len() == BATCH {
                    break;
                }
            }
            let mut addresses: Vec<libc::sockaddr_storage> = chosen
                .iter()
                .map(|(_, address)| {
                    with_address(*address, |pointer, size| {
                        // SAFETY: integers only; zero is a valid value. The copy fits: storage is the
                        // largest of the address types.
                        unsafe {
                            let mut storage: libc::sockaddr_storage = std::mem::zeroed();
                            std::ptr::copy_nonoverlapping(
                                pointer.cast::<u8>(),
                                (&raw mut storage).cast::<u8>(),
                                size as usize,
                            );
                            storage
                        }
                    })
                })
                .collect();
            let mut messages: Vec<libc::mmsghdr> = addresses
                .iter_mut()
                .map(|address| {
                    // SAFETY: integers and pointers; zero is a valid value.
                    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                    message.msg_hdr.msg_name = (address as *mut libc::sockaddr_storage).cast();
                    message.msg_hdr.msg_namelen = if family == 0 { 16 } else { 28 };
                    message.msg_hdr.msg_iov = &mut iov;
                    message.msg_hdr.msg_iovlen = 1;
                    message
                })
                .collect();
            let mut at = 0;
            while at < messages.len() {
                let rest = &mut messages[at..];
                // SAFETY: messages, addresses and the payload outlive the call.
                let n = unsafe {
                    libc::sendmmsg(fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0)
                };
                if n > 0 {
                    for (which, _) in &chosen[at..at + n as usize] {
                        out.sent_each[*which] += 1;
                    }
                    out.sent += n as u64;
                    at += n as usize;
                } else {
                    out.failed += 1;
                    out.failed_each[chosen[at].0] += 1;
                    out.errno = out.errno.or(io::Error::last_os_error().raw_os_error());
                    at += 1;
                }
            }
        }
        if told_to_stop() {
            break;
        }
    }
    out.ok = out.failed == 0;
    out.micros = start.elapsed().as_micros() as u64;
    Ok(out)
}

fn flood_frames(task: &Task, via: &str, frames: &[Vec<u8>], packets: u64) -> io::Result<Outcome> {
    let fd = frame_socket(task, via, 0)?;
    let mut address = sock::link_address(via, 0)?;
    let mut iovs: Vec<libc::iovec> = frames
        .iter()
        .map(|f| libc::iovec { iov_base: f.as_ptr().cast_mut().cast(), iov_len: f.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = (0..BATCH.next_multiple_of(frames.len()))
        .map(|i| {
            // SAFETY: integers and pointers; zero is a valid value.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = (&raw mut address).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
            message.msg_hdr.msg_iov = &mut iovs[i % frames.len()];
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let zeros = vec![0; frames.len()];
    let mut out = Outcome { sent_each: zeros.clone(), failed_each: zeros, ..Outcome::default() };
    ready()?;
    let start = Instant::now();
    while out.sent + out.failed < packets {
        let mut at = 0;
        while at < messages.len() {
            let rest = &mut messages[at..];
            // SAFETY: messages, address, vectors and frames outlive the call.
            let n =
                unsafe { libc::sendmmsg(fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            if n > 0 {
                for i in at..at + n as usize {
                    out.sent_each[i % frames.len()] += 1;
                }
                out.sent += n as u64;
                at += n as usize;
            } else {
                // A frame that the hook dropped is an error of this one message (ENOBUFS).
                out.failed += 1;
                out.failed_each[at % frames.len()] += 1;
                out.errno = out.errno.or(io::Error::last_os_error().raw_os_error());
                at += 1;
            }
        }
        if told_to_stop() {
            break;
        }
    }
    out.ok = out.failed == 0;
    out.micros = start.elapsed().as_micros() as u64;
    Ok(out)
}
