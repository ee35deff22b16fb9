//! Polite refusal: the packet that tells a sender at once that its own was blocked.
//!
//! TCP gets the reset of RFC 9293 section 3.10.7.1, everything else ICMP "communication
//! administratively prohibited" (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1). Composes bytes and
//! nothing else: whether to answer at all, how often, and how the bytes get to the sender is the
//! business of the hooks. Where an answer would be wrong there is none: to ICMP errors, resets,
//! multicast and broadcast, later fragments, what was not understood.

use crate::{
    classify::Address,
    parse::{Packet, Parsed, ethertype, kind, protocol},
};

/// An IPv4 error has at most 576 bytes, an IPv6 error at most 1,280 (RFC 1812, RFC 4443).
const QUOTE4: u32 = 576 - 28;
const QUOTE6: u32 = 1280 - 48;
/// Words of the headers before the quote.
const HEAD4: usize = 7;
const HEAD6: usize = 12;
/// Room for three pieces of 512 bytes behind the headers: sums are made by the piece, and the verifier
/// takes each to be whole. The longest error has 320 words.
pub const WORDS: usize = 400;

const FIN: u32 = 1;
const SYN: u32 = 2;
const RST: u32 = 4;
const ACK: u32 = 16;

const HOPS: u32 = 64;
/// Internetwork control, as routers mark their errors (RFC 1812 section 4.3.2.5).
const PRECEDENCE: u32 = 0xc0;
const DONT_FRAGMENT: u32 = 0x4000;

/// A packet to be sent, network byte order.
#[repr(C)]
pub struct Answer {
    /// From the IP header on.
    pub packet: [u32; WORDS],
    /// The link header, with the addresses exchanged; VLAN tags stay.
    pub link: [u32; 6],
    /// Bytes of `packet`: at least 40.
    pub length: u32,
    /// Bytes of `link`: 0, 14, 18 or 22.
    pub link_length: u32,
}

impl Answer {
    pub const EMPTY: Self = Self { packet: [0; WORDS], link: [0; 6], length: 0, link_length: 0 };
}

/// A frame that can be quoted.
pub trait Quote: Packet {
    /// Copies `length` bytes (20 to 1232) at `offset`, as they are, to `to[at..]`.
    fn copy(&self, offset: u32, length: u32, to: &mut [u32; WORDS], at: usize) -> bool;

    /// Sum of `length` bytes (a multiple of 4, 20 to 1232) at `words[at..]` as the Internet checksum
    /// adds: 16-bit words in network byte order, carries added back in, folded to 16 bits.
    fn sum(words: &[u32; WORDS], at: usize, length: u32) -> u32;
}

/// Composes the answer to a blocked packet; `false` where there must be none. `gso`: the lengths in
/// the packet's headers are not final. `zero` is [`crate::image::Words::zero`].
#[inline(always)]
pub fn compose<Q: Quote>(
    packet: &Q,
    parsed: &Parsed,
    ethernet: bool,
    gso: bool,
    zero: u32,
    out: &mut Answer,
) -> bool {
    if parsed.kind != kind::IP {
        return false;
    }
    let mut offset = 0;
    if ethernet {
        let Some(length) = link(packet, out) else { return false };
        offset = length;
    }
    out.link_length = offset;
    // One state from here on, whatever the link header was.
    offset += zero & 31;
    match (parsed.source(), parsed.destination()) {
        (Address::V4(src), Address::V4(dst)) => v4(packet, parsed, offset, gso, src, dst, out),
        (Address::V6(..), Address::V6(..)) => v6(packet, parsed, offset, gso, zero, out),
        _ => false,
    }
}

/// The link header for the way back; `None` where a group address or an unknown form is in it.
#[inline(always)]
fn link<Q: Quote>(packet: &Q, out: &mut Answer) -> Option<u32> {
    let [a, b, c, d, e, f] = packet.words::<6>(0)?;
    const GROUP: u32 = 1 << 24;
    // First bytes of destination and source.
    if a & GROUP != 0 || b & GROUP >> 16 != 0 {
        return None;
    }
    out.link = [
        (b << 16 | c >> 16).to_be(),
        (c << 16 | a >> 16).to_be(),
        (a << 16 | b >> 16).to_be(),
        d.to_be(),
        e.to_be(),
        f.to_be(),
    ];
    let outer = d >> 16;
    if outer != ethertype::VLAN && outer != ethertype::QINQ {
        return Some(14);
    }
    if e >> 16 == ethertype::VLAN { Some(22) } else { Some(18) }
}

