//! Nanoseconds per packet: the real tc program and its parts over an empty program, by test runs.

use std::net::IpAddr;

use sov_tests::{
    lab::{SOURCE4, SOURCE6},
    packet::{SYN, TCP, UDP, ip4, ip6, tcp, udp},
};

use crate::{
    Effort,
    model::{Group, Plot, Row, Section, Series},
    progress::Progress,
    rig::{Kind, NEXT, Rig},
    stats,
    tables::{MARK, PORT, SET, Table, targets, thousands},
};

/// Packets of one round of new flows: fewer than the flow table and the ring buffer hold.
const NEW_FLOWS: u32 = 16_384;
const KNOWN_FLOWS: u32 = 4_096;

const TC_ACT_SHOT: u32 = 2;

/// Sets of destinations in the rig.
const MIXED: u32 = 0;
const ALLOWED: u32 = 1;
const BLOCKED: u32 = 2;

/// What one row runs.
struct Case {
    id: &'static str,
    name: &'static str,
    kind: Kind,
    set: u32,
    targets: u32,
    tcp: bool,
    tagged: bool,
    /// Every packet must get this answer; `None` = the class.
    answer: Option<u32>,
    new_flows: bool,
}

pub(crate) const LOOKUP: &str = "lookup";
pub(crate) const LOOKUP_TRIE: &str = "lookup-trie";
pub(crate) const ALLOWED_ROW: &str = "allowed";
const ALLOWED_TRIE: &str = "allowed-trie";
pub(crate) const KNOWN: &str = "known";
pub(crate) const NEW: &str = "new";

fn cases() -> Vec<Case> {
    let all = SET as u32;
    let case = |id, name, kind, set, answer| Case {
        id,
        name,
        kind,
        set,
        targets: all,
        tcp: false,
        tagged: true,
        answer,
        new_flows: false,
    };
    let (next, shot) = (Some(NEXT), Some(TC_ACT_SHOT));
    vec![
        case(LOOKUP, "lookup alone", Kind::Lookup, MIXED, None),
        case(LOOKUP_TRIE, "lookup alone, kernel's LPM trie", Kind::LookupTrie, MIXED, None),
        case(ALLOWED_ROW, "allowed", Kind::Egress, ALLOWED, next),
        case(ALLOWED_TRIE, "allowed, LPM trie inside", Kind::EgressTrie, ALLOWED, next),
        Case { tcp: true, ..case("tcp", "allowed, TCP", Kind::Egress, ALLOWED, next) },
        Case { tagged: false, ..case("untagged", "untagged", Kind::Egress, ALLOWED, next) },
        Case {
            targets: KNOWN_FLOWS,
            ..case(KNOWN, "blocked, known flow", Kind::Egress, BLOCKED, shot)
        },
        Case {
            targets: NEW_FLOWS,
            new_flows: true,
            ..case(NEW, "blocked, new flow, recorded", Kind::Egress, BLOCKED, shot)
        },
    ]
}

/// All tables and families; `tables` holds those that fit the image, `refused` the others' reasons.
pub(crate) fn section(
    rig: &mut Rig,
    tables: &[Table],
    refused: &[(String, String)],
    effort: &Effort,
    progress: &Progress,
) -> Section {
    let mut groups = vec![];
    let mut growth: Vec<(u8, usize, Group)> = vec![];
    for table in tables {
        for family in [4, 6] {
            progress.step(&format!("program time, {}, IPv{family}", table.name));
            let (group, prefixes) = measure(rig, table, family, effort);
            growth.push((family, prefixes, group.clone()));
            groups.push(group);
        }
    }
    for (name, why) in refused {
        let row = stats::absent(ALLOWED_ROW, "allowed", format!("refused: {why}"));
        groups.push(Group { title: name.clone(), rows: vec![row], ..Group::default() });
    }
    let about = [
        "BPF_PROG_TEST_RUN repeats one packet, so the measured program first writes the next of \
         65,536 destinations into it; an empty program does the same and is subtracted, in turns. \
         Destinations are random over the table: every interval is equally likely, which is harder \
         on caches than real traffic. Half of the addresses of the lookup rows lie outside of the \
         policy's intervals.",
        "CPU time of the calling thread. It contains everything that the hook does: parsing, tag, \
         lookup, verdict, counters, flow record. It contains neither the hook itself (35 to 50 ns) \
         nor what a busy host does to the caches; the end-to-end rows do.",
        "The LPM trie holds the same intervals as prefixes, the commonest class as one default.",
    ];
    Section {
        id: "program".into(),
        title: "Program time".into(),
        about: about.map(str::to_owned).to_vec(),
        plots: [4, 6].map(|family| plot(family, &growth)).to_vec(),
        groups,
    }
}

