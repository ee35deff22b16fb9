//! Golden lines, round trips, hostile lines.

use proptest::prelude::*;
use sov_common::{
    abi::Hook,
    verdict::{Reason, Scope},
};

use super::*;
use crate::{
    data::model::{Control, ControlBasis, Country},
    flowlog::record::{Attributes, Interface, Ledger, Mode, samples},
};

const GOLDEN: &str = include_str!("../../../testdata/ocsf.jsonl");

fn line(record: &FlowRecord) -> String {
    let mut line = Vec::new();
    encode(record, &mut line).expect("encodes");
    String::from_utf8(line).expect("text")
}

/// `tests/ocsf_check.py` holds the same file against the schema. `SOV_BLESS=1` writes it anew.
#[test]
fn golden_lines() {
    let lines: String = samples::all().iter().map(line).collect();
    if std::env::var_os("SOV_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/ocsf.jsonl");
        std::fs::write(path, &lines).expect("writes");
        return;
    }
    for (ours, golden) in lines.lines().zip(GOLDEN.lines()) {
        assert_eq!(ours, golden);
    }
    assert_eq!(lines.lines().count(), GOLDEN.lines().count());
}

#[test]
fn verdicts_map_to_what_analysts_filter_by() {
    let [full, ..] = &samples::all()[..] else { panic!("samples") };
    let outcome_of = |change: fn(&mut FlowRecord)| {
        let mut record = full.clone();
        change(&mut record);
        outcome(&record)
    };
    assert_eq!(outcome_of(|_| ()), (5, 2, 25, 4, true));
    assert_eq!(outcome_of(|r| r.response = Some(Response::Drop)), (5, 2, 6, 4, true));
    assert_eq!(outcome_of(|r| r.tag = None), (5, 2, 25, 2, false));
    assert_eq!(outcome_of(|r| r.verdict = Verdict::WouldBlock), (6, 3, 17, 3, true));
    assert_eq!(outcome_of(|r| r.verdict = Verdict::Allow), (1, 1, 1, 1, false));
}

#[test]
fn an_unknown_country_is_absent() {
    let line = line(&samples::bare());
    assert!(!line.contains("\"country\""), "{line}");
    assert!(line.contains("\"location\":\"unknown\""), "{line}");
}

#[test]
fn a_record_is_one_line() {
    let mut record = samples::full();
    record.process.as_mut().expect("process").comm = Some("a\nb\u{1b}".into());
    let line = line(&record);
    assert_eq!(line.matches('\n').count(), 1);
    assert_eq!(decode(line.as_bytes()).expect("ours"), record);
}

#[test]
fn hostile_lines_are_errors() {
    let good = line(&samples::full());
    for (from, to) in [
        ("\"class_uid\":4001", "\"class_uid\":4002"),
        ("\"status_code\":\"foreign_control\"", "\"status_code\":\"because\""),
        ("\"ip\":\"13.112.0.1\"", "\"ip\":\"13.112.0.256\""),
        ("02:00:5e:10:ab:ff", "02:00:5e:10:ab:ff:00"),
        ("\"version\":\"7\"", "\"version\":\"-7\""),
        ("\"hook\":\"tc_egress\"", "\"hook\":\"tc\""),
        ("\"jurisdiction\"", "\"geo\""),
        ("\"port\":443", "\"port\":65536"),
        ("\"control\":\"US\"", "\"control\":\"USA\""),
        ("\"packets\":1", "\"packets\":-1"),
        ("\"time_dt\":\"20", "\"time_dt\":\"12"),
    ] {
        assert!(good.contains(from), "{from} is not in {good}");
        let bad = good.replace(from, to);
        assert!(decode(bad.as_bytes()).is_err(), "{to} was read");
    }
    for bad in [&b""[..], b"{}", b"[]", b"\xff\xfe", b"null", "[".repeat(100_000).as_bytes()] {
        assert!(decode(bad).is_err());
    }
}

fn text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("\\PC{0,12}|[\\x00-\\x1f\"\\\\]{0,4}")
}

fn address_of_any_family() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn country() -> impl Strategy<Value = Country> {
    "[A-Z]{2}".prop_map(|code| Country::new(&code).expect("two letters"))
}

