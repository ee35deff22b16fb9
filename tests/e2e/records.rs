//! The flow log of the running agent: on time, complete, and in balance with the kernel's counters.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use sov_common::{
    abi::{COUNTERS, Counter, Ledger, counter_index},
    verdict::{Reason, Verdict},
};
use sov_tests::{
    agent::{Agent, Host},
    bpf::PerCpuArray,
    cgroup::Cgroup,
    lab::{Lab, OTHER4, OTHER6, SOURCE4, UPLINK},
    packet::udp_frame,
    require_root,
    traffic::{Action, FrameMode, Workload},
};

use crate::{ip, place, policy, tag, turn};

/// Packets that the kernel counted under a tag slot, a reason and a verdict.
pub(crate) fn counter(host: &Host, slot: u8, reason: Reason, verdict: Verdict) -> Result<u64> {
    let map = PerCpuArray::open(&host.pin("maps/SOV_COUNTERS"), size_of::<Counter>(), COUNTERS)?;
    let index = counter_index(slot, reason as u8, verdict as u8) as usize;
    Ok(map.read()?[index * size_of::<Counter>() / 8])
}

/// [blocked, recorded, aggregated, suppressed, lost, table_full]
pub(crate) fn ledger(host: &Host) -> Result<[u64; 6]> {
    let map = PerCpuArray::open(&host.pin("maps/SOV_LEDGER"), size_of::<Ledger>(), 1)?;
    let words = map.read()?;
    Ok(words.try_into().expect("a ledger has six words"))
}

/// Whether the record is of a flow to `destination`.
pub(crate) fn is_to(record: &Value, destination: &str) -> bool {
    record["dst_endpoint"]["ip"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .is_some_and(|found: std::net::IpAddr| found == ip(destination))
}

/// The attributes of the destination in a record.
fn attributes(record: &Value) -> &Value {
    let list = record["enrichments"].as_array().expect("enrichments");
    list.iter().map(|e| &e["data"]).find(|data| data.is_object()).expect("attributes")
}

#[test]
fn a_blocked_flow_is_on_record_within_a_second() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let tags = [
        tag("by-mark", 1, "mark = \"0x30/0xf0\""),
        tag("by-source", 2, "source = \"10.30.0.0/16\""),
        tag("by-source6", 3, "source = \"fd00:30::/32\""),
    ];
    let text = policy("enforce", &tags.concat());
    let _agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    let work = Workload::new(&lab.work);
    let port = std::cell::Cell::new(9100);
    // At the socket hooks (by mark), at the packet hook (by source address, and raw frames).
    type Case<'a> = (&'static str, &'a dyn Fn(u16), usize);
    let cases: [Case<'_>; 5] = [
        ("by-mark", &|port| udp(&work.mark(0x30), place::ABROAD[0], port), 0),
        ("by-mark", &|port| udp(&work.mark(0x30), place::ABROAD[1], port), 1),
        ("by-source", &|port| udp(&work.source(OTHER4.into()), place::ABROAD[0], port), 0),
        ("by-source6", &|port| udp(&work.source(OTHER6.into()), place::ABROAD[1], port), 1),
        (
            "by-mark",
            &|port| {
                let frame = udp_frame(SOURCE4.into(), ip(place::ABROAD[0]), port, b"raw");
                work.mark(0x30).frames(UPLINK, vec![frame], FrameMode::Normal).unwrap();
            },
            0,
        ),
    ];
    for (name, send, family) in cases {
        port.set(port.get() + 1);
        let start = Instant::now();
        send(port.get());
        let (record, _) = host
            .wait_record(Duration::from_secs(2), |r| {
                is_to(r, place::ABROAD[family]) && r["dst_endpoint"]["port"] == port.get()
            })
            .unwrap();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{name} port {} took {took:?}", port.get());
        assert_eq!(record["class_uid"], 4001, "{record:#}");
        assert_eq!(record["unmapped"]["verdict"], "block", "{record:#}");
        assert_eq!(record["unmapped"]["tag"], name, "{record:#}");
        assert_eq!(record["unmapped"]["tier"], "sovereign", "{record:#}");
        assert_eq!(record["policy"]["name"], "e2e", "{record:#}");
        assert_eq!(record["connection_info"]["protocol_num"], 17, "{record:#}");
        let known = attributes(&record);
        assert_ne!(known["location"], "JP", "{record:#}");
        assert_eq!(known["scope"], "global", "{record:#}");
    }
}

fn udp(workload: &Workload<'_>, to: &str, port: u16) {
    let action = Action::Udp { to: vec![ip(to)], port, count: 1, payload: 16, connected: false };
    workload.run(action).unwrap();
}

#[test]
fn the_record_names_the_process() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let group = Cgroup::new().unwrap();
    let select = format!("cgroup = \"{}\"", group.name);
    let text = policy("enforce", &tag("by-cgroup", 1, &select));
    let _agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    let refused =
        Workload::new(&lab.work).cgroup(&group).uid(990).tcp(ip(place::ABROAD[0]), 443).unwrap();
    assert_eq!(refused.errno, Some(libc::EPERM), "{refused:?}");
    let (record, _) =
        host.wait_record(Duration::from_secs(1), |r| is_to(r, place::ABROAD[0])).unwrap();
    let process = &record["actor"]["process"];
    assert_eq!(process["name"], "sov-traffic", "{record:#}");
    assert!(process["pid"].as_u64().is_some_and(|pid| pid > 1), "{record:#}");
    assert_eq!(process["user"]["uid"], "990", "{record:#}");
    assert!(record.to_string().contains(&group.name), "the cgroup's path: {record:#}");
}

/// A flood of distinct flows: every blocked packet is in a record or counted as left out.
#[test]
fn the_journal_balances_under_a_flood_of_distinct_flows() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let tags = [
        tag("by-source", 2, "source = \"10.30.0.0/16\""),
        tag("by-source6", 3, "source = \"fd00:30::/32\""),
    ];
    let text = policy("enforce", &tags.concat());
    let agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    let flood = |source, to: &str| {
        Workload::new(&lab.work)
            .source(source)
            .spawn(Action::FloodUdp { to: vec![ip(to)], port: 1, ports: 30_000, packets: 90_000 })
            .unwrap()
    };
    let four = flood(OTHER4.into(), place::ABROAD[0]);
    let six = flood(OTHER6.into(), place::ABROAD[1]);
    let offered: u64 = [four, six]
        .into_iter()
        .map(|flood| {
            let outcome = flood.finish().unwrap();
            outcome.sent + outcome.failed
        })
        .sum();
    let [blocked, recorded, aggregated, suppressed, lost, _] = ledger(&host).unwrap();
    assert!(blocked >= offered, "{blocked} blocked of {offered} offered");
    assert_eq!(blocked, recorded + aggregated + suppressed + lost);
    // The agent reports what it aggregates in intervals; a clean stop writes the rest.
    let (status, log) = agent.stop().unwrap();
    assert!(status.success(), "{log}");
    let [blocked, recorded, aggregated, suppressed, lost, _] = ledger(&host).unwrap();
    let on_record: u64 = host
        .records()
        .unwrap()
        .iter()
        .filter(|r| r["unmapped"]["verdict"] == "block")
        .map(|r| r["traffic"]["packets"].as_u64().expect("packets"))
        .sum();
    eprintln!(
        "blocked {blocked} = recorded {recorded} + aggregated {aggregated} + suppressed \
         {suppressed} + lost {lost}; {on_record} packets in the journal"
    );
    assert_eq!(on_record, recorded + aggregated, "packets in the journal");
    assert_eq!(blocked, on_record + suppressed + lost);
}
