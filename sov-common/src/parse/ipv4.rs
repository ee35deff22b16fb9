//! IPv4 (RFC 791): header lies, options, fragments, IGMP and DHCP.

use super::{Frame, Packet, Parsed, kind, protocol, transport, tunnel};

const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
const MORE_FRAGMENTS: u32 = 0x2000;
const FRAGMENT_OFFSET: u32 = 0x1fff;

#[inline(always)]
pub(super) fn parse<P: Packet>(
    packet: &P,
    frame: &Frame,
    out: &mut Parsed,
    offset: u32,
    zero: u32,
) {
    let Some([first, fragment, ttl, src, dst]) = packet.words::<5>(offset) else { return };
    out.src[1] = src as u64;
    out.dst[1] = dst as u64;
    out.dscp = (first >> 18) & 0x3f;
    out.protocol = (ttl >> 16) & 0xff;
    let header = ((first >> 24) & 0xf) * 4;
    let total = first & 0xffff;
    let mut end = offset + total;
    if first >> 28 != 4 || header < 20 {
        return;
    }
    if frame.gso {
        // BIG TCP writes a length of 0; the frame's own length counts.
        end = packet.len();
    } else if total < header || end > packet.len() {
        return;
    }
    if header > 20 && !options(packet, offset + 20, offset + header) {
        return;
    }
    out.kind = kind::IP;
    let body = offset + header;
    let position = fragment & FRAGMENT_OFFSET;
    let fragmented = fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0;
    if position != 0 {
        // A fragment at 8 bytes overlaps the TCP header of the first one (RFC 3128).
        if position == 1 && out.protocol == protocol::TCP {
            out.kind = kind::MALFORMED;
        }
        tunnel::by_protocol_unreadable(out);
        return;
    }
    match out.protocol {
        protocol::TCP
        | protocol::UDP
        | protocol::ICMP
        | protocol::SCTP
        | protocol::DCCP
        | protocol::UDP_LITE => {
            transport(packet, out, body, end, fragmented, zero);
            // DHCP client to server, before it has an address (RFC 2131).
            let dhcp = out.protocol == protocol::UDP
                && !fragmented
                && out.sport == 68
                && out.dport == 67
                && dst == u32::MAX;
            out.link = dhcp as u32;
        }
        protocol::IGMP if dst >> 8 == 0x00e0_0000 => {
            out.link = (!fragmented && igmp(packet, body, end)) as u32;
        }
        _ => tunnel::by_protocol(packet, out, body, end, fragmented),
    }
}

/// `false` for a source route or a lying length.
#[inline(always)]
fn options<P: Packet>(packet: &P, start: u32, end: u32) -> bool {
    let mut at = start;
    let mut i = 0;
    while i < 40 {
        if at >= end {
            return true;
        }
        i += 1;
        let Some(kind) = packet.byte_at(at) else { return false };
        match kind {
            0 => return true,
            1 => at = (at + 1) & 0x7f,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return false,
            _ => {
                let Some(length) = packet.byte_at(at + 1) else { return false };
                if length < 2 || at + length as u32 > end {
                    return false;
                }
                // Options end at 82 at most; the mask keeps the verifier's ranges equal.
                at = (at + length as u32) & 0x7f;
            }
        }
    }
    at >= end
}

/// Group membership messages that carry nothing else (RFC 2236, RFC 3376).
#[inline(always)]
fn igmp<P: Packet>(packet: &P, body: u32, end: u32) -> bool {
    let Some([first, second]) = packet.words_at::<2>(body) else { return false };
    let length = end - body;
    match first >> 24 {
        0x11 | 0x12 | 0x16 | 0x17 => length == 8,
        // Records without sources and auxiliary data.
        0x22 => length == 8 + 8 * (second & 0xffff),
        _ => false,
    }
}
