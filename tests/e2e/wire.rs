//! What PROG_TEST_RUN cannot show: frames whose bytes are not linear, senders that lie about the
//! ethertype, and neighbour discovery by the kernel itself.

use std::time::Duration;

use sov_common::verdict::Verdict;
use sov_tests::{
    agent::{Agent, Host},
    lab::{Lab, OTHER4, OTHER6, SOURCE4, SOURCE6, UPLINK},
    packet::{self, ETH_ARP, ETH_IP, ETH_IP6, udp_frame},
    require_root, rules,
    sink::{Recorder, TcpEcho},
    traffic::{Action, FrameMode, Workload},
};

use crate::{WAIT, ip, place, policy, records, tag, turn};

fn marked() -> String {
    policy("enforce", &tag("by-mark", 1, "mark = \"0x30/0xf0\""))
}

/// Frames to the domestic and the foreign place of each family.
fn frames() -> Vec<Vec<u8>> {
    let one = |to: &str| match ip(to) {
        to if to.is_ipv4() => udp_frame(SOURCE4.into(), to, 9000, b"wire"),
        to => udp_frame(SOURCE6.into(), to, 9000, b"wire"),
    };
    [place::DOMESTIC[0], place::ABROAD[0], place::DOMESTIC[1], place::ABROAD[1]].map(one).to_vec()
}

#[test]
fn a_short_linear_part_hides_nothing() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let _agent = Agent::with_policy(&host, &lab.work, &marked()).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let work = Workload::new(&lab.work);
    for mode in [FrameMode::Normal, FrameMode::TxRing] {
        let sent = work.mark(0x30).frames(UPLINK, frames(), mode).unwrap();
        let arrived = seen.by_destination(WAIT);
        for family in 0..2 {
            let (good, bad) = (ip(place::DOMESTIC[family]), ip(place::ABROAD[family]));
            assert_eq!(arrived.get(&good), Some(&1), "{mode:?} to {good}: {sent:?}");
            assert_eq!(arrived.get(&bad), None, "{mode:?} to {bad}");
        }
        work.frames(UPLINK, frames(), mode).unwrap();
        assert_eq!(seen.by_destination(WAIT).len(), 4, "{mode:?} without a tag");
    }
}

/// Packets that the kernel has yet to cut (TCP and UDP segmentation offload), and those that it has cut
/// (fragments): to allowed places whole, to others not at all.
#[test]
fn segments_and_fragments_pass_or_do_not() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let _echo = TcpEcho::start(&lab.internet, 443).unwrap();
    // By source address: no socket hook helps.
    let tags = [
        tag("by-source", 1, "source = \"10.30.0.0/16\""),
        tag("by-source6", 2, "source = \"fd00:30::/32\""),
    ];
    let _agent = Agent::with_policy(&host, &lab.work, &policy("enforce", &tags.concat())).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    for family in 0..2 {
        let source = if family == 0 { OTHER4.into() } else { OTHER6.into() };
        let tagged = Workload::new(&lab.work).source(source);
        let (good, bad) = (ip(place::DOMESTIC[family]), ip(place::ABROAD[family]));
        let bulk = |to| tagged.run(Action::TcpBulk { to, port: 443, bytes: 20 << 20 }).unwrap();
        let whole = bulk(good);
        assert!(whole.ok, "20 MiB to {good}: {whole:?}");
        let largest = seen.take(WAIT).iter().map(Vec::len).max();
        assert!(largest > Some(20_000), "no offload was at work: {largest:?} bytes at most");

        let datagram = |to| {
            let to = vec![to];
            Action::Udp { to, port: 9000, count: 1, payload: 20_000, connected: false }
        };
        let arrived = |action| {
            tagged.run(action).unwrap();
            seen.by_destination(WAIT)
        };
        let cut = arrived(datagram(good));
        assert!(cut.get(&good).is_some_and(|n| *n >= 14), "fragments to {good}: {cut:?}");
        assert_eq!(arrived(datagram(bad)).get(&bad), None, "fragments to {bad}");
        let offloaded = arrived(Action::UdpSegments { to: good, port: 9000 });
        assert!(offloaded.contains_key(&good), "UDP segments to {good}");
        let leaked = arrived(Action::UdpSegments { to: bad, port: 9000 });
        assert_eq!(leaked.get(&bad), None, "UDP segments to {bad}");
    }
}

