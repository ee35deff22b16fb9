//! Interfaces that nobody told the agent of: routes over an interface without a program, interfaces that
//! appear under traffic, interfaces without a link-layer header.

use std::{net::IpAddr, thread, time::Duration};

use sov_tests::{
    agent::{Agent, Host, control_get},
    lab::{FAR_MAC, Lab, OTHER4, OTHER6, SOURCE4, SOURCE6, UPLINK, WORK_MAC},
    require_root,
    sink::{Counter, Filter, Recorder},
    traffic::{Action, Workload},
};

use crate::{WAIT, ip, place, policy, tag, turn};

/// A tag that socket hooks do not see: only packets show their source.
fn by_source(mode: &str) -> String {
    policy(mode, &tag("by-source", 1, "source = \"10.20.0.0/16\" }, { source = \"fd00:20::/64\""))
}

/// Another cable to the internet, with a route for each of `to` over it.
fn bypass(lab: &Lab, name: &str, far: &str, number: u8, to: &[&str]) {
    lab.cable(name, far, [2, 0x51, number, 0, 0, 2], [2, 0x51, number, 0, 0, 1]).unwrap();
    lab.internet
        .ip(&format!(
            "addr add 10.5{number}.0.1/24 dev {far}\n\
             addr add fd00:5{number}::1/64 dev {far} nodad\n\
             link set {far} up"
        ))
        .unwrap();
    lab.work
        .ip(&format!(
            "addr add 10.5{number}.0.2/24 dev {name}\n\
             addr add fd00:5{number}::2/64 dev {name} nodad\n\
             link set {name} up\n\
             neigh replace 10.5{number}.0.1 lladdr 02:51:0{number}:00:00:01 dev {name}\n\
             neigh replace fd00:5{number}::1 lladdr 02:51:0{number}:00:00:01 dev {name}"
        ))
        .unwrap();
    lab.work.settle_ipv6(name).unwrap();
    for to in to {
        let via = if ip(to).is_ipv4() {
            format!("10.5{number}.0.1")
        } else {
            format!("fd00:5{number}::1")
        };
        lab.work.ip(&format!("route replace {to} via {via} dev {name}")).unwrap();
    }
}

fn everywhere() -> Vec<&'static str> {
    [place::DOMESTIC, place::ABROAD].concat()
}

fn source_of(to: &str, tagged: bool) -> IpAddr {
    match (ip(to).is_ipv4(), tagged) {
        (true, true) => SOURCE4.into(),
        (true, false) => OTHER4.into(),
        (false, true) => SOURCE6.into(),
        (false, false) => OTHER6.into(),
    }
}

/// One datagram to each place; what arrived at `far`, as (tagged, place).
fn sent(lab: &Lab, far: &str) -> Vec<(bool, &'static str)> {
    let seen = Recorder::on(&lab.internet, far).unwrap();
    let mut arrived = vec![];
    for tagged in [true, false] {
        for to in everywhere() {
            let workload = Workload::new(&lab.work).source(source_of(to, tagged));
            let outcome = workload.udp(&[ip(to)]).unwrap();
            let here = seen.by_destination(WAIT).contains_key(&ip(to));
            assert!(here || !outcome.ok, "{to}, tagged {tagged}: lost without a word: {outcome:?}");
            if !here {
                assert_eq!(outcome.errno, Some(libc::EPERM), "{to}, tagged {tagged}");
            } else {
                arrived.push((tagged, to));
            }
        }
    }
    arrived
}

/// All but what is tagged and goes abroad.
fn as_allowed() -> Vec<(bool, &'static str)> {
    let mut all: Vec<_> = place::DOMESTIC.map(|to| (true, to)).to_vec();
    all.extend(everywhere().iter().map(|to| (false, *to)));
    all
}

