//! The harness without an agent: everything passes and is counted. Were this not so, a later "nothing
//! arrived" would prove nothing.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use sov_tests::{
    cgroup::Cgroup,
    lab::{FAR, FAR_MAC, Lab, OTHER4, SOURCE4, SOURCE6, UPLINK, WORK_MAC},
    packet::{self, ETH_VLAN},
    require_root,
    sink::{Counter, Filter, Recorder, TcpEcho, destination},
    traffic::{Action, FrameMode, Workload},
};

const FOUR: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const SIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);
const WAIT: Duration = Duration::from_millis(20);

#[test]
fn every_address_answers() {
    require_root!();
    let lab = Lab::new().unwrap();
    let _echo = TcpEcho::start(&lab.internet, 443).unwrap();
    let work = Workload::new(&lab.work);
    for to in [IpAddr::from(FOUR), SIX.into(), "133.242.0.1".parse().unwrap()] {
        let tcp = work.tcp(to, 443).unwrap();
        assert!(tcp.ok, "TCP to {to}: {tcp:?}");
        let refused = work.tcp(to, 80).unwrap();
        assert_eq!(refused.errno, Some(libc::ECONNREFUSED), "closed port of {to}");
        let ping = work.ping(to).unwrap();
        assert!(ping.ok, "ping {to}: {ping:?}");
    }
}

#[test]
fn identities_reach_the_wire() {
    require_root!();
    let lab = Lab::new().unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let group = Cgroup::new().unwrap();
    let base = Workload::new(&lab.work);
    base.dscp(34).udp(&[FOUR.into(), SIX.into()]).unwrap();
    base.source(OTHER4.into()).mark(7).udp(&[FOUR.into()]).unwrap();
    let nobody = base.cgroup(&group).uid(65_534).interface(UPLINK);
    assert!(nobody.udp(&["9.9.9.9".parse().unwrap()]).unwrap().ok);
    let frames = seen.take(WAIT);
    let of =
        |a: IpAddr| -> Vec<_> { frames.iter().filter(|f| destination(f) == Some(a)).collect() };
    assert_eq!(of(FOUR.into()).len(), 2);
    assert_eq!(of("9.9.9.9".parse().unwrap()).len(), 1);
    assert_eq!(of(FOUR.into())[0][15], 34 << 2, "TOS");
    assert_eq!(of(FOUR.into())[1][26..30], OTHER4.octets());
    let six = of(SIX.into())[0];
    assert_eq!(u16::from_be_bytes([six[14], six[15]]) >> 4 & 0xff, 34 << 2, "traffic class");
}

