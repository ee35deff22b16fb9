//! The case that plain geo-blocking lets through: located in Japan, controlled from elsewhere.

use std::time::Duration;

use serde_json::Value;
use sov_tests::{
    agent::{Agent, Host},
    lab::{Lab, UPLINK},
    require_root,
    sink::Recorder,
    traffic::Workload,
};

use crate::{WAIT, ip, place, records::is_to, turn};

fn json_lines(output: &std::process::Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect()
}

/// What the other tests take for granted about the embedded data.
#[test]
fn the_embedded_data_says_what_the_tests_rely_on() {
    require_root!();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let all: Vec<&str> = [place::DOMESTIC, place::FOREIGN_CONTROL, place::ABROAD].concat();
    let mut args = vec!["lookup", "--format", "json"];
    args.extend(&all);
    let found = json_lines(&host.cli(&lab.work, &args).unwrap());
    let words: Vec<(&str, &str)> = found
        .iter()
        .map(|f| (f["location"].as_str().unwrap_or("?"), f["control"].as_str().unwrap_or("?")))
        .collect();
    assert_eq!(words[..2], [("JP", "JP"); 2], "{found:#?}");
    assert_eq!(words[2..4], [("JP", "US"); 2], "{found:#?}");
    assert!(words[4..].iter().all(|(location, _)| *location != "JP"), "{found:#?}");
}

/// The default profile, enforced: its sovereign tag may not reach a US cloud in Tokyo, its general
/// one may.
#[test]
fn foreign_control_in_japan_is_blocked_for_the_sovereign_tier_only() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let policy = r#"
version = 1
name = "two-tiers"

[defaults]
mode = "enforce"

[[tier]]
name = "sovereign"
location = ["JP"]
control = ["JP"]

[[tier]]
name = "general"
location = ["JP"]
control = ["JP", "US"]

[[tag]]
name = "koseki"
tier = "sovereign"
rank = 3
select = [ { mark = "0x30/0xf0" } ]

[[tag]]
name = "web"
tier = "general"
rank = 1
select = [ { mark = "0x10/0xf0" } ]
"#;
    let path = host.write("policy.toml", policy).unwrap();
    let path = path.to_str().unwrap();
    let _agent =
        Agent::start(&host, &lab.work, &["--policy", path, "--interface", UPLINK]).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let tokyo = place::FOREIGN_CONTROL.map(ip);
    let domestic = place::DOMESTIC.map(ip);
    let work = Workload::new(&lab.work);

    work.mark(0x10).udp(&[&tokyo[..], &domestic].concat()).unwrap();
    assert_eq!(seen.by_destination(WAIT).len(), 4, "the general tier reaches all");
    work.mark(0x30).udp(&[&tokyo[..], &domestic].concat()).unwrap();
    let arrived = seen.by_destination(WAIT);
    assert_eq!(arrived.len(), 2, "{arrived:?}");
    assert!(domestic.iter().all(|to| arrived.contains_key(to)), "{arrived:?}");

    for to in place::FOREIGN_CONTROL {
        let (record, _) = host.wait_record(Duration::from_secs(1), |r| is_to(r, to)).unwrap();
        assert_eq!(record["status_code"], "foreign_control", "{record:#}");
        assert_eq!(record["unmapped"]["tag"], "koseki", "{record:#}");
        let told = host
            .cli(
                &lab.work,
                &["explain", "--format", "json", "--tag", "koseki", "--policy", path, to],
            )
            .unwrap();
        assert_eq!(told.status.code(), Some(1), "explain of a blocked place");
        let told = &json_lines(&told)[0];
        assert_eq!(told["verdict"], "block", "{told}");
        assert_eq!(told["reason"], "foreign_control", "{told}");
    }
}
