//! Packets as raw bytes, correct unless told to lie. Owns byte layouts and checksums; sends nothing.
//!
//! Layers are functions or small structs that wrap a payload: `eth(0x0800, &ip4(..).wrap(&udp(..)))`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lab::{FAR_MAC, WORK_MAC};

pub const ETH_IP: u16 = 0x0800;
pub const ETH_ARP: u16 = 0x0806;
pub const ETH_VLAN: u16 = 0x8100;
pub const ETH_QINQ: u16 = 0x88a8;
pub const ETH_IP6: u16 = 0x86dd;

pub const HOPOPT: u8 = 0;
pub const ICMP: u8 = 1;
pub const IGMP: u8 = 2;
pub const IPIP: u8 = 4;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SIXINFOUR: u8 = 41;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const GRE: u8 = 47;
pub const ESP: u8 = 50;
pub const AH: u8 = 51;
pub const ICMP6: u8 = 58;
pub const NONE: u8 = 59;
pub const DSTOPTS: u8 = 60;
pub const SCTP: u8 = 132;

/// Ethernet frame from the host under test to the far side.
pub fn eth(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    eth_to(FAR_MAC, ethertype, payload)
}

pub fn eth_to(mac: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&WORK_MAC);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A VLAN tag: what follows the outer ethertype (`tci`, then the inner ethertype and payload).
pub fn vlan(tci: u16, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = tci.to_be_bytes().to_vec();
    out.extend_from_slice(&ethertype.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// An IPv4 header; every field that the parser may doubt can be made to lie.
#[derive(Clone)]
pub struct Ip4 {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    pub tos: u8,
    pub id: u16,
    /// In units of 8 bytes.
    pub offset: u16,
    pub more: bool,
    pub options: Vec<u8>,
    pub version: u8,
    pub ihl: Option<u8>,
    pub total: Option<u16>,
}

pub fn ip4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8) -> Ip4 {
    Ip4 {
        src,
        dst,
        proto,
        tos: 0,
        id: 0x1234,
        offset: 0,
        more: false,
        options: vec![],
        version: 4,
        ihl: None,
        total: None,
    }
}

impl Ip4 {
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        (self.offset, self.more) = (offset, more);
        self
    }
    /// Padded to a multiple of 4 with end-of-options.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }
    pub fn ihl(mut self, words: u8) -> Self {
        self.ihl = Some(words);
        self
    }
    pub fn total(mut self, bytes: u16) -> Self {
        self.total = Some(bytes);
        self
    }

    pub fn wrap(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let ihl = self.ihl.unwrap_or((header / 4) as u8);
        let total = self.total.unwrap_or((header + payload.len()) as u16);
        let mut out = vec![self.version << 4 | ihl & 15, self.tos];
        out.extend_from_slice(&total.to_be_bytes());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&(self.offset | u16::from(self.more) << 13).to_be_bytes());
        out.extend_from_slice(&[64, self.proto, 0, 0]);
        out.extend_from_slice(&self.src.octets());
        out.extend_from_slice(&self.dst.octets());
        out.extend_from_slice(&self.options);
        let sum = checksum(&out);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    /// The whole frame.
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        eth(ETH_IP, &self.wrap(payload))
    }
}

/// An IPv6 header with a chain of extension headers, each already built by [`ext`] or [`frag6`].
#[derive(Clone)]
pub struct Ip6 {
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub class: u8,
    pub version: u8,
    pub length: Option<u16>,
    /// (protocol number, body with a hole at byte 0 for the next-header field)
    pub chain: Vec<(u8, Vec<u8>)>,
    pub proto: u8,
}

pub fn ip6(src: Ipv6Addr, dst: Ipv6Addr, proto: u8) -> Ip6 {
    Ip6 { src, dst, class: 0, version: 6, length: None, chain: vec![], proto }
}

