//! What the closing tables say, for text and JSON alike.

use serde::Serialize;

use crate::demo::{
    plan::{self, Kind, Observed, PLACES, Tag},
    stage::{Outcome, Report},
};

/// The closing table: all probes of one tag to one place.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) tag: Tag,
    destination: &'static str,
    #[serde(skip)]
    pub(super) short: &'static str,
    /// Verdict and reason; `passes` for what is not judged.
    pub(super) expected: String,
    /// What the probes met, each outcome once; one, where all is well.
    pub(super) observed: Vec<String>,
    pub(super) probes: usize,
    /// Probes that were not as expected.
    pub(super) failed: usize,
    /// Packets on the far side.
    pub(super) arrived: u64,
    /// Shortest and longest time until a blocked call failed, ns.
    blocks_noticed_ns: Option<[u64; 2]>,
}

pub(super) fn rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    for tag in [Tag::Untagged, Tag::General, Tag::Sovereign, Tag::Audited] {
        for (index, place) in PLACES.iter().enumerate() {
            let those: Vec<_> = (report.outcomes.iter())
                .filter(|o| (o.probe.tag, o.probe.place) == (tag, index))
                .collect();
            let Some(first) = those.first() else { continue };
            let expected = match first.probe.expected() {
                None => "passes".into(),
                expected => plan::words(expected),
            };
            let mut observed: Vec<_> = those.iter().map(|o| met(&o.observed)).collect();
            observed.sort();
            observed.dedup();
            let blocked = those.iter().filter(|o| !o.probe.should_arrive());
            let times = || blocked.clone().map(|o| o.observed.seen.nanoseconds);
            rows.push(Row {
                tag,
                destination: place.what,
                short: place.short,
                expected,
                observed,
                probes: those.len(),
                failed: those.iter().filter(|o| !o.differences.is_empty()).count(),
                arrived: those.iter().map(|o| o.observed.arrived).sum(),
                blocks_noticed_ns: times().min().zip(times().max()).map(|(a, b)| [a, b]),
            });
        }
    }
    rows
}

/// In the words of the expectations: the agent's verdict, and for what it does not judge whether the far
/// side saw it.
fn met(observed: &Observed) -> String {
    match observed.record {
        None if observed.arrived > 0 => "passes".into(),
        None => "nothing".into(),
        record => plan::words(record),
    }
}

/// All blocked calls of one kind that failed in the same way.
#[derive(Serialize)]
pub(super) struct Notice<'a> {
    pub(super) kind: Kind,
    /// `None`: the call did not fail.
    pub(super) error: Option<&'a str>,
    pub(super) calls: usize,
    pub(super) shortest_ns: u64,
    pub(super) longest_ns: u64,
}

pub(super) fn notices(report: &Report) -> Vec<Notice<'_>> {
    let mut notices: Vec<Notice<'_>> = Vec::new();
    for Outcome { probe, observed, .. } in &report.outcomes {
        if probe.should_arrive() {
            continue;
        }
        let (error, took) = (observed.seen.error.as_deref(), observed.seen.nanoseconds);
        match notices.iter_mut().find(|n| n.kind == probe.kind && n.error == error) {
            Some(notice) => {
                notice.calls += 1;
                notice.shortest_ns = notice.shortest_ns.min(took);
                notice.longest_ns = notice.longest_ns.max(took);
            }
            None => notices.push(Notice {
                kind: probe.kind,
                error,
                calls: 1,
                shortest_ns: took,
                longest_ns: took,
            }),
        }
    }
    notices
}
