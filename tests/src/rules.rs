//! The parser's rules, one row each: what a packet is, and what must become of it.
//!
//! Addresses do not depend on any data set: `10.0.0.0/8` and `fd00::/8` are a zone of the tier,
//! `198.51.100.0/24` and `2001:db8:bad::/48` are denied by rule, `198.51.100.77` and
//! `2001:db8:bad::77` are allowed by rule.

mod ipv4;
mod ipv6;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    lab::{FAR_MAC, SOURCE4, SOURCE6},
    packet::{
        self, AH, DSTOPTS, ESP, ETH_ARP, ETH_IP, ETH_IP6, ETH_QINQ, ETH_VLAN, GRE, HOPOPT, ICMP,
        ICMP6, IGMP, IPIP, NONE, SCTP, SIXINFOUR, SYN, TCP, UDP, arp, dhcp_discover, eth, eth_to,
        ext, frag6, geneve, gre, icmp, icmp6, igmp, ip4, ip6, ip6_hops, routing, sllao,
        solicitation, tcp, udp, vlan, vxlan,
    },
};
use sov_common::verdict::Reason;

pub const POLICY: &str = r#"
version = 1
name = "parser-rules"

[defaults]
mode = "enforce"
response = "drop"

[[zone]]
name = "site"
prefixes = ["10.0.0.0/8", "fd00::/8"]

[[tier]]
name = "strict"
location = ["JP"]
control = ["JP"]
zones = ["site"]
allow = [ { prefix = "198.51.100.77/32" }, { prefix = "2001:db8:bad::77/128" } ]
deny = [ { prefix = "198.51.100.0/24" }, { prefix = "2001:db8:bad::/48" } ]

[[tag]]
name = "marked"
tier = "strict"
rank = 1
select = [ { mark = "0x30/0xf0" } ]
"#;

/// The mark that gives a packet the tag of [`POLICY`].
pub const MARK: u32 = 0x30;

/// description | packet | allowed | reason
pub type Row = (&'static str, Vec<u8>, bool, Reason);

const ZONE4: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const DENIED4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const NAMED4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const ZONE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 9);
const DENIED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 7);
const NAMED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0x77);

const ALLOW: bool = true;
const BLOCK: bool = false;

pub fn rows() -> Vec<Row> {
    let mut rows = plain();
    rows.extend(link_layer());
    rows.extend(ipv4::ipv4());
    rows.extend(ipv4::ipv4_link());
    rows.extend(ipv6::ipv6());
    rows.extend(ipv6::ipv6_link());
    rows.extend(embedded());
    rows.extend(tunnels());
    rows
}

fn udp4(to: Ipv4Addr) -> Vec<u8> {
    udp(SOURCE4.into(), to.into(), 40_000, 9000, b"data")
}

fn udp6(to: Ipv6Addr) -> Vec<u8> {
    udp(SOURCE6.into(), to.into(), 40_000, 9000, b"data")
}

fn four(to: Ipv4Addr) -> packet::Ip4 {
    ip4(SOURCE4, to, UDP)
}

fn six(to: Ipv6Addr) -> packet::Ip6 {
    ip6(SOURCE6, to, UDP)
}

