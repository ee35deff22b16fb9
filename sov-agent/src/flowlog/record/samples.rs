//! Records for the tests of every output.

use super::*;

/// Foreign control in Japan: a blocked TCP connection with everything known.
pub(crate) fn full() -> FlowRecord {
    FlowRecord {
        kind: Kind::New,
        time: 1_795_466_760_123_456_789,
        boottime: 86_400_000_000_017,
        host: Host { id: "5c2f8a0d1e3b4c5d6e7f8091a2b3c4d5".into(), name: "node-1".into() },
        sequence: 42,
        policy: Policy {
            name: Some("two-tier-govcloud".into()),
            hash: Some("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into()),
            generation: 7,
        },
        tag: Some("koseki".into()),
        tier: Some("sovereign".into()),
        mode: Some(Mode::Enforce),
        response: Some(Response::Reject),
        verdict: Verdict::Block,
        reason: Reason::ForeignControl,
        rule: Some(Rule {
            id: 5,
            name: Some("sovereign.deny:14".into()),
            owner: Some("netops".into()),
            ticket: Some("CHG-1042".into()),
        }),
        source: "10.20.0.5".parse().expect("address"),
        source_port: 51514,
        destination: "13.112.0.1".parse().expect("address"),
        destination_port: 443,
        protocol: 6,
        icmp: None,
        interface: Some(Interface { index: 2, name: Some("eth0".into()) }),
        ingress: Some(Interface { index: 9, name: Some("veth-k0".into()) }),
        source_mac: Some([0x02, 0, 0x5e, 0x10, 0xab, 0xff]),
        hook: Hook::TcEgress,
        cookie: 4711,
        mark: 0x30,
        ethertype: 0x0800,
        packets: 1,
        bytes: 60,
        first: 1_795_466_760_123_456_789,
        last: 1_795_466_760_123_456_789,
        attributes: Attributes {
            scope: Scope::Global,
            location: Location::Country(Country::new("JP").expect("code")),
            sources: 3,
            asn: 16509,
            asn_name: Some("AMAZON-02".into()),
            operator: Some("aws".into()),
            control: Control::Country(Country::new("US").expect("code")),
            control_basis: ControlBasis::Catalog,
            registered: Country::new("US"),
            provider_region: Some("aws:ap-northeast-1".into()),
            prefix: Some("13.112.0.0/14".parse().expect("prefix")),
            dataset: Some("jp-snapshot-2026-11-23".into()),
        },
        process: Some(Process {
            pid: Some(4242),
            comm: Some("curl".into()),
            exe: Some("/usr/bin/curl".into()),
            uid: Some(990),
            user: Some("koseki".into()),
            cgroup_id: Some(8123),
            cgroup: Some("/sovereign.slice/koseki.service".into()),
            unit: Some("koseki.service".into()),
            container: None,
            pod: None,
        }),
        ledger: Some(Ledger {
            blocked: 10,
            recorded: 4,
            aggregated: 5,
            suppressed: 0,
            lost: 1,
            table_full: 2,
        }),
    }
}

/// An audited ICMPv6 packet to nowhere known, without process, policy name or names of anything.
pub(crate) fn bare() -> FlowRecord {
    FlowRecord {
        kind: Kind::Update,
        policy: Policy { name: None, hash: None, generation: 0 },
        tag: None,
        tier: None,
        mode: None,
        response: None,
        verdict: Verdict::WouldBlock,
        reason: Reason::Unlocatable,
        rule: None,
        source: "2001:db8::1".parse().expect("address"),
        source_port: 0,
        destination: "2001:db8:ffff::2".parse().expect("address"),
        destination_port: 0,
        protocol: 58,
        icmp: Some(Icmp { kind: 128, code: 0 }),
        interface: Some(Interface { index: 3, name: None }),
        ingress: None,
        source_mac: None,
        cookie: 0,
        mark: 0,
        ethertype: 0x86dd,
        attributes: Attributes::unknown(Scope::Documentation),
        process: None,
        ledger: None,
        ..full()
    }
}

/// The verdicts, families and protocols that the outputs tell apart.
pub(crate) fn all() -> Vec<FlowRecord> {
    let v6 = FlowRecord {
        source: "2400:4050::5".parse().expect("address"),
        destination: "2406:da14::1".parse().expect("address"),
        ethertype: 0x86dd,
        ..full()
    };
    let udp = FlowRecord {
        protocol: 17,
        response: Some(Response::Drop),
        kind: Kind::End,
        process: Some(Process { cgroup_id: Some(1), ..Process::default() }),
        ..v6.clone()
    };
    let icmp = FlowRecord {
        protocol: 1,
        source_port: 0,
        destination_port: 0,
        icmp: Some(Icmp { kind: 8, code: 0 }),
        ..full()
    };
    let connect = FlowRecord {
        hook: Hook::Connect4,
        interface: None,
        ingress: None,
        source_mac: None,
        source: "0.0.0.0".parse().expect("address"),
        source_port: 0,
        packets: 0,
        bytes: 0,
        ethertype: 0,
        process: Some(Process {
            container: Some("ab".repeat(32)),
            pod: Some("0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0".into()),
            unit: None,
            ..full().process.expect("process")
        }),
        ..full()
    };
    let allowed = FlowRecord {
        verdict: Verdict::Allow,
        reason: Reason::TierMatch,
        rule: None,
        ledger: None,
        attributes: Attributes { control_basis: ControlBasis::Registered, ..full().attributes },
        ..full()
    };
    let untagged = FlowRecord { tag: None, tier: None, process: None, ..full() };
    let audit = FlowRecord {
        mode: Some(Mode::Audit),
        verdict: Verdict::WouldBlock,
        attributes: Attributes { location: Location::Anycast, ..full().attributes },
        ..v6.clone()
    };
    let closing = FlowRecord { kind: Kind::End, ..allowed.clone() };
    let counting = FlowRecord { kind: Kind::Update, ..allowed.clone() };
    vec![full(), bare(), v6, udp, icmp, connect, allowed, untagged, audit, closing, counting]
}
