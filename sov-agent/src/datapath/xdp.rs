//! XDP on a gateway's inside interfaces: the link, its mode, and what the kernel says of both.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    programs::{Xdp, links::FdLink, xdp},
};

use super::{
    Attached, DatapathError, Direction, Interface, Pins,
    attach::{chain, take_over},
};

const HOOK: &str = "xdp";

/// Where in the receive path an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before an skb exists.
    Native,
    /// In the network stack, on an skb: works everywhere, saves nothing.
    Generic,
    /// In the device.
    Offload,
}

impl XdpMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offload => "offload",
        }
    }
}

/// The XDP program of an interface, whosever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpState {
    pub mode: XdpMode,
    pub program_id: u32,
}

/// Attaches the gateway program, or takes over the link of an earlier agent. Native where the driver
/// can, else generic, and says so.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    interface: &Interface,
) -> Result<Attached, DatapathError> {
    let name = Direction::Xdp.program(true);
    let fail = |problem: String| DatapathError::Attach {
        hook: HOOK,
        target: interface.name.clone(),
        problem,
    };
    if !interface.ethernet || interface.loopback {
        return Err(fail("not an Ethernet interface; guard it with --interface".into()));
    }
    let pin = pins.of_interface(Direction::Xdp, interface.index)?;
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .and_then(|p| p.try_into().ok())
        .ok_or(DatapathError::Program { program: name, problem: "not in the object".into() })?;
    let fd = program.fd().map_err(|e| fail(e.to_string()))?.as_fd();
    let taken_over =
        take_over(&pin, fd).map_err(|source| DatapathError::Pin { path: pin.clone(), source })?;
    if !taken_over {
        if let Ok(Some(other)) = xdp_state(interface.index) {
            return Err(fail(format!(
                "another XDP program is attached (id {}, {}); only one can be: `ip link set dev {} \
                 xdp off` removes one that no link holds",
                other.program_id,
                other.mode.as_str(),
                interface.name
            )));
        }
        let id = match program.attach_to_if_index(interface.index, xdp::XdpMode::Driver) {
            Ok(id) => id,
            Err(native) => {
                let id = program.attach_to_if_index(interface.index, xdp::XdpMode::Skb).map_err(
                    |e| fail(format!("native: {}; generic: {}", chain(&native), chain(&e))),
                )?;
                log::warn!(
                    "xdp of {}: the driver refuses native mode ({}); attached in generic mode, \
                     which is no faster than tc",
                    interface.name,
                    chain(&native)
                );
                id
            }
        };
        let link = program.take_link(id).map_err(|e| fail(chain(&e)))?;
        let link: FdLink =
            link.try_into().map_err(|_| fail("the kernel has no XDP links (5.9)".into()))?;
        link.pin(&pin).map_err(|e| fail(chain(&e)))?;
    }
    let state = xdp_state(interface.index)
        .map_err(|source| DatapathError::System { what: interface.name.clone(), source })?;
    Ok(Attached {
        hook: HOOK,
        kind: state.map_or("detached", |state| state.mode.as_str()),
        target: interface.name.clone(),
        ifindex: interface.index,
        taken_over,
    })
}

/// What the kernel says about XDP on an interface (rtnetlink, IFLA_XDP).
pub fn xdp_state(ifindex: u32) -> io::Result<Option<XdpState>> {
    const IFLA_XDP: u16 = 43;
    const IFLA_XDP_ATTACHED: u16 = 2;
    const IFLA_XDP_PROG_ID: u16 = 4;
    /// nlmsghdr and ifinfomsg.
    const HEADERS: usize = 32;
    let answer = get_link(ifindex)?;
    let mut state = None;
    for (kind, value) in attributes(answer.get(HEADERS..).unwrap_or_default()) {
        if kind != IFLA_XDP {
            continue;
        }
        let (mut mode, mut program_id) = (None, 0);
        for (kind, value) in attributes(value) {
            match (kind, value) {
                (IFLA_XDP_ATTACHED, [1, ..]) => mode = Some(XdpMode::Native),
                (IFLA_XDP_ATTACHED, [2, ..]) => mode = Some(XdpMode::Generic),
                (IFLA_XDP_ATTACHED, [3, ..]) => mode = Some(XdpMode::Offload),
                (IFLA_XDP_PROG_ID, [a, b, c, d]) => {
                    program_id = u32::from_ne_bytes([*a, *b, *c, *d]);
                }
                _ => {}
            }
        }
        state = mode.map(|mode| XdpState { mode, program_id });
    }
    Ok(state)
}

/// The kernel's answer to RTM_GETLINK, whole.
fn get_link(ifindex: u32) -> io::Result<Vec<u8>> {
    // SAFETY: a plain socket call.
    let fd = unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // nlmsghdr: length, type, flags, sequence, port; ifinfomsg: family, type, index, flags, change.
    let mut request = Vec::with_capacity(32);
    request.extend(32u32.to_ne_bytes());
    request.extend(libc::RTM_GETLINK.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend([0; 12]);
    request.extend(ifindex.to_ne_bytes());
    request.extend([0; 8]);
    // SAFETY: the buffer is live and as long as said.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    // Interfaces with many virtual functions have long answers.
    let mut buffer = vec![0u8; 1 << 16];
    // SAFETY: as above.
    let n = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    let length = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    buffer.truncate(length);
    // NLMSG_ERROR: a negative errno follows the header.
    if let Some([a, b, c, d]) = buffer.get(16..20)
        && buffer.get(4..6) == Some(&(libc::NLMSG_ERROR as u16).to_ne_bytes())
    {
        return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes([*a, *b, *c, *d])));
    }
    Ok(buffer)
}

/// Netlink attributes: length and type (u16 each, native), value, padding to 4.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, t0, t1] = *bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        // The two highest bits are flags.
        let kind = u16::from_ne_bytes([t0, t1]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_they_lie() {
        let bytes = [5, 0, 2, 0, 1, 0, 0, 0, 8, 0, 4, 128, 7, 0, 0, 0, 200, 0, 1, 0];
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(2, &[1u8][..]), (4, &[7, 0, 0, 0][..])]);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
    }
}