fn plain() -> Vec<Row> {
    use Reason::{AllowRule, DenyRule, Malformed, Zone};
    let tcp4 = |to: Ipv4Addr| {
        ip4(SOURCE4, to, TCP).frame(&tcp(SOURCE4.into(), to.into(), 40_000, 443, SYN, b""))
    };
    let tcp6 = |to: Ipv6Addr| {
        ip6(SOURCE6, to, TCP).frame(&tcp(SOURCE6.into(), to.into(), 40_000, 443, SYN, b""))
    };
    let ping4 = |to| ip4(SOURCE4, to, ICMP).frame(&icmp(8, 0, b"\0\x01\0\x01"));
    let ping6 = |to| ip6(SOURCE6, to, ICMP6).frame(&icmp6(SOURCE6, to, 128, 0, b"\0\x01\0\x01"));
    vec![
        ("UDP over IPv4 to the zone", four(ZONE4).frame(&udp4(ZONE4)), ALLOW, Zone),
        ("UDP over IPv4 to a denied place", four(DENIED4).frame(&udp4(DENIED4)), BLOCK, DenyRule),
        ("a longer allow inside a deny", four(NAMED4).frame(&udp4(NAMED4)), ALLOW, AllowRule),
        ("UDP over IPv6 to the zone", six(ZONE6).frame(&udp6(ZONE6)), ALLOW, Zone),
        ("UDP over IPv6 to a denied place", six(DENIED6).frame(&udp6(DENIED6)), BLOCK, DenyRule),
        ("an allowed /128 in a denied /48", six(NAMED6).frame(&udp6(NAMED6)), ALLOW, AllowRule),
        ("TCP over IPv4 to the zone", tcp4(ZONE4), ALLOW, Zone),
        ("TCP over IPv4 to a denied place", tcp4(DENIED4), BLOCK, DenyRule),
        ("TCP over IPv6 to the zone", tcp6(ZONE6), ALLOW, Zone),
        ("TCP over IPv6 to a denied place", tcp6(DENIED6), BLOCK, DenyRule),
        ("echo request over IPv4 to the zone", ping4(ZONE4), ALLOW, Zone),
        ("echo request over IPv4 to a denied place", ping4(DENIED4), BLOCK, DenyRule),
        ("echo request over IPv6 to the zone", ping6(ZONE6), ALLOW, Zone),
        ("echo request over IPv6 to a denied place", ping6(DENIED6), BLOCK, DenyRule),
        (
            "SCTP to the zone",
            ip4(SOURCE4, ZONE4, SCTP).frame(&[0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0]),
            ALLOW,
            Zone,
        ),
        ("UDP cut off inside its header", four(ZONE4).frame(&udp4(ZONE4)[..4]), BLOCK, Malformed),
        ("TCP cut off inside its header", tcp4(ZONE4)[..14 + 20 + 12].to_vec(), BLOCK, Malformed),
        (
            "ICMPv6 cut off inside its header",
            ip6(SOURCE6, ZONE6, ICMP6).frame(&[128, 0, 0, 0]),
            BLOCK,
            Malformed,
        ),
    ]
}

fn link_layer() -> Vec<Row> {
    use Reason::{DenyRule, Malformed, Scope, Tunnel, Zone};
    let zone = four(ZONE4).wrap(&udp4(ZONE4));
    let denied = four(DENIED4).wrap(&udp4(DENIED4));
    let zone6 = six(ZONE6).wrap(&udp6(ZONE6));
    let denied6 = six(DENIED6).wrap(&udp6(DENIED6));
    let request = arp(SOURCE4, ZONE4, &[]);
    let broadcast = |ethertype, payload: &[u8]| eth_to([0xff; 6], ethertype, payload);
    let mut sizes = request.clone();
    sizes[5] = 16;
    let mut operation = request.clone();
    operation[7] = 9;
    let inner_tag = vlan(7, ETH_IP, &denied);
    vec![
        ("802.1Q, IPv4 inside to the zone", eth(ETH_VLAN, &vlan(42, ETH_IP, &zone)), ALLOW, Zone),
        (
            "802.1Q, IPv4 inside to a denied place",
            eth(ETH_VLAN, &vlan(42, ETH_IP, &denied)),
            BLOCK,
            DenyRule,
        ),
        ("802.1Q, IPv6 inside to the zone", eth(ETH_VLAN, &vlan(42, ETH_IP6, &zone6)), ALLOW, Zone),
        (
            "802.1Q, IPv6 inside to a denied place",
            eth(ETH_VLAN, &vlan(42, ETH_IP6, &denied6)),
            BLOCK,
            DenyRule,
        ),
        (
            "priority tag (vid 0) to a denied place",
            eth(ETH_VLAN, &vlan(0xe000, ETH_IP, &denied)),
            BLOCK,
            DenyRule,
        ),
        (
            "QinQ to the zone",
            eth(ETH_QINQ, &vlan(1, ETH_VLAN, &vlan(2, ETH_IP, &zone))),
            ALLOW,
            Zone,
        ),
        (
            "QinQ to a denied place",
            eth(ETH_QINQ, &vlan(1, ETH_VLAN, &vlan(2, ETH_IP6, &denied6))),
            BLOCK,
            DenyRule,
        ),
        (
            "three VLAN tags",
            eth(ETH_QINQ, &vlan(1, ETH_VLAN, &vlan(2, ETH_VLAN, &inner_tag))),
            BLOCK,
            Malformed,
        ),
        (
            "a VLAN tag around MPLS",
            eth(ETH_VLAN, &vlan(1, 0x8847, &[0, 0, 0x11, 0x40])),
            BLOCK,
            Tunnel,
        ),
        ("MPLS around IPv4", eth(0x8847, &[&[0, 1, 0x01, 64], &zone[..]].concat()), BLOCK, Tunnel),
        (
            "PPPoE session",
            eth(0x8864, &[&[0x11, 0, 0, 1, 0, 34, 0, 0x21], &zone[..]].concat()),
            BLOCK,
            Tunnel,
        ),
        ("LLC/SNAP (802.3 length)", eth(46, &[0xaa; 46]), BLOCK, Malformed),
        ("LLDP", eth(0x88cc, &[0; 46]), BLOCK, Malformed),
        ("an unknown ethertype", eth(0x88b5, &zone), BLOCK, Malformed),
        ("IPv6 bytes under the ethertype of IPv4", eth(ETH_IP, &zone6), BLOCK, Malformed),
        ("IPv4 bytes under the ethertype of IPv6", eth(ETH_IP6, &zone), BLOCK, Malformed),
        ("ARP request", broadcast(ETH_ARP, &request), ALLOW, Scope),
        (
            "ARP padded with zeros to 60 bytes",
            broadcast(ETH_ARP, &arp(SOURCE4, ZONE4, &[0; 18])),
            ALLOW,
            Scope,
        ),
        (
            "ARP padded with data to 60 bytes",
            broadcast(ETH_ARP, &arp(SOURCE4, ZONE4, b"secret secret secr")),
            BLOCK,
            Malformed,
        ),
        (
            "ARP with one non-zero byte in its padding",
            broadcast(ETH_ARP, &arp(SOURCE4, ZONE4, &[&[0; 17][..], &[1]].concat())),
            BLOCK,
            Malformed,
        ),
        (
            "ARP with trailing data",
            broadcast(ETH_ARP, &arp(SOURCE4, ZONE4, &[0x5a; 400])),
            BLOCK,
            Malformed,
        ),
        (
            "ARP with trailing zeros beyond 60 bytes",
            broadcast(ETH_ARP, &arp(SOURCE4, ZONE4, &[0; 19])),
            BLOCK,
            Malformed,
        ),
        ("ARP with long protocol addresses", broadcast(ETH_ARP, &sizes), BLOCK, Malformed),
        ("ARP with an unknown operation", broadcast(ETH_ARP, &operation), BLOCK, Malformed),
        ("ARP cut off", broadcast(ETH_ARP, &request[..20]), BLOCK, Malformed),
    ]
}

