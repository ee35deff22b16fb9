//! Against brute force: every address, protocol, port and time of small universes.

use super::*;
use crate::policy::image::{ChainEntry, PortRange};

/// Addresses of a universe that are looked at: around all boundaries, and inside a translation prefix.
const ADDRESSES: u128 = 64;
const PORTS: u16 = 12;
const PROTOCOLS: [u8; 3] = [6, 17, ANY];
const NOW: u64 = 50;
const TIMES: [u64; 4] = [NOW, 100, 200, 300];

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        // Steele's splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn last(&mut self) -> Final {
        Final { allow: self.one_in(2), reason: Reason::TierMatch, rule: self.below(3) as u16 }
    }

    fn decision(&mut self) -> DecisionSpec {
        let entries = if self.one_in(2) { self.below(4) } else { 0 };
        let entry = |rng: &mut Self| {
            let low = rng.below(9) as u16;
            let high = low + rng.below(u64::from(10 - low)) as u16;
            let protocol = PROTOCOLS[rng.below(2) as usize];
            let range = PortRange { protocol, low, high };
            ChainEntry {
                then: rng.last(),
                ports: (!rng.one_in(4)).then_some(range),
                until: [None, Some(100), Some(200)][rng.below(3) as usize],
            }
        };
        let chain = (0..entries).map(|_| entry(self)).collect();
        DecisionSpec { chain, otherwise: self.last(), link: false }
    }

    /// Interval starts below [`ADDRESSES`], the first 0.
    fn starts(&mut self, from: u128) -> Vec<u128> {
        let mut starts: BTreeSet<u128> = BTreeSet::from([from]);
        for _ in 0..self.below(8) {
            starts.insert(from + u128::from(self.below(ADDRESSES as u64)));
        }
        starts.into_iter().collect()
    }

    fn spec(&mut self) -> ImageSpec {
        let classes = 1 + self.below(6) as u16;
        let class = |rng: &mut Self| rng.below(classes.into()) as u16;
        let v4 = self.starts(0).into_iter().map(|start| (start as u32, class(self))).collect();
        // A translation prefix at 0, or plain classes; then plain ones.
        let mut v6: Vec<(u128, u16)> = if self.one_in(2) {
            vec![(0, embedded::NAT64)]
        } else {
            self.starts(0).into_iter().map(|start| (start, class(self))).collect()
        };
        v6.extend(self.starts(1 << 32).into_iter().map(|start| (start, class(self))));
        let row = |rng: &mut Self| (0..classes).map(|_| rng.decision()).collect();
        let decisions = vec![row(self), row(self)];
        ImageSpec { v4, v6, classes, decisions, ..ImageSpec::default() }
    }

    fn row<'a>(&mut self, spec: &'a ImageSpec) -> Row<'a> {
        let judges = [Judge::Tier(0), Judge::Tier(1), Judge::Nobody, Judge::Closed];
        Row { spec, judge: judges[self.below(4) as usize] }
    }
}

fn universe() -> impl Iterator<Item = (bool, u128)> {
    let v4 = (0..ADDRESSES + 2).chain([u32::MAX.into()]).map(|a| (false, a));
    let v6 = (0..ADDRESSES + 2).chain((1 << 32) - 1..(1 << 32) + ADDRESSES + 2).chain([u128::MAX]);
    v4.chain(v6.map(|a| (true, a)))
}

/// Read literally from the lists.
fn decision<'a>(row: Row<'a>, v6: bool, address: u128) -> &'a DecisionSpec {
    let spec = row.spec;
    let in_v4 =
        |address: u128| spec.v4.iter().rfind(|(start, _)| u128::from(*start) <= address).unwrap().1;
    let class = match v6 {
        false => in_v4(address),
        true => match spec.v6.iter().rfind(|(start, _)| *start <= address).unwrap().1 {
            embedded::NAT64 => in_v4(address & u128::from(u32::MAX)),
            class => class,
        },
    };
    match row.judge {
        Judge::Tier(tier) => &spec.decisions[tier][usize::from(class)],
        Judge::Nobody => &OPEN,
        Judge::Closed => &CLOSED,
    }
}

fn traffic() -> impl Iterator<Item = Sample> {
    PROTOCOLS.into_iter().flat_map(|protocol| (0..PORTS).map(move |port| Sample { protocol, port }))
}

#[test]
fn differences_are_those_of_brute_force() {
    let mut rng = Rng(1);
    let (mut some, mut all) = (0, 0);
    for _ in 0..400 {
        let specs = [rng.spec(), rng.spec()];
        let rows = [rng.row(&specs[0]), rng.row(&specs[1])];
        let mut segments = vec![];
        walk(&specs[0], &specs[1], [&[], &[]], |segment| segments.push(segment));
        let mut differ = Differ::new(rows[0], rows[1], NOW);
        for (v6, address) in universe() {
            let place = |v6, address| {
                segments.iter().find(|s| s.v6 == v6 && (s.first..=s.last).contains(&address))
            };
            // What both judge by the IPv4 address inside changes as that does.
            let inside = address & u128::from(u32::MAX);
            let segment = place(v6, address).or_else(|| place(false, inside)).unwrap();
            let found = differ.of(segment.old, segment.new);
            let [old, new] = rows.map(|row| decision(row, v6, address));
            for (from, to, found) in [(old, new, &found.gained), (new, old, &found.lost)] {
                let moves = |s: &Sample| !speak(from, *s, NOW).allow && speak(to, *s, NOW).allow;
                let count = traffic().filter(moves).count();
                match found {
                    Traffic::None => assert_eq!(count, 0, "{address}"),
                    Traffic::All => assert_eq!(count, traffic().count(), "{address}"),
                    Traffic::Some(text) => {
                        assert!(count > 0 && count < traffic().count(), "{address} {text}");
                        assert!(!text.is_empty());
                    }
                }
                some += usize::from(matches!(found, Traffic::Some(_)));
                all += usize::from(*found == Traffic::All);
            }
        }
    }
    assert!(some > 1_000 && all > 1_000, "{some} {all}");
}

