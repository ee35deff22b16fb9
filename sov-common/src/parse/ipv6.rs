//! IPv6 (RFC 8200): the extension header chain, fragments, neighbour discovery, MLD and DHCPv6.

use super::{Frame, Packet, Parsed, kind, protocol, transport, tunnel};

/// Longest chain of extension headers that is read.
const MAX_HEADERS: u32 = 8;
const AUTHENTICATION: u32 = 51;

#[inline(always)]
pub(super) fn parse<P: Packet>(
    packet: &P,
    frame: &Frame,
    out: &mut Parsed,
    offset: u32,
    zero: u32,
) {
    let Some([first, sizes, s0, s1, s2, s3, d0, d1, d2, d3]) = packet.words::<10>(offset) else {
        return;
    };
    out.family = 6;
    out.src = [join(s0, s1), join(s2, s3)];
    out.dst = [join(d0, d1), join(d2, d3)];
    out.dscp = (first >> 22) & 0x3f;
    let length = sizes >> 16;
    let hop_limit = sizes & 0xff;
    let mut end = offset + 40 + length;
    if first >> 28 != 6 {
        return;
    }
    let mut next = (sizes >> 8) & 0xff;
    out.protocol = next;
    if frame.gso {
        end = packet.len();
    } else if end > packet.len() || (length == 0 && next != protocol::NO_NEXT) {
        // A length of 0 is a jumbogram (RFC 2675), which nothing here sends unsegmented.
        return;
    }

    let mut body = offset + 40;
    let mut fragmented = false;
    let mut later_fragment = false;
    let mut hop_by_hop = false;
    let mut i = 0;
    while is_extension(next) {
        // The chain must end inside this packet, and within reason.
        if i == MAX_HEADERS || next == protocol::ROUTING || body + 8 > end {
            out.protocol = next;
            return;
        }
        let Some([word]) = packet.words_at::<1>(body) else { return };
        let following = word >> 24;
        if next == protocol::FRAGMENT {
            fragmented |= word & 0xfff9 != 0;
            later_fragment = word & 0xfff8 != 0;
            body += 8;
        } else if next == AUTHENTICATION {
            body += (((word >> 16) & 0xff) + 2) * 4;
        } else {
            hop_by_hop |= next == protocol::HOP_BY_HOP && i == 0;
            body += (((word >> 16) & 0xff) + 1) * 8;
        }
        // Every way through the loop looks alike to the verifier; no packet is longer.
        body &= 0xffff;
        next = following;
        i += 1;
        if later_fragment {
            break;
        }
    }
    out.protocol = next;
    if body > end {
        return;
    }
    if later_fragment {
        // What follows is the middle of something whose first fragment was judged.
        if is_extension(next) {
            return;
        }
        out.kind = kind::IP;
        tunnel::by_protocol_unreadable(out);
        return;
    }
    out.kind = kind::IP;
    match next {
        protocol::TCP
        | protocol::UDP
        | protocol::ICMPV6
        | protocol::SCTP
        | protocol::DCCP
        | protocol::UDP_LITE => {
            transport(packet, out, body, end, fragmented, zero);
            let plain = i == 0 || (i == 1 && hop_by_hop);
            if plain && !fragmented && out.kind == kind::IP {
                out.link = link(packet, out, body, end, hop_limit, i == 0) as u32;
            }
        }
        protocol::NO_NEXT => {
            if body != end {
                out.kind = kind::MALFORMED;
            }
        }
        _ => tunnel::by_protocol(packet, out, body, end, fragmented),
    }
}

#[inline(always)]
fn is_extension(next: u32) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::DESTINATION_OPTIONS
            | AUTHENTICATION
            // Mobility, HIP, shim6.
            | 135
            | 139
            | 140
    )
}

/// Exact forms that stay on the link: ND (RFC 4861, hop limit 255, known options of 8 bytes only),
/// MLD (RFC 2710, RFC 3810, hop limit 1), DHCPv6 (RFC 8415).
#[inline(always)]
fn link<P: Packet>(
    packet: &P,
    out: &Parsed,
    body: u32,
    end: u32,
    hop_limit: u32,
    bare: bool,
) -> bool {
    let length = end - body;
    if out.protocol == protocol::UDP {
        return bare && out.sport == 546 && out.dport == 547;
    }
    if out.protocol != protocol::ICMPV6 {
        return false;
    }
    let message = out.dport >> 8;
    if bare {
        // Router solicitation, neighbour solicitation and advertisement.
        let fixed = match message {
            133 => 8,
            135 | 136 => 24,
            _ => return false,
        };
        if hop_limit != 255 || out.dport & 0xff != 0 {
            return false;
        }
        if length == fixed {
            return true;
        }
        let Some([option]) = packet.words_at::<1>(body + fixed) else { return false };
        // Source or target link-layer address, or the nonce of RFC 7527.
        return length == fixed + 8 && matches!(option >> 16, 0x0101 | 0x0201 | 0x0e01);
    }
    if hop_limit != 1 {
        return false;
    }
    match message {
        130..=132 => length == 24,
        143 => {
            let Some([_, records]) = packet.words_at::<2>(body) else { return false };
            // Records without sources and auxiliary data.
            length == 8 + 20 * (records & 0xffff)
        }
        _ => false,
    }
}

#[inline(always)]
pub(super) fn join(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}