#[inline(always)]
fn v4<Q: Quote>(
    packet: &Q,
    parsed: &Parsed,
    offset: u32,
    gso: bool,
    src: u32,
    dst: u32,
    out: &mut Answer,
) -> bool {
    // This network, loopback, groups, reserved, broadcast.
    let unicast = |address: u32| !matches!(address >> 24, 0 | 127 | 224..=255);
    if !unicast(src) || !unicast(dst) {
        return false;
    }
    let Some([first, fragment]) = packet.words_at::<2>(offset) else { return false };
    if fragment & 0x1fff != 0 {
        return false;
    }
    let header = ((first >> 24) & 0xf) * 4;
    let frame = packet.len().saturating_sub(offset);
    let total = if gso { frame } else { min(first & 0xffff, frame) };
    let words = &mut out.packet;
    words[3] = dst.to_be();
    words[4] = src.to_be();
    let addresses = half(src) + half(dst);
    if parsed.protocol == protocol::TCP {
        let data = total.saturating_sub(header);
        let Some(reset) = Reset::of(packet, offset + header, data) else { return false };
        words[0] = (0x4500_0000u32 | 40).to_be();
        words[1] = DONT_FRAGMENT.to_be();
        seal_v4(words, 0x4500 + 40, protocol::TCP, addresses);
        reset.write(words, 5, addresses);
        out.length = 40;
        return true;
    }
    if parsed.protocol == protocol::ICMP {
        // Answered are questions and answers, not errors, nor what nobody knows.
        match parsed.dport >> 8 {
            0 | 8..=10 | 13..=18 => {}
            _ => return false,
        }
    }
    let quote = min(total, QUOTE4);
    let first = PRECEDENCE << 16 | (28 + quote);
    words[0] = (0x4500_0000 | first).to_be();
    words[1] = DONT_FRAGMENT.to_be();
    seal_v4(words, (0x4500 | PRECEDENCE) + 28 + quote, protocol::ICMP, addresses);
    out.length = 28 + quote;
    // Destination unreachable, communication administratively prohibited.
    unreachable(packet, offset, quote, 3 << 24 | 13 << 16, 0, &mut out.packet, HEAD4)
}

#[inline(always)]
fn v6<Q: Quote>(
    packet: &Q,
    parsed: &Parsed,
    offset: u32,
    gso: bool,
    zero: u32,
    out: &mut Answer,
) -> bool {
    // Unspecified, loopback, groups.
    let unicast = |[high, low]: [u64; 2]| high >> 56 != 0xff && (high != 0 || low > 1);
    if !unicast(parsed.src) || !unicast(parsed.dst) {
        return false;
    }
    let Some([_, sizes]) = packet.words_at::<2>(offset) else { return false };
    let frame = packet.len().saturating_sub(offset);
    let total = if gso { frame } else { min(40 + (sizes >> 16), frame) };
    let Some(body) = body(packet, offset, (sizes >> 8) & 0xff, zero) else { return false };
    let words = &mut out.packet;
    words[0] = 0x6000_0000u32.to_be();
    let mut addresses = 0;
    let ends = [parsed.dst[0], parsed.dst[1], parsed.src[0], parsed.src[1]];
    let mut i = 0;
    while i < 4 {
        let (high, low) = ((ends[i] >> 32) as u32, ends[i] as u32);
        words[2 + 2 * i] = high.to_be();
        words[3 + 2 * i] = low.to_be();
        addresses += half(high) + half(low);
        i += 1;
    }
    if parsed.protocol == protocol::TCP {
        let data = total.saturating_sub(body - offset);
        let Some(reset) = Reset::of(packet, body, data) else { return false };
        words[1] = (20 << 16 | protocol::TCP << 8 | HOPS).to_be();
        reset.write(words, 10, addresses);
        out.length = 60;
        return true;
    }
    if parsed.protocol == protocol::ICMPV6 {
        match parsed.dport >> 8 {
            // Errors; MLD, neighbour discovery and redirects.
            0..=127 | 130..=137 | 143 => return false,
            _ => {}
        }
    }
    let quote = min(total, QUOTE6);
    words[1] = ((8 + quote) << 16 | protocol::ICMPV6 << 8 | HOPS).to_be();
    out.length = 48 + quote;
    let pseudo = addresses + 8 + quote + protocol::ICMPV6;
    // Destination unreachable, communication administratively prohibited.
    unreachable(packet, offset, quote, 1 << 24 | 1 << 16, pseudo, &mut out.packet, HEAD6)
}