fn embedded() -> Vec<Row> {
    use Reason::{DenyRule, Malformed, Scope, Zone};
    let to = |address: &str| {
        let to: Ipv6Addr = address.parse().unwrap();
        six(to).frame(&udp6(to))
    };
    vec![
        ("an IPv4-mapped address on the wire", to("::ffff:10.9.9.9"), BLOCK, Malformed),
        ("NAT64 to the zone", to("64:ff9b::10.9.9.9"), ALLOW, Zone),
        ("NAT64 to a denied place", to("64:ff9b::198.51.100.7"), BLOCK, DenyRule),
        ("6to4 to the zone", to("2002:a09:909::1"), ALLOW, Zone),
        ("6to4 to a denied place", to("2002:c633:6407::1"), BLOCK, DenyRule),
        // 10.9.9.9 inverted is f5f6:f6f6; 198.51.100.7 inverted is 39cc:9bf8.
        ("Teredo, server and client in the zone", to("2001:0:a09:909::f5f6:f6f6"), ALLOW, Zone),
        ("Teredo, server in a denied place", to("2001:0:c633:6407::f5f6:f6f6"), BLOCK, DenyRule),
        ("Teredo, client in a denied place", to("2001:0:a09:909::39cc:9bf8"), BLOCK, DenyRule),
        ("an IPv4-compatible address", to("::10.9.9.9"), BLOCK, Scope),
    ]
}

