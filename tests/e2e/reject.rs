//! `response = "reject"` on the packet path: who is blocked learns it at once, from tc and from XDP, by
//! the right message with the right checksums; and whoever must not be answered is not.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use sov_tests::{
    agent::{Agent, control_get},
    bpf::pass_xdp,
    lab::{POD_SIDE, UPLINK},
    packet::{self, ACK, ETH_IP6, ICMP, RST, SYN, TCP, UDP, checksum, eth, ip4, ip6},
    require_root,
    sink::Recorder,
    traffic::{Action, FrameMode, Outcome, Workload, wait_until},
};

use crate::{
    WAIT,
    gateway::{CLIENT4, CLIENT6, Gateway, by_source},
    ip, place, policy, tag, turn,
};

/// No tc program stands behind the XDP program.
const NO_UPLINK: &str = "none0";
const AT_ONCE: u64 = 10_000;

/// What a connected UDP socket is told: as Linux translates "administratively prohibited".
fn prohibited(to: IpAddr) -> i32 {
    if to.is_ipv4() { libc::EHOSTUNREACH } else { libc::EACCES }
}

/// The fastest of a few tries: the machine may be busy, the answer is not.
fn fastest(work: &Workload<'_>, action: &Action) -> Outcome {
    let tries = (0..5).map(|_| work.run(action.clone()).unwrap());
    tries.min_by_key(|outcome| outcome.micros).unwrap()
}

fn is_refused_at_once(work: &Workload<'_>, to: IpAddr, what: &str) {
    let tcp = fastest(work, &Action::Tcp { to, port: 443, timeout_ms: 1000 });
    eprintln!("{what}: tcp {to}: errno {:?} after {} us", tcp.errno, tcp.micros);
    assert_eq!(tcp.errno, Some(libc::ECONNREFUSED), "{what}: tcp {to}: {tcp:?}");
    assert!(tcp.micros < AT_ONCE, "{what}: tcp {to}: {tcp:?}");
    for payload in [1, 1200] {
        let ask = Action::UdpAsk { to, port: 9000, payload, timeout_ms: 1000 };
        let udp = fastest(work, &ask);
        eprintln!("{what}: udp {to}: errno {:?} after {} us", udp.errno, udp.micros);
        assert_eq!(udp.errno, Some(prohibited(to)), "{what}: udp {to} {payload}: {udp:?}");
        assert!(udp.micros < AT_ONCE, "{what}: udp {to} {payload}: {udp:?}");
    }
}

fn all_refused(work: &Workload<'_>, what: &str) {
    for to in place::ABROAD.map(ip) {
        is_refused_at_once(work, to, what);
    }
}

fn rejects(gateway: &Gateway) -> [u64; 3] {
    let status = control_get(&gateway.host.socket(), "/v1/status").unwrap();
    ["sent", "suppressed", "failed"].map(|name| status["rejects"][name].as_u64().unwrap())
}

/// XDP_TX on veth is delivered only to a far end with an XDP program of its own: veth_xdp_flush looks
/// for one, and GRO, which makes the ring that the frame is put into, does not count.
fn ready_for_xdp_tx(gateway: &Gateway) -> OwnedFd {
    let index = gateway.client.ifindex("eth0").unwrap();
    gateway.client.run(|| pass_xdp(index)).unwrap()
}

fn only_tc(gateway: &Gateway, text: &str) -> Agent {
    Agent::with_policy(&gateway.host, &gateway.lab.work, text).unwrap()
}

#[test]
fn a_forwarded_client_is_refused_at_once_by_tc_egress() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let _agent = only_tc(&gateway, &by_source());
    all_refused(&Workload::new(&gateway.client), "tc egress");
    assert_eq!(rejects(&gateway)[2], 0, "failed");
    assert!(rejects(&gateway)[0] >= 30, "{:?}", rejects(&gateway));
}

#[test]
fn a_forwarded_client_is_refused_at_once_by_tc_ingress() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let text = policy("enforce", &tag("inside", 1, &format!("interface = \"{POD_SIDE}\"")));
    let _agent = only_tc(&gateway, &text);
    all_refused(&Workload::new(&gateway.client), "tc ingress");
    assert_eq!(rejects(&gateway)[2], 0, "failed");
}

#[test]
fn a_forwarded_client_is_refused_at_once_by_xdp() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let _ready = ready_for_xdp_tx(&gateway);
    let _agent = gateway.run(&by_source(), NO_UPLINK);
    all_refused(&Workload::new(&gateway.client), "xdp");
    assert_eq!(rejects(&gateway)[2], 0, "failed");
}

/// Tagged by source and DSCP: the socket hooks do not know the tag, the packet hook does.
#[test]
fn a_local_socket_is_refused_at_once() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let _agent = only_tc(&gateway, &policy("enforce", &tag("by-dscp", 1, "dscp = 34")));
    all_refused(&Workload::new(&gateway.lab.work).dscp(34), "local");
}

