//! A gateway that judges what its inside interface receives by XDP: forwarded traffic of every kind,
//! native and generic, alone and together with tc, through crashes and policy swaps.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::Duration,
};

use serde_json::Value;
use sov_common::verdict::{Reason, Verdict};
use sov_tests::{
    agent::{Agent, Host, control_get},
    lab::{FAR_MAC, Lab, POD_SIDE, UPLINK},
    netns::{Netns, run},
    packet::{self, ETH_IP, ETH_VLAN, ICMP, UDP, eth, ip4, udp_frame},
    require_root,
    sink::{Counter, Filter, Recorder, TcpEcho},
    traffic::{Action, FrameMode, Outcome, Workload},
};

use crate::{WAIT, ip, place, policy, records::is_to, tag, turn};

/// The client behind the gateway.
pub(crate) const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 40, 0, 2);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x40, 0, 0, 0, 0, 0, 2);

/// A name that no interface has: no tc program stands behind the XDP program.
const NO_UPLINK: &str = "none0";

pub(crate) struct Gateway {
    pub(crate) lab: Lab,
    pub(crate) client: Netns,
    pub(crate) host: Host,
}

impl Gateway {
    pub(crate) fn new() -> Self {
        let lab = Lab::new().unwrap();
        let client = lab.pod().unwrap();
        // Frames made by hand are addressed to this card.
        let mac = FAR_MAC.map(|b| format!("{b:02x}")).join(":");
        lab.work.ip(&format!("link set {POD_SIDE} address {mac}")).unwrap();
        client
            .ip(&format!(
                "neigh replace 10.40.0.1 lladdr {mac} dev eth0\n\
                 neigh replace fd00:40::1 lladdr {mac} dev eth0"
            ))
            .unwrap();
        Self { lab, client, host: Host::new().unwrap() }
    }

    pub(crate) fn run(&self, text: &str, uplink: &str) -> Agent {
        let path = self.host.write("policy.toml", text).unwrap();
        let path = path.to_str().unwrap();
        let args = ["--policy", path, "--xdp", POD_SIDE, "--interface", uplink];
        Agent::start(&self.host, &self.lab.work, &args).unwrap()
    }

    fn status(&self) -> Value {
        control_get(&self.host.socket(), "/v1/status").unwrap()
    }

    /// `native` or `generic`.
    fn mode(&self) -> String {
        let status = self.status();
        let interfaces = status["interfaces"].as_array().unwrap();
        let links = interfaces.iter().flat_map(|i| i["links"].as_array().unwrap());
        let link = links.into_iter().find(|l| l["hook"] == "xdp").expect("an XDP link");
        assert_eq!(link["pinned"], true, "{status:#}");
        link["kind"].as_str().unwrap().to_owned()
    }

    /// Packets that XDP counted.
    fn judged(&self, reason: Reason, verdict: Verdict) -> u64 {
        self.counted("xdp_counters", None, reason, verdict)
    }

    /// Packets of a tag, or of any.
    fn counted(&self, counters: &str, tag: Option<&str>, reason: Reason, verdict: Verdict) -> u64 {
        let status = self.status();
        let counters = status[counters].as_array().unwrap().clone();
        let wanted = |c: &&Value| {
            c["reason"] == reason.as_str()
                && c["verdict"] == verdict.as_str()
                && c["tag"].as_str().is_some_and(|found| tag.is_none_or(|tag| found == tag))
        };
        counters.iter().filter(wanted).map(|c| c["packets"].as_u64().unwrap()).sum()
    }
}

pub(crate) fn by_source() -> String {
    let tags = [
        tag("inside4", 1, "source = \"10.40.0.0/16\""),
        tag("inside6", 2, "source = \"fd00:40::/32\""),
    ];
    policy("enforce", &tags.concat())
}

fn source_for(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { CLIENT4.into() } else { CLIENT6.into() }
}

