//! Two compiled policies against each other, exactly: every address, protocol and port, nothing sampled.
//!
//! The decision about an address is that of its class, so comparing the pairs of classes that occur
//! compares all addresses. IPv6 addresses that carry an IPv4 one are judged by it and change with it:
//! they are not walked a second time. What the tag of traffic is, selectors say; they are no part of this.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use sov_common::{image::embedded, verdict::Reason};

use super::{
    image::{DecisionSpec, Final, ImageSpec},
    parse::values::protocol_name,
    reach::{ANY, Sample, escape, samples, speak},
};

/// What passes because nothing judges it, and what never does.
static OPEN: DecisionSpec = constant(true);
static CLOSED: DecisionSpec = constant(false);

const fn constant(allow: bool) -> DecisionSpec {
    let reason = if allow { Reason::TierMatch } else { Reason::NoPolicy };
    DecisionSpec { chain: Vec::new(), otherwise: Final { allow, reason, rule: 0 }, link: false }
}

/// What judges traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// A tier, by number.
    Tier(usize),
    /// Nobody: everything passes.
    Nobody,
    /// Nothing passes.
    Closed,
}

/// A row of a policy's decisions: what one judge says of every class.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub spec: &'a ImageSpec,
    pub judge: Judge,
}

impl<'a> Row<'a> {
    fn decision(&self, class: u16) -> &'a DecisionSpec {
        match self.judge {
            Judge::Nobody => &OPEN,
            Judge::Closed => &CLOSED,
            Judge::Tier(tier) => {
                let row = self.spec.decisions.get(tier);
                row.and_then(|row| row.get(usize::from(class))).unwrap_or(&CLOSED)
            }
        }
    }
}

/// Addresses from `first` to `last`, which no boundary of either policy divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub v6: bool,
    pub first: u128,
    pub last: u128,
    /// Classes in the old and in the new policy.
    pub old: u16,
    pub new: u16,
    /// What `marks` say of all of it.
    pub mark: u32,
}

/// Calls `each` for all addresses that are judged by themselves, in order, IPv4 first. `marks` are
/// intervals of both families that divide segments too, for example the data's.
///
/// What both policies judge by the IPv4 address inside is left out; a translation prefix that only one
/// of them knows is walked in pieces of one IPv4 class each.
pub fn walk(
    old: &ImageSpec,
    new: &ImageSpec,
    marks: [&[(u128, u32)]; 2],
    mut each: impl FnMut(Segment),
) {
    let wide = |list: &[(u32, u16)]| -> Vec<(u128, u16)> {
        list.iter().map(|(start, class)| (u128::from(*start), *class)).collect()
    };
    merge(false, [&wide(&old.v4), &wide(&new.v4)], marks[0], u32::MAX.into(), &mut each);
    let mut resolve = |segment: Segment| match (is_carrier(segment.old), is_carrier(segment.new)) {
        (false, false) => each(segment),
        (true, true) => {}
        (true, false) => {
            carried(&segment, &old.v4, |part, class| each(Segment { old: class, ..part }));
        }
        (false, true) => {
            carried(&segment, &new.v4, |part, class| each(Segment { new: class, ..part }));
        }
    };
    merge(true, [&old.v6, &new.v6], marks[1], u128::MAX, &mut resolve);
}

/// Intervals of three lists that cover the same space, divided where any of them is. Without marks the
/// mark is 0.
fn merge(
    v6: bool,
    [old, new]: [&[(u128, u16)]; 2],
    marks: &[(u128, u32)],
    end: u128,
    each: &mut impl FnMut(Segment),
) {
    // Places of the last starts that are not above `first`.
    let (mut i, mut j, mut k, mut first) = (0, 0, 0, 0);
    while let (Some(a), Some(b)) = (old.get(i), new.get(j)) {
        let next = [
            old.get(i + 1).map(|x| x.0),
            new.get(j + 1).map(|x| x.0),
            marks.get(k + 1).map(|x| x.0),
        ];
        let stop = next.iter().flatten().min().copied();
        let mark = marks.get(k).map_or(0, |mark| mark.1);
        let last = stop.map_or(end, |stop| stop - 1);
        each(Segment { v6, first, last, old: a.1, new: b.1, mark });
        let Some(stop) = stop else { return };
        i += usize::from(next[0] == Some(stop));
        j += usize::from(next[1] == Some(stop));
        k += usize::from(next[2] == Some(stop));
        first = stop;
    }
}

/// A segment of /96 translation prefixes in pieces, each with the class of the IPv4 addresses inside.
fn carried(segment: &Segment, list: &[(u32, u16)], mut each: impl FnMut(Segment, u16)) {
    for block in segment.first >> 32..=segment.last >> 32 {
        let base = block << 32;
        for (i, &(start, class)) in list.iter().enumerate() {
            let end = list.get(i + 1).map_or(u32::MAX, |next| next.0 - 1);
            let first = segment.first.max(base | u128::from(start));
            let last = segment.last.min(base | u128::from(end));
            if first <= last {
                each(Segment { first, last, ..*segment }, class);
            }
        }
    }
}

