//! Encapsulations by protocol number and by known UDP port: the destination inside, where it can be
//! read, and the word "unreadable" where it cannot.
//!
//! One level is read. A tunnel in a tunnel, options, extension headers or fragments inside are
//! unreadable. Opaque payload on other ports cannot be told from data: docs/ARCHITECTURE.md, limits.

use super::{Packet, Parsed, ethertype, ipv6::join, protocol, tunnel_kind};

const VXLAN: u32 = 4789;
const VXLAN_LINUX: u32 = 8472;
const GENEVE: u32 = 6081;
const ETHERNET_BRIDGING: u32 = 0x6558;

/// Tunnels that are IP protocols of their own, and every protocol that is not known to be none.
/// Rare, so a function of its own: the hot path stays small.
#[inline(never)]
pub(super) fn by_protocol<P: Packet>(
    packet: &P,
    out: &mut Parsed,
    body: u32,
    end: u32,
    fragmented: bool,
) {
    out.tunnel = tunnel_kind::UNREADABLE;
    if fragmented {
        return;
    }
    match out.protocol {
        protocol::IPIP => inner(packet, out, ethertype::IPV4, body, end),
        protocol::IPV6 => inner(packet, out, ethertype::IPV6, body, end),
        protocol::GRE => {
            let Some([word]) = packet.words_at::<1>(body) else { return };
            // RFC 2784 and RFC 2890: version 0, optional checksum, key and sequence number.
            if word & 0x4fff_0000 != 0 {
                return;
            }
            let optional = ((word >> 31) & 1) + ((word >> 29) & 1) + ((word >> 28) & 1);
            payload(packet, out, word & 0xffff, body + 4 + optional * 4, end);
        }
        _ => {}
    }
}

/// A later fragment: the protocol is known, the inside is not here.
#[inline(always)]
pub(super) fn by_protocol_unreadable(out: &mut Parsed) {
    out.tunnel = match out.protocol {
        protocol::TCP
        | protocol::UDP
        | protocol::ICMP
        | protocol::ICMPV6
        | protocol::SCTP
        | protocol::DCCP
        | protocol::UDP_LITE => tunnel_kind::NONE,
        _ => tunnel_kind::UNREADABLE,
    };
}

/// Tunnels on UDP, by destination port.
#[inline(always)]
pub(super) fn udp<P: Packet>(packet: &P, out: &mut Parsed, body: u32, end: u32, fragmented: bool) {
    match out.dport {
        VXLAN | VXLAN_LINUX | GENEVE => {}
        // L2TP, GTP-U, Teredo, IPsec NAT-T, MPLS in UDP, WireGuard, FOU, GUE.
        1701 | 2152 | 3544 | 4500 | 5555 | 6080 | 6635 | 51820 => {
            out.tunnel = tunnel_kind::UNREADABLE;
            return;
        }
        _ => return,
    }
    out.tunnel = tunnel_kind::UNREADABLE;
    if !fragmented {
        encapsulation(packet, out, body, end);
    }
}

#[inline(never)]
fn encapsulation<P: Packet>(packet: &P, out: &mut Parsed, body: u32, end: u32) {
    let Some([first, _]) = packet.words_at::<2>(body) else { return };
    if out.dport == GENEVE {
        // RFC 8926: version 0, length of the options in words, protocol.
        let options = ((first >> 24) & 0x3f) * 4;
        if first >> 30 == 0 {
            payload(packet, out, first & 0xffff, body + 8 + options, end);
        }
    } else if first >> 24 == 0x08 {
        // RFC 7348.
        payload(packet, out, ETHERNET_BRIDGING, body + 8, end);
    }
}

/// What follows an encapsulation header that names an ethertype.
#[inline(always)]
fn payload<P: Packet>(packet: &P, out: &mut Parsed, kind: u32, at: u32, end: u32) {
    if kind != ETHERNET_BRIDGING {
        return inner(packet, out, kind, at, end);
    }
    let Some([word]) = packet.words_at::<1>(at + 12) else { return };
    inner(packet, out, word >> 16, at + 14, end);
}

/// The inner IP header: destination, protocol, port.
#[inline(never)]
fn inner<P: Packet>(packet: &P, out: &mut Parsed, kind: u32, at: u32, end: u32) {
    let next;
    let body;
    if kind == ethertype::IPV4 {
        let Some([first, fragment, ttl, _, dst]) = packet.words_at::<5>(at) else { return };
        if first >> 24 != 0x45 || fragment & 0x3fff != 0 || at + (first & 0xffff) > end {
            return;
        }
        out.inner_family = 4;
        out.inner = [0, dst as u64];
        next = (ttl >> 16) & 0xff;
        body = at + 20;
    } else if kind == ethertype::IPV6 {
        let Some([first, sizes, _, _, _, _]) = packet.words_at::<6>(at) else { return };
        let Some([d0, d1, d2, d3]) = packet.words_at::<4>(at + 24) else { return };
        if first >> 28 != 6 || at + 40 + (sizes >> 16) > end {
            return;
        }
        out.inner_family = 6;
        out.inner = [join(d0, d1), join(d2, d3)];
        next = (sizes >> 8) & 0xff;
        body = at + 40;
    } else {
        return;
    }
    let Some([ports]) = packet.words_at::<1>(body) else { return };
    out.inner_port = match next {
        protocol::ICMP | protocol::ICMPV6 => ports >> 16,
        protocol::TCP | protocol::UDP => ports & 0xffff,
        _ => return,
    };
    if next == protocol::UDP && is_tunnel_port(out.inner_port) {
        return;
    }
    out.inner_protocol = next;
    out.tunnel = tunnel_kind::READABLE;
}

#[inline(always)]
fn is_tunnel_port(port: u32) -> bool {
    matches!(
        port,
        VXLAN | VXLAN_LINUX | GENEVE | 1701 | 2152 | 3544 | 4500 | 5555 | 6080 | 6635 | 51820
    )
}