/// Without checksum offload on the way back the device would finish a half-made checksum in software.
#[test]
fn answers_are_whole_without_offload() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let ethtool = |ns: &sov_tests::netns::Netns, name: &str| {
        sov_tests::netns::run(ns.command("ethtool").args(["-K", name, "tx", "off"])).unwrap()
    };
    ethtool(&gateway.lab.work, POD_SIDE);
    ethtool(&gateway.lab.work, UPLINK);
    let text = policy("enforce", &tag("inside", 1, &format!("interface = \"{POD_SIDE}\"")));
    let agent = only_tc(&gateway, &text);
    all_refused(&Workload::new(&gateway.client), "tc ingress, no offload");
    agent.stop().unwrap();
    let _agent = only_tc(&gateway, &by_source());
    all_refused(&Workload::new(&gateway.client), "tc egress, no offload");
}

/// IP packets that came back to the client, those to `port` 0 excepted.
fn answers(seen: &Recorder) -> Vec<Vec<u8>> {
    let frames = seen.take(WAIT).into_iter();
    let from: Vec<IpAddr> = place::ABROAD.map(ip).to_vec();
    frames
        .filter(|frame| source(frame).is_some_and(|source| from.contains(&source)))
        .map(|frame| frame[14..].to_vec())
        .collect()
}

fn source(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [8, 0] => Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(26..30)?).ok()?).into()),
        [0x86, 0xdd] => Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(22..38)?).ok()?).into()),
        _ => None,
    }
}

/// Checksums hold, and the message is what the RFCs want for this packet.
fn check(answer: &[u8], asked: &[u8], what: &str) {
    let v4 = answer[0] >> 4 == 4;
    let (head, proto) = if v4 { (20, answer[9]) } else { (40, answer[6]) };
    let total = if v4 {
        assert_eq!(checksum(&answer[..20]), 0, "{what}: header");
        usize::from(u16::from_be_bytes([answer[2], answer[3]]))
    } else {
        40 + usize::from(u16::from_be_bytes([answer[4], answer[5]]))
    };
    let body = &answer[head..total];
    let mut pseudo = answer[if v4 { 12..20 } else { 8..40 }].to_vec();
    pseudo.extend_from_slice(&(body.len() as u32).to_be_bytes());
    pseudo.extend_from_slice(&u32::from(proto).to_be_bytes());
    pseudo.extend_from_slice(body);
    // ICMPv4 alone has no pseudo header.
    let sealed = if proto == ICMP { body } else { &pseudo };
    assert_eq!(checksum(sealed), 0, "{what}: message");
    if proto == TCP {
        return;
    }
    let (limit, kind) = if v4 { (576, [3, 13]) } else { (1280, [1, 1]) };
    assert_eq!(body[..2], kind, "{what}: administratively prohibited");
    assert_eq!(total, limit.min(head + 8 + asked.len()), "{what}: length");
    assert_eq!(body[8..], asked[..body.len() - 8], "{what}: quotes the packet");
}

