//! What the kind of an address fixes before policy and data are asked: loopback, link scope, embedded
//! IPv4, non-global space.

use super::laminar::Range;
use crate::policy::parse::values::EMBEDDING;
use ipnet::{IpNet, Ipv6Net};
use sov_common::{
    image::embedded,
    scope::{scope_v4, scope_v6},
    verdict::Scope,
};

/// What holds for an interval whatever the policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fixed {
    /// Always passes.
    Loopback,
    /// Judged by rules and zones, then by the matrix.
    Global,
    /// Judged by rules and zones only; with `link`, neighbour discovery and the like pass.
    Special { link: bool },
    /// Judged as the IPv4 address inside: one of `sov_common::image::embedded`.
    Embedded(u16),
}

/// Every block that [`scope_v4`] or the link scope can change at.
const V4: [&str; 17] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
];

const V6: [&str; 19] = [
    "::1/128",
    "2000::/3",
    "2001::/23",
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:1::3/128",
    "2001:2::/48",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "3fff::/20",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
    "ff01::/16",
    "ff02::/16",
    "2002::/16",
];

/// Intervals `(start, what holds)`, ascending from 0.
pub(crate) fn v4() -> Vec<(u128, Fixed)> {
    let ranges = V4.iter().filter_map(|text| text.parse::<IpNet>().ok()).map(Range::from);
    intervals(ranges, u128::from(u32::MAX), |start| {
        let address = start as u32;
        let link = address >> 16 == 0xa9fe || address >> 8 == 0xe0_0000 || address == u32::MAX;
        of_scope(scope_v4(address), link)
    })
}

/// `nat64` are the site's own prefixes.
pub(crate) fn v6(nat64: &[Ipv6Net]) -> Vec<(u128, Fixed)> {
    let mut special: Vec<(Range, u16)> = Vec::new();
    for (net, what) in EMBEDDING {
        let class = match what {
            "IPv4-mapped" => embedded::MAPPED,
            "6to4" => embedded::SIX_TO_FOUR,
            "Teredo" => embedded::TEREDO,
            _ => embedded::NAT64,
        };
        special.push((Range::from(IpNet::V6(net)), class));
    }
    special.extend(nat64.iter().map(|net| (Range::from(IpNet::V6(*net)), embedded::NAT64)));
    let blocks = V6.iter().filter_map(|text| text.parse::<IpNet>().ok()).map(Range::from);
    let ranges: Vec<_> = blocks.chain(special.iter().map(|s| s.0)).collect();
    intervals(ranges.into_iter(), u128::MAX, |start| {
        let inside = special.iter().find(|(range, _)| range.first <= start && start <= range.last);
        if let Some((_, class)) = inside {
            return Fixed::Embedded(*class);
        }
        let word = (start >> 112) as u16;
        of_scope(scope_v6(start), word & 0xffc0 == 0xfe80 || matches!(word, 0xff01 | 0xff02))
    })
}

fn of_scope(scope: Scope, link: bool) -> Fixed {
    match scope {
        Scope::Loopback => Fixed::Loopback,
        Scope::Global => Fixed::Global,
        _ => Fixed::Special { link },
    }
}

/// Intervals `(start, kind of address)` of IPv4 and IPv6, ascending from 0.
pub(crate) fn scopes() -> [Vec<(u128, Scope)>; 2] {
    let ranges = |blocks: &[&str]| -> Vec<Range> {
        blocks.iter().filter_map(|text| text.parse::<IpNet>().ok()).map(Range::from).collect()
    };
    [
        intervals(ranges(&V4).into_iter(), u32::MAX.into(), |start| scope_v4(start as u32)),
        intervals(ranges(&V6).into_iter(), u128::MAX, scope_v6),
    ]
}

