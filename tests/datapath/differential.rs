//! Kernel, user-space classifier and naive model must give one answer for every destination.
//!
//! The kernel runs the real tc program on a real packet (BPF_PROG_TEST_RUN). Its return code gives
//! the verdict of each packet; its counters give the reason. Packets are grouped by the answer that
//! the model expects, so that a group must move exactly one counter by exactly its size; a group that
//! does not is cut in half until the address is found.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sov_common::{
    image::Words,
    judge::judge,
    parse::{Frame, Packet, Parsed, parse},
    verdict::{Reason, Verdict},
};
use sov_tests::{
    lab::{SOURCE4, SOURCE6},
    model::{self, Query, Rows, Tier},
    packet::{self, ICMP, ICMP6, TCP, UDP, eth, icmp, icmp6, ip4, ip6},
    rng::Rng,
};

use crate::kernel::Kernel;

/// A tag as the kernel knows it and as the model knows it.
pub(crate) struct Tagged<'a> {
    pub(crate) slot: u8,
    pub(crate) mark: u32,
    pub(crate) tier: &'a Tier,
    /// Else the tag is audited: a block is counted as such and passes.
    pub(crate) enforce: bool,
}

/// Packet templates, one for each family and protocol; destination and port are patched in.
struct Templates {
    frames: [[Vec<u8>; 3]; 2],
}

impl Templates {
    fn new() -> Self {
        let (d4, d6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        let (s4, s6) = (SOURCE4, SOURCE6);
        let tcp = |s: IpAddr, d| packet::tcp(s, d, 40_000, 0, packet::SYN, &[]);
        let udp = |s: IpAddr, d| packet::udp(s, d, 40_000, 0, b"differential");
        let echo = b"\0\x01\0\x01ping";
        Self {
            frames: [
                [
                    ip4(s4, d4, TCP).frame(&tcp(s4.into(), d4.into())),
                    ip4(s4, d4, UDP).frame(&udp(s4.into(), d4.into())),
                    ip4(s4, d4, ICMP).frame(&icmp(8, 0, echo)),
                ],
                [
                    ip6(s6, d6, TCP).frame(&tcp(s6.into(), d6.into())),
                    ip6(s6, d6, UDP).frame(&udp(s6.into(), d6.into())),
                    eth(packet::ETH_IP6, &ip6(s6, d6, ICMP6).wrap(&icmp6(s6, d6, 128, 0, echo))),
                ],
            ],
        }
    }

    /// The frame that asks `query`.
    fn frame(&mut self, query: &Query) -> &[u8] {
        let kind = match query.protocol {
            TCP => 0,
            UDP => 1,
            _ => 2,
        };
        let (frame, transport) = match query.address {
            IpAddr::V4(address) => {
                let frame = &mut self.frames[0][kind];
                frame[30..34].copy_from_slice(&address.octets());
                (frame, 34)
            }
            IpAddr::V6(address) => {
                let frame = &mut self.frames[1][kind];
                frame[38..54].copy_from_slice(&address.octets());
                (frame, 54)
            }
        };
        if kind < 2 {
            frame[transport + 2..transport + 4].copy_from_slice(&query.port.to_be_bytes());
        }
        frame
    }
}

/// A question about `address`: protocol and port are chosen by `rng`, within what rules can name.
pub(crate) fn question(rng: &mut Rng, address: IpAddr, now: u64) -> Query {
    let protocol = match rng.below(5) {
        0 | 1 => TCP,
        2 | 3 => UDP,
        _ if address.is_ipv4() => ICMP,
        _ => ICMP6,
    };
    let port = match protocol {
        ICMP => 8 << 8,
        ICMP6 => 128 << 8,
        _ if rng.chance(20) => 443,
        _ => rng.below(2500) as u16,
    };
    // UDP to a known tunnel port is another question (the parser's table asks it).
    let port = if protocol == UDP && matches!(port, 1701 | 2152) { 53 } else { port };
    Query { address, protocol, port, now }
}

/// Random destinations: half near `prefixes`, the rest anywhere, special and embedded space included.
pub(crate) fn destinations(rng: &mut Rng, prefixes: &[model::Prefix], count: usize) -> Vec<IpAddr> {
    let inside = |rng: &mut Rng| {
        let prefix = rng.pick(prefixes);
        match prefix.address {
            IpAddr::V4(a) => {
                let host = u64::from(u32::MAX) >> prefix.length;
                IpAddr::from(Ipv4Addr::from(u32::from(a) | rng.u32() & host as u32))
            }
            IpAddr::V6(a) => {
                let host = u128::MAX.checked_shr(prefix.length.into()).unwrap_or(0);
                Ipv6Addr::from(u128::from(a) | rng.u128() & host).into()
            }
        }
    };
    let one = |rng: &mut Rng| match rng.below(16) {
        0..8 if !prefixes.is_empty() => inside(rng),
        0..11 => Ipv4Addr::from(rng.u32()).into(),
        11..13 => Ipv6Addr::from(rng.u128() >> 3 | 1 << 125).into(),
        13 => Ipv6Addr::from(rng.u128()).into(),
        _ => {
            // An IPv4 address of interest inside an IPv6 one.
            let v4 = match inside_v4(rng, prefixes) {
                Some(address) if rng.chance(70) => address,
                _ => rng.u32(),
            };
            let v4 = u128::from(v4);
            let low = rng.u128();
            Ipv6Addr::from(match rng.below(4) {
                0 => 0xffff << 32 | v4,
                1 => 0x0064_ff9b << 96 | v4,
                2 => 0x2002 << 112 | v4 << 80 | low >> 48,
                _ => 0x2001_0000 << 96 | v4 << 64 | low >> 64,
            })
            .into()
        }
    };
    (0..count).map(|_| one(rng)).collect()
}

fn inside_v4(rng: &mut Rng, prefixes: &[model::Prefix]) -> Option<u32> {
    for _ in 0..8 {
        if prefixes.is_empty() {
            return None;
        }
        if let IpAddr::V4(first) = rng.pick(prefixes).address {
            return Some(u32::from(first) | rng.u32() & 0xff);
        }
    }
    None
}

/// What one run has compared.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    pub(crate) packets: usize,
    pub(crate) allowed: usize,
    pub(crate) reasons: BTreeMap<Reason, usize>,
}

