//! The parser's rules, one row each: what a packet is, and what must become of it.
//!
//! Addresses do not depend on any data set: `10.0.0.0/8` and `fd00::/8` are a zone of the tier,
//! `198.51.100.0/24` and `2001:db8:bad::/48` are denied by rule, `198.51.100.77` and
//! `2001:db8:bad::77` are allowed by rule.

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
    rows.extend(ipv4());
    rows.extend(ipv4_link());
    rows.extend(ipv6());
    rows.extend(ipv6_link());
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

fn ipv4() -> Vec<Row> {
    use Reason::{DenyRule, Malformed, Scope, Zone};
    let data = udp4(ZONE4);
    let hop: [u8; 7] = [131, 7, 4, 10, 20, 0, 1];
    let strict: [u8; 7] = [137, 7, 4, 10, 20, 0, 1];
    let long = tcp(SOURCE4.into(), ZONE4.into(), 1, 443, SYN, &[0; 64]);
    let tcp_to = |to| ip4(SOURCE4, to, TCP);
    let mut padded = four(ZONE4).frame(&data);
    padded.resize(64, 0);
    vec![
        ("options: NOP", four(ZONE4).options(&[1, 1, 1, 1]).frame(&data), ALLOW, Zone),
        (
            "options: NOP, denied place",
            four(DENIED4).options(&[1; 8]).frame(&data),
            BLOCK,
            DenyRule,
        ),
        (
            "options: record route",
            four(ZONE4).options(&[7, 7, 4, 0, 0, 0, 0]).frame(&data),
            ALLOW,
            Zone,
        ),
        ("options: 40 bytes of NOP", four(ZONE4).options(&[1; 40]).frame(&data), ALLOW, Zone),
        ("options: loose source route", four(ZONE4).options(&hop).frame(&data), BLOCK, Malformed),
        (
            "options: strict source route",
            four(ZONE4).options(&strict).frame(&data),
            BLOCK,
            Malformed,
        ),
        (
            "options: loose source route behind NOPs",
            four(ZONE4).options(&[&[1, 1, 1][..], &hop].concat()).frame(&data),
            BLOCK,
            Malformed,
        ),
        (
            "options: strict source route behind another option",
            four(ZONE4).options(&[&[148, 4, 0, 0][..], &strict].concat()).frame(&data),
            BLOCK,
            Malformed,
        ),
        (
            "options: loose source route at the very end",
            four(ZONE4).options(&[&[1; 33][..], &hop].concat()).frame(&data),
            BLOCK,
            Malformed,
        ),
        ("options: of length 0", four(ZONE4).options(&[7, 0, 0, 0]).frame(&data), BLOCK, Malformed),
        ("options: of length 1", four(ZONE4).options(&[7, 1, 0, 0]).frame(&data), BLOCK, Malformed),
        (
            "options: longer than the header",
            four(ZONE4).options(&[7, 12, 4, 0]).frame(&data),
            BLOCK,
            Malformed,
        ),
        ("IHL of 4", four(ZONE4).ihl(4).frame(&data), BLOCK, Malformed),
        ("IHL of 0", four(ZONE4).ihl(0).frame(&data), BLOCK, Malformed),
        ("IHL of 15 in a short packet", four(ZONE4).ihl(15).frame(&data), BLOCK, Malformed),
        ("version 6 in an IPv4 header", four(ZONE4).version(6).frame(&data), BLOCK, Malformed),
        ("version 0 in an IPv4 header", four(ZONE4).version(0).frame(&data), BLOCK, Malformed),
        ("a total length below the header's", four(ZONE4).total(16).frame(&data), BLOCK, Malformed),
        ("a total length beyond the frame", four(ZONE4).total(200).frame(&data), BLOCK, Malformed),
        ("a total length of 0", four(ZONE4).total(0).frame(&data), BLOCK, Malformed),
        ("padding behind a short packet", padded, ALLOW, Zone),
        (
            "a total length that hides the UDP header",
            four(ZONE4).total(24).frame(&data),
            BLOCK,
            Malformed,
        ),
        ("a header cut off", eth(ETH_IP, &four(ZONE4).wrap(&data)[..12]), BLOCK, Malformed),
        ("first fragment with its header", four(ZONE4).fragment(0, true).frame(&data), ALLOW, Zone),
        (
            "first fragment to a denied place",
            four(DENIED4).fragment(0, true).frame(&data),
            BLOCK,
            DenyRule,
        ),
        (
            "first fragment without its UDP header",
            four(ZONE4).fragment(0, true).frame(&data[..4]),
            BLOCK,
            Malformed,
        ),
        (
            "first fragment with 8 bytes of TCP",
            tcp_to(ZONE4).fragment(0, true).frame(&long[..8]),
            BLOCK,
            Malformed,
        ),
        (
            "first fragment with all of TCP",
            tcp_to(ZONE4).fragment(0, true).frame(&long[..32]),
            ALLOW,
            Zone,
        ),
        (
            "TCP fragment at byte 8",
            tcp_to(ZONE4).fragment(1, false).frame(&long[8..]),
            BLOCK,
            Malformed,
        ),
        (
            "later fragment to the zone",
            four(ZONE4).fragment(4, false).frame(b"12345678"),
            ALLOW,
            Zone,
        ),
        (
            "later fragment to a denied place",
            four(DENIED4).fragment(4, false).frame(b"12345678"),
            BLOCK,
            DenyRule,
        ),
        (
            "last fragment beyond 64 KiB to a denied place",
            four(DENIED4).fragment(8191, false).frame(b"12345678"),
            BLOCK,
            DenyRule,
        ),
        ("an address of no network", four("0.0.0.1".parse().unwrap()).frame(&data), BLOCK, Scope),
        ("class E", four("250.1.2.3".parse().unwrap()).frame(&data), BLOCK, Scope),
    ]
}