/// The class only says where the address that is judged lies.
fn is_carrier(class: u16) -> bool {
    class >= embedded::FIRST
}

/// Traffic to an address: none of it, all of it, or some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    None,
    All,
    /// As text: `443/tcp, 8000-8080/tcp`.
    Some(String),
}

/// What one row lets through and another does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub gained: Traffic,
    pub lost: Traffic,
}

/// Differences of class pairs, each computed once.
pub struct Differ<'a> {
    old: Row<'a>,
    new: Row<'a>,
    now: u64,
    known: HashMap<(u16, u16), Difference>,
}

impl<'a> Differ<'a> {
    /// `now` in Unix seconds: rules that have expired by then count as gone.
    pub fn new(old: Row<'a>, new: Row<'a>, now: u64) -> Self {
        Self { old, new, now, known: HashMap::new() }
    }

    /// Of plain classes; an address that carries another one has none of its own.
    pub fn of(&mut self, old: u16, new: u16) -> &Difference {
        self.known
            .entry((old, new))
            .or_insert_with(|| difference(self.old.decision(old), self.new.decision(new), self.now))
    }
}

fn difference(old: &DecisionSpec, new: &DecisionSpec, now: u64) -> Difference {
    if old == new {
        return Difference { gained: Traffic::None, lost: Traffic::None };
    }
    let all: Vec<Sample> = samples([old, new]).into_iter().collect();
    let passes = |decision: &DecisionSpec, sample| speak(decision, sample, now).allow;
    let of = |from: &DecisionSpec, to: &DecisionSpec| {
        let moved: BTreeSet<Sample> =
            all.iter().copied().filter(|s| !passes(from, *s) && passes(to, *s)).collect();
        match moved.len() {
            0 => Traffic::None,
            n if n == all.len() => Traffic::All,
            _ => Traffic::Some(describe(&all, &moved)),
        }
    };
    Difference { gained: of(old, new), lost: of(new, old) }
}

/// Samples as ranges of ports: each stands for all ports up to the next one of its protocol.
fn describe(all: &[Sample], some: &BTreeSet<Sample>) -> String {
    let mut ranges: Vec<(u8, u32, u32)> = vec![];
    for sample in some {
        let above = |s: &&Sample| s.protocol == sample.protocol && s.port > sample.port;
        let end = all.iter().filter(above).map(|s| u32::from(s.port)).min().unwrap_or(1 << 16);
        match ranges.last_mut() {
            Some(last) if last.0 == sample.protocol && last.2 == u32::from(sample.port) => {
                last.2 = end;
            }
            _ => ranges.push((sample.protocol, sample.port.into(), end)),
        }
    }
    let text = |&(protocol, low, end): &(u8, u32, u32)| match (protocol, low, end - 1) {
        (ANY, ..) => "other protocols".to_owned(),
        (_, 0, 65535) => protocol_name(protocol),
        (_, low, high) if low == high => format!("{low}/{}", protocol_name(protocol)),
        (_, low, high) => format!("{low}-{high}/{}", protocol_name(protocol)),
    };
    // What has a name first.
    ranges.sort_by_key(|range| (range.0 == ANY, *range));
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// A destination that one row lets through and the other does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    pub v6: bool,
    pub address: u128,
    pub sample: Sample,
    /// Unix seconds from which on it is so.
    pub time: u64,
}

/// A destination that `inner` reaches, now or later, and `outer` does not. `None`: there is none.
pub fn outside(inner: Row<'_>, outer: Row<'_>, now: u64) -> Option<Witness> {
    let mut known: HashMap<(u16, u16), Option<(Sample, u64)>> = HashMap::new();
    let mut found = None;
    walk(inner.spec, outer.spec, [&[], &[]], |segment| {
        let Segment { v6, first: address, old, new, .. } = segment;
        let escaped = *known
            .entry((old, new))
            .or_insert_with(|| escape(inner.decision(old), outer.decision(new), now));
        if let (Some((sample, time)), None) = (escaped, found) {
            found = Some(Witness { v6, address, sample, time });
        }
    });
    found
}

/// A destination with that mark that the row reaches, now or later.
pub fn reached(
    row: Row<'_>,
    marks: [&[(u128, u32)]; 2],
    wanted: impl Fn(u32) -> bool,
    now: u64,
) -> Option<Witness> {
    let mut known: HashMap<u16, Option<(Sample, u64)>> = HashMap::new();
    let mut found = None;
    walk(row.spec, row.spec, marks, |segment| {
        if found.is_some() || !wanted(segment.mark) {
            return;
        }
        let open = *known
            .entry(segment.old)
            .or_insert_with(|| escape(row.decision(segment.old), &CLOSED, now));
        if let Some((sample, time)) = open {
            found = Some(Witness { v6: segment.v6, address: segment.first, sample, time });
        }
    });
    found
}

impl Witness {
    /// The destination as `explain` takes it.
    pub fn destination(&self) -> String {
        let address: IpAddr = match self.v6 {
            true => IpAddr::V6(self.address.into()),
            false => IpAddr::V4((self.address as u32).into()),
        };
        self.sample.at(address)
    }
}

#[cfg(test)]
mod tests;