/// TCP, UDP, ping and UDP in fragments, from the client to allowed and to forbidden places.
fn real_traffic(gateway: &Gateway, what: &str) {
    let client = Workload::new(&gateway.client);
    let _echo = TcpEcho::start(&gateway.lab.internet, 443).unwrap();
    let seen = Recorder::new(&gateway.lab.internet).unwrap();
    for to in place::DOMESTIC.map(ip) {
        let tcp = client.tcp(to, 443).unwrap();
        assert!(tcp.ok, "{what}: tcp {to}: {tcp:?}");
        let bulk = client.run(Action::TcpBulk { to, port: 443, bytes: 2_000_000 }).unwrap();
        assert!(bulk.ok, "{what}: tcp in bulk {to}: {bulk:?}");
        assert!(client.ping(to).unwrap().ok, "{what}: ping {to}");
        seen.take(WAIT);
        for payload in [16, 1400, 6000] {
            send(&client, to, payload);
            let arrived = seen.by_destination(WAIT).get(&to).copied().unwrap_or(0);
            assert!(arrived >= 1, "{what}: {payload} bytes to {to}: {arrived} frames");
        }
    }
    for to in place::ABROAD.map(ip).into_iter().chain(place::FOREIGN_CONTROL.map(ip)) {
        seen.take(WAIT);
        let tcp = client.run(Action::Tcp { to, port: 443, timeout_ms: 150 }).unwrap();
        assert!(!tcp.ok, "{what}: tcp {to}: {tcp:?}");
        assert!(!client.run(Action::Ping { to, timeout_ms: 100 }).unwrap().ok, "{what}: ping {to}");
        for payload in [16, 1400, 6000] {
            send(&client, to, payload);
        }
        assert_eq!(seen.by_destination(WAIT).get(&to), None, "{what}: to {to}");
        let text = to.to_string();
        for protocol in [6, 17] {
            let (record, _) = gateway
                .host
                .wait_record(Duration::from_secs(2), |r| {
                    is_to(r, &text) && r["connection_info"]["protocol_num"] == protocol
                })
                .unwrap();
            assert_eq!(record["unmapped"]["hook"], "xdp", "{record:#}");
            assert_eq!(record["unmapped"]["verdict"], "block", "{record:#}");
            assert_eq!(record["unmapped"]["interface"]["name"], POD_SIDE, "{record:#}");
        }
    }
}

fn send(client: &Workload<'_>, to: IpAddr, payload: usize) {
    let action = Action::Udp { to: vec![to], port: 9000, count: 1, payload, connected: false };
    assert!(client.run(action).unwrap().ok, "{payload} bytes to {to}");
}

#[test]
fn xdp_judges_forwarded_traffic_native() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let agent = gateway.run(&by_source(), NO_UPLINK);
    assert_eq!(gateway.mode(), "native");
    real_traffic(&gateway, "native");
    assert!(gateway.judged(Reason::TierMatch, Verdict::Allow) > 10);
    // Once more, without the client's help: the gateway resolves and is resolved by ARP and ND.
    gateway.client.ip("neigh flush all").unwrap();
    gateway.client.ip("neigh del 10.40.0.1 dev eth0\nneigh del fd00:40::1 dev eth0").unwrap();
    gateway.lab.work.ip("neigh flush all").unwrap();
    let client = Workload::new(&gateway.client);
    for to in ["10.40.0.1", "fd00:40::1"].map(ip) {
        assert!(client.ping(to).unwrap().ok, "the gateway itself: {to}");
    }
    let (status, log) = agent.stop().unwrap();
    assert!(status.success(), "{log}");
    assert!(log.contains("guarding pod0 (xdp, native)"), "{log}");
}

/// The driver cannot (more queues on the far end than here): generic mode, said by its name.
#[test]
fn xdp_falls_back_to_generic_and_says_so() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let (work, client) = (&gateway.lab.work, &gateway.client);
    work.ip(&format!("link del {POD_SIDE}")).unwrap();
    run(std::process::Command::new("ip").args([
        "link",
        "add",
        POD_SIDE,
        "netns",
        work.name(),
        "numrxqueues",
        "1",
        "numtxqueues",
        "1",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        client.name(),
        "numtxqueues",
        "2",
        "numrxqueues",
        "2",
    ]))
    .unwrap();
    work.ip(&format!(
        "addr add 10.40.0.1/24 dev {POD_SIDE}\naddr add fd00:40::1/64 dev {POD_SIDE} nodad\n\
         link set {POD_SIDE} up"
    ))
    .unwrap();
    client
        .ip("addr add 10.40.0.2/24 dev eth0\naddr add fd00:40::2/64 dev eth0 nodad\n\
             link set eth0 up\nroute add default via 10.40.0.1\nroute add default via fd00:40::1")
        .unwrap();
    client.settle_ipv6("eth0").unwrap();
    let agent = gateway.run(&by_source(), NO_UPLINK);
    assert_eq!(gateway.mode(), "generic", "{}", agent.log());
    assert!(agent.log().contains("generic mode"), "{}", agent.log());
    real_traffic(&gateway, "generic");
}

