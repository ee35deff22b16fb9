//! The packet parser: bytes to what the classifier needs. What is not understood is not passed.
//!
//! Used by the tc and XDP programs on packet memory and by tests and replays on slices. It holds no
//! policy: it says what a packet is, and where it lies or cannot be read.

mod ipv4;
mod ipv6;
mod tunnel;

use crate::classify::Address;

/// IP protocol numbers (IANA).
pub mod protocol {
    pub const HOP_BY_HOP: u32 = 0;
    pub const ICMP: u32 = 1;
    pub const IGMP: u32 = 2;
    pub const IPIP: u32 = 4;
    pub const TCP: u32 = 6;
    pub const UDP: u32 = 17;
    pub const DCCP: u32 = 33;
    pub const IPV6: u32 = 41;
    pub const ROUTING: u32 = 43;
    pub const FRAGMENT: u32 = 44;
    pub const GRE: u32 = 47;
    pub const ICMPV6: u32 = 58;
    pub const NO_NEXT: u32 = 59;
    pub const DESTINATION_OPTIONS: u32 = 60;
    pub const SCTP: u32 = 132;
    pub const UDP_LITE: u32 = 136;
}

/// Ethertypes (IEEE 802).
pub mod ethertype {
    pub const IPV4: u32 = 0x0800;
    pub const ARP: u32 = 0x0806;
    pub const VLAN: u32 = 0x8100;
    pub const IPV6: u32 = 0x86dd;
    pub const QINQ: u32 = 0x88a8;
    pub const MPLS: u32 = 0x8847;
    pub const MPLS_MULTICAST: u32 = 0x8848;
    pub const PPPOE_DISCOVERY: u32 = 0x8863;
    pub const PPPOE: u32 = 0x8864;
}

/// Access to the bytes of a frame, linear or not.
#[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
pub trait Packet {
    /// Length of the frame, link-layer header included.
    fn len(&self) -> u32;

    /// `N` words in host byte order from an offset below 64.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;

    /// `N` words in host byte order from any offset.
    fn words_at<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;

    fn byte_at(&self, offset: u32) -> Option<u8>;

    /// As [`Packet::words_at`], for what every packet is asked: made for speed where the bytes are
    /// near the start and linear.
    #[inline(always)]
    fn near<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.words_at(offset)
    }
}

/// What the kernel says about a frame before its bytes are read.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// The frame starts with an Ethernet header; else with IP.
    pub ethernet: bool,
    /// Ethertype that the kernel believes in, host byte order; 0 = it has no opinion.
    pub protocol: u16,
    /// The packet is still to be cut into segments: its IP length may exceed its own fields.
    pub gso: bool,
}

/// What a frame is, in plain numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// [`kind`], or the number of the [`crate::verdict::Reason`] why the frame is refused.
    pub kind: u32,
    /// 4 or 6.
    pub family: u32,
    /// Upper and lower half; IPv4 in the lower one. Host byte order.
    pub src: [u64; 2],
    pub dst: [u64; 2],
    /// Of the outer IP header, after extension headers.
    pub protocol: u32,
    /// Host byte order; 0 where there is none or a fragment hides it.
    pub sport: u32,
    /// Host byte order; ICMP: type * 256 + code.
    pub dport: u32,
    pub dscp: u32,
    pub ethertype: u32,
    /// VLAN id of the outermost tag in the frame that names one (a priority tag has id 0); 0 = none.
    /// Tags that the network card or the kernel keeps beside the frame are not in it.
    pub vlan: u32,
    /// 1 = neighbour discovery, DHCP or group membership in exact form.
    pub link: u32,
    /// [`tunnel_kind`].
    pub tunnel: u32,
    /// Destination inside a readable tunnel, with its protocol and port.
    pub inner_family: u32,
    pub inner: [u64; 2],
    pub inner_protocol: u32,
    pub inner_port: u32,
    /// TCP flags byte; 0 for other protocols.
    pub tcp_flags: u32,
}

/// What was understood; every other number is a reason to refuse.
pub mod kind {
    pub const IP: u32 = 1;
    /// ARP in its exact form: link scope, carries nothing.
    pub const ARP: u32 = 2;
    pub const MALFORMED: u32 = crate::verdict::Reason::Malformed as u32;
    pub const TUNNEL: u32 = crate::verdict::Reason::Tunnel as u32;
}