impl Ip6 {
    pub fn class(mut self, class: u8) -> Self {
        self.class = class;
        self
    }
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }
    pub fn length(mut self, bytes: u16) -> Self {
        self.length = Some(bytes);
        self
    }
    pub fn then(mut self, header: (u8, Vec<u8>)) -> Self {
        self.chain.push(header);
        self
    }

    pub fn wrap(&self, payload: &[u8]) -> Vec<u8> {
        let mut body = vec![];
        for (i, (_, bytes)) in self.chain.iter().enumerate() {
            let next = self.chain.get(i + 1).map_or(self.proto, |(number, _)| *number);
            body.push(next);
            body.extend_from_slice(&bytes[1..]);
        }
        body.extend_from_slice(payload);
        let first = self.chain.first().map_or(self.proto, |(number, _)| *number);
        let length = self.length.unwrap_or(body.len() as u16);
        let mut out = vec![self.version << 4 | self.class >> 4, self.class << 4, 0, 0];
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&[first, 64]);
        out.extend_from_slice(&self.src.octets());
        out.extend_from_slice(&self.dst.octets());
        out.extend_from_slice(&body);
        out
    }

    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        eth(ETH_IP6, &self.wrap(payload))
    }
}

/// Extension header `number` in the usual form; `body` follows the two-byte start and is padded with
/// Pad1 to a multiple of 8. AH counts its length in units of 4, minus 2.
pub fn ext(number: u8, body: &[u8]) -> (u8, Vec<u8>) {
    let unit = if number == AH { 4 } else { 8 };
    let mut out = vec![0, 0];
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(8), 0);
    out[1] = if number == AH { (out.len() / unit - 2) as u8 } else { (out.len() / unit - 1) as u8 };
    (number, out)
}

/// Routing header of a type with `segments` left and the addresses it lists.
pub fn routing(kind: u8, segments: u8, addresses: &[Ipv6Addr]) -> (u8, Vec<u8>) {
    let mut body = vec![kind, segments];
    // Type 4 (segment routing): last entry, flags, tag; the others: reserved.
    let last = if kind == 4 { addresses.len().saturating_sub(1) as u8 } else { 0 };
    body.extend_from_slice(&[last, 0, 0, 0]);
    for address in addresses {
        body.extend_from_slice(&address.octets());
    }
    ext(ROUTING, &body)
}

/// Fragment header; `offset` in units of 8 bytes.
pub fn frag6(offset: u16, more: bool) -> (u8, Vec<u8>) {
    let field = offset << 3 | u16::from(more);
    let mut out = vec![0, 0];
    out.extend_from_slice(&field.to_be_bytes());
    out.extend_from_slice(&0xfeed_u32.to_be_bytes());
    (FRAGMENT, out)
}

pub fn udp(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = sport.to_be_bytes().to_vec();
    out.extend_from_slice(&dport.to_be_bytes());
    out.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(payload);
    seal(src, dst, UDP, out, 6)
}

pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub fn tcp(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut out = sport.to_be_bytes().to_vec();
    out.extend_from_slice(&dport.to_be_bytes());
    out.extend_from_slice(&0x0101_0101_u32.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    out.extend_from_slice(data);
    seal(src, dst, TCP, out, 16)
}

/// ICMP message (echo request = type 8) with a checksum.
pub fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, code, 0, 0];
    out.extend_from_slice(rest);
    let sum = checksum(&out);
    out[2..4].copy_from_slice(&sum.to_be_bytes());
    out
}

/// ICMPv6 message (echo request = type 128) with a checksum.
pub fn icmp6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, code, 0, 0];
    out.extend_from_slice(rest);
    seal(src.into(), dst.into(), ICMP6, out, 2)
}

/// Neighbour solicitation for `target` with the source link-layer address option.
pub fn solicitation(src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let mut rest = vec![0; 4];
    rest.extend_from_slice(&target.octets());
    rest.extend_from_slice(options);
    ip6_hops(src, dst, ICMP6, 255, &icmp6(src, dst, 135, 0, &rest))
}

/// The source link-layer address option.
pub fn sllao() -> Vec<u8> {
    let mut option = vec![1, 1];
    option.extend_from_slice(&WORK_MAC);
    option
}

/// An IPv6 packet with a hop limit of its own (ND wants 255, MLD 1).
pub fn ip6_hops(src: Ipv6Addr, dst: Ipv6Addr, proto: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = ip6(src, dst, proto).wrap(payload);
    packet[7] = hops;
    packet
}

/// ARP request of exactly 28 bytes; `trailing` follows it.
pub fn arp(sender: Ipv4Addr, target: Ipv4Addr, trailing: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4, 0, 1];
    out.extend_from_slice(&WORK_MAC);
    out.extend_from_slice(&sender.octets());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&target.octets());
    out.extend_from_slice(trailing);
    out
}