#[test]
fn a_lying_ethertype_is_malformed() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let _agent = Agent::with_policy(&host, &lab.work, &marked()).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let work = Workload::new(&lab.work).mark(0x30);
    let all = frames();
    // To allowed places too: a frame that lies is refused whatever it says.
    for (frame, claims) in [
        (&all[0], [ETH_ARP, ETH_IP6, 0x88b5]),
        (&all[1], [ETH_ARP, ETH_IP6, 0x88b5]),
        (&all[2], [ETH_ARP, ETH_IP, 0x88b5]),
        (&all[3], [ETH_ARP, ETH_IP, 0x88b5]),
    ] {
        for claim in claims {
            work.frames(UPLINK, vec![frame.clone()], FrameMode::Claim(claim)).unwrap();
            let arrived = seen.take(WAIT);
            assert!(!arrived.contains(frame), "a frame that claims {claim:#06x}");
        }
    }
    let reason = sov_common::verdict::Reason::Malformed;
    let blocked = records::counter(&host, 0, reason, Verdict::Block).unwrap();
    assert_eq!(blocked, 12, "all of them counted as malformed");
}

/// The parser's table over a real link: what may pass arrives, what may not does not.
#[test]
fn the_parser_rules_hold_on_a_wire() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let _agent = Agent::with_policy(&host, &lab.work, rules::POLICY).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let work = Workload::new(&lab.work).mark(rules::MARK);
    let mut wrong = vec![];
    for (description, frame, allow, reason) in rules::rows() {
        let verdict = if allow { Verdict::Allow } else { Verdict::Block };
        for mode in [FrameMode::Normal, FrameMode::TxRing] {
            let count = || records::counter(&host, 0, reason, verdict).unwrap();
            let before = count();
            let sent = work.frames(UPLINK, vec![frame.clone()], mode).unwrap();
            let arrived = seen.take(Duration::from_millis(2));
            let here = arrived.iter().any(|got| *got == frame || *got == without_vlan(&frame));
            if here != allow || count() != before + 1 {
                let counted = count() - before;
                wrong.push(format!(
                    "{mode:?}: {description}: arrived {here}, counted {counted} as {verdict:?} \
                     {reason:?}; {sent:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// The receiving kernel takes the outer VLAN tag out of the frame.
fn without_vlan(frame: &[u8]) -> Vec<u8> {
    match frame[12..14] {
        [0x81, 0x00] | [0x88, 0xa8] => [&frame[..12], &frame[16..]].concat(),
        _ => frame.to_vec(),
    }
}

/// A host on which everything is tagged still finds its neighbours and its addresses.
#[test]
fn neighbour_discovery_works_on_a_fully_tagged_host() {
    require_root!();
    let _turn = turn();
    let lab = Lab::without_neighbours().unwrap();
    let host = Host::new().unwrap();
    let text = marked().replace("mode = \"enforce\"", "mode = \"enforce\"\nuntagged = \"by-mark\"");
    let _agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    lab.work.ip("neigh flush all").unwrap();
    let work = Workload::new(&lab.work);
    for to in place::DOMESTIC {
        let ping = work.run(Action::Ping { to: ip(to), timeout_ms: 4000 }).unwrap();
        assert!(ping.ok, "ping {to}: {ping:?}");
    }
    let seen = Recorder::new(&lab.internet).unwrap();
    let secret = packet::arp(SOURCE4, "10.20.0.1".parse().unwrap(), b"a secret behind the request");
    let frames = vec![packet::eth(ETH_ARP, &secret)];
    work.frames(UPLINK, frames.clone(), FrameMode::Normal).unwrap();
    let arrived = seen.take(WAIT);
    assert!(!arrived.contains(&frames[0]), "ARP with data behind it");
}
