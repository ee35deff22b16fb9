//! The far side: answers TCP, and counts what really arrives with a packet socket.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::{
    lab::{Lab, Netns, WORKLOAD_V4, WORKLOAD_V6},
    packet::{self, ArrivalKey},
    plan::{Probe, TCP_PORTS, UDP_PORTS},
};

/// Counts of all places. Threads and sockets live as long as the process.
pub struct Sinks {
    counts: Arc<Mutex<HashMap<ArrivalKey, u64>>>,
    /// Bound, so that the places do not answer "port unreachable".
    _datagrams: Vec<UdpSocket>,
}

impl Sinks {
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let counts = Arc::default();
        let mut datagrams = Vec::new();
        for netns in &lab.places {
            start_one(netns, lab.ipv6, &counts, &mut datagrams)?;
        }
        Ok(Self { counts, _datagrams: datagrams })
    }

    /// Packets of a probe that arrived so far.
    pub fn arrived(&self, probe: &Probe) -> u64 {
        let protocol = probe.kind.protocol(probe.destination.is_ipv6());
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&(probe.destination, protocol, probe.number)).copied().unwrap_or(0)
    }
}

fn start_one(
    netns: &Netns,
    ipv6: bool,
    counts: &Arc<Mutex<HashMap<ArrivalKey, u64>>>,
    datagrams: &mut Vec<UdpSocket>,
) -> anyhow::Result<()> {
    let (socket, listeners, bound) = netns.run(|| {
        // [::] takes IPv4 as well.
        let any = |port| match ipv6 {
            true => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            false => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        };
        let listeners: Vec<_> = TCP_PORTS
            .into_iter()
            .map(|port| TcpListener::bind(any(port)))
            .collect::<Result<_, _>>()?;
        let bound: Vec<_> = UDP_PORTS
            .into_iter()
            .map(|port| UdpSocket::bind(any(port)))
            .collect::<Result<_, _>>()?;
        Ok((packet_socket()?, listeners, bound))
    })?;
    datagrams.extend(bound);
    let counts = Arc::clone(counts);
    thread::spawn(move || count(&socket, &counts));
    for listener in listeners {
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One short conversation at a time is all there is.
                let _ = echo(stream);
            }
        });
    }
    Ok(())
}

fn echo(mut stream: std::net::TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer)?;
    stream.write_all(&buffer[..length])
}

/// Every packet that comes into the namespace, without its link-layer header.
fn packet_socket() -> io::Result<OwnedFd> {
    let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: no pointers.
    let fd =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn count(socket: &OwnedFd, counts: &Mutex<HashMap<ArrivalKey, u64>>) {
    let mut buffer = [0u8; 2048];
    loop {
        // SAFETY: the buffer is live and its length is passed along.
        let length =
            unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(length) = usize::try_from(length) else {
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => continue,
                _ => return,
            }
        };
        let Some((source, key)) = packet::arrival(&buffer[..length.min(buffer.len())]) else {
            continue;
        };
        // Answers of this side go out by the same interface.
        if source == WORKLOAD_V4 || source == WORKLOAD_V6 {
            *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        }
    }
}