/// The same frames at XDP and at tc ingress: which are answered, and how; which never are.
#[test]
fn what_is_answered_and_what_never_is() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let _ready = ready_for_xdp_tx(&gateway);
    let (IpAddr::V4(to4), IpAddr::V6(to6)) = (ip(place::ABROAD[0]), ip(place::ABROAD[1])) else {
        panic!("one of each family")
    };
    let (from4, from6) = (IpAddr::from(CLIENT4), IpAddr::from(CLIENT6));
    let udp4 = |payload: &[u8]| packet::udp(from4, to4.into(), 4000, 9000, payload);
    let udp6 = |payload: &[u8]| packet::udp(from6, to6.into(), 4000, 9000, payload);
    let tcp4 = |flags, data: &[u8]| packet::tcp(from4, to4.into(), 4000, 443, flags, data);
    let tcp6 = |flags, data: &[u8]| packet::tcp(from6, to6.into(), 4000, 443, flags, data);
    let echo = b"\0\x01\0\x01ping";
    let four = |proto, body: &[u8]| ip4(CLIENT4, to4, proto).wrap(body);
    let six = |proto, body: &[u8]| ip6(CLIENT6, to6, proto).wrap(body);
    let group = |mut frame: Vec<u8>| {
        frame[0] |= 1;
        frame
    };
    let frame4 = |packet: &[u8]| eth(packet::ETH_IP, packet);
    let frame6 = |packet: &[u8]| eth(ETH_IP6, packet);
    /// Name, packet, and of a TCP answer sequence, acknowledgement and flags.
    type Case = (&'static str, Vec<u8>, Option<[u32; 3]>);
    let answered: [Case; _] = [
        // RFC 9293 section 3.10.7.1.
        ("SYN", four(TCP, &tcp4(SYN, b"")), Some([0, 0x0101_0102, 20])),
        ("SYN with data", four(TCP, &tcp4(SYN, b"hello")), Some([0, 0x0101_0107, 20])),
        ("ACK", four(TCP, &tcp4(ACK, b"data")), Some([0, 0, 4])),
        ("SYN v6", six(TCP, &tcp6(SYN, b"")), Some([0, 0x0101_0102, 20])),
        ("ACK v6", six(TCP, &tcp6(ACK, b"data")), Some([0, 0, 4])),
        (
            "SYN behind options",
            ip4(CLIENT4, to4, TCP).options(&[1, 1, 1, 1]).wrap(&tcp4(SYN, b"")),
            Some([0, 0x0101_0102, 20]),
        ),
        (
            "SYN behind extension headers",
            ip6(CLIENT6, to6, TCP).then(packet::ext(packet::DSTOPTS, &[])).wrap(&tcp6(SYN, b"")),
            Some([0, 0x0101_0102, 20]),
        ),
        ("UDP", four(UDP, &udp4(b"odd")), None),
        ("UDP, long", four(UDP, &udp4(&[7; 1401])), None),
        ("UDP v6", six(UDP, &udp6(b"odd")), None),
        ("UDP v6, long", six(UDP, &udp6(&[7; 1401])), None),
        ("echo request", four(ICMP, &packet::icmp(8, 0, echo)), None),
        ("echo request v6", six(packet::ICMP6, &packet::icmp6(CLIENT6, to6, 128, 0, echo)), None),
        ("SCTP", four(packet::SCTP, &[9; 32]), None),
        ("first fragment", ip4(CLIENT4, to4, UDP).fragment(0, true).wrap(&udp4(&[7; 64])), None),
    ];
    let silent: Vec<(&str, Vec<u8>)> = vec![
        ("RST", frame4(&four(TCP, &tcp4(RST, b"")))),
        ("RST v6", frame6(&six(TCP, &tcp6(RST | ACK, b"")))),
        ("ICMP error", frame4(&four(ICMP, &packet::icmp(3, 3, &[0; 32])))),
        ("ICMP of an unknown type", frame4(&four(ICMP, &packet::icmp(42, 0, &[0; 32])))),
        ("ICMPv6 error", {
            frame6(&six(packet::ICMP6, &packet::icmp6(CLIENT6, to6, 1, 4, &[0; 48])))
        }),
        ("later fragment", frame4(&ip4(CLIENT4, to4, UDP).fragment(8, false).wrap(&[7; 64]))),
        ("later fragment v6", {
            frame6(&ip6(CLIENT6, to6, UDP).then(packet::frag6(8, false)).wrap(&[7; 64]))
        }),
        ("malformed", frame4(&ip4(CLIENT4, to4, UDP).ihl(4).wrap(&udp4(b"x")))),
        ("to a group on the link", group(frame4(&four(UDP, &udp4(b"x"))))),
        ("to a group", frame4(&ip4(CLIENT4, Ipv4Addr::new(239, 1, 2, 3), UDP).wrap(&udp4(b"x")))),
        ("from nowhere", frame4(&ip4(Ipv4Addr::UNSPECIFIED, to4, UDP).wrap(&udp4(b"x")))),
        ("from loopback", frame4(&ip4(Ipv4Addr::LOCALHOST, to4, UDP).wrap(&udp4(b"x")))),
    ];
    let text = policy("enforce", &tag("inside", 1, &format!("interface = \"{POD_SIDE}\"")));
    let client = Workload::new(&gateway.client);
    for xdp in [true, false] {
        let hook = if xdp { "xdp" } else { "tc ingress" };
        let agent = if xdp { gateway.run(&text, NO_UPLINK) } else { only_tc(&gateway, &text) };
        let seen = Recorder::on(&gateway.client, "eth0").unwrap();
        for (what, packet, reset) in &answered {
            let what = format!("{hook}: {what}");
            let ethertype = if packet[0] >> 4 == 4 { packet::ETH_IP } else { ETH_IP6 };
            client.frames("eth0", vec![eth(ethertype, packet)], FrameMode::Normal).unwrap();
            let got = answers(&seen);
            assert_eq!(got.len(), 1, "{what}: {got:02x?}");
            check(&got[0], packet, &what);
            let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
            let word =
                |i: usize| u32::from_be_bytes(got[0][at + i..at + i + 4].try_into().unwrap());
            if let Some(expected) = reset {
                let said = [word(4), word(8), word(12) >> 16 & 0xff];
                assert_eq!(said, *expected, "{what}");
                assert_eq!(word(0), 443 << 16 | 4000, "{what}: ports");
            }
        }
        for (what, frame) in &silent {
            client.frames("eth0", vec![frame.clone()], FrameMode::Normal).unwrap();
            let got = answers(&seen);
            assert!(got.is_empty(), "{hook}: {what}: {got:02x?}");
        }
        agent.stop().unwrap();
        // Links outlive the agent: the next hook is to be alone.
        assert!(gateway.host.cli(&gateway.lab.work, &["detach"]).unwrap().status.success());
    }
}

