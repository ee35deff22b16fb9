//! IPv6: the extension chain, fragments; what may pass on the link.

use super::*;

pub(super) fn ipv6() -> Vec<Row> {
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

pub(super) fn ipv6_link() -> Vec<Row> {
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
