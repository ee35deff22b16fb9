//! Socket options and packet sockets that std does not offer. Linux only, IPv4 and IPv6.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// setsockopt with a value of any plain type.
pub fn set<T>(fd: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the size describe `value`, which lives through the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (value as *const T).cast(),
            size_of::<T>() as u32,
        )
    })
    .map(drop)
}

pub fn check(ret: i32) -> io::Result<i32> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// A new socket, closed on exec.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the result is checked and owned by nobody else.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// AF_PACKET socket bound to an interface; `protocol` in host byte order (ETH_P_ALL to receive all,
/// 0 to receive nothing).
pub fn packet_socket(interface: &str, protocol: u16) -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    bind_packet(&fd, interface, protocol)?;
    Ok(fd)
}

pub fn bind_packet(fd: &OwnedFd, interface: &str, protocol: u16) -> io::Result<()> {
    let address = link_address(interface, protocol)?;
    // SAFETY: `address` is a valid sockaddr_ll of the given size.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    })
    .map(drop)
}

/// sockaddr_ll of an interface of the calling thread's namespace.
pub fn link_address(interface: &str, protocol: u16) -> io::Result<libc::sockaddr_ll> {
    let name = CString::new(interface)?;
    // SAFETY: NUL-terminated string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: integers only; zero is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as i32;
    Ok(address)
}
