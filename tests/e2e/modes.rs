//! Audit and enforce; the monitor-only and default profiles; clean stop.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use sov_tests::{
    agent::{Agent, Host},
    cgroup::Cgroup,
    lab::{Lab, SOURCE4, SOURCE6, UPLINK},
    require_root,
    sink::{Recorder, TcpEcho},
    traffic::{Action, Workload},
};

use crate::{WAIT, ip, place, policy, records::is_to, tag, turn};

#[test]
fn audit_passes_and_records_would_block() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let text = policy("audit", &tag("by-mark", 1, "mark = \"0x30/0xf0\""));
    let _agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let to = place::ABROAD.map(ip);
    let sent = Workload::new(&lab.work).mark(0x30).udp(&to).unwrap();
    assert!(sent.ok, "{sent:?}");
    let arrived = seen.by_destination(WAIT);
    for address in to {
        assert_eq!(arrived.get(&address), Some(&1), "{address} in audit mode");
        let (record, _) =
            host.wait_record(Duration::from_secs(1), |r| is_to(r, &address.to_string())).unwrap();
        assert_eq!(record["unmapped"]["verdict"], "would_block", "{record:#}");
        assert_eq!(record["unmapped"]["tag"], "by-mark", "{record:#}");
        assert_eq!(record["unmapped"]["mode"], "audit", "{record:#}");
    }
}

#[test]
fn one_tag_audits_while_another_enforces() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let mut audit = tag("watched", 1, "mark = \"0x10/0xf0\"");
    audit.push_str("mode = \"audit\"\n");
    let tags = [audit, tag("kept", 2, "mark = \"0x30/0xf0\"")].concat();
    let _agent = Agent::with_policy(&host, &lab.work, &policy("enforce", &tags)).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let to = place::ABROAD.map(ip);
    let work = Workload::new(&lab.work);
    work.mark(0x30).udp(&to).unwrap();
    assert!(seen.by_destination(WAIT).is_empty(), "the enforced tag");
    work.mark(0x10).udp(&to).unwrap();
    assert_eq!(seen.by_destination(WAIT).len(), 2, "the audited tag");
}

/// No policy at all: the embedded profile in audit mode breaks nothing.
#[test]
fn the_first_run_breaks_nothing() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let agent = Agent::start(&host, &lab.work, &[]).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let to: Vec<_> = place::ABROAD.iter().chain(&place::DOMESTIC).map(|a| ip(a)).collect();
    Workload::new(&lab.work).udp(&to).unwrap();
    assert_eq!(seen.by_destination(WAIT).len(), 4);
    assert!(agent.log().contains(UPLINK), "the summary names the interface:\n{}", agent.log());
    assert!(agent.log().contains("audit"), "the summary names the mode:\n{}", agent.log());
}

#[test]
fn a_clean_stop_says_that_enforcement_stays_on() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let text = policy("enforce", &tag("by-mark", 1, "mark = \"0x30/0xf0\""));
    let agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let (status, log) = agent.stop().unwrap();
    assert!(status.success(), "{status}\n{log}");
    let last = log.lines().rev().take(6).collect::<String>().to_lowercase();
    assert!(last.contains("stay") || last.contains("remain"), "{log}");
    let to = place::ABROAD.map(ip);
    let work = Workload::new(&lab.work);
    work.mark(0x30).udp(&to).unwrap();
    assert!(seen.by_destination(WAIT).is_empty(), "blocked after a clean stop");
    work.udp(&to).unwrap();
    assert_eq!(seen.by_destination(WAIT).len(), 2, "untagged traffic after a clean stop");
}

#[test]
fn detach_on_stop_removes_everything() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let text = policy("enforce", &tag("by-mark", 1, "mark = \"0x30/0xf0\""));
    let path = host.write("policy.toml", &text).unwrap();
    let args = ["--detach", "--policy", path.to_str().unwrap(), "--interface", UPLINK];
    let agent = Agent::start(&host, &lab.work, &args).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let to = place::ABROAD.map(ip);
    let tagged = Workload::new(&lab.work).mark(0x30);
    tagged.udp(&to).unwrap();
    assert!(seen.by_destination(WAIT).is_empty(), "blocked while it runs");
    let (status, log) = agent.stop().unwrap();
    assert!(status.success(), "{status}\n{log}");
    tagged.udp(&to).unwrap();
    assert_eq!(seen.by_destination(WAIT).len(), 2, "free after a stop with --detach:\n{log}");
}