#[test]
fn a_route_over_an_interface_without_a_program_leaks_nothing() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    bypass(&lab, "side1", "far1", 1, &everywhere());
    let agent = Agent::with_policy(&host, &lab.work, &by_source("enforce")).unwrap();
    assert_eq!(sent(&lab, "far1"), as_allowed());
    let (record, _) = host
        .wait_record(Duration::from_secs(2), |r| r.to_string().contains("cgroup_egress"))
        .unwrap();
    assert!(record.to_string().contains("foreign_location"), "{record:#}");
    // What is dead guards on, interfaces included that it never knew.
    agent.kill().unwrap();
    bypass(&lab, "side2", "far2", 2, &everywhere());
    assert_eq!(sent(&lab, "far2"), as_allowed());
    // The successor takes the guard over; the first interface is guarded by tc, the new one is not.
    let agent = Agent::with_policy(&host, &lab.work, &by_source("enforce")).unwrap();
    assert_eq!(sent(&lab, "far2"), as_allowed());
    agent.stop().unwrap();
    assert_eq!(sent(&lab, "far2"), as_allowed());
    let gone = host.cli(&lab.work, &["detach"]).unwrap();
    assert!(gone.status.success(), "{gone:?}");
    assert_eq!(sent(&lab, "far2").len(), 8, "detach leaves nothing behind");
}

#[test]
fn audit_sees_what_leaves_by_an_unknown_interface() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    bypass(&lab, "side1", "far1", 1, &everywhere());
    let _agent = Agent::with_policy(&host, &lab.work, &by_source("audit")).unwrap();
    assert_eq!(sent(&lab, "far1").len(), 8);
    let (record, _) = host
        .wait_record(Duration::from_secs(2), |r| r.to_string().contains("cgroup_egress"))
        .unwrap();
    assert!(record.to_string().contains("would_block"), "{record:#}");
}

#[test]
fn other_namespaces_are_not_the_guards_business() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let other = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let _agent = Agent::with_policy(&host, &lab.work, &by_source("enforce")).unwrap();
    let seen = Recorder::new(&other.internet).unwrap();
    for to in everywhere() {
        let workload = Workload::new(&other.work).source(source_of(to, true));
        assert!(workload.udp(&[ip(to)]).unwrap().ok, "{to}");
    }
    assert_eq!(seen.by_destination(WAIT).len(), 4);
}

/// The default route moves to interfaces that have just been made, while tagged traffic flows.
#[test]
fn interfaces_that_appear_under_traffic_leak_nothing() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let path = host.write("policy.toml", &by_source("enforce")).unwrap();
    let args = ["--policy", path.to_str().unwrap()];
    let mut agent = Agent::start(&host, &lab.work, &args).unwrap();
    let flood = |family: usize| {
        let to = vec![ip(place::ABROAD[family]), ip(place::DOMESTIC[family])];
        let action = Action::FloodUdp { to, port: 9000, ports: 1, packets: u64::MAX };
        let source = source_of(place::ABROAD[family], true);
        Workload::new(&lab.work).source(source).spawn(action).unwrap()
    };
    let floods = [flood(0), flood(1)];
    let mut passed = 0;
    for round in 1..=8u8 {
        let (near, far) = (format!("new{round}"), format!("far{round}"));
        lab.cable(&near, &far, WORK_MAC, FAR_MAC).unwrap();
        let leaked = [0, 1].map(|family| {
            let to = ip(place::ABROAD[family]);
            let length = if family == 0 { 32 } else { 128 };
            Counter::on(&lab.internet, &far, Filter::Destination(to, length)).unwrap()
        });
        let allowed = Counter::on(&lab.internet, &far, Filter::All).unwrap();
        lab.internet.ip(&format!("link set {far} up")).unwrap();
        lab.work
            .ip(&format!(
                "addr add 10.6{round}.0.2/24 dev {near}\n\
                 addr add fd00:6{round}::2/64 dev {near} nodad\n\
                 link set {near} up\n\
                 neigh replace 10.6{round}.0.1 lladdr 02:50:00:00:00:01 dev {near}\n\
                 neigh replace fd00:6{round}::1 lladdr 02:50:00:00:00:01 dev {near}\n\
                 route replace default via 10.6{round}.0.1 dev {near} src {SOURCE4}\n\
                 route replace default via fd00:6{round}::1 dev {near} src {SOURCE6}"
            ))
            .unwrap();
        if round == 4 {
            // One of them appears while nobody is there.
            agent.kill().unwrap();
            thread::sleep(Duration::from_millis(200));
            agent = Agent::start(&host, &lab.work, &args).unwrap();
        }
        thread::sleep(Duration::from_millis(150));
        for (family, counter) in leaked.iter().enumerate() {
            assert_eq!(counter.count().unwrap(), 0, "{} over {near}", place::ABROAD[family]);
        }
        let status = control_get(&host.socket(), "/v1/status").unwrap();
        assert!(status["interfaces"].to_string().contains(&near), "{status:#}");
        passed += allowed.count().unwrap();
        lab.work.ip(&format!("link del {near}")).unwrap();
    }
    lab.work.ip(&format!("link set {UPLINK} up")).unwrap();
    let [v4, v6] = floods.map(|flood| flood.stop().unwrap());
    eprintln!(
        "{} and {} offered, {passed} allowed ones arrived by 8 new interfaces, no forbidden one",
        v4.sent + v4.failed,
        v6.sent + v6.failed
    );
    assert!(passed > 1000, "only {passed} allowed packets by the new interfaces");
}