/// Growth with the number of prefixes.
fn plot(family: u8, growth: &[(u8, usize, Group)]) -> Plot {
    let shown = [LOOKUP, LOOKUP_TRIE, ALLOWED_ROW, ALLOWED_TRIE, KNOWN, NEW];
    let cases = cases();
    let series = shown.iter().filter_map(|id| {
        let name = cases.iter().find(|case| case.id == *id)?.name.to_owned();
        let mut points: Vec<(f64, f64)> = growth
            .iter()
            .filter(|(of, ..)| *of == family)
            .filter_map(|(_, prefixes, group)| {
                let row = group.rows.iter().find(|row| row.id == *id)?;
                Some((*prefixes as f64, row.value?))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Some(Series { name, points })
    });
    Plot {
        title: format!("IPv{family}: over an empty program, by size of the table"),
        x: "prefixes".into(),
        y: "ns per packet".into(),
        series: series.collect(),
    }
}

/// Runs all cases in turns, each beside the empty program on the same packets. Also: prefixes of the
/// trie.
fn measure(rig: &mut Rig, table: &Table, family: u8, effort: &Effort) -> (Group, usize) {
    let prefixes = rig.use_table(table, family);
    check_answers(rig, table, family, effort.answers);
    rig.set_targets(ALLOWED, &targets(&table.judged(family, true)));
    rig.set_targets(BLOCKED, &targets(&table.judged(family, false)));
    let frames = [frame(family, false), frame(family, true)];
    let cases = cases();
    let mut samples: Vec<Vec<f64>> = vec![vec![]; cases.len()];
    let mut empties = vec![];
    // The first round warms caches and is not kept.
    for round in 0..=effort.rounds {
        for (case, samples) in cases.iter().zip(&mut samples) {
            let frame = &frames[usize::from(case.tcp)];
            let mark = if case.tagged { MARK } else { 0 };
            let packets = if case.new_flows { NEW_FLOWS } else { effort.packets };
            let start = round.wrapping_mul(packets);
            if case.new_flows {
                rig.drain();
            } else if case.set == BLOCKED {
                // Makes the flows known.
                rig.aim(case.set, case.targets, 0);
                rig.run(case.kind, frame, mark, case.targets);
            }
            rig.aim(case.set, case.targets, start);
            let (_, empty) = rig.run(Kind::Empty, frame, mark, packets);
            rig.aim(case.set, case.targets, start);
            let (code, full) = rig.run(case.kind, frame, mark, packets);
            if let Some(answer) = case.answer {
                assert_eq!(code, answer, "{}: {}", table.name, case.name);
            }
            if case.new_flows {
                let (flows, events) = rig.drain();
                let all = (packets as usize, packets as usize);
                assert_eq!((flows, events), all, "{}: every packet is a new flow", table.name);
            }
            if round > 0 {
                samples.push(full - empty);
                empties.push(empty);
            }
        }
    }
    rig.drain();
    let base = samples[0].clone();
    let mut rows: Vec<Row> = cases
        .iter()
        .zip(&samples)
        .map(|(case, samples)| stats::row_by(case.id, case.name, samples, &base))
        .collect();
    let mut empty = stats::row("empty", "the empty program with the kernel's loop", &empties);
    empty.note = "subtracted from all rows".into();
    rows.push(empty);
    let group = Group {
        id: format!("program.{}.{family}", table.id),
        title: format!(
            "IPv{family}, {}: {} intervals = {} prefixes in the trie, image {:.2} MiB",
            table.name,
            thousands(table.intervals(family).len()),
            thousands(prefixes),
            table.image().words().len() as f64 / 262_144.0,
        ),
        unit: "ns per packet over the empty program".into(),
        base: cases[0].name.into(),
        rows,
    };
    (group, prefixes)
}

/// The two lookups in the kernel against the classifier in memory, and the two programs against each
/// other's verdict: a figure of a wrong answer is worth nothing. Leaves the set MIXED behind.
fn check_answers(rig: &mut Rig, table: &Table, family: u8, count: usize) {
    let addresses = table.mixed(family);
    rig.set_targets(MIXED, &targets(&addresses));
    let frame = frame(family, false);
    for (i, &address) in addresses.iter().enumerate().take(count) {
        let expected = table.decide(family, address);
        let mut ask = |kind| {
            rig.aim(MIXED, SET as u32, i as u32);
            rig.run(kind, &frame, MARK, 1).0
        };
        let classes = (ask(Kind::Lookup), ask(Kind::LookupTrie));
        assert_eq!(classes.0, classes.1, "class of {address:x} by image and trie");
        // Addresses that carry an IPv4 address are judged by that one.
        if classes.0 < u32::from(sov_common::image::embedded::FIRST) {
            assert_eq!(classes.0, u32::from(expected.class), "class of {address:x}");
        }
        let verdict = if expected.allow { NEXT } else { TC_ACT_SHOT };
        let answers = (ask(Kind::Egress), ask(Kind::EgressTrie));
        assert_eq!(answers, (verdict, verdict), "verdict on {address:x}");
    }
    rig.drain();
}

pub(crate) fn frame(family: u8, over_tcp: bool) -> Vec<u8> {
    let payload = [0; 64];
    let segment = |from: IpAddr, to: IpAddr| match over_tcp {
        true => (TCP, tcp(from, to, 40_000, PORT, SYN, &payload)),
        false => (UDP, udp(from, to, 40_000, PORT, &payload)),
    };
    // The programs write the destination.
    if family == 4 {
        let (protocol, segment) = segment(SOURCE4.into(), SOURCE4.into());
        ip4(SOURCE4, SOURCE4, protocol).frame(&segment)
    } else {
        let (protocol, segment) = segment(SOURCE6.into(), SOURCE6.into());
        ip6(SOURCE6, SOURCE6, protocol).frame(&segment)
    }
}