fn ipv4_link() -> Vec<Row> {
    use Reason::Scope;
    let nobody = Ipv4Addr::UNSPECIFIED;
    let all = Ipv4Addr::BROADCAST;
    let discover = |sport, dport| {
        let payload = dhcp_discover();
        ip4(nobody, all, UDP).frame(&udp(nobody.into(), all.into(), sport, dport, &payload))
    };
    let routers = Ipv4Addr::new(224, 0, 0, 2);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let leave = |trailing: &[u8]| {
        let mut message = igmp(group, trailing);
        message[0] = 0x17;
        message[2..4].fill(0);
        let sum = packet::checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        ip4(SOURCE4, routers, IGMP).options(&[148, 4, 0, 0]).frame(&message)
    };
    let report3 = |extra: &[u8]| {
        let mut message = vec![0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0];
        message.extend_from_slice(&group.octets());
        message.extend_from_slice(extra);
        let sum = packet::checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let to = Ipv4Addr::new(224, 0, 0, 22);
        ip4(SOURCE4, to, IGMP).options(&[148, 4, 0, 0]).frame(&message)
    };
    let multicast = |to: Ipv4Addr| four(to).frame(&udp4(to));
    vec![
        ("DHCP discover", discover(68, 67), ALLOW, Scope),
        ("broadcast from another port", discover(40_000, 67), BLOCK, Scope),
        ("broadcast to another port", discover(68, 9), BLOCK, Scope),
        ("IGMP leave", leave(&[]), ALLOW, Scope),
        ("IGMP leave with a payload", leave(b"secret"), BLOCK, Scope),
        ("IGMPv3 report", report3(&[]), ALLOW, Scope),
        ("IGMPv3 report with a payload", report3(b"secret!!"), BLOCK, Scope),
        ("UDP to a multicast group", multicast(group), BLOCK, Scope),
        ("mDNS", multicast(Ipv4Addr::new(224, 0, 0, 251)), BLOCK, Scope),
        ("IPv4 link-local", multicast(Ipv4Addr::new(169, 254, 1, 1)), BLOCK, Scope),
    ]
}

