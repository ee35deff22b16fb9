//! Interfaces of this network namespace: which there are, which lead out, and when that changes.

use std::{
    collections::BTreeSet,
    ffi::CStr,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    /// Frames start with an Ethernet header; else with IP (tun, wireguard, ipip, sit, gre, ppp).
    pub ethernet: bool,
    pub loopback: bool,
}

/// All interfaces, by name.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    // SAFETY: returns an array that ends with index 0, freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut at = list;
    // SAFETY: the array ends with an entry of index 0; names are C strings.
    unsafe {
        while (*at).if_index != 0 {
            let name = CStr::from_ptr((*at).if_name).to_string_lossy().into_owned();
            found.push((name, (*at).if_index));
            at = at.add(1);
        }
        libc::if_freenameindex(list);
    }
    let mut interfaces: Vec<_> = found
        .into_iter()
        .filter_map(|(name, index)| {
            // An interface may be gone by now.
            let kind = hardware_type(&name).ok()?;
            let loopback = kind == libc::ARPHRD_LOOPBACK;
            let ethernet = loopback || kind == libc::ARPHRD_ETHER;
            Some(Interface { name, index, ethernet, loopback })
        })
        .collect();
    interfaces.sort();
    Ok(interfaces)
}

/// ARPHRD_* of an interface.
fn hardware_type(name: &str) -> io::Result<u16> {
    // SAFETY: a plain socket call.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request is a live ifreq with a terminated name.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) };
    if failed < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFHWADDR fills this member.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

/// Names of the interfaces that a default route (IPv4 or IPv6) leads through.
pub fn default_route_interfaces() -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for line in fs::read_to_string("/proc/thread-self/net/route")?.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Interface, destination, gateway, flags, refcount, use, metric, mask.
        if let [name, "00000000", _, _, _, _, _, "00000000", ..] = fields[..] {
            names.insert(name.to_owned());
        }
    }
    // Absent where IPv6 is switched off.
    let v6 = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    for line in v6.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Destination, its length, source, its length, next hop, metric, refcount, use, flags, interface.
        let [to, "00", _, _, _, _, _, _, flags, name] = fields[..] else { continue };
        // RTF_REJECT: the kernel's own "unreachable" route on lo.
        let reject = u32::from_str_radix(flags, 16).is_ok_and(|f| f & 0x200 != 0);
        if to.bytes().all(|b| b == b'0') && !reject && name != "lo" {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// Becomes readable whenever links or routes change (rtnetlink).
pub struct InterfaceWatch(OwnedFd);

impl InterfaceWatch {
    pub fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a plain socket call.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: zero is a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE;
        address.nl_groups = groups as u32;
        // SAFETY: a live sockaddr_nl of the given size.
        let failed = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as u32,
            )
        };
        if failed < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(socket))
    }

    /// Reads away what is pending; the contents do not matter, the caller looks at the whole state.
    pub fn drain(&self) -> bool {
        let mut buffer = [0u8; 8192];
        let mut any = false;
        loop {
            // SAFETY: the buffer is live and of the given size.
            let n = unsafe {
                libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            // ENOBUFS: messages were dropped, so something changed.
            if n > 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) {
                any = true;
                continue;
            }
            return any;
        }
    }
}

impl std::os::fd::AsRawFd for InterfaceWatch {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}
