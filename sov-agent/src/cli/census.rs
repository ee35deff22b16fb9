//! Counting addresses by who is at the other end: shared by the verbs that walk the address space.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
};

use serde::Serialize;
use sov_common::verdict::Scope;

use super::output::{Cell, Output, Table};
use crate::{
    data::dataset::Dataset,
    policy::{compare::Segment, compile::scopes},
};

/// Addresses by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) v4: u128,
    pub(super) v6: u128,
}

impl Count {
    pub(super) fn add(&mut self, segment: &Segment) {
        // All of IPv6 never changes: loopback always passes.
        let size = (segment.last - segment.first).saturating_add(1);
        let sum = if segment.v6 { &mut self.v6 } else { &mut self.v4 };
        *sum = sum.saturating_add(size);
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Whose {
    pub(super) location: String,
    pub(super) control: String,
    pub(super) operator: String,
}

impl Whose {
    /// By [`Marks`].
    pub(super) fn of(data: &Dataset, mark: u32) -> Self {
        let number = SCOPES - mark;
        if let Some(scope) = SPECIAL.into_iter().find(|scope| *scope as u32 == number) {
            let none = || "-".to_owned();
            return Self { location: scope.as_str().into(), control: none(), operator: none() };
        }
        let attributes = data.attributes(mark);
        let operator = match (&attributes.operator, attributes.asn) {
            (Some(operator), _) => operator.to_string(),
            (None, 0) => "unknown".to_owned(),
            (None, asn) => match data.asn_name(asn) {
                Some(name) => format!("AS{asn} {name}"),
                None => format!("AS{asn}"),
            },
        };
        Self {
            location: attributes.location.to_string(),
            control: attributes.control.to_string(),
            operator,
        }
    }
}

/// Intervals of who is at the other end, as [`crate::policy::compare::walk`] takes them: the data's
/// attribute numbers, and for space that is not global its kind.
pub(super) struct Marks([Vec<(u128, u32)>; 2]);

const SPECIAL: [Scope; 8] = [
    Scope::Loopback,
    Scope::Private,
    Scope::Cgnat,
    Scope::LinkLocal,
    Scope::Multicast,
    Scope::Documentation,
    Scope::Benchmark,
    Scope::Reserved,
];

/// Less the number of a scope, its mark. No data have as many attributes.
const SCOPES: u32 = u32::MAX;

impl Marks {
    pub(super) fn of(data: &Dataset) -> Self {
        let [v4, v6] = scopes();
        Self([
            cut(data.v4().map(|(start, id)| (start.into(), id)).collect(), &v4),
            cut(data.v6().collect(), &v6),
        ])
    }

    pub(super) fn both(&self) -> [&[(u128, u32)]; 2] {
        [&self.0[0], &self.0[1]]
    }
}

/// Both lists begin at 0.
fn cut(attributes: Vec<(u128, u32)>, scopes: &[(u128, Scope)]) -> Vec<(u128, u32)> {
    let starts: BTreeSet<u128> =
        attributes.iter().map(|x| x.0).chain(scopes.iter().map(|x| x.0)).collect();
    let (mut i, mut j) = (0, 0);
    let mut out: Vec<(u128, u32)> = Vec::with_capacity(starts.len());
    for start in starts {
        i += usize::from(attributes.get(i + 1).is_some_and(|next| next.0 == start));
        j += usize::from(scopes.get(j + 1).is_some_and(|next| next.0 == start));
        let scope = scopes.get(j).map_or(Scope::Global, |scope| scope.1);
        let mark = match scope {
            Scope::Global => attributes.get(i).map_or(SCOPES, |attribute| attribute.1),
            scope => SCOPES - scope as u32,
        };
        if out.last().is_none_or(|last| last.1 != mark) {
            out.push((start, mark));
        }
    }
    out
}

/// A line of JSON. Numbers of addresses are strings: they exceed what readers take for a number.
#[derive(Serialize)]
pub(super) struct GroupReport<'a> {
    location: &'a str,
    control: &'a str,
    operator: &'a str,
    ipv4: String,
    ipv6: String,
}

impl<'a> GroupReport<'a> {
    pub(super) fn new(whose: &'a Whose, count: Count) -> Self {
        Self {
            location: &whose.location,
            control: &whose.control,
            operator: &whose.operator,
            ipv4: count.v4.to_string(),
            ipv6: count.v6.to_string(),
        }
    }
}

/// The operators with the most addresses.
pub(super) fn write_operators(
    out: &mut Output,
    by_whom: &BTreeMap<Whose, Count>,
    limit: usize,
) -> anyhow::Result<()> {
    let mut table =
        Table::new(&["  LOCATION", "CONTROL", "IPV4", "IPV6", "OPERATOR"]).right(&[2, 3]);
    let mut groups: Vec<_> = by_whom.iter().collect();
    groups.sort_by_key(|(_, count)| Reverse((count.v4, count.v6)));
    for (whose, count) in groups.iter().take(limit) {
        table.row([
            Cell::from(format!("  {}", whose.location)),
            whose.control.clone().into(),
            thousands(count.v4).into(),
            networks(count.v6).into(),
            whose.operator.clone().into(),
        ]);
    }
    out.table(&table)?;
    more(out, groups.len(), limit, "operators")
}

pub(super) fn more(out: &mut Output, all: usize, limit: usize, what: &str) -> anyhow::Result<()> {
    if all > limit {
        writeln!(out, "    ... and {} more {what}", thousands((all - limit) as u128))?;
    }
    Ok(())
}

/// `256 IPv4 addresses, 65,536 IPv6 /64 networks`.
pub(super) fn amount(count: Count) -> String {
    let mut parts = vec![];
    if count.v4 > 0 {
        parts.push(format!("{} IPv4", thousands(count.v4)));
    }
    if count.v6 > 0 {
        parts.push(format!("{} IPv6", networks(count.v6)));
    }
    parts.join(", ")
}

/// IPv6 addresses, in the largest unit of which they are a whole number; else about how many /64 they
/// fill, or how many they are.
pub(super) fn networks(addresses: u128) -> String {
    for (length, host) in [(32, 96), (48, 80), (64, 64)] {
        let unit = 1u128 << host;
        if addresses >= unit && addresses.is_multiple_of(unit) {
            return format!("{} /{length}", thousands(addresses / unit));
        }
    }
    match addresses >> 64 {
        0 => thousands(addresses),
        whole => format!("~{} /64", thousands(whole)),
    }
}

pub(super) fn thousands(number: u128) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every mark says what the data and the registries say of its first and last address.
    #[test]
    fn marks_divide_kinds_of_addresses_and_attributes() {
        let data = Dataset::embedded().unwrap();
        let marks = Marks::of(&data);
        let mut kinds = BTreeSet::new();
        for (v6, list) in [false, true].into_iter().zip(marks.both()) {
            assert_eq!(list[0].0, 0);
            assert!(list.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let end = if v6 { u128::MAX } else { u32::MAX.into() };
            for (i, &(start, mark)) in list.iter().enumerate() {
                let last = list.get(i + 1).map_or(end, |next| next.0 - 1);
                for address in [start, last] {
                    let address: std::net::IpAddr = match v6 {
                        true => std::net::Ipv6Addr::from_bits(address).into(),
                        false => std::net::Ipv4Addr::from_bits(address as u32).into(),
                    };
                    let scope = data.scope(address);
                    let whose = Whose::of(&data, mark);
                    if scope == Scope::Global {
                        let found = data.lookup(address);
                        assert_eq!(whose.location, found.attributes.location.to_string());
                        assert_eq!(whose.control, found.attributes.control.to_string());
                    } else {
                        assert_eq!(whose.location, scope.as_str(), "{address}");
                        kinds.insert(scope.as_str());
                    }
                }
            }
        }
        assert_eq!(kinds.len(), 8, "{kinds:?}");
    }

    #[test]
    fn amounts_are_readable() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(networks(0), "0");
        assert_eq!(networks(5), "5");
        assert_eq!(networks(1 << 64), "1 /64");
        assert_eq!(networks(3 << 80), "3 /48");
        assert_eq!(networks((1 << 64) + 1), "~1 /64");
        assert_eq!(amount(Count { v4: 256, v6: 1 << 80 }), "256 IPv4, 1 /48 IPv6");
    }
}