fn ipv6() -> Vec<Row> {
    use Reason::{DenyRule, Malformed, Zone};
    let data = udp6(ZONE6);
    let denied = udp6(DENIED6);
    let hbh = || ext(HOPOPT, &[]);
    let dst = || ext(DSTOPTS, &[]);
    let chain = |n: usize| (0..n).fold(six(ZONE6), |packet, _| packet.then(dst()));
    let mut lying = six(ZONE6).then(dst()).frame(&data);
    lying[14 + 40 + 1] = 200;
    let nothing = |rest: &[u8]| ip6(SOURCE6, ZONE6, NONE).then(dst()).frame(rest);
    let mut later_routing = six(ZONE6).then(frag6(4, false)).frame(b"12345678");
    later_routing[14 + 40] = packet::ROUTING;
    vec![
        ("hop-by-hop options", six(ZONE6).then(hbh()).frame(&data), ALLOW, Zone),
        ("destination options", six(ZONE6).then(dst()).frame(&data), ALLOW, Zone),
        (
            "hop-by-hop and destination options, denied place",
            six(DENIED6).then(hbh()).then(dst()).frame(&denied),
            BLOCK,
            DenyRule,
        ),
        (
            "destination options of 64 bytes, denied place",
            six(DENIED6).then(ext(DSTOPTS, &[0; 62])).frame(&denied),
            BLOCK,
            DenyRule,
        ),
        ("eight extension headers", chain(8).frame(&data), ALLOW, Zone),
        ("nine extension headers", chain(9).frame(&data), BLOCK, Malformed),
        ("an authentication header", six(ZONE6).then(ext(AH, &[0; 22])).frame(&data), ALLOW, Zone),
        (
            "an authentication header, denied place",
            six(DENIED6).then(ext(AH, &[0; 22])).frame(&denied),
            BLOCK,
            DenyRule,
        ),
        (
            "routing header type 0",
            six(ZONE6).then(routing(0, 1, &[DENIED6])).frame(&data),
            BLOCK,
            Malformed,
        ),
        (
            "routing header type 2",
            six(ZONE6).then(routing(2, 1, &[DENIED6])).frame(&data),
            BLOCK,
            Malformed,
        ),
        (
            "segment routing header",
            six(ZONE6).then(routing(4, 1, &[DENIED6, ZONE6])).frame(&data),
            BLOCK,
            Malformed,
        ),
        (
            "segment routing header with no segments left",
            six(ZONE6).then(routing(4, 0, &[ZONE6])).frame(&data),
            BLOCK,
            Malformed,
        ),
        (
            "segment routing behind destination options and an atomic fragment",
            six(ZONE6)
                .then(dst())
                .then(frag6(0, false))
                .then(routing(4, 1, &[DENIED6]))
                .frame(&data),
            BLOCK,
            Malformed,
        ),
        ("atomic fragment", six(ZONE6).then(frag6(0, false)).frame(&data), ALLOW, Zone),
        (
            "atomic fragment to a denied place",
            six(DENIED6).then(frag6(0, false)).frame(&denied),
            BLOCK,
            DenyRule,
        ),
        (
            "first fragment with its whole chain",
            six(ZONE6).then(dst()).then(frag6(0, true)).frame(&data),
            ALLOW,
            Zone,
        ),
        (
            "first fragment without its UDP header",
            six(ZONE6).then(frag6(0, true)).frame(&data[..4]),
            BLOCK,
            Malformed,
        ),
        (
            "first fragment that ends inside an extension header",
            eth(
                ETH_IP6,
                &ip6(SOURCE6, ZONE6, DSTOPTS)
                    .then(frag6(0, true))
                    .wrap(&[UDP, 3, 0, 0, 0, 0, 0, 0]),
            ),
            BLOCK,
            Malformed,
        ),
        (
            "later fragment to the zone",
            six(ZONE6).then(frag6(4, false)).frame(b"12345678"),
            ALLOW,
            Zone,
        ),
        (
            "later fragment to a denied place",
            six(DENIED6).then(frag6(4, true)).frame(b"12345678"),
            BLOCK,
            DenyRule,
        ),
        ("later fragment that carries a routing header", later_routing, BLOCK, Malformed),
        ("an extension header longer than the packet", lying, BLOCK, Malformed),
        ("no next header, nothing behind", nothing(b""), ALLOW, Zone),
        ("no next header, data behind", nothing(b"secret"), BLOCK, Malformed),
        (
            "a payload length beyond the frame",
            six(ZONE6).length(200).frame(&data),
            BLOCK,
            Malformed,
        ),
        ("a payload length of 0", six(ZONE6).length(0).frame(&data), BLOCK, Malformed),
        (
            "a payload length that hides the UDP header",
            six(ZONE6).length(4).frame(&data),
            BLOCK,
            Malformed,
        ),
        ("version 4 in an IPv6 header", six(ZONE6).version(4).frame(&data), BLOCK, Malformed),
        ("a header cut off", eth(ETH_IP6, &six(ZONE6).wrap(&data)[..30]), BLOCK, Malformed),
    ]
}