#[test]
fn processes_join_a_cgroup_and_a_uid() {
    require_root!();
    let lab = Lab::new().unwrap();
    let group = Cgroup::new().unwrap();
    let _echo = TcpEcho::start(&lab.internet, 443).unwrap();
    let work = Workload::new(&lab.work).cgroup(&group).uid(65_534);
    let mut held = work.spawn(Action::TcpHold { to: FOUR.into(), port: 443 }).unwrap();
    let pid = held.pid();
    let members = std::fs::read_to_string(group.procs()).unwrap();
    assert!(members.lines().any(|line| line == pid.to_string()), "{pid} in {members:?}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.lines().any(|l| l.starts_with("Uid:\t65534\t65534")), "{status}");
    assert!(held.poke().unwrap().ok);
}

#[test]
fn raw_frames_arrive_as_they_are() {
    require_root!();
    let lab = Lab::new().unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let plain = packet::udp_frame(SOURCE4.into(), FOUR.into(), 53, b"plain");
    let tagged = packet::eth(ETH_VLAN, &packet::vlan(42, 0x0800, &plain[14..]));
    let work = Workload::new(&lab.work);
    let frames = vec![plain.clone(), tagged.clone()];
    assert!(work.frames(UPLINK, frames, FrameMode::Normal).unwrap().ok);
    assert!(work.frames(UPLINK, vec![plain.clone()], FrameMode::TxRing).unwrap().ok);
    assert!(work.frames(UPLINK, vec![plain.clone()], FrameMode::Claim(0x0806)).unwrap().ok);
    let got = seen.take(WAIT);
    let count = |frame: &Vec<u8>| got.iter().filter(|f| *f == frame).count();
    // The kernel takes a VLAN tag out of the frame on arrival: the rest of it is the plain packet.
    assert_eq!(count(&plain) + count(&tagged), 4, "{got:02x?}");
}

#[test]
fn a_flood_is_counted_exactly() {
    require_root!();
    let lab = Lab::new().unwrap();
    let four = Counter::new(&lab.internet, Filter::Destination(FOUR.into(), 32)).unwrap();
    let six = Counter::new(&lab.internet, Filter::Destination(SIX.into(), 48)).unwrap();
    let all = Counter::new(&lab.internet, Filter::All).unwrap();
    let neither =
        Counter::new(&lab.internet, Filter::Destination("9.9.9.9".parse().unwrap(), 8)).unwrap();
    let before = lab.internet.packets(FAR).unwrap().0;
    let work = Workload::new(&lab.work);
    let frames = vec![
        packet::udp_frame(SOURCE4.into(), FOUR.into(), 9, b"x"),
        packet::udp_frame(SOURCE6.into(), SIX.into(), 9, b"x"),
    ];
    let flood = Action::FloodFrames { via: UPLINK.into(), frames, packets: 100_000 };
    let sent = work.run(flood).unwrap();
    assert_eq!(sent.failed, 0);
    assert_eq!(four.settle(sent.sent_each[0]).unwrap(), sent.sent_each[0]);
    assert_eq!(six.settle(sent.sent_each[1]).unwrap(), sent.sent_each[1]);
    assert_eq!(neither.count().unwrap(), 0);
    let to = vec![FOUR.into(), SIX.into()];
    let flood = Action::FloodUdp { to, port: 9000, ports: 100, packets: 50_000 };
    let udp = work.run(flood).unwrap();
    assert_eq!(udp.failed, 0, "{udp:?}");
    assert_eq!(four.settle(0).unwrap(), sent.sent_each[0] + udp.sent_each[0]);
    let total = sent.sent + udp.sent;
    let arrived = lab.internet.packets(FAR).unwrap().0 - before;
    assert!(arrived >= total, "{arrived} of {total} arrived");
    assert_eq!(all.count().unwrap(), arrived);
    assert!(total >= 150_000, "{total}");
}

#[test]
fn neighbours_resolve_where_nothing_is_static() {
    require_root!();
    let lab = Lab::without_neighbours().unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let work = Workload::new(&lab.work);
    for to in [FOUR.into(), SIX.into()] {
        // A lost first solicitation is repeated after a second.
        assert!(work.run(Action::Ping { to, timeout_ms: 4000 }).unwrap().ok);
    }
    let frames = seen.take(WAIT);
    assert!(frames.iter().any(|f| f[12..14] == [8, 6]), "an ARP request");
    assert!(frames.iter().any(|f| f[12..14] == [0x86, 0xdd] && f[54] == 135), "a solicitation");
    assert_ne!(WORK_MAC, FAR_MAC);
}

#[test]
fn a_container_reaches_the_internet_through_the_host() {
    require_root!();
    let lab = Lab::new().unwrap();
    let pod = lab.pod().unwrap();
    let _echo = TcpEcho::start(&lab.internet, 443).unwrap();
    for to in [IpAddr::from(FOUR), SIX.into()] {
        let tcp = Workload::new(&pod).tcp(to, 443).unwrap();
        assert!(tcp.ok, "TCP to {to}: {tcp:?}");
    }
}

#[test]
fn nothing_stays_behind() {
    require_root!();
    let name = {
        let lab = Lab::new().unwrap();
        lab.work.name().to_owned()
    };
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
    let group = Cgroup::new().unwrap().path().to_owned();
    assert!(!group.exists());
}
