//! Every kind of selector, both families: what the tag may reach arrives, the rest does not, and who
//! has no tag is left alone.

use std::{net::IpAddr, time::Duration};

use sov_tests::{
    agent::{Agent, Host},
    cgroup::Cgroup,
    lab::{Lab, OTHER4, OTHER6, POD_SIDE, SOURCE4, SOURCE6},
    require_root,
    sink::{Recorder, TcpEcho},
    traffic::{Action, Workload},
};

use crate::{WAIT, ip, place, policy, tag, turn};

/// Sends one datagram to a domestic and to a foreign place of each family, and says what arrived:
/// (domestic v4, foreign v4, domestic v6, foreign v6).
fn arrivals(seen: &Recorder, work: &Workload<'_>, families: [bool; 2]) -> [Option<bool>; 4] {
    let to: Vec<IpAddr> = (0..2)
        .filter(|family| families[*family])
        .flat_map(|family| [ip(place::DOMESTIC[family]), ip(place::ABROAD[family])])
        .collect();
    seen.take(Duration::ZERO);
    // The kernel may refuse the call at once: that is fine, what counts is what arrives.
    work.udp(&to).unwrap();
    let arrived = seen.by_destination(WAIT);
    let got = |text: &str| to.contains(&ip(text)).then(|| arrived.contains_key(&ip(text)));
    [got(place::DOMESTIC[0]), got(place::ABROAD[0]), got(place::DOMESTIC[1]), got(place::ABROAD[1])]
}

const BOTH: [bool; 2] = [true, true];
const ENFORCED: [Option<bool>; 4] = [Some(true), Some(false), Some(true), Some(false)];
const UNTOUCHED: [Option<bool>; 4] = [Some(true); 4];

#[test]
fn every_selector_tags_both_families() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let pod = lab.pod().unwrap();
    let host = Host::new().unwrap();
    let group = Cgroup::new().unwrap();
    let child = group.child("worker.scope").unwrap();
    let outside = Cgroup::new().unwrap();
    let tags = [
        tag("by-cgroup", 1, &format!("cgroup = \"{}\"", group.name)),
        tag("by-mark", 2, "mark = \"0x30/0xf0\""),
        tag("by-source4", 3, "source = \"10.30.0.0/16\""),
        tag("by-source6", 4, "source = \"fd00:30::/32\""),
        tag("by-dscp", 5, "dscp = 34"),
        tag("by-uid", 6, "uid = 990"),
        tag("by-interface", 7, &format!("interface = \"{POD_SIDE}\"")),
    ];
    let _agent = Agent::with_policy(&host, &lab.work, &policy("enforce", &tags.concat())).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let work = Workload::new(&lab.work);

    assert_eq!(arrivals(&seen, &work, BOTH), UNTOUCHED, "no tag at all");
    assert_eq!(arrivals(&seen, &work.cgroup(&outside), BOTH), UNTOUCHED, "another cgroup");
    assert_eq!(arrivals(&seen, &work.cgroup(&group), BOTH), ENFORCED, "cgroup");
    assert_eq!(arrivals(&seen, &work.cgroup(&child), BOTH), ENFORCED, "a cgroup below it");
    assert_eq!(arrivals(&seen, &work.mark(0x20), BOTH), UNTOUCHED, "another mark");
    assert_eq!(arrivals(&seen, &work.mark(0x30), BOTH), ENFORCED, "mark");
    assert_eq!(arrivals(&seen, &work.mark(0xabc3f), BOTH), ENFORCED, "mark under its mask");
    assert_eq!(arrivals(&seen, &work.dscp(33), BOTH), UNTOUCHED, "another DSCP");
    assert_eq!(arrivals(&seen, &work.dscp(34), BOTH), ENFORCED, "DSCP");
    assert_eq!(arrivals(&seen, &work.uid(991), BOTH), UNTOUCHED, "another user");
    assert_eq!(arrivals(&seen, &work.uid(990), BOTH), ENFORCED, "user");

    let v4 = [true, false];
    let v6 = [false, true];
    let from = |source: IpAddr, families| arrivals(&seen, &work.source(source), families);
    assert_eq!(from(SOURCE4.into(), v4)[..2], UNTOUCHED[..2], "another IPv4 source");
    assert_eq!(from(OTHER4.into(), v4)[..2], ENFORCED[..2], "IPv4 source");
    assert_eq!(from(SOURCE6.into(), v6)[2..], UNTOUCHED[2..], "another IPv6 source");
    assert_eq!(from(OTHER6.into(), v6)[2..], ENFORCED[2..], "IPv6 source");

    assert_eq!(arrivals(&seen, &Workload::new(&pod), BOTH), ENFORCED, "interface of a container");
}

