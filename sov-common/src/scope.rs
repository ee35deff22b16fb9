//! Address kinds: the IANA special-purpose registries (RFC 6890) as two constant functions.
//!
//! The only place that knows special address space. Addresses that carry an IPv4 address inside
//! (mapped, NAT64, 6to4, Teredo) are unwrapped by the classifier before it asks here; asked directly,
//! mapped, NAT64 and Teredo are `Reserved` and 6to4 is `Global`.

use crate::verdict::Scope;

/// The kind of an IPv4 address, given in host byte order.
#[inline(always)]
pub const fn scope_v4(address: u32) -> Scope {
    match address >> 24 {
        0 => Scope::Reserved,
        10 => Scope::Private,
        100 if address >> 22 == 0x6440_0000 >> 22 => Scope::Cgnat,
        127 => Scope::Loopback,
        169 if address >> 16 == 0xa9fe => Scope::LinkLocal,
        172 if address >> 20 == 0xac1 => Scope::Private,
        192 => match address >> 8 {
            // Protocol assignments, and the withdrawn 6to4 relay anycast (RFC 7526).
            0xc0_0000 | 0xc0_5863 => Scope::Reserved,
            0xc0_0002 => Scope::Documentation,
            _ if address >> 16 == 0xc0a8 => Scope::Private,
            _ => Scope::Global,
        },
        198 if address >> 17 == 0xc612_0000 >> 17 => Scope::Benchmark,
        198 if address >> 8 == 0xc6_3364 => Scope::Documentation,
        203 if address >> 8 == 0xcb_0071 => Scope::Documentation,
        224..=239 => Scope::Multicast,
        240..=255 => Scope::Reserved,
        _ => Scope::Global,
    }
}

/// The kind of an IPv6 address, given in host byte order.
#[inline(always)]
pub const fn scope_v6(address: u128) -> Scope {
    scope_v6_halves((address >> 64) as u64, address as u64)
}

/// [`scope_v6`] for an address in two halves, upper first, each in host byte order.
#[inline(always)]
pub const fn scope_v6_halves(high: u64, low: u64) -> Scope {
    let word = (high >> 48) as u16;
    match word {
        0 if high == 0 && low == 1 => Scope::Loopback,
        0xfc00..=0xfdff => Scope::Private,
        0xfe80..=0xfebf => Scope::LinkLocal,
        0xff00..=0xffff => Scope::Multicast,
        0x2001 => scope_2001(high, low),
        // 3fff::/20
        0x3fff if high >> 44 == 0x3_fff0 => Scope::Documentation,
        0x2000..=0x3fff => Scope::Global,
        _ => Scope::Reserved,
    }
}

