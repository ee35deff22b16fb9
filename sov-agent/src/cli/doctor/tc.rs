//! Programs of others on the way out: filters that were attached with `tc`, asked of the kernel by rtnetlink, changes nothing.
//!
//! Replies are parsed with every length checked: a kernel with other structs yields fewer findings, not a
//! crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::SocketAddrNetlink,
    recv, sendto, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

use super::Finding;
use crate::flowlog::host;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_GETQDISC: u16 = 38;
const RTM_GETTFILTER: u16 = 46;
const REQUEST_AND_DUMP: u16 = 0x301;
/// `TC_H_CLSACT` with the minor number of egress.
const EGRESS: u32 = 0xffff_fff3;
const TCA_KIND: u16 = 1;
/// struct nlmsghdr and struct tcmsg.
const HEADER: usize = 16;
const TCMSG: usize = 20;

/// Programs of others on the way out.
pub(super) fn findings() -> Vec<Finding> {
    let filters = match egress_filters() {
        Ok(filters) => filters,
        Err(e) => {
            let detail = format!("tc filters cannot be listed: {e}");
            return vec![Finding::warning("competing", detail, "tc filter show dev IF egress")];
        }
    };
    if filters.is_empty() {
        return vec![Finding::ok("competing", "no tc filters on egress")];
    }
    let name = |index: i32| {
        let index = u32::try_from(index).unwrap_or(0);
        host::interface_name(index).unwrap_or_else(|| format!("interface {index}"))
    };
    (filters.iter())
        .map(|(&index, kinds)| {
            let name = name(index);
            Finding::warning(
                "competing",
                format!(
                    "{name} has egress filters in tc ({}): through tcx the agent runs before them, through clsact by priority",
                    kinds.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
                ),
                format!("check that none of them redirects: tc filter show dev {name} egress"),
            )
        })
        .collect()
}

/// Egress filters on clsact queues: interface index -> kinds (`bpf`, `u32`, …). One filter may
/// appear as several objects, so there is no count.
fn egress_filters() -> io::Result<BTreeMap<i32, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    for (index, kind) in dump(RTM_GETQDISC, 0, 0)? {
        if kind == "clsact" {
            found.insert(index, BTreeSet::new());
        }
    }
    for (&index, kinds) in &mut found {
        kinds.extend(dump(RTM_GETTFILTER, index, EGRESS)?.into_iter().map(|(_, kind)| kind));
    }
    found.retain(|_, kinds| !kinds.is_empty());
    Ok(found)
}

/// Interface and kind of every object in a dump.
fn dump(command: u16, index: i32, parent: u32) -> io::Result<Vec<(i32, String)>> {
    // NETLINK_ROUTE is protocol 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(2)))?;
    let mut request = Vec::with_capacity(HEADER + TCMSG);
    request.extend((HEADER as u32 + TCMSG as u32).to_ne_bytes());
    request.extend(command.to_ne_bytes());
    request.extend(REQUEST_AND_DUMP.to_ne_bytes());
    // Sequence and port, family and padding.
    request.extend([0; 8 + 4]);
    request.extend(index.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend(parent.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, _) = recv(&socket, &mut *buffer, RecvFlags::empty())?;
        if !parse(&buffer[..length], &mut found)? {
            return Ok(found);
        }
    }
}

/// Reads one datagram; whether more are to come.
fn parse(mut messages: &[u8], found: &mut Vec<(i32, String)>) -> io::Result<bool> {
    if messages.is_empty() {
        return Ok(false);
    }
    while let Some(header) = messages.get(..HEADER) {
        let length = u32_at(header, 0).map_or(0, |l| l as usize);
        let Some(message) = messages.get(HEADER..length) else { return Ok(false) };
        match u16_at(header, 4) {
            Some(NLMSG_DONE) => return Ok(false),
            Some(NLMSG_ERROR) => {
                let code = u32_at(message, 0).map_or(0, |code| code.cast_signed());
                return match code.checked_neg() {
                    Some(0) | None => Ok(false),
                    Some(code) => Err(io::Error::from_raw_os_error(code)),
                };
            }
            _ => found.extend(object(message)),
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(true)
}

/// Interface index and kind of a tcmsg with its attributes.
fn object(message: &[u8]) -> Option<(i32, String)> {
    let index = u32_at(message, 4)?.cast_signed();
    let mut attributes = message.get(TCMSG..)?;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(4..length)?;
        if kind == TCA_KIND {
            let text = value.split(|&b| b == 0).next()?;
            return Some((index, String::from_utf8_lossy(text).into_owned()));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend((HEADER as u32 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn qdisc(index: i32, kind: &[u8]) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend([0; 12]);
        // An attribute of another type first.
        body.extend(5u16.to_ne_bytes());
        body.extend(9u16.to_ne_bytes());
        body.extend([1, 0, 0, 0]);
        body.extend((4 + kind.len() as u16).to_ne_bytes());
        body.extend(TCA_KIND.to_ne_bytes());
        body.extend(kind);
        message(36, &body)
    }

    #[test]
    fn dumps_are_read() {
        let mut datagram = qdisc(2, b"clsact\0");
        datagram.extend(qdisc(3, b"fq_codel\0"));
        let mut found = Vec::new();
        assert!(parse(&datagram, &mut found).expect("reads"));
        assert_eq!(found, [(2, "clsact".into()), (3, "fq_codel".into())]);
        assert!(!parse(&message(NLMSG_DONE, &[0; 4]), &mut found).expect("reads"));
        let refused = message(NLMSG_ERROR, &(-1i32).to_ne_bytes());
        assert_eq!(parse(&refused, &mut found).expect_err("EPERM").raw_os_error(), Some(1));
    }

    #[test]
    fn damaged_dumps_end() {
        let good = qdisc(2, b"clsact\0");
        for cut in 0..good.len() {
            let _ = parse(&good[..cut], &mut Vec::new());
        }
        for at in 0..good.len() {
            for byte in [0, 1, 3, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _ = parse(&bad, &mut Vec::new());
            }
        }
    }

    #[test]
    fn the_kernel_answers() {
        let kinds = dump(RTM_GETQDISC, 0, 0).expect("every user may ask");
        assert!(kinds.iter().all(|(_, kind)| !kind.is_empty()), "{kinds:?}");
        assert!(egress_filters().is_ok());
    }
}