/// IGMPv2 report for a group; `trailing` follows the 8 bytes.
pub fn igmp(group: Ipv4Addr, trailing: &[u8]) -> Vec<u8> {
    let mut out = vec![0x16, 0, 0, 0];
    out.extend_from_slice(&group.octets());
    out.extend_from_slice(trailing);
    let sum = checksum(&out);
    out[2..4].copy_from_slice(&sum.to_be_bytes());
    out
}

/// DHCP discover: 240 bytes of BOOTP and the message-type option.
pub fn dhcp_discover() -> Vec<u8> {
    let mut out = vec![1, 1, 6, 0, 0x39, 0x03, 0xf3, 0x26];
    out.resize(28, 0);
    out.extend_from_slice(&WORK_MAC);
    out.resize(236, 0);
    out.extend_from_slice(&[99, 130, 83, 99, 53, 1, 1, 255]);
    out
}

/// GRE without options around a packet of `ethertype`.
pub fn gre(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0];
    out.extend_from_slice(&ethertype.to_be_bytes());
    out.extend_from_slice(packet);
    out
}

/// VXLAN header around an Ethernet frame.
pub fn vxlan(frame: &[u8]) -> Vec<u8> {
    let mut out = vec![8, 0, 0, 0, 0, 0, 42, 0];
    out.extend_from_slice(frame);
    out
}

/// Geneve header (no options) around an Ethernet frame.
pub fn geneve(frame: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 0x65, 0x58, 0, 0, 42, 0];
    out.extend_from_slice(frame);
    out
}

/// A whole UDP frame of either family: what most tests send.
pub fn udp_frame(src: IpAddr, dst: IpAddr, dport: u16, payload: &[u8]) -> Vec<u8> {
    let segment = udp(src, dst, 40_000, dport, payload);
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => ip4(s, d, UDP).frame(&segment),
        (IpAddr::V6(s), IpAddr::V6(d)) => ip6(s, d, UDP).frame(&segment),
        _ => panic!("{src} and {dst} are of different families"),
    }
}

/// Writes the transport checksum (with pseudo header) at `at`.
fn seal(src: IpAddr, dst: IpAddr, proto: u8, mut segment: Vec<u8>, at: usize) -> Vec<u8> {
    let mut pseudo = vec![];
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            pseudo.extend_from_slice(&s.octets());
            pseudo.extend_from_slice(&d.octets());
            pseudo.extend_from_slice(&[0, proto]);
            pseudo.extend_from_slice(&(segment.len() as u16).to_be_bytes());
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            pseudo.extend_from_slice(&s.octets());
            pseudo.extend_from_slice(&d.octets());
            pseudo.extend_from_slice(&(segment.len() as u32).to_be_bytes());
            pseudo.extend_from_slice(&[0, 0, 0, proto]);
        }
        _ => panic!("{src} and {dst} are of different families"),
    }
    pseudo.extend_from_slice(&segment);
    let mut sum = checksum(&pseudo);
    if sum == 0 && proto == UDP {
        sum = 0xffff;
    }
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_verify() {
        let (s, d) = (Ipv4Addr::new(10, 20, 0, 2), Ipv4Addr::new(203, 0, 113, 1));
        let packet = ip4(s, d, UDP).wrap(&udp(s.into(), d.into(), 1, 2, b"odd"));
        assert_eq!(checksum(&packet[..20]), 0, "a header with its checksum sums to zero");
        let mut pseudo = packet[12..20].to_vec();
        pseudo.extend_from_slice(&[0, UDP, 0, 11]);
        pseudo.extend_from_slice(&packet[20..]);
        assert_eq!(checksum(&pseudo), 0);
    }

    #[test]
    fn extension_chain_links_up() {
        let a = Ipv6Addr::LOCALHOST;
        let packet = ip6(a, a, UDP)
            .then(ext(HOPOPT, &[]))
            .then(routing(4, 1, &[a]))
            .then(frag6(0, true))
            .wrap(b"x");
        assert_eq!(packet[6], HOPOPT);
        assert_eq!(packet[40..42], [ROUTING, 0]);
        assert_eq!(packet[48..52], [FRAGMENT, 2, 4, 1]);
        assert_eq!(packet[72..76], [UDP, 0, 0, 1]);
        assert_eq!(packet.len(), 40 + 8 + 24 + 8 + 1);
    }
}