prop_compose! {
    fn attributes()(
        location in prop_oneof![
            country().prop_map(Location::Country), Just(Location::Anycast), Just(Location::Unknown)
        ],
        control in prop_oneof![
            country().prop_map(Control::Country), Just(Control::Contested), Just(Control::Unknown)
        ],
        registered in proptest::option::of(country()),
        (asn_name, operator, provider_region, dataset) in (text(), text(), text(), text()),
        asn in any::<u32>(),
        sources in any::<u8>(),
        basis in 0..3usize,
        prefix in proptest::option::of((address_of_any_family(), 0..=32u8)),
    ) -> Attributes {
        Attributes {
            scope: Scope::Global,
            location, sources, asn,
            // Without an ASN its name has no home, and no meaning.
            asn_name: asn_name.filter(|_| asn != 0),
            operator, control,
            control_basis: [ControlBasis::Catalog, ControlBasis::Registered, ControlBasis::None][basis],
            registered, provider_region,
            prefix: prefix.and_then(|(a, length)| ipnet::IpNet::new(a, length).ok()),
            dataset,
        }
    }
}

prop_compose! {
    fn process()(
        pid in proptest::option::of(any::<u32>()),
        uid in proptest::option::of(any::<u32>()),
        cgroup_id in proptest::option::of(any::<u64>()),
        (comm, exe, user, cgroup) in (text(), text(), text(), text()),
        (unit, container, pod) in (text(), text(), text()),
    ) -> Process {
        Process { pid, comm, exe, uid, user, cgroup_id, cgroup, unit, container, pod }
    }
}

prop_compose! {
    fn any_record()(
        (time, boottime, first, last) in any::<(u64, u64, u64, u64)>(),
        (sequence, cookie, packets, bytes) in any::<(u64, u64, u64, u64)>(),
        (generation, mark, ethertype) in any::<(u32, u32, u16)>(),
        (name, hash, tag, tier) in (text(), text(), text(), text()),
        rule in proptest::option::of((any::<u16>(), text(), text(), text())),
        verdict in 1..4u8,
        reason in proptest::sample::select(Reason::ALL),
        hook in 1..8u8,
        kind in proptest::sample::select(&[Kind::New, Kind::Update, Kind::End][..]),
        mode in proptest::option::of(proptest::sample::select(&[Mode::Audit, Mode::Enforce][..])),
        response in proptest::option::of(
            proptest::sample::select(&[Response::Reject, Response::Drop][..])
        ),
        (source, destination) in (address_of_any_family(), address_of_any_family()),
        (source_port, destination_port, protocol) in any::<(u16, u16, u8)>(),
        icmp in proptest::option::of(any::<(u8, u8)>()),
        interface in proptest::option::of((any::<u32>(), text())),
        source_mac in any::<Option<[u8; 6]>>(),
        attributes in attributes(),
        process in proptest::option::of(process()),
        ledger in proptest::option::of(any::<[u64; 6]>()),
    ) -> FlowRecord {
        let interface = interface.map(|(index, name)| Interface { index, name });
        FlowRecord {
            kind, time, boottime,
            host: Host { id: tag.clone().unwrap_or_default(), name: "n".into() },
            sequence,
            policy: Policy { name, hash, generation },
            tag, tier, mode, response,
            verdict: Verdict::from_u8(verdict).expect("a verdict"),
            reason,
            rule: rule.map(|(id, name, owner, ticket)| Rule { id, name, owner, ticket }),
            source, source_port, destination, destination_port, protocol,
            icmp: icmp.map(|(kind, code)| Icmp { kind, code }),
            ingress: interface.clone(),
            interface, source_mac,
            hook: Hook::from_u8(hook).expect("a hook"),
            cookie, mark, ethertype, packets, bytes, first, last, attributes, process,
            ledger: ledger.map(|[blocked, recorded, aggregated, suppressed, lost, table_full]| {
                Ledger { blocked, recorded, aggregated, suppressed, lost, table_full }
            }),
        }
    }
}

proptest! {
    #[test]
    fn decoding_loses_nothing(record in any_record()) {
        prop_assert_eq!(decode(line(&record).as_bytes()).expect("ours"), record);
    }

    #[test]
    fn damaged_lines_never_panic(at in 0..2_500usize, byte in any::<u8>(), cut in any::<bool>()) {
        let mut line = line(&samples::full()).into_bytes();
        let at = at % line.len();
        line[at] = byte;
        if cut { line.truncate(at) }
        let _ = decode(&line);
    }
}