/// 2001::/16: allocated unicast beside the protocol assignments of 2001::/23.
#[inline(always)]
const fn scope_2001(high: u64, low: u64) -> Scope {
    let second = (high >> 32) as u16;
    match second {
        0x0db8 => Scope::Documentation,
        0x0002 if high as u32 >> 16 == 0 => Scope::Benchmark,
        // Port control, TURN and DNS-SD anycast.
        0x0001 if high as u32 == 0 && low >= 1 && low <= 3 => Scope::Global,
        // AMT, AS112, ORCHIDv2, drone identifiers.
        0x0003 | 0x0020..=0x003f => Scope::Global,
        0x0004 if high as u32 >> 16 == 0x0112 => Scope::Global,
        0x0000..=0x01ff => Scope::Reserved,
        _ => Scope::Global,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn v4(text: &str) -> Scope {
        scope_v4(text.parse::<Ipv4Addr>().unwrap().to_bits())
    }

    fn v6(text: &str) -> Scope {
        scope_v6(text.parse::<Ipv6Addr>().unwrap().to_bits())
    }

    /// First and last address of each block, and their neighbours outside.
    #[test]
    fn ipv4_blocks_are_exact() {
        let blocks = [
            ("0.0.0.0", "0.255.255.255", Scope::Reserved),
            ("10.0.0.0", "10.255.255.255", Scope::Private),
            ("100.64.0.0", "100.127.255.255", Scope::Cgnat),
            ("127.0.0.0", "127.255.255.255", Scope::Loopback),
            ("169.254.0.0", "169.254.255.255", Scope::LinkLocal),
            ("172.16.0.0", "172.31.255.255", Scope::Private),
            ("192.0.0.0", "192.0.0.255", Scope::Reserved),
            ("192.0.2.0", "192.0.2.255", Scope::Documentation),
            ("192.88.99.0", "192.88.99.255", Scope::Reserved),
            ("192.168.0.0", "192.168.255.255", Scope::Private),
            ("198.18.0.0", "198.19.255.255", Scope::Benchmark),
            ("198.51.100.0", "198.51.100.255", Scope::Documentation),
            ("203.0.113.0", "203.0.113.255", Scope::Documentation),
            ("224.0.0.0", "239.255.255.255", Scope::Multicast),
            ("240.0.0.0", "255.255.255.255", Scope::Reserved),
        ];
        for (first, last, scope) in blocks {
            assert_eq!(v4(first), scope, "{first}");
            assert_eq!(v4(last), scope, "{last}");
            let before = first.parse::<Ipv4Addr>().unwrap().to_bits().checked_sub(1);
            let after = last.parse::<Ipv4Addr>().unwrap().to_bits().checked_add(1);
            for neighbour in [before, after].into_iter().flatten() {
                let expected = blocks
                    .iter()
                    .find(|(first, last, _)| {
                        first.parse::<Ipv4Addr>().unwrap().to_bits() <= neighbour
                            && neighbour <= last.parse::<Ipv4Addr>().unwrap().to_bits()
                    })
                    .map_or(Scope::Global, |block| block.2);
                assert_eq!(scope_v4(neighbour), expected, "{}", Ipv4Addr::from_bits(neighbour));
            }
        }
    }

    #[test]
    fn ipv6_blocks_are_exact() {
        for (address, scope) in [
            ("::", Scope::Reserved),
            ("::1", Scope::Loopback),
            ("::2", Scope::Reserved),
            ("64:ff9b::8.8.8.8", Scope::Reserved),
            ("100::1", Scope::Reserved),
            ("1fff:ffff::", Scope::Reserved),
            ("2000::", Scope::Global),
            ("2001::1", Scope::Reserved),
            ("2001:1::1", Scope::Global),
            ("2001:1::4", Scope::Reserved),
            ("2001:2::1", Scope::Benchmark),
            ("2001:2:0:ffff::", Scope::Benchmark),
            ("2001:2:1::", Scope::Reserved),
            ("2001:4:112::1", Scope::Global),
            ("2001:10::1", Scope::Reserved),
            ("2001:20::1", Scope::Global),
            ("2001:1ff:ffff::", Scope::Reserved),
            ("2001:200::1", Scope::Global),
            ("2001:db7:ffff::", Scope::Global),
            ("2001:db8::1", Scope::Documentation),
            ("2001:db8:ffff:ffff::", Scope::Documentation),
            ("2001:db9::", Scope::Global),
            ("2002:808:808::", Scope::Global),
            ("3ffe:ffff::", Scope::Global),
            ("3fff::1", Scope::Documentation),
            ("3fff:fff:ffff::", Scope::Documentation),
            ("3fff:1000::", Scope::Global),
            ("4000::", Scope::Reserved),
            ("fbff:ffff::", Scope::Reserved),
            ("fc00::", Scope::Private),
            ("fdff:ffff::", Scope::Private),
            ("fe00::", Scope::Reserved),
            ("fe80::1", Scope::LinkLocal),
            ("febf:ffff::", Scope::LinkLocal),
            ("fec0::", Scope::Reserved),
            ("ff02::1", Scope::Multicast),
        ] {
            assert_eq!(v6(address), scope, "{address}");
        }
    }
}
