//! Records of a real run, held against the published OCSF schema by somebody else's validator.
//!
//! `tests/ocsf_check.py` does that; `cargo xtask test` makes its Python and names it in
//! `SOV_OCSF_PYTHON`. The validator must accept every record, and refuse each that is then damaged.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use sov_tests::{
    agent::{Agent, Host},
    cgroup::Cgroup,
    lab::{Lab, OTHER6, SOURCE4, SOURCE6, UPLINK},
    packet, privilege, require_root,
    traffic::{Action, FrameMode, Workload},
};

use crate::{ip, place, policy, records::is_to, tag, turn};

#[test]
fn the_records_of_a_run_are_valid_ocsf_and_damaged_ones_are_not() {
    require_root!();
    let Some(python) = std::env::var_os("SOV_OCSF_PYTHON") else {
        let why = "SOV_OCSF_PYTHON names no Python with the validator; run `cargo xtask test e2e`";
        assert!(!privilege::required(), "{why}");
        eprintln!("SKIPPED {}: {why}", module_path!());
        return;
    };
    let _turn = turn();
    let host = Host::new().unwrap();
    let records = records(&host);
    let check = |files: &[PathBuf]| -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ocsf_check.py");
        Command::new(&python).arg(script).args(files).output().expect("python runs")
    };

    // The files as the agent wrote them.
    let journal = fs::read_dir(host.state_dir().join("flows")).expect("the journal");
    let files: Vec<_> = journal.map(|entry| entry.expect("an entry").path()).collect();
    let good = check(&files.into_iter().filter(|f| f.extension().is_some()).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&good.stderr).into_owned();
    assert_eq!(good.status.code(), Some(0), "{said}");
    let total = records.len();
    let expected = format!("{total} events, {total} valid, 0 not\n");
    assert_eq!(String::from_utf8_lossy(&good.stdout), expected, "{said}");

    let mut damaged = String::new();
    for (name, damage) in DAMAGE {
        let mut record = records[0].clone();
        damage(&mut record);
        assert_ne!(record, records[0], "{name} changes nothing");
        damaged.push_str(&format!("{record}\n"));
    }
    let file = host.write("damaged.jsonl", &damaged).unwrap();
    let bad = check(&[file]);
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    for (index, (name, _)) in DAMAGE.iter().enumerate() {
        assert!(said.contains(&format!(":{}: ", index + 1)), "{name} was accepted:\n{said}");
    }
    assert_eq!(bad.status.code(), Some(1), "{said}");
    let counted = format!("{0} events, 0 valid, {0} not\n", DAMAGE.len());
    assert_eq!(String::from_utf8_lossy(&bad.stdout), counted, "{said}");
}

type Damage = fn(&mut Value);

/// Ways to be no OCSF event; each alone must be noticed.
const DAMAGE: &[(&str, Damage)] = &[
    ("no time", |r| remove(r, "", "time")),
    ("no metadata.product", |r| remove(r, "/metadata", "product")),
    ("no activity", |r| remove(r, "", "activity_id")),
    ("no severity", |r| remove(r, "", "severity_id")),
    ("an attribute that the class does not have", |r| r["verdict"] = json!("block")),
    ("an attribute that the object does not have", |r| r["traffic"]["frames"] = json!(1)),
    ("a port that is text", |r| r["dst_endpoint"]["port"] = json!("443")),
    ("an address that is none", |r| r["dst_endpoint"]["ip"] = json!(["8.8.8.8"])),
    ("an activity that does not exist", |r| {
        r["activity_id"] = json!(77);
        r["type_uid"] = json!(400_177);
    }),
    ("a type of another activity", |r| r["type_uid"] = json!(400_102)),
    ("a severity that does not exist", |r| r["severity_id"] = json!(42)),
    ("a disposition that does not exist", |r| r["disposition_id"] = json!(777)),
    ("a class that does not exist", |r| r["class_uid"] = json!(9_999_999)),
    ("another category", |r| r["category_uid"] = json!(3)),
    ("a version that does not exist", |r| r["metadata"]["version"] = json!("0.0.1")),
    ("a profile that it uses is not named", |r| r["metadata"]["profiles"] = json!(["host"])),
    ("a time in seconds", |r| r["time"] = json!(r["time"].as_i64().unwrap_or(0) / 1000)),
    ("a start that is no time", |r| r["start_time_dt"] = json!("yesterday")),
    ("an object that is a list", |r| r["connection_info"] = json!([])),
];