/// Encapsulations by protocol number and known ports.
pub mod tunnel_kind {
    pub const NONE: u32 = 0;
    /// `inner` and its protocol are set.
    pub const READABLE: u32 = 1;
    /// Encrypted, unknown, nested or fragmented.
    pub const UNREADABLE: u32 = 2;
}

impl Parsed {
    pub const EMPTY: Self = Self {
        kind: kind::MALFORMED,
        family: 4,
        src: [0; 2],
        dst: [0; 2],
        protocol: 0,
        sport: 0,
        dport: 0,
        dscp: 0,
        ethertype: 0,
        vlan: 0,
        link: 0,
        tunnel: tunnel_kind::NONE,
        inner_family: 4,
        inner: [0; 2],
        inner_protocol: 0,
        inner_port: 0,
        tcp_flags: 0,
    };

    /// Makes it [`Parsed::EMPTY`], but for what is inside a tunnel: that has a meaning only where
    /// `tunnel` says so, and the parser has set all of it then. `zero` is unknown to the compiler, which
    /// else calls memset, a loop over bytes on the BPF target.
    #[inline(always)]
    fn clear(&mut self, zero: u32) {
        self.kind = kind::MALFORMED;
        self.family = 4;
        self.src = [zero as u64; 2];
        self.dst = [zero as u64; 2];
        self.protocol = zero;
        self.sport = zero;
        self.dport = zero;
        self.dscp = zero;
        self.ethertype = zero;
        self.vlan = zero;
        self.link = zero;
        self.tunnel = tunnel_kind::NONE + zero;
        self.tcp_flags = zero;
    }

    /// Refused before its source was read. A packet from the unspecified address that is refused
    /// counts as one: nothing is lost, it is refused.
    #[inline(always)]
    pub fn is_blind(&self) -> bool {
        self.kind != kind::IP && self.kind != kind::ARP && self.src[0] | self.src[1] == 0
    }

    #[inline(always)]
    pub fn source(&self) -> Address {
        address(self.family, self.src)
    }

    #[inline(always)]
    pub fn destination(&self) -> Address {
        address(self.family, self.dst)
    }

    #[inline(always)]
    pub fn inside(&self) -> Address {
        address(self.inner_family, self.inner)
    }
}

#[inline(always)]
fn address(family: u32, halves: [u64; 2]) -> Address {
    if family == 4 { Address::V4(halves[1] as u32) } else { Address::V6(halves[0], halves[1]) }
}

/// Parses a frame. Never fails: what it cannot read comes back refused, with the addresses as far as
/// they were read. `zero` is [`crate::image::Words::zero`]. The kernel keeps `out` in a map: what is
/// read back from there has no history that the verifier would have to tell apart.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, frame: &Frame, zero: u32, out: &mut Parsed) {
    out.clear(zero);
    if let Some(offset) = link_layer(packet, frame, out, zero) {
        // One call: the parser is in the program once.
        network(packet, frame, out, offset, zero);
    }
}

/// The id in a tag's control information (IEEE 802.1Q).
const VLAN_ID: u32 = 0xfff;

/// Ethernet and at most two VLAN tags, or nothing: the offset of what follows.
#[inline(always)]
fn link_layer<P: Packet>(packet: &P, frame: &Frame, out: &mut Parsed, zero: u32) -> Option<u32> {
    if !frame.ethernet {
        // The version in the first byte is all that the wire says.
        let [word] = packet.words::<1>(0)?;
        out.ethertype = if word >> 28 == 6 { ethertype::IPV6 } else { ethertype::IPV4 };
        out.ethertype += zero;
        let believed = frame.protocol == 0 || frame.protocol as u32 == out.ethertype;
        return if believed { Some(zero & 31) } else { None };
    }
    let [word] = packet.words::<1>(12)?;
    out.ethertype = word >> 16;
    // AF_PACKET senders may claim one protocol and write another.
    if frame.protocol != 0 && frame.protocol as u32 != out.ethertype {
        return None;
    }
    if out.ethertype != ethertype::VLAN && out.ethertype != ethertype::QINQ {
        return Some(14);
    }
    // TCI and the next ethertype.
    let [tag] = packet.words::<1>(14)?;
    out.ethertype = tag & 0xffff;
    out.vlan = (tag >> 16) & VLAN_ID;
    if out.ethertype != ethertype::VLAN {
        return Some(18 + (zero & 31));
    }
    let [tag] = packet.words::<1>(18)?;
    out.ethertype = tag & 0xffff;
    if out.vlan == 0 {
        // Behind a priority tag, as the kernel sees it (vlan_do_receive).
        out.vlan = (tag >> 16) & VLAN_ID;
    }
    Some(22 + (zero & 31))
}

