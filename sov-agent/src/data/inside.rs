//! IPv4 addresses inside IPv6 addresses: traffic to them is judged, looked up and recorded as IPv4.
//!
//! The well-known forms, and the NAT64 prefixes that a site's policy names. The kernel's list is the
//! policy compiler's; a test holds this one against it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

/// An IPv4 address inside an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// `mapped`, `nat64`, `6to4` or `teredo` (its client).
    pub kind: &'static str,
    pub address: Ipv4Addr,
    /// The relay that a Teredo address is reached through.
    pub server: Option<Ipv4Addr>,
}

impl Inside {
    /// `nat64` are the site's own prefixes, each a /96.
    pub fn of(address: IpAddr, nat64: &[Ipv6Net]) -> Option<Self> {
        let IpAddr::V6(address) = address else { return None };
        let bits = address.to_bits();
        // Each keeps the 32 bits that it is about.
        let at = |shift: u32| Ipv4Addr::from_bits((bits >> shift & 0xffff_ffff) as u32);
        let (kind, address, server) = match address.segments() {
            [0, 0, 0, 0, 0, 0xffff, ..] => ("mapped", at(0), None),
            [0x64, 0xff9b, 0, 0, 0, 0, ..] => ("nat64", at(0), None),
            [0x2002, ..] => ("6to4", at(80), None),
            // The client's address is stored inverted.
            [0x2001, 0, ..] => ("teredo", Ipv4Addr::from_bits(!at(0).to_bits()), Some(at(64))),
            _ if is_site_nat64(address, nat64) => ("nat64", at(0), None),
            _ => return None,
        };
        Some(Self { kind, address, server })
    }
}

fn is_site_nat64(address: Ipv6Addr, nat64: &[Ipv6Net]) -> bool {
    nat64.iter().any(|site| site.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(address: &str, nat64: &[&str]) -> Option<(&'static str, String)> {
        let nat64: Vec<Ipv6Net> = nat64.iter().map(|net| net.parse().expect(net)).collect();
        let found = Inside::of(address.parse().expect(address), &nat64)?;
        Some((found.kind, found.address.to_string()))
    }

    #[test]
    fn a_sites_prefix_counts_where_it_is_named() {
        let site = ["fd00:64::/96", "2001:db8:64::/96"];
        for address in ["fd00:64::808:808", "2001:db8:64::8.8.8.8", "64:ff9b::8.8.8.8"] {
            assert_eq!(inside(address, &site), Some(("nat64", "8.8.8.8".into())), "{address}");
        }
        assert_eq!(inside("fd00:64::808:808", &[]), None);
        assert_eq!(inside("fd00:64::1:808:808", &site), None, "beside the prefix");
        assert_eq!(inside("8.8.8.8", &site), None);
    }

    #[test]
    fn every_well_known_form_of_the_policy_compiler_is_seen() {
        for (net, what) in crate::policy::parse::values::EMBEDDING {
            for address in [net.network(), net.broadcast()] {
                assert!(Inside::of(address.into(), &[]).is_some(), "{what} {address}");
            }
        }
    }
}
