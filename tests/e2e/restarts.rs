//! The flow log over the agent's life and death: each packet once, whenever it is killed.

use std::{thread, time::Duration};

use sov_tests::{
    agent::{Agent, Host},
    lab::{Lab, OTHER4, OTHER6},
    require_root,
    traffic::{Action, Workload},
};

use crate::{ip, place, policy, records::ledger, tag, turn};

fn by_source() -> String {
    let tags = [
        tag("by-source", 2, "source = \"10.30.0.0/16\""),
        tag("by-source6", 3, "source = \"fd00:30::/32\""),
    ];
    policy("enforce", &tags.concat())
}

/// Packets of all records.
fn on_record(host: &Host) -> u64 {
    let records = host.records().unwrap();
    let packets = |r: &serde_json::Value| r["traffic"]["packets"].as_u64().expect("packets");
    records.iter().filter(|r| r["unmapped"]["verdict"] == "block").map(packets).sum()
}

#[track_caller]
fn assert_exact(host: &Host, what: &str) {
    let [blocked, recorded, aggregated, suppressed, lost, _] = ledger(host).unwrap();
    let written = on_record(host);
    eprintln!(
        "{what}: blocked {blocked} = recorded {recorded} + aggregated {aggregated} + lost {lost}; \
         {written} in the journal"
    );
    assert_eq!(blocked, recorded + aggregated + suppressed + lost, "{what}: the kernel's ledger");
    assert_eq!(written, recorded + aggregated, "{what}: packets in the journal");
    let mut numbers: Vec<u64> = (host.records().unwrap().iter())
        .map(|r| r["metadata"]["sequence"].as_u64().expect("a sequence number"))
        .collect();
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "{what}: a sequence number was given twice");
}

/// Records of flows that go on are written every ten seconds: kills before, amid and after them.
#[test]
fn the_journal_is_exact_over_kills_and_restarts() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let flood = |source, to: &str| {
        let to = vec![ip(to)];
        Workload::new(&lab.work)
            .source(source)
            .spawn(Action::FloodUdp { to, port: 1, ports: 3_000, packets: u64::MAX })
            .unwrap()
    };
    let mut agent = Agent::with_policy(&host, &lab.work, &by_source()).unwrap();
    let floods = [flood(OTHER4.into(), place::ABROAD[0]), flood(OTHER6.into(), place::ABROAD[1])];
    for round in 0..9u64 {
        // Odd moments, from right after the start to the middle of a report.
        let moment = if round % 5 == 1 { 10_300 } else { 13 + (round * 7_919) % 700 };
        thread::sleep(Duration::from_millis(moment));
        if round == 4 {
            let (status, log) = agent.stop().unwrap();
            assert!(status.success(), "{log}");
        } else {
            agent.kill().unwrap();
        }
        agent = Agent::with_policy(&host, &lab.work, &by_source()).unwrap();
    }
    for flood in floods {
        flood.stop().unwrap();
    }
    let (status, log) = agent.stop().unwrap();
    assert!(status.success(), "{log}");
    assert_exact(&host, "nine ends under a flood");
    // Nothing new: nothing is written.
    let agent = Agent::with_policy(&host, &lab.work, &by_source()).unwrap();
    thread::sleep(Duration::from_millis(1_200));
    agent.stop().unwrap();
    assert_exact(&host, "an idle restart");
}