/// Frames of 9,000 bytes lie in several pieces: judged, not skipped, and whole where they may pass.
#[test]
fn xdp_judges_jumbo_frames() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let mtu = |ns: &Netns, name: &str| ns.ip(&format!("link set {name} mtu 9000")).unwrap();
    mtu(&gateway.client, "eth0");
    mtu(&gateway.lab.work, POD_SIDE);
    mtu(&gateway.lab.work, UPLINK);
    mtu(&gateway.lab.internet, sov_tests::lab::FAR);
    let _agent = gateway.run(&by_source(), NO_UPLINK);
    assert_eq!(gateway.mode(), "native");
    let client = Workload::new(&gateway.client);
    let seen = Recorder::new(&gateway.lab.internet).unwrap();
    for family in 0..2 {
        let (good, bad) = (ip(place::DOMESTIC[family]), ip(place::ABROAD[family]));
        let before = gateway.judged(Reason::ForeignLocation, Verdict::Block);
        for to in [good, bad] {
            send(&client, to, 8900);
            // Beyond the MTU: jumbo fragments.
            send(&client, to, 30_000);
        }
        let frames = seen.take(WAIT);
        let to = |address| {
            let of = |f: &&Vec<u8>| sov_tests::sink::destination(f) == Some(address);
            frames.iter().filter(of).map(Vec::len).collect::<Vec<_>>()
        };
        assert!(to(good).len() >= 5 && to(good)[0] > 8900, "{:?}", to(good));
        assert!(to(bad).is_empty(), "{:?}", to(bad));
        let blocked = gateway.judged(Reason::ForeignLocation, Verdict::Block) - before;
        assert!(blocked >= 5, "one jumbo frame and four fragments: {blocked}");
    }
    real_traffic(&gateway, "jumbo");
}

/// By source, DSCP and interface; and whoever matches none is left alone.
#[test]
fn xdp_tags_by_source_dscp_and_interface() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let seen = Recorder::new(&gateway.lab.internet).unwrap();
    let arrivals = |work: &Workload<'_>| {
        seen.take(WAIT);
        work.udp(&place::ABROAD.map(ip)).unwrap();
        seen.by_destination(WAIT).len()
    };
    let client = Workload::new(&gateway.client);
    let enforce = |select: &str| policy("enforce", &tag("inside", 1, select));
    {
        let _agent = gateway.run(&enforce("dscp = 34"), NO_UPLINK);
        assert_eq!(arrivals(&client), 2, "no DSCP");
        assert_eq!(arrivals(&client.dscp(34)), 0, "DSCP");
    }
    {
        // A policy that names the interface attaches tc there too; XDP is first, and alone records.
        let _agent = gateway.run(&enforce(&format!("interface = \"{POD_SIDE}\"")), NO_UPLINK);
        assert_eq!(arrivals(&client), 0, "interface");
    }
    let _agent = gateway.run(&enforce("source = \"10.40.0.0/16\""), NO_UPLINK);
    assert_eq!(arrivals(&client), 1, "source: IPv6 has no tag");
    for record in gateway.host.records().unwrap() {
        assert_eq!(record["unmapped"]["hook"], "xdp", "{record:#}");
    }
}