#[inline(always)]
fn network<P: Packet>(packet: &P, frame: &Frame, out: &mut Parsed, offset: u32, zero: u32) {
    match out.ethertype {
        ethertype::IPV4 => ipv4::parse(packet, frame, out, offset, zero),
        ethertype::IPV6 => ipv6::parse(packet, frame, out, offset, zero),
        ethertype::ARP if frame.ethernet && is_exact_arp(packet, offset) => out.kind = kind::ARP,
        ethertype::MPLS
        | ethertype::MPLS_MULTICAST
        | ethertype::PPPOE
        | ethertype::PPPOE_DISCOVERY => out.kind = kind::TUNNEL,
        _ => {}
    }
}

/// RFC 826 over Ethernet and IPv4, a request or a reply, with nothing behind it but zero padding.
#[inline(always)]
fn is_exact_arp<P: Packet>(packet: &P, offset: u32) -> bool {
    let Some([types, sizes]) = packet.words_at::<2>(offset) else { return false };
    let operation = sizes & 0xffff;
    if types != 0x0001_0800 || sizes >> 16 != 0x0604 || (operation != 1 && operation != 2) {
        return false;
    }
    let end = offset + 28;
    if packet.len() == end {
        return true;
    }
    // Padded to the Ethernet minimum: 18 bytes at most.
    if packet.len() != 60 || end > 56 {
        return false;
    }
    let mut at = end;
    while at < 60 {
        match packet.byte_at(at) {
            Some(0) => at += 1,
            _ => return false,
        }
    }
    true
}

/// Ports, ICMP type, and the tunnels that ride on UDP. `end` is where the IP packet ends.
#[inline(always)]
fn transport<P: Packet>(
    packet: &P,
    out: &mut Parsed,
    offset: u32,
    end: u32,
    fragment: bool,
    zero: u32,
) {
    // What reading compares teaches the verifier nothing about `offset` itself.
    let start = offset + zero;
    if out.protocol == protocol::TCP {
        // Truncated, or a first fragment that hides its own header.
        let header = if offset + 20 > end { None } else { packet.near::<4>(start) };
        let Some([ports, _, _, flags]) = header else {
            out.kind = kind::MALFORMED;
            return;
        };
        out.sport = ports >> 16;
        out.dport = ports & 0xffff;
        out.tcp_flags = (flags >> 16) & 0xff;
        return;
    }
    let need = match out.protocol {
        protocol::UDP | protocol::UDP_LITE | protocol::ICMP | protocol::ICMPV6 => 8,
        protocol::SCTP | protocol::DCCP => 12,
        _ => return,
    };
    // As above.
    let header = if offset + need > end { None } else { packet.near::<1>(start) };
    let Some([word]) = header else {
        out.kind = kind::MALFORMED;
        return;
    };
    if out.protocol == protocol::ICMP || out.protocol == protocol::ICMPV6 {
        out.dport = word >> 16;
        return;
    }
    out.sport = word >> 16;
    out.dport = word & 0xffff;
    if out.protocol == protocol::UDP {
        tunnel::udp(packet, out, offset + 8, end, fragment);
    }
}

/// A frame in memory.
impl Packet for [u8] {
    fn len(&self) -> u32 {
        <[u8]>::len(self) as u32
    }

    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.words_at(offset)
    }

    fn words_at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let start = offset as usize;
        let bytes = self.get(start..start.checked_add(N * 4)?)?;
        let mut words = [0; N];
        for (word, b) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
        }
        Some(words)
    }

    fn byte_at(&self, offset: u32) -> Option<u8> {
        self.get(offset as usize).copied()
    }
}