fn ipv6_link() -> Vec<Row> {
    use Reason::Scope;
    let me: Ipv6Addr = "fe80::50:2".parse().unwrap();
    let neighbour: Ipv6Addr = "fe80::1".parse().unwrap();
    let solicited: Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
    let ns = |options: &[u8]| eth(ETH_IP6, &solicitation(me, solicited, neighbour, options));
    let ns_hops = |hops| {
        let mut packet = solicitation(me, solicited, neighbour, &sllao());
        packet[7] = hops;
        eth(ETH_IP6, &packet)
    };
    let unknown = [&[200u8, 1][..], b"secret"].concat();
    let two = [sllao(), unknown.clone()].concat();
    let routers: Ipv6Addr = "ff02::2".parse().unwrap();
    let rs = |rest: &[u8]| {
        eth(ETH_IP6, &ip6_hops(me, routers, ICMP6, 255, &icmp6(me, routers, 133, 0, rest)))
    };
    let na = eth(
        ETH_IP6,
        &ip6_hops(me, neighbour, ICMP6, 255, &{
            let mut rest = vec![0x60, 0, 0, 0];
            rest.extend_from_slice(&me.octets());
            icmp6(me, neighbour, 136, 0, &rest)
        }),
    );
    let mldv2: Ipv6Addr = "ff02::16".parse().unwrap();
    let mld = |extra: &[u8], hops| {
        let mut rest = vec![0, 0, 0, 1, 4, 0, 0, 0];
        rest.extend_from_slice(&solicited.octets());
        rest.extend_from_slice(extra);
        let message = icmp6(me, mldv2, 143, 0, &rest);
        let mut packet =
            ip6(me, mldv2, ICMP6).then(ext(HOPOPT, &[5, 2, 0, 0, 1, 0])).wrap(&message);
        packet[7] = hops;
        eth(ETH_IP6, &packet)
    };
    let servers: Ipv6Addr = "ff02::1:2".parse().unwrap();
    let dhcp6 = |sport| {
        let segment = udp(me.into(), servers.into(), sport, 547, &[1, 0x12, 0x34, 0x56]);
        ip6(me, servers, UDP).frame(&segment)
    };
    let to = |address: &str| {
        let to: Ipv6Addr = address.parse().unwrap();
        ip6(me, to, UDP).frame(&udp(me.into(), to.into(), 5353, 5353, b"secret"))
    };
    let all: Ipv6Addr = "ff02::1".parse().unwrap();
    let echo = ip6(me, all, ICMP6).frame(&icmp6(me, all, 128, 0, b"\0\x01\0\x01"));
    let redirect = {
        let mut rest = vec![0; 4];
        rest.extend_from_slice(&me.octets());
        rest.extend_from_slice(&neighbour.octets());
        eth(ETH_IP6, &ip6_hops(me, neighbour, ICMP6, 255, &icmp6(me, neighbour, 137, 0, &rest)))
    };
    vec![
        ("neighbour solicitation", ns(&sllao()), ALLOW, Scope),
        ("neighbour solicitation without options", ns(&[]), ALLOW, Scope),
        ("neighbour solicitation, hop limit 64", ns_hops(64), BLOCK, Scope),
        ("neighbour solicitation with an unknown option", ns(&unknown), BLOCK, Scope),
        ("neighbour solicitation with a second option", ns(&two), BLOCK, Scope),
        ("neighbour solicitation with trailing bytes", ns(b"secret"), BLOCK, Scope),
        ("neighbour advertisement", na, ALLOW, Scope),
        ("router solicitation", rs(&[0; 4]), ALLOW, Scope),
        ("router solicitation with data", rs(b"\0\0\0\0secret data here"), BLOCK, Scope),
        ("redirect sent by a host", redirect, BLOCK, Scope),
        ("MLDv2 report", mld(&[], 1), ALLOW, Scope),
        ("MLDv2 report with a payload", mld(b"secret!!", 1), BLOCK, Scope),
        ("MLDv2 report that may be routed", mld(&[], 64), BLOCK, Scope),
        ("DHCPv6 solicit", dhcp6(546), ALLOW, Scope),
        ("UDP to the DHCPv6 servers from another port", dhcp6(4000), BLOCK, Scope),
        ("mDNS over IPv6", to("ff02::fb"), BLOCK, Scope),
        ("UDP to a link-local address", to("fe80::1"), BLOCK, Scope),
        ("UDP to a routed multicast group", to("ff0e::1234"), BLOCK, Scope),
        ("echo request to all nodes", echo, BLOCK, Scope),
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