/// VLAN and QinQ frames are judged by what they carry.
#[test]
fn xdp_judges_vlan_frames() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let _agent = gateway.run(&by_source(), NO_UPLINK);
    let inner = |to: &str| {
        let IpAddr::V4(to) = ip(to) else { panic!("IPv4 only") };
        ip4(CLIENT4, to, UDP).wrap(&packet::udp(CLIENT4.into(), to.into(), 4000, 9000, b"vlan"))
    };
    let single = |to: &str| eth(ETH_VLAN, &packet::vlan(100, ETH_IP, &inner(to)));
    let double = |to: &str| {
        eth(packet::ETH_QINQ, &packet::vlan(7, ETH_VLAN, &packet::vlan(100, ETH_IP, &inner(to))))
    };
    let client = Workload::new(&gateway.client);
    type Form<'a> = &'a dyn Fn(&str) -> Vec<u8>;
    let forms: [(&str, Form<'_>); 2] = [("VLAN", &single), ("QinQ", &double)];
    for (what, frame) in forms {
        let moved = |frames| {
            let blocked = gateway.judged(Reason::ForeignLocation, Verdict::Block);
            let allowed = gateway.judged(Reason::TierMatch, Verdict::Allow);
            client.frames("eth0", frames, FrameMode::Normal).unwrap();
            thread::sleep(WAIT);
            (
                gateway.judged(Reason::ForeignLocation, Verdict::Block) - blocked,
                gateway.judged(Reason::TierMatch, Verdict::Allow) - allowed,
            )
        };
        assert_eq!(moved(vec![frame(place::ABROAD[0]); 3]), (3, 0), "{what}");
        assert_eq!(moved(vec![frame(place::DOMESTIC[0]); 3]), (0, 3), "{what}");
    }
}

/// The outermost VLAN tag that has an id selects, in XDP and in tc, whether the tag is in the frame or
/// beside it; no other id and no inner one does.
#[test]
fn vlan_selects() {
    require_root!();
    let _turn = turn();
    let IpAddr::V4(to) = ip(place::ABROAD[0]) else { panic!("IPv4 only") };
    let inner =
        ip4(CLIENT4, to, UDP).wrap(&packet::udp(CLIENT4.into(), to.into(), 4000, 9000, b"vlan"));
    let single = |id| eth(ETH_VLAN, &packet::vlan(id, ETH_IP, &inner));
    let double = |outer, inside| {
        let tagged = packet::vlan(inside, ETH_IP, &inner);
        eth(packet::ETH_QINQ, &packet::vlan(outer, ETH_VLAN, &tagged))
    };
    let cases = [
        ("its id", single(120), true),
        ("its id with a priority", single(0xa000 | 120), true),
        ("another id", single(121), false),
        ("a priority tag", single(0), false),
        ("the outer id", double(120, 7), true),
        ("the inner id", double(7, 120), false),
        ("behind a priority tag", double(0, 120), true),
        ("no tag", eth(ETH_IP, &inner), false),
    ];
    let judge = |gateway: &Gateway, ns: &Netns, interface: &str, counters: &str| {
        let blocked =
            || gateway.counted(counters, Some("segment"), Reason::ForeignLocation, Verdict::Block);
        for (what, frame, is_blocked) in &cases {
            let before = blocked();
            let frames = vec![frame.clone(); 3];
            Workload::new(ns).frames(interface, frames, FrameMode::Normal).unwrap();
            thread::sleep(WAIT);
            let expected = if *is_blocked { 3 } else { 0 };
            assert_eq!(blocked() - before, expected, "{counters} {interface}: {what}");
        }
    };
    let segment = tag("segment", 2, "vlan = 120");
    let gateway = Gateway::new();
    let _agent = gateway.run(&policy("enforce", &segment), NO_UPLINK);
    judge(&gateway, &gateway.client, "eth0", "xdp_counters");
    // Frames that arrive have their outermost tag beside them when tc sees them; those that a packet
    // socket sends have it inside.
    let port = tag("port", 1, &format!("interface = \"{POD_SIDE}\"")) + "mode = \"audit\"\n";
    let text = policy("enforce", &(port + &segment));
    let gateway = Gateway::new();
    let path = gateway.host.write("tc.toml", &text).unwrap();
    let args = ["--policy", path.to_str().unwrap(), "--interface", UPLINK];
    let _agent = Agent::start(&gateway.host, &gateway.lab.work, &args).unwrap();
    judge(&gateway, &gateway.client, "eth0", "counters");
    judge(&gateway, &gateway.lab.work, UPLINK, "counters");
}

/// With tc on the uplink: a packet that XDP stops is on record once; one that XDP never sees is tc's.
#[test]
fn xdp_and_tc_share_the_work() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let text = by_source() + &tag("own", 3, "mark = \"0x30/0xf0\"");
    let _agent = gateway.run(&text, UPLINK);
    real_traffic(&gateway, "with tc");
    let to = ip(place::ABROAD[0]);
    let frame = udp_frame(sov_tests::lab::SOURCE4.into(), to, 9077, b"own");
    Workload::new(&gateway.lab.work)
        .mark(0x30)
        .frames(UPLINK, vec![frame], FrameMode::Normal)
        .unwrap();
    let (record, _) = gateway
        .host
        .wait_record(Duration::from_secs(2), |r| r["dst_endpoint"]["port"] == 9077)
        .unwrap();
    assert_eq!(record["unmapped"]["hook"], "tc_egress", "{record:#}");
    for record in gateway.host.records().unwrap() {
        let inside = record["src_endpoint"]["ip"] == CLIENT4.to_string();
        assert!(!inside || record["unmapped"]["hook"] == "xdp", "twice on record: {record:#}");
    }
    let status = gateway.status();
    let ledger = &status["ledger"];
    let term = |name: &str| ledger[name].as_u64().unwrap();
    let sum = term("recorded") + term("aggregated") + term("suppressed") + term("lost");
    assert_eq!(term("blocked"), sum, "{ledger}");
    // The address of a client that claims another's: no tag, no verdict.
    let stray = ip4(Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(8, 8, 8, 8), ICMP)
        .frame(&packet::icmp(8, 0, b"\0\x01\0\x01ping"));
    Workload::new(&gateway.client).frames("eth0", vec![stray], FrameMode::Normal).unwrap();
}

