//! The plan keeps what the demonstration promises, and no difference goes unseen.

use std::collections::HashSet;

use super::*;

fn find(tag: Tag, kind: Kind, place: usize) -> Probe {
    let all = groups(true, true).into_iter().flat_map(|g| g.probes);
    all.into_iter()
        .find(|p| (p.tag, p.kind, p.place) == (tag, kind, place))
        .expect("the plan has it")
}

fn good(probe: &Probe) -> Observed {
    let block = !probe.should_arrive();
    Observed {
        seen: Seen { error: block.then(|| "EPERM".into()), answered: !block, nanoseconds: 20_000 },
        arrived: u64::from(!block),
        record: probe.expected(),
    }
}

#[test]
fn the_plan_covers_what_the_demonstration_promises() {
    let plan = groups(true, true);
    let probes: Vec<_> = plan.iter().flat_map(|g| &g.probes).collect();
    let numbers: HashSet<_> = probes.iter().map(|p| p.number).collect();
    assert_eq!(numbers.len(), probes.len(), "arrivals are counted by number");
    for tag in [Tag::Untagged, Tag::General, Tag::Sovereign, Tag::Audited] {
        for place in 0..PLACES.len() {
            for v6 in [false, true] {
                let is = |p: &&&Probe| {
                    (p.tag, p.place, p.kind, p.destination.is_ipv6()) == (tag, place, Kind::Tcp, v6)
                };
                assert!(probes.iter().any(|p| is(&p)), "{tag:?} {place} {v6}");
            }
        }
    }
    for probe in probes {
        let open = TCP_PORTS.contains(&probe.port) || UDP_PORTS.contains(&probe.port);
        assert!(open || probe.kind == Kind::Icmp, "{probe:?}");
    }
    assert!(groups(false, true).iter().flat_map(|g| &g.probes).all(|p| p.destination.is_ipv4()));
    assert!(groups(true, false).iter().all(|g| g.via != Via::Cgroup));
}

#[test]
fn expectations_are_those_of_the_issue() {
    let expect = |tag, place| words(find(tag, Kind::Tcp, place).expected());
    assert_eq!(expect(Tag::Untagged, AMERICA), "-");
    assert_eq!(expect(Tag::General, TOKYO), "allow tier_match");
    assert_eq!(expect(Tag::Sovereign, TOKYO), "block foreign_control");
    assert_eq!(expect(Tag::Sovereign, DOMESTIC), "allow tier_match");
    assert_eq!(expect(Tag::General, AMERICA), "block foreign_location");
    assert_eq!(expect(Tag::Audited, AMERICA), "would_block foreign_location");
}

#[test]
fn every_difference_is_found() {
    for probe in groups(true, true).iter().flat_map(|g| &g.probes) {
        assert_eq!(differences(probe, &good(probe), true), Vec::<String>::new(), "{probe:?}");
    }
    let blocked = find(Tag::Sovereign, Kind::Tcp, TOKYO);
    let broken = |change: fn(&mut Observed), probe: &Probe| {
        let mut observed = good(probe);
        change(&mut observed);
        differences(probe, &observed, true).join("; ")
    };
    assert_eq!(broken(|o| o.arrived = 2, &blocked), "2 packets leaked");
    assert_eq!(broken(|o| o.seen.answered = true, &blocked), "the far side answered");
    assert_eq!(broken(|o| o.seen.error = None, &blocked), "expected EPERM, got no error");
    assert_eq!(
        broken(|o| o.seen.nanoseconds = NOTICE_LIMIT_NS, &blocked),
        "EPERM came after 10.0 ms"
    );
    assert_eq!(
        broken(|o| o.record = Some((Verdict::Block, Reason::ForeignLocation)), &blocked),
        "on record: block foreign_location, expected block foreign_control"
    );
    let allowed = find(Tag::Sovereign, Kind::Tcp, DOMESTIC);
    assert_eq!(broken(|o| o.arrived = 0, &allowed), "nothing arrived");
    assert_eq!(broken(|o| o.seen.answered = false, &allowed), "no answer came back");
    assert_eq!(broken(|o| o.record = None, &allowed), "on record: -, expected allow tier_match");
    // Without socket hooks a lost packet is all that the application notices.
    let mut observed = good(&blocked);
    observed.seen.error = Some("ETIMEDOUT".into());
    assert!(differences(&blocked, &observed, false).is_empty());
}

#[test]
fn the_policy_has_a_way_to_each_tag_with_and_without_cgroups() {
    for tag in [Tag::General, Tag::Sovereign, Tag::Audited] {
        let mark = format!("{:#x}/0xf0", tag.mark());
        let by_mark = |cgroups| policy(cgroups).matches(&mark).count();
        assert_eq!(by_mark(false), 1, "{tag:?}");
        for group in groups(true, true).iter().filter(|g| g.tag == tag) {
            let cgroup = format!("cgroup = \"/{}\"", tag.as_str());
            let there = if group.via == Via::Cgroup {
                policy(true).contains(&cgroup)
            } else {
                by_mark(true) == 1
            };
            assert!(there, "{tag:?} {:?}", group.via);
        }
    }
    assert!(!policy(false).contains("cgroup ="));
}