#[test]
fn untagged_may_be_a_tag() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let tags = tag("everything", 1, "mark = \"0x30\"");
    let text = policy("enforce", &tags)
        .replace("mode = \"enforce\"", "mode = \"enforce\"\nuntagged = \"everything\"");
    let _agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    assert_eq!(arrivals(&seen, &Workload::new(&lab.work), BOTH), ENFORCED);
}

/// TCP, ping and connected UDP too; and the refusal is instant.
#[test]
fn tagged_connect_fails_with_eperm_in_under_ten_milliseconds() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let group = Cgroup::new().unwrap();
    let tags = [
        tag("by-cgroup", 1, &format!("cgroup = \"{}\"", group.name)),
        tag("by-mark", 2, "mark = \"0x30/0xf0\""),
        tag("by-uid", 3, "uid = 990"),
    ];
    let _agent = Agent::with_policy(&host, &lab.work, &policy("enforce", &tags.concat())).unwrap();
    let _echo = TcpEcho::start(&lab.internet, 443).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let plain = Workload::new(&lab.work);
    for tagged in [plain.cgroup(&group), plain.mark(0x30), plain.uid(990)] {
        for family in 0..2 {
            let (good, bad) = (ip(place::DOMESTIC[family]), ip(place::ABROAD[family]));
            let reached = tagged.tcp(good, 443).unwrap();
            assert!(reached.ok, "TCP to {good}: {reached:?}");
            let refused = tagged.tcp(bad, 443).unwrap();
            assert_eq!(refused.errno, Some(libc::EPERM), "TCP to {bad}: {refused:?}");
            assert!(refused.micros < 10_000, "TCP to {bad} took {} us", refused.micros);
            let untagged = plain.tcp(bad, 443).unwrap();
            assert!(untagged.ok, "untagged TCP to {bad}: {untagged:?}");
        }
    }
    let tagged = plain.mark(0x30);
    for family in 0..2 {
        let (good, bad) = (ip(place::DOMESTIC[family]), ip(place::ABROAD[family]));
        assert!(tagged.ping(good).unwrap().ok, "ping {good}");
        assert!(!tagged.ping(bad).unwrap().ok, "ping {bad}");
        let connected =
            Action::Udp { to: vec![bad], port: 9000, count: 1, payload: 8, connected: true };
        let udp = tagged.run(connected).unwrap();
        assert_eq!(udp.errno, Some(libc::EPERM), "connected UDP to {bad}: {udp:?}");
    }
    let marked_abroad = seen.take(WAIT);
    // Only untagged TCP may have reached the foreign places.
    assert!(marked_abroad.iter().all(|frame| {
        let at = if frame[12..14] == [8, 0] { 14 + 9 } else { 14 + 6 };
        sov_tests::sink::destination(frame) != Some(ip(place::ABROAD[0]))
            && sov_tests::sink::destination(frame) != Some(ip(place::ABROAD[1]))
            || frame[at] == 6
    }));
}

/// An open connection is cut when its process is tagged afterwards: packets decide, not sockets.
#[test]
fn a_connection_from_before_the_agent_carries_nothing_out() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let group = Cgroup::new().unwrap();
    let _echo = TcpEcho::start(&lab.internet, 443).unwrap();
    let work = Workload::new(&lab.work).cgroup(&group);
    let hold = |to: &str| work.spawn(Action::TcpHold { to: ip(to), port: 443 }).unwrap();
    let mut held: Vec<_> = place::ABROAD.iter().map(|to| hold(to)).collect();
    let mut good = hold(place::DOMESTIC[0]);
    for connection in &mut held {
        assert!(connection.poke().unwrap().ok, "before the agent");
    }
    let select = format!("cgroup = \"{}\"", group.name);
    let text = policy("enforce", &tag("by-cgroup", 1, &select));
    let _agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    for connection in &mut held {
        assert!(!connection.poke().unwrap().ok, "after the agent");
    }
    assert!(good.poke().unwrap().ok, "an allowed connection goes on");
}