/// Audit and `response = "drop"` never answer.
#[test]
fn audit_and_drop_are_silent() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let _ready = ready_for_xdp_tx(&gateway);
    let seen = Recorder::on(&gateway.client, "eth0").unwrap();
    let drop = by_source().replace("mode = \"enforce\"", "mode = \"enforce\"\nresponse = \"drop\"");
    for text in [drop, by_source().replace("mode = \"enforce\"", "mode = \"audit\"")] {
        let agent = gateway.run(&text, UPLINK);
        let client = Workload::new(&gateway.client);
        seen.take(WAIT);
        for to in place::ABROAD.map(ip) {
            client.run(Action::Ping { to, timeout_ms: 50 }).unwrap();
        }
        client.udp(&place::ABROAD.map(ip)).unwrap();
        let refusals = answers(&seen).into_iter().filter(|packet| {
            let (proto, kind) = if packet[0] >> 4 == 4 {
                (packet[9], packet[20..22].to_vec())
            } else {
                (packet[6], packet[40..42].to_vec())
            };
            proto == TCP || kind == [3, 13] || kind == [1, 1]
        });
        assert_eq!(refusals.count(), 0);
        assert_eq!(rejects(&gateway), [0, 0, 0]);
        agent.stop().unwrap();
    }
}

/// A flood is answered at the limit; the rest is counted, and the ledger stays exact.
#[test]
fn answers_are_limited_and_the_rest_is_counted() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let _agent = only_tc(&gateway, &by_source());
    let frames = place::ABROAD
        .map(|to| {
            let from = if ip(to).is_ipv4() { CLIENT4.into() } else { CLIENT6.into() };
            packet::udp_frame(from, ip(to), 9000, b"flood")
        })
        .to_vec();
    let action = Action::FloodFrames { via: "eth0".into(), frames, packets: 100_000 };
    let sent = Workload::new(&gateway.client).run(action).unwrap();
    assert!(wait_until(Duration::from_secs(2), || {
        let [answered, suppressed, failed] = rejects(&gateway);
        answered + suppressed + failed >= sent.sent
    }));
    let [answered, suppressed, failed] = rejects(&gateway);
    eprintln!("{sent:?}: {answered} answered, {suppressed} kept back, {failed} failed");
    assert_eq!(answered + suppressed + failed, sent.sent, "each is one of them");
    assert_eq!(failed, 0);
    let cpus = thread::available_parallelism().unwrap().get() as u64;
    // 1,000 a second and a burst of 100 on each CPU.
    let most = cpus * (100 + (sent.micros + 2_000_000) / 1000);
    assert!((100..=most).contains(&answered), "{answered} of at most {most}");
    let status = control_get(&gateway.host.socket(), "/v1/status").unwrap();
    assert_eq!(status["ledger"]["suppressed"], 0, "a term of the records, not of the answers");
}

/// A connection that is open when the policy changes ends at once, segmentation offload or not.
#[test]
fn an_open_connection_is_reset_when_the_policy_changes() {
    require_root!();
    let _turn = turn();
    let gateway = Gateway::new();
    let _ready = ready_for_xdp_tx(&gateway);
    let _echo = sov_tests::sink::TcpEcho::start(&gateway.lab.internet, 443).unwrap();
    let audit = by_source().replace("mode = \"enforce\"", "mode = \"audit\"");
    for (what, xdp) in [("tc", false), ("xdp", true)] {
        for to in place::ABROAD.map(ip) {
            let agent =
                if xdp { gateway.run(&audit, NO_UPLINK) } else { only_tc(&gateway, &audit) };
            let client = Workload::new(&gateway.client);
            let mut held = client.spawn(Action::TcpHold { to, port: 443 }).unwrap();
            assert!(held.poke().unwrap().ok, "{what}: {to} while audited");
            gateway.host.write("policy.toml", &by_source()).unwrap();
            agent.reload(&gateway.host).unwrap();
            let poked = held.poke().unwrap();
            assert_eq!(poked.errno, Some(libc::ECONNRESET), "{what}: {to}: {poked:?}");
            assert!(poked.micros < 100_000, "{what}: {to}: {poked:?}");
            agent.stop().unwrap();
        }
        assert!(gateway.host.cli(&gateway.lab.work, &["detach"]).unwrap().status.success());
    }
}
