//! IPv4: header lies, options, fragments; what may pass on the link.

use super::*;

pub(super) fn ipv4() -> Vec<Row> {
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

pub(super) fn ipv4_link() -> Vec<Row> {
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