/// Where the headers of an IPv6 packet end; `None` for a later fragment.
#[inline(always)]
fn body<Q: Quote>(packet: &Q, offset: u32, mut next: u32, zero: u32) -> Option<u32> {
    let mut at = offset + 40;
    let mut i = 0;
    while i < 8 {
        let size = match next {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | 135 | 139 | 140 => 8,
            protocol::FRAGMENT => 0,
            AUTHENTICATION => 4,
            _ => return Some(at),
        };
        let [word] = packet.words_at::<1>(at)?;
        if next == protocol::FRAGMENT && word & 0xfff8 != 0 {
            return None;
        }
        // The fixed part: 8 bytes in all forms.
        at += 8 + ((word >> 16) & 0xff) * size;
        // Every way through the loop looks alike to the verifier; no packet is longer.
        at = (at + zero) & 0xffff;
        next = (word >> 24) + zero;
        i += 1;
    }
    None
}

const AUTHENTICATION: u32 = 51;

/// What a reset says.
struct Reset {
    ports: u32,
    sequence: u32,
    acknowledged: u32,
    flags: u32,
}

impl Reset {
    /// RFC 9293 section 3.10.7.1, a segment to a closed port. `length`: bytes of header and data.
    #[inline(always)]
    fn of<Q: Quote>(packet: &Q, offset: u32, length: u32) -> Option<Self> {
        let [ports, sequence, acknowledged, control] = packet.words_at::<4>(offset)?;
        let flags = (control >> 16) & 0xff;
        if flags & RST != 0 {
            return None;
        }
        let ports = ports.rotate_left(16);
        if flags & ACK != 0 {
            return Some(Self { ports, sequence: acknowledged, acknowledged: 0, flags: RST });
        }
        let data = length.saturating_sub((control >> 28) * 4);
        let segment = data + ((flags & SYN) >> 1) + (flags & FIN);
        let acknowledged = sequence.wrapping_add(segment);
        Some(Self { ports, sequence: 0, acknowledged, flags: RST | ACK })
    }

    #[inline(always)]
    fn write(&self, words: &mut [u32; WORDS], at: usize, addresses: u32) {
        let control = 5 << 28 | self.flags << 16;
        let sum = addresses + 20 + protocol::TCP + half(self.ports) + half(self.sequence);
        let sum = sum + half(self.acknowledged) + half(control);
        words[at] = self.ports.to_be();
        words[at + 1] = self.sequence.to_be();
        words[at + 2] = self.acknowledged.to_be();
        words[at + 3] = control.to_be();
        words[at + 4] = (complement(sum) << 16).to_be();
    }
}

/// The third word of an IPv4 header. `first` is the sum of the halves of the first.
#[inline(always)]
fn seal_v4(words: &mut [u32; WORDS], first: u32, protocol: u32, addresses: u32) {
    let hops = HOPS << 8 | protocol;
    let sum = first + DONT_FRAGMENT + hops + addresses;
    words[2] = (hops << 16 | complement(sum)).to_be();
}

/// ICMP header and quote at `words[at - 2..]`.
#[inline(always)]
fn unreachable<Q: Quote>(
    packet: &Q,
    offset: u32,
    quote: u32,
    message: u32,
    pseudo: u32,
    words: &mut [u32; WORDS],
    at: usize,
) -> bool {
    // The bytes after the last one count as zeros.
    let Some(last) = words.get_mut(at + (quote >> 2) as usize) else { return false };
    *last = 0;
    if !packet.copy(offset, quote, words, at) {
        return false;
    }
    let sum = pseudo + half(message) + Q::sum(words, at, (quote + 3) & !3);
    words[at - 2] = (message | complement(sum)).to_be();
    words[at - 1] = 0;
    true
}

/// Both halves of a word, added.
#[inline(always)]
const fn half(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// The Internet checksum from a sum of fewer than 2^15 halves.
#[inline(always)]
const fn complement(sum: u32) -> u32 {
    !half(half(sum)) & 0xffff
}

/// A comparison that stays one: the verifier sees the bound.
#[inline(always)]
const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

/// A frame in memory.
impl Quote for [u8] {
    fn copy(&self, offset: u32, length: u32, to: &mut [u32; WORDS], at: usize) -> bool {
        let start = offset as usize;
        let Some(bytes) = self.get(start..start + length as usize) else { return false };
        for (i, byte) in bytes.iter().enumerate() {
            let Some(word) = to.get_mut(at + i / 4) else { return false };
            let mut raw = word.to_ne_bytes();
            raw[i % 4] = *byte;
            *word = u32::from_ne_bytes(raw);
        }
        true
    }

    fn sum(words: &[u32; WORDS], at: usize, length: u32) -> u32 {
        let quoted = words.iter().skip(at).take(length as usize / 4);
        let sum: u64 = quoted.map(|word| u64::from(half(u32::from_be(*word)))).sum();
        let folded = (sum >> 16) + (sum & 0xffff);
        half(folded as u32)
    }
}