/// A tun device of `ns`: what leaves by it is read from the descriptor. It goes with it.
struct Tun(std::fs::File);

impl Tun {
    fn new(lab: &Lab, name: &str) -> Self {
        use std::os::fd::AsRawFd as _;
        // _IOW('T', 202, int): linux/if_tun.h.
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        const NO_PACKET_INFORMATION: libc::c_short = 0x1000;
        let file = lab.work.run(|| {
            let mut options = std::fs::OpenOptions::new();
            let file = options.read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
            // SAFETY: zero is a valid ifreq.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = libc::IFF_TUN as libc::c_short | NO_PACKET_INFORMATION;
            // SAFETY: a live ifreq with a terminated name.
            let failed = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
            assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
            file
        });
        // SAFETY: a flag of our own descriptor.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        Self(file)
    }

    /// Destinations of the UDP datagrams that left since the last call.
    fn left(&mut self) -> Vec<IpAddr> {
        use std::io::Read as _;
        thread::sleep(WAIT);
        let mut packet = [0; 2048];
        let mut found = vec![];
        while let Ok(length) = self.0.read(&mut packet) {
            match (packet[0] >> 4, length) {
                (4, 28..) if packet[9] == 17 => {
                    found.push(IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap()));
                }
                (6, 48..) if packet[6] == 17 => {
                    found.push(IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap()));
                }
                _ => {}
            }
        }
        found
    }
}

/// An interface whose packets start with IP, as a named uplink and as one that nobody named; for tags
/// that the packet hooks see by themselves, and by mark after connect.
#[test]
fn interfaces_without_link_layer_headers_are_judged() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let mut tun = Tun::new(&lab, "tun0");
    lab.work
        .ip("addr add 10.20.7.2/24 dev tun0\n\
             addr add fd00:27::2/64 dev tun0 nodad\n\
             link set tun0 up")
        .unwrap();
    for to in everywhere() {
        lab.work.ip(&format!("route replace {to} dev tun0")).unwrap();
    }
    let path = host.write("policy.toml", &by_source("enforce")).unwrap();
    let path = path.to_str().unwrap();
    for (uplinks, hook) in [(vec![UPLINK, "tun0"], "tc_egress"), (vec![UPLINK], "cgroup_egress")] {
        let mut args = vec!["--policy", path];
        for name in &uplinks {
            args.extend(["--interface", name]);
        }
        let agent = Agent::start(&host, &lab.work, &args).unwrap();
        tun.left();
        for tagged in [true, false] {
            for to in everywhere() {
                let workload = Workload::new(&lab.work).source(source_of(to, tagged));
                let _ = workload.udp(&[ip(to)]).unwrap();
            }
            let mut expected = place::DOMESTIC.map(ip).to_vec();
            if !tagged {
                expected.extend(place::ABROAD.map(ip));
            }
            assert_eq!(tun.left(), expected, "{hook}, tagged {tagged}");
        }
        host.wait_record(Duration::from_secs(2), |r| {
            let text = r.to_string();
            text.contains(hook) && text.contains("tun0")
        })
        .unwrap();
        agent.stop().unwrap();
        assert!(host.cli(&lab.work, &["detach"]).unwrap().status.success());
    }
}