/// Asks all three (without privileges: the two in memory); panics with the address where they differ.
pub(crate) fn compare(
    kernel: Option<&Kernel>,
    image: &[u32],
    rows: &Rows,
    tag: &Tagged<'_>,
    queries: &[Query],
    tally: &mut Tally,
) {
    let mut templates = Templates::new();
    let mut groups: BTreeMap<(bool, Reason), Vec<Query>> = BTreeMap::new();
    let tier = sov_common::classify::TagEntry::read(image, tag.slot).tier();
    for query in queries {
        let expected = model::judge(rows, tag.tier, query);
        let user = in_memory(image, tier, templates.frame(query), query.now);
        assert!(
            user == expected,
            "classifier and model differ on {query:?} for tier {}: {user:?}, expected {expected:?} \
             (known: {:?})",
            tag.tier.name,
            rows.find(query.address),
        );
        groups.entry(expected).or_default().push(*query);
        *tally.reasons.entry(expected.1).or_default() += 1;
        tally.allowed += usize::from(expected.0);
    }
    tally.packets += queries.len();
    let Some(kernel) = kernel else { return };
    for (expected, group) in &groups {
        if let Some(bad) = kernel_differs(kernel, &mut templates, tag, *expected, group) {
            panic!(
                "the kernel differs on {bad:?} for tier {}: expected {expected:?} (known: {:?})",
                tag.tier.name,
                rows.find(bad.address),
            );
        }
    }
}

/// The classifier on the image in memory, through the parser: what `explain` runs.
pub(crate) fn in_memory<W: Words + ?Sized>(
    image: &W,
    tier: u32,
    frame: &[u8],
    now: u64,
) -> (bool, Reason) {
    let parsed = parsed(frame);
    let decision = judge(image, tier, &parsed, || now as u32);
    let reason = Reason::from_u8(decision.reason).expect("a known reason");
    (decision.allow, reason)
}

/// The parser on memory.
pub(crate) fn parsed(frame: &[u8]) -> Parsed {
    let mut parsed = Parsed::EMPTY;
    let outer = Frame { ethernet: true, protocol: 0, gso: false };
    parse(&Bytes(frame), &outer, 0, &mut parsed);
    parsed
}

/// A frame in memory, as a sized type.
struct Bytes<'a>(&'a [u8]);

impl Packet for Bytes<'_> {
    fn len(&self) -> u32 {
        Packet::len(self.0)
    }
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.0.words(offset)
    }
    fn words_at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.0.words_at(offset)
    }
    fn byte_at(&self, offset: u32) -> Option<u8> {
        self.0.byte_at(offset)
    }
}

/// A query of the group that the kernel answers otherwise, if there is one.
fn kernel_differs(
    kernel: &Kernel,
    templates: &mut Templates,
    tag: &Tagged<'_>,
    expected: (bool, Reason),
    group: &[Query],
) -> Option<Query> {
    let verdict = match (expected.0, tag.enforce) {
        (true, _) => Verdict::Allow,
        (false, true) => Verdict::Block,
        (false, false) => Verdict::WouldBlock,
    };
    let before = kernel.counters();
    for query in group {
        let passed = kernel.passes(templates.frame(query), tag.mark);
        if passed != (verdict != Verdict::Block) {
            return Some(*query);
        }
    }
    let moved = kernel.moved(&before);
    if moved == [(tag.slot, expected.1, verdict, group.len() as u64)] {
        return None;
    }
    if let [only] = group {
        eprintln!("{only:?} moved {moved:?}");
        return Some(*only);
    }
    let (left, right) = group.split_at(group.len() / 2);
    kernel_differs(kernel, templates, tag, expected, left)
        .or_else(|| kernel_differs(kernel, templates, tag, expected, right))
}