/// Without a refusal the application waits; nothing leaves all the same.
#[test]
fn drop_is_silent() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let text = policy("enforce", &tag("by-mark", 1, "mark = \"0x30/0xf0\""))
        .replace("mode = \"enforce\"", "mode = \"enforce\"\nresponse = \"drop\"");
    let _agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let tagged = Workload::new(&lab.work).mark(0x30);
    for to in place::ABROAD.map(ip) {
        let tcp = tagged.run(Action::Tcp { to, port: 443, timeout_ms: 300 }).unwrap();
        // The send timeout ends the attempt, not the kernel.
        assert_eq!(tcp.errno, Some(libc::EINPROGRESS), "{to}: {tcp:?}");
        assert!(tcp.micros >= 250_000, "{to}: {tcp:?}");
        let udp = tagged.udp(&[to]).unwrap();
        assert!(udp.ok, "{to}: {udp:?}");
    }
    assert!(seen.by_destination(WAIT).is_empty());
    for to in place::ABROAD {
        host.wait_record(Duration::from_secs(1), |r| is_to(r, to)).unwrap();
    }
}

/// What the operator sees: the state, and the flow that was stopped.
#[test]
fn status_and_flows_tell_what_happened() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let text = policy("enforce", &tag("by-mark", 1, "mark = \"0x30/0xf0\""));
    let agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    let to = place::ABROAD[0];
    Workload::new(&lab.work).mark(0x30).udp(&[ip(to)]).unwrap();
    host.wait_record(Duration::from_secs(1), |r| is_to(r, to)).unwrap();

    let json = |args: &[&str]| -> serde_json::Value {
        let output = host.cli(&lab.work, args).unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    };
    let status = json(&["status", "--format", "json"]);
    assert_eq!(status["policy"]["name"], "e2e", "{status:#}");
    assert_eq!(status["tags"][0]["name"], "by-mark", "{status:#}");
    assert_eq!(status["tags"][0]["mode"], "enforce", "{status:#}");
    assert_eq!(status["interfaces"][0]["name"], UPLINK, "{status:#}");
    assert_eq!(status["agent"]["pid"], agent.pid(), "{status:#}");
    let ledger = &status["ledger"];
    let term = |name: &str| ledger[name].as_u64().expect("a number");
    assert!(term("blocked") >= 1, "{status:#}");
    let terms = term("recorded") + term("aggregated") + term("suppressed") + term("lost");
    assert_eq!(term("blocked"), terms, "{status:#}");

    let flows = json(&["flows", "--format", "json", "--tag", "by-mark", "--limit", "1"]);
    assert!(is_to(&flows, to), "{flows:#}");
    let text = host.cli(&lab.work, &["flows", "--verdict", "block"]).unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains(to), "{text:?}");
    let none = host.cli(&lab.work, &["flows", "--tag", "nobody"]).unwrap();
    assert!(none.status.success() && none.stdout.is_empty(), "{none:?}");

    drop(agent);
    let dead = host.cli(&lab.work, &["status"]).unwrap();
    // No agent answers; what the kernel goes on doing is still to be seen.
    assert_ne!(dead.status.code(), Some(0), "{dead:?}");
}

/// A second agent on the same node is refused and changes nothing.
#[test]
fn a_second_agent_is_refused() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let text = policy("enforce", &tag("by-mark", 1, "mark = \"0x30/0xf0\""));
    let _agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    let open = policy("enforce", "");
    let path = host.write("open.toml", &open).unwrap();
    let args = ["run", "--policy", path.to_str().unwrap(), "--interface", UPLINK];
    let second = host.cli(&lab.work, &args).unwrap();
    assert_eq!(second.status.code(), Some(2), "{second:?}");
    let seen = Recorder::new(&lab.internet).unwrap();
    Workload::new(&lab.work).mark(0x30).udp(&place::ABROAD.map(ip)).unwrap();
    assert!(seen.by_destination(WAIT).is_empty(), "the first agent's policy is still live");
}

/// A server that everyone abroad may ask: its answers pass only with `replies = "allow"`, and nothing
/// but answers does.
#[test]
fn replies_pass_only_where_the_tag_allows_them() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let _server = TcpEcho::start(&lab.work, 8080).unwrap();
    // To speak from an address takes more than to answer for it.
    let [four, six] = place::ABROAD;
    lab.internet
        .ip(&format!("addr add {four}/32 dev lo\naddr add {six}/128 dev lo nodad"))
        .unwrap();
    let text = |replies: &str| {
        let tags = tag("server", 1, "source = \"10.20.0.0/16\"")
            + replies
            + &tag("server6", 2, "source = \"fd00:20::/32\"")
            + replies;
        policy("enforce", &tags)
    };
    let ask = |family: usize| {
        let client = Workload::new(&lab.internet).source(ip(place::ABROAD[family]));
        let to = if family == 0 { SOURCE4.into() } else { SOURCE6.into() };
        client.run(Action::Tcp { to, port: 8080, timeout_ms: 500 }).unwrap()
    };
    let agent = Agent::with_policy(&host, &lab.work, &text("")).unwrap();
    for family in 0..2 {
        assert!(!ask(family).ok, "without replies: {:?}", ask(family));
    }
    agent.stop().unwrap();
    let _agent = Agent::with_policy(&host, &lab.work, &text("replies = \"allow\"\n")).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    for family in 0..2 {
        let asked = ask(family);
        assert!(asked.ok, "with replies: {asked:?}");
    }
    seen.take(WAIT);
    // The server itself may still not speak first.
    Workload::new(&lab.work).udp(&place::ABROAD.map(ip)).unwrap();
    for to in place::ABROAD.map(ip) {
        let own =
            Workload::new(&lab.work).run(Action::Tcp { to, port: 443, timeout_ms: 200 }).unwrap();
        assert!(!own.ok, "{own:?}");
    }
    assert!(seen.by_destination(WAIT).is_empty(), "only answers pass");
}