fn tunnels() -> Vec<Row> {
    use Reason::{AllowRule, DenyRule, Tunnel, Zone};
    let zone = four(ZONE4).wrap(&udp4(ZONE4));
    let denied = four(DENIED4).wrap(&udp4(DENIED4));
    let zone6 = six(ZONE6).wrap(&udp6(ZONE6));
    let denied6 = six(DENIED6).wrap(&udp6(DENIED6));
    let by4 = |proto, to, inner: &[u8]| ip4(SOURCE4, to, proto).frame(inner);
    let by6 = |proto, to, inner: &[u8]| ip6(SOURCE6, to, proto).frame(inner);
    let by_udp = |to: Ipv4Addr, port, inner: &[u8]| {
        let from: IpAddr = SOURCE4.into();
        ip4(SOURCE4, to, UDP).frame(&udp(from, to.into(), 40_000, port, inner))
    };
    let framed = |packet: &[u8]| eth_to(FAR_MAC, ETH_IP, packet);
    let fragment = four(ZONE4).fragment(0, true).wrap(&udp4(ZONE4));
    let opaque = [0x5a; 64];
    vec![
        ("IPIP, zone inside", by4(IPIP, ZONE4, &zone), ALLOW, Zone),
        ("IPIP, denied place inside", by4(IPIP, ZONE4, &denied), BLOCK, DenyRule),
        ("IPIP to a denied place, zone inside", by4(IPIP, DENIED4, &zone), BLOCK, DenyRule),
        ("IPIP in IPIP", by4(IPIP, ZONE4, &ip4(SOURCE4, ZONE4, IPIP).wrap(&zone)), BLOCK, Tunnel),
        ("IPIP around a fragment", by4(IPIP, ZONE4, &fragment), BLOCK, Tunnel),
        (
            "IPIP, first fragment",
            ip4(SOURCE4, ZONE4, IPIP).fragment(0, true).frame(&zone),
            BLOCK,
            Tunnel,
        ),
        (
            "IPIP, later fragment",
            ip4(SOURCE4, ZONE4, IPIP).fragment(3, false).frame(&zone[24..]),
            BLOCK,
            Tunnel,
        ),
        ("6in4, zone inside", by4(SIXINFOUR, ZONE4, &zone6), ALLOW, Zone),
        ("6in4, denied place inside", by4(SIXINFOUR, ZONE4, &denied6), BLOCK, DenyRule),
        ("4in6, zone inside", by6(IPIP, ZONE6, &zone), ALLOW, Zone),
        ("4in6, denied place inside", by6(IPIP, ZONE6, &denied), BLOCK, DenyRule),
        ("6in6, denied place inside", by6(SIXINFOUR, ZONE6, &denied6), BLOCK, DenyRule),
        ("GRE, zone inside", by4(GRE, ZONE4, &gre(ETH_IP, &zone)), ALLOW, Zone),
        ("GRE, denied place inside", by4(GRE, ZONE4, &gre(ETH_IP6, &denied6)), BLOCK, DenyRule),
        (
            "GRE around Ethernet, denied place inside",
            by4(GRE, ZONE4, &gre(0x6558, &framed(&denied))),
            BLOCK,
            DenyRule,
        ),
        (
            "GRE of another version (PPTP)",
            by4(GRE, ZONE4, &[&[0x30, 1, 0x88, 0x0b], &zone[..]].concat()),
            BLOCK,
            Tunnel,
        ),
        ("GRE around MPLS", by4(GRE, ZONE4, &gre(0x8847, &opaque)), BLOCK, Tunnel),
        ("VXLAN, zone inside", by_udp(ZONE4, 4789, &vxlan(&framed(&zone))), ALLOW, Zone),
        (
            "VXLAN, denied place inside",
            by_udp(ZONE4, 4789, &vxlan(&framed(&denied))),
            BLOCK,
            DenyRule,
        ),
        (
            "VXLAN on Linux's old port, denied place inside",
            by_udp(ZONE4, 8472, &vxlan(&framed(&denied))),
            BLOCK,
            DenyRule,
        ),
        (
            "VXLAN around an unknown ethertype",
            by_udp(ZONE4, 4789, &vxlan(&eth(0x88b5, &zone))),
            BLOCK,
            Tunnel,
        ),
        (
            "Geneve, denied place inside",
            by_udp(ZONE4, 6081, &geneve(&framed(&denied))),
            BLOCK,
            DenyRule,
        ),
        ("Geneve, zone inside", by_udp(ZONE4, 6081, &geneve(&framed(&zone))), ALLOW, Zone),
        ("WireGuard's port", by_udp(ZONE4, 51_820, &opaque), BLOCK, Tunnel),
        ("WireGuard to a named endpoint", by_udp(NAMED4, 51_820, &opaque), ALLOW, AllowRule),
        ("IPsec NAT traversal", by_udp(ZONE4, 4500, &opaque), BLOCK, Tunnel),
        ("ESP over IPv4", by4(ESP, ZONE4, &opaque), BLOCK, Tunnel),
        ("ESP over IPv6", by6(ESP, ZONE6, &opaque), BLOCK, Tunnel),
        ("ESP over IPv6 to a named endpoint", by6(ESP, NAMED6, &opaque), ALLOW, AllowRule),
        ("ESP to a denied place", by4(ESP, DENIED4, &opaque), BLOCK, DenyRule),
        ("an experimental protocol", by4(253, ZONE4, &opaque), BLOCK, Tunnel),
        (
            "an experimental protocol, later fragment",
            ip4(SOURCE4, ZONE4, 253).fragment(3, false).frame(&opaque),
            BLOCK,
            Tunnel,
        ),
        ("opaque UDP to the zone", by_udp(ZONE4, 443, &opaque), ALLOW, Zone),
    ]
}