/// Segments are in order and leave nothing out but what both carry.
#[test]
fn every_address_is_in_one_segment() {
    let mut rng = Rng(2);
    for _ in 0..200 {
        let specs = [rng.spec(), rng.spec()];
        let mut ends = [None::<u128>; 2];
        let mut skipped = 0u128;
        walk(&specs[0], &specs[1], [&[(0, 7), (9, 8)], &[(0, 7)]], |segment| {
            assert!(segment.first <= segment.last);
            let end = &mut ends[usize::from(segment.v6)];
            let expected = end.map_or(0, |end| end + 1);
            skipped += segment.first - expected;
            *end = Some(segment.last);
            let mark = if !segment.v6 && segment.first >= 9 { 8 } else { 7 };
            assert_eq!(segment.mark, mark);
        });
        assert_eq!(ends, [Some(u32::MAX.into()), Some(u128::MAX)]);
        let both = specs.iter().all(|spec| spec.v6[0].1 == embedded::NAT64);
        assert_eq!(skipped, if both { 1 << 32 } else { 0 });
    }
}

#[test]
fn what_is_outside_is_found_if_it_is_there() {
    let mut rng = Rng(3);
    let mut counts = [0, 0];
    for _ in 0..600 {
        let specs = [rng.spec(), rng.spec()];
        let [inner, outer] = [rng.row(&specs[0]), rng.row(&specs[1])];
        let breaks = |v6, address, sample, time| {
            speak(decision(inner, v6, address), sample, time).allow
                && !speak(decision(outer, v6, address), sample, time).allow
        };
        let there = universe().any(|(v6, address)| {
            traffic().any(|sample| TIMES.iter().any(|time| breaks(v6, address, sample, *time)))
        });
        let found = outside(inner, outer, NOW);
        assert_eq!(found.is_some(), there);
        if let Some(Witness { v6, address, sample, time }) = found {
            assert!(breaks(v6, address, sample, time), "{address} {sample:?} {time}");
        }
        counts[usize::from(there)] += 1;
        assert_eq!(outside(inner, inner, NOW), None);
        // Nothing is outside of everything.
        assert_eq!(outside(inner, Row { judge: Judge::Nobody, ..outer }, NOW), None);
    }
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}

#[test]
fn what_a_mark_holds_is_reached_if_anything_there_is_open() {
    let mut rng = Rng(4);
    let mut counts = [0, 0];
    for _ in 0..400 {
        let spec = rng.spec();
        let row = rng.row(&spec);
        let low = 1 + u128::from(rng.below(60));
        let marks = [(0, 0), (low, 5), (low + 3, 0)];
        let marked = |address: u128| (low..low + 3).contains(&address);
        // Inside a translation prefix the IPv4 address is what is marked.
        let judged =
            |v6: bool, address: u128| !v6 || spec.v6[0].1 != embedded::NAT64 || address >> 32 > 0;
        let there = universe().any(|(v6, address)| {
            marked(address)
                && judged(v6, address)
                && traffic().any(|sample| {
                    TIMES.iter().any(|t| speak(decision(row, v6, address), sample, *t).allow)
                })
        });
        let found = reached(row, [&marks, &marks], |mark| mark == 5, NOW);
        assert_eq!(found.is_some(), there);
        if let Some(found) = found {
            assert!(marked(found.address));
            assert!(speak(decision(row, found.v6, found.address), found.sample, found.time).allow);
        }
        counts[usize::from(there)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
}

#[test]
fn traffic_reads_like_a_rule() {
    let entry = |protocol, low, high| ChainEntry {
        then: Final { allow: true, reason: Reason::AllowRule, rule: 1 },
        ports: Some(PortRange { protocol, low, high }),
        until: None,
    };
    let otherwise = Final { allow: false, reason: Reason::ForeignLocation, rule: 0 };
    let closed = DecisionSpec { chain: vec![], otherwise, link: false };
    let gained = |chain: Vec<ChainEntry>| {
        difference(&closed, &DecisionSpec { chain, ..closed.clone() }, 0).gained
    };
    let text = |text: &str| Traffic::Some(text.into());
    assert_eq!(gained(vec![entry(6, 443, 443)]), text("443/tcp"));
    assert_eq!(gained(vec![entry(17, 53, 53), entry(6, 80, 443)]), text("80-443/tcp, 53/udp"));
    assert_eq!(gained(vec![entry(6, 80, 90), entry(6, 91, 99)]), text("80-99/tcp"));
    assert_eq!(gained(vec![entry(6, 0, 65535)]), text("tcp"));
    assert_eq!(gained(vec![]), Traffic::None);
    let open = DecisionSpec { otherwise: Final { allow: true, ..otherwise }, ..closed.clone() };
    assert_eq!(difference(&closed, &open, 0).gained, Traffic::All);
    let but =
        DecisionSpec { chain: vec![ChainEntry { then: otherwise, ..entry(6, 25, 25) }], ..open };
    assert_eq!(
        difference(&closed, &but, 0).gained,
        text("0-24/tcp, 26-65535/tcp, other protocols")
    );
}