/// Cuts the space at every edge of `ranges`, asks `value` for each piece, joins equal neighbours.
fn intervals<T: PartialEq>(
    ranges: impl Iterator<Item = Range>,
    max: u128,
    value: impl Fn(u128) -> T,
) -> Vec<(u128, T)> {
    let mut starts = vec![0];
    for range in ranges {
        starts.push(range.first);
        if range.last < max {
            starts.push(range.last + 1);
        }
    }
    starts.sort_unstable();
    starts.dedup();
    let mut out: Vec<(u128, T)> = Vec::new();
    for start in starts {
        let value = value(start);
        if out.last().is_none_or(|last| last.1 != value) {
            out.push((start, value));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(intervals: &[(u128, Fixed)], address: u128) -> Fixed {
        intervals[intervals.partition_point(|i| i.0 <= address) - 1].1
    }

    fn kind(scope: Scope) -> Fixed {
        of_scope(scope, false)
    }

    fn without_link(fixed: Fixed) -> Fixed {
        match fixed {
            Fixed::Special { .. } => Fixed::Special { link: false },
            other => other,
        }
    }

    /// No IPv4 block is finer than /24 but the broadcast address.
    #[test]
    fn ipv4_agrees_with_the_scope_function_everywhere() {
        let intervals = v4();
        let mut position = 0;
        for block in 0..1u32 << 24 {
            for address in [block << 8, block << 8 | 0xff] {
                while intervals.get(position + 1).is_some_and(|i| i.0 <= u128::from(address)) {
                    position += 1;
                }
                assert_eq!(without_link(intervals[position].1), kind(scope_v4(address)));
            }
        }
        for (text, link) in [
            ("169.254.1.1", true),
            ("224.0.0.251", true),
            ("224.0.1.1", false),
            ("255.255.255.255", true),
            ("255.255.255.254", false),
            ("10.0.0.1", false),
        ] {
            let address: std::net::Ipv4Addr = text.parse().unwrap();
            assert_eq!(at(&intervals, address.to_bits().into()), Fixed::Special { link }, "{text}");
        }
    }

    #[test]
    fn ipv6_agrees_with_the_scope_function_at_every_edge_and_at_random() {
        let intervals = v6(&["64:ff9b:1:fffe::/96".parse().unwrap()]);
        let mut seed = 1u128;
        let mut check = |address: u128| {
            let found = at(&intervals, address);
            if !matches!(found, Fixed::Embedded(_)) {
                assert_eq!(without_link(found), kind(scope_v6(address)), "{address:#x}");
            }
        };
        for text in V6 {
            let range = Range::from(text.parse::<IpNet>().unwrap());
            for edge in [range.first, range.last] {
                [edge, edge.wrapping_sub(1), edge.wrapping_add(1)].into_iter().for_each(&mut check);
            }
        }
        for _ in 0..200_000 {
            seed = seed.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(99);
            let random = seed ^ seed >> 64;
            check(random);
            // The assignments of 2001::/16 are the fine part.
            check(0x2001 << 112 | random << 32 >> 40);
            check(random & 0x1ff_0000_ffff_0000_0000_0000_0003 | 0x2001 << 112);
        }
        let class =
            |text: &str| at(&intervals, text.parse::<std::net::Ipv6Addr>().unwrap().to_bits());
        assert_eq!(class("::ffff:8.8.8.8"), Fixed::Embedded(embedded::MAPPED));
        assert_eq!(class("64:ff9b::8.8.8.8"), Fixed::Embedded(embedded::NAT64));
        assert_eq!(class("64:ff9b:1:fffe::1"), Fixed::Embedded(embedded::NAT64));
        assert_eq!(class("64:ff9b:1::1"), Fixed::Special { link: false });
        assert_eq!(class("2002::1"), Fixed::Embedded(embedded::SIX_TO_FOUR));
        assert_eq!(class("2001::1"), Fixed::Embedded(embedded::TEREDO));
        assert_eq!(class("fe80::1"), Fixed::Special { link: true });
        assert_eq!(class("ff02::1:ff00:1"), Fixed::Special { link: true });
        assert_eq!(class("ff05::2"), Fixed::Special { link: false });
        assert_eq!(class("::1"), Fixed::Loopback);
    }
}