/// The socket hooks know answers no better than openings, so they leave datagrams to the packet hooks.
#[test]
fn a_udp_server_answers_where_the_tag_allows_replies() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let [four, six] = place::ABROAD;
    lab.internet
        .ip(&format!("addr add {four}/32 dev lo\naddr add {six}/128 dev lo nodad"))
        .unwrap();
    let text = |replies: &str| {
        let tags = tag("server", 1, "mark = \"0x30/0xf0\"") + replies;
        policy("enforce", &tags)
            .replace("mode = \"enforce\"", "mode = \"enforce\"\nresponse = \"reject\"")
    };
    let ask = |family: usize| {
        let (from, to) =
            ([ip(four), ip(six)][family], [IpAddr::from(SOURCE4), SOURCE6.into()][family]);
        let client = lab.internet.run(|| UdpSocket::bind((from, 0))).unwrap();
        let server = lab.work.run(|| UdpSocket::bind((to, 5353))).unwrap();
        sov_tests::sock::set(&server, libc::SOL_SOCKET, libc::SO_MARK, &0x30u32).unwrap();
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        }
        let mut buffer = [0; 16];
        client.send_to(b"question", (to, 5353)).unwrap();
        let (_, peer) = server.recv_from(&mut buffer).unwrap();
        server.send_to(b"answer", peer)?;
        client.recv_from(&mut buffer).map(|(length, _)| assert_eq!(&buffer[..length], b"answer"))
    };
    let agent = Agent::with_policy(&host, &lab.work, &text("")).unwrap();
    for family in 0..2 {
        let refused = ask(family).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "without replies: {refused}");
    }
    agent.stop().unwrap();
    let _agent = Agent::with_policy(&host, &lab.work, &text("replies = \"allow\"\n")).unwrap();
    for family in 0..2 {
        ask(family).unwrap();
    }
    // Who was not asked may still not speak, and TCP is refused at once.
    let seen = Recorder::new(&lab.internet).unwrap();
    let work = Workload::new(&lab.work).mark(0x30);
    work.udp(&place::ABROAD.map(ip)).unwrap();
    for to in place::ABROAD.map(ip) {
        assert_eq!(work.tcp(to, 443).unwrap().errno, Some(libc::EPERM), "{to}");
    }
    assert!(seen.by_destination(WAIT).is_empty(), "only answers pass");
}

/// A socket call shows no source: where that may lead to a tag which only audits, the packet decides.
#[test]
fn a_socket_hook_does_not_refuse_what_a_higher_audited_tag_may_pass() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let group = Cgroup::new().unwrap();
    let tags = |mode: &str| {
        let sources = "source = \"10.20.0.0/16\" }, { source = \"fd00:20::/32\"";
        let watched = tag("watched", 2, sources) + &format!("mode = \"{mode}\"\n");
        policy("enforce", &(tag("kept", 1, &format!("cgroup = \"{}\"", group.name)) + &watched))
    };
    let _echo = TcpEcho::start(&lab.internet, 443).unwrap();
    let work = Workload::new(&lab.work).cgroup(&group);
    let agent = Agent::with_policy(&host, &lab.work, &tags("audit")).unwrap();
    for to in place::ABROAD.map(ip) {
        let passed = work.tcp(to, 443).unwrap();
        assert!(passed.ok, "{to}: {passed:?}");
        let (record, _) =
            host.wait_record(Duration::from_secs(1), |r| is_to(r, &to.to_string())).unwrap();
        assert_eq!(record["unmapped"]["tag"], "watched", "{record:#}");
        assert_eq!(record["unmapped"]["verdict"], "would_block", "{record:#}");
    }
    agent.stop().unwrap();
    let _agent = Agent::with_policy(&host, &lab.work, &tags("enforce")).unwrap();
    for to in place::ABROAD.map(ip) {
        assert_eq!(work.tcp(to, 443).unwrap().errno, Some(libc::EPERM), "{to}");
    }
}