/// Allowed and forbidden packets of both families from the client, interleaved; exact counts.
fn stream(gateway: &Gateway) -> (sov_tests::traffic::Running, [Counter; 4], [IpAddr; 4]) {
    let to = [place::DOMESTIC[0], place::ABROAD[0], place::DOMESTIC[1], place::ABROAD[1]].map(ip);
    let counters = to.map(|to| {
        let length = if to.is_ipv4() { 32 } else { 128 };
        Counter::new(&gateway.lab.internet, Filter::Destination(to, length)).unwrap()
    });
    let frames = to.map(|to| udp_frame(source_for(to), to, 9000, b"continuity")).to_vec();
    let action = Action::FloodFrames { via: "eth0".into(), frames, packets: u64::MAX };
    (Workload::new(&gateway.client).spawn(action).unwrap(), counters, to)
}

fn verify(sent: &Outcome, counters: &[Counter; 4], to: &[IpAddr; 4], what: &str, least: u64) {
    counters[0].settle(u64::MAX).unwrap();
    let arrived: Vec<u64> = counters.iter().map(|c| c.count().unwrap()).collect();
    eprintln!("{what}: sent {:?}, arrived {arrived:?}", sent.sent_each);
    for i in [1, 3] {
        assert_eq!(arrived[i], 0, "{what}: leaked to {} of {}", to[i], sent.sent_each[i]);
    }
    for i in [0, 2] {
        assert_eq!(arrived[i], sent.sent_each[i], "{what}: lost to {}", to[i]);
    }
    assert!(sent.sent >= least, "{what}: only {} packets", sent.sent);
}

#[test]
fn xdp_survives_kill_minus_nine_take_over_and_swaps() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let mut agent = gateway.run(&by_source(), NO_UPLINK);
    let (running, counters, to) = stream(&gateway);
    for round in 0..5 {
        thread::sleep(Duration::from_millis(120 + 31 * round));
        agent.kill().unwrap();
        thread::sleep(Duration::from_millis(120));
        agent = gateway.run(&by_source(), NO_UPLINK);
    }
    let sent = running.stop().unwrap();
    verify(&sent, &counters, &to, "kill -9 and take-over", 50_000);
    assert_eq!(gateway.mode(), "native", "the link that was taken over");

    let (running, counters, to) = stream(&gateway);
    let other = by_source() + &tag("more", 3, "dscp = 12");
    for text in [&other, &by_source()].into_iter().cycle().take(6) {
        gateway.host.write("policy.toml", text).unwrap();
        agent.reload(&gateway.host).unwrap();
    }
    let sent = running.stop().unwrap();
    verify(&sent, &counters, &to, "six policies", 50_000);

    // Nobody is there, and it still holds; then it is gone when told so.
    agent.kill().unwrap();
    let (running, counters, to) = stream(&gateway);
    thread::sleep(Duration::from_millis(100));
    let sent = running.stop().unwrap();
    verify(&sent, &counters, &to, "without an agent", 5_000);
    let out = gateway.host.cli(&gateway.lab.work, &["detach"]).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let seen = Recorder::new(&gateway.lab.internet).unwrap();
    Workload::new(&gateway.client).udp(&place::ABROAD.map(ip)).unwrap();
    assert_eq!(seen.by_destination(WAIT).len(), 2, "detached");
}

/// Someone else's program stays where it is, and the agent says why it does not start.
#[test]
fn xdp_does_not_replace_a_foreign_program() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let _first = gateway.run(&by_source(), NO_UPLINK);
    // Another host's agent on the same interface is a stranger.
    let other = Host::new().unwrap();
    let path = other.write("policy.toml", &by_source()).unwrap();
    let args = ["--policy", path.to_str().unwrap(), "--xdp", POD_SIDE, "--interface", NO_UPLINK];
    let refused = Agent::start(&other, &gateway.lab.work, &args).err().expect("refused");
    let text = format!("{refused:#}");
    assert!(text.contains("another XDP program is attached"), "{text}");
}