fn remove(record: &mut Value, object: &str, key: &str) {
    let object = record.pointer_mut(object).and_then(Value::as_object_mut).expect("an object");
    object.remove(key).expect("it is there");
}

/// The journal of an agent that met every kind of sender, hook, protocol and verdict.
fn records(host: &Host) -> Vec<Value> {
    let lab = Lab::new().unwrap();
    let group = Cgroup::new().unwrap();
    let audit = tag("by-uid", 1, "uid = 991") + "mode = \"audit\"\n";
    let silent = tag("by-dscp", 4, "dscp = 34") + "response = \"drop\"\n";
    let tags = [
        audit,
        tag("by-mark", 2, "mark = \"0x30/0xf0\""),
        tag("by-source6", 3, "source = \"fd00:30::/32\""),
        silent,
        tag("by-cgroup", 5, &format!("cgroup = \"{}\"", group.name)),
    ];
    let agent = Agent::with_policy(host, &lab.work, &policy("enforce", &tags.concat())).unwrap();
    let work = Workload::new(&lab.work);
    for to in place::ABROAD.into_iter().chain(place::FOREIGN_CONTROL).map(ip) {
        // What the application sees of it is the subject of other tests.
        let _ = work.cgroup(&group).uid(990).tcp(to, 443);
        let _ = work.uid(991).udp(&[to]);
        let _ = work.mark(0x30).ping(to);
        let _ = work.dscp(34).udp(&[to]);
    }
    // One flow of many packets.
    let again =
        Action::FloodUdp { to: vec![ip(place::ABROAD[1])], port: 9100, ports: 1, packets: 40 };
    let _ = work.source(OTHER6.into()).run(again);
    let abroad = |family: usize| ip(place::ABROAD[family]);
    let (IpAddr::V4(to4), IpAddr::V6(to6)) = (abroad(0), abroad(1)) else {
        unreachable!("the places have a family each")
    };
    let IpAddr::V4(near4) = ip(place::DOMESTIC[0]) else { unreachable!("it is an IPv4 address") };
    let inner = packet::ip4(SOURCE4, to4, 17).wrap(&[0; 16]);
    let frames = vec![
        packet::udp_frame(SOURCE4.into(), abroad(0), 9200, b"raw"),
        packet::udp_frame(SOURCE6.into(), abroad(1), 9200, b"raw"),
        packet::ip4(SOURCE4, to4, 47).frame(&packet::gre(packet::ETH_IP, &inner)),
        packet::ip4(SOURCE4, near4, 50).frame(&[7; 24]),
        packet::ip4(SOURCE4, to4, 17).version(5).frame(&[0; 16]),
        packet::ip4(SOURCE4, to4, 17).fragment(100, false).frame(&[0; 16]),
        packet::ip6(SOURCE6, to6, 17).then(packet::routing(0, 1, &[to6])).frame(&[0; 16]),
        packet::eth(0x88cc, b"unknown ethertype"),
    ];
    let _ = work.mark(0x30).frames(UPLINK, frames, FrameMode::Normal);
    host.wait_record(Duration::from_secs(2), |r| {
        is_to(r, place::ABROAD[1]) && r["dst_endpoint"]["port"] == 9200
    })
    .unwrap();
    // A clean stop writes what was aggregated.
    let (status, log) = agent.stop().unwrap();
    assert!(status.success(), "{log}");

    let records = host.records().unwrap();
    let has =
        |pointer: &str, value: Value| records.iter().any(|r| r.pointer(pointer) == Some(&value));
    for verdict in ["block", "would_block"] {
        assert!(has("/unmapped/verdict", json!(verdict)), "{verdict}");
    }
    for reason in ["foreign_location", "foreign_control", "tunnel", "malformed"] {
        assert!(has("/status_code", json!(reason)), "{reason}: {records:#?}");
    }
    for protocol in [1, 6, 17, 58] {
        assert!(has("/connection_info/protocol_num", json!(protocol)), "protocol {protocol}");
    }
    assert!(records.iter().any(|r| r["traffic"]["packets"].as_u64() > Some(1)), "aggregated");
    assert!(records.iter().any(|r| r["actor"]["process"]["pid"].is_u64()), "with a process");
    records
}
