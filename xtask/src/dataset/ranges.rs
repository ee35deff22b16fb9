//! Reads range files (CSV `first,last,...` and MMDB) and flattens them to intervals.

use super::format::model::Country;
use anyhow::{Context, Result, ensure};
use std::{collections::BTreeMap, net::IpAddr};

/// Ascending `(start, value)`, the first start is 0; `None` = the input says nothing, or two things.
pub(super) type Layer<V> = Vec<(u128, Option<V>)>;

/// `(first, last, value)`, both ends included.
type Range<V> = (u128, u128, V);

/// `first,last,country` rows. IPv4 addresses become numbers below 2^32.
pub(super) fn countries(bytes: &[u8], what: &str) -> Result<Layer<Country>> {
    let mut ranges = Vec::new();
    for row in records(bytes).into_records() {
        let row = row.with_context(|| format!("{what} is no CSV"))?;
        let (first, last) = ends(&row, what)?;
        // Rows without a country say nothing.
        if let Some(country) = row.get(2).and_then(Country::new) {
            ranges.push((first, last, country));
        }
    }
    Ok(flatten(ranges, what))
}

/// `first,last,asn,name` rows; names go into `names`, the first one seen stays.
pub(super) fn origins(
    bytes: &[u8],
    what: &str,
    names: &mut BTreeMap<u32, String>,
) -> Result<Layer<u32>> {
    let mut ranges = Vec::new();
    for row in records(bytes).into_records() {
        let row = row.with_context(|| format!("{what} is no CSV"))?;
        let (first, last) = ends(&row, what)?;
        let asn = row.get(2).and_then(|text| text.parse().ok());
        let asn: u32 = asn.with_context(|| format!("{what}: a row without AS number"))?;
        let name = names.entry(asn).or_default();
        if name.is_empty() {
            *name = clean(row.get(3).unwrap_or(""));
        }
        ranges.push((first, last, asn));
    }
    Ok(flatten(ranges, what))
}

/// An MMDB with `country_code` in its records.
pub(super) fn mmdb_countries(bytes: &[u8], what: &str) -> Result<Layer<Country>> {
    #[derive(serde::Deserialize)]
    struct Record<'a> {
        country_code: &'a str,
    }
    let reader =
        maxminddb::Reader::from_source(bytes).with_context(|| format!("{what} is no MMDB"))?;
    let mut ranges = Vec::new();
    for found in reader.networks(Default::default())? {
        let found = found?;
        let Some(record) = found.decode::<Record<'_>>()? else { continue };
        let Some(country) = Country::new(record.country_code) else { continue };
        let network = found.network()?;
        ranges.push((number(network.network()), number(network.broadcast()), country));
    }
    Ok(flatten(ranges, what))
}

fn records(bytes: &[u8]) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().has_headers(false).from_reader(bytes)
}

fn ends(row: &csv::StringRecord, what: &str) -> Result<(u128, u128)> {
    let end = |index: usize| {
        let text = row.get(index).unwrap_or("");
        text.parse().map(number).with_context(|| format!("{what}: `{text}` is no address"))
    };
    let (first, last) = (end(0)?, end(1)?);
    ensure!(first <= last, "{what}: a range ends before it starts");
    Ok((first, last))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Printable text in one line.
fn clean(name: &str) -> String {
    let printable: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    printable.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Ranges may overlap; where they do and differ, nothing is said.
fn flatten<V: Copy + Ord>(ranges: Vec<Range<V>>, what: &str) -> Layer<V> {
    let mut events: Vec<(u128, bool, V)> = Vec::with_capacity(ranges.len() * 2);
    for (first, last, value) in ranges {
        events.push((first, true, value));
        if let Some(end) = last.checked_add(1) {
            events.push((end, false, value));
        }
    }
    events.sort_unstable();
    let mut layer: Layer<V> = vec![(0, None)];
    let mut active: Vec<V> = Vec::new();
    let mut contradictions = 0usize;
    for group in events.chunk_by(|a, b| a.0 == b.0) {
        for (_, opens, value) in group {
            if *opens {
                active.push(*value);
            } else if let Some(at) = active.iter().position(|open| open == value) {
                active.swap_remove(at);
            }
        }
        let value = match active.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other == first) => Some(*first),
            Some(_) => {
                contradictions += 1;
                None
            }
            None => None,
        };
        push(&mut layer, group[0].0, value);
    }
    println!(
        "{what}: {} intervals, {contradictions} overlaps that contradict themselves",
        layer.len()
    );
    layer
}

/// Appends an interval; equal neighbours become one.
pub(super) fn push<V: PartialEq>(layer: &mut Vec<(u128, V)>, start: u128, value: V) {
    match layer.last_mut() {
        Some(last) if last.0 == start => {
            last.1 = value;
            // The one before may now be equal.
            if let [.., before, last] = &layer[..]
                && before.1 == last.1
            {
                layer.pop();
            }
        }
        Some(last) if last.1 == value => {}
        _ => layer.push((start, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_count_only_where_they_agree() {
        let layer =
            flatten(vec![(10, 19, 1), (15, 24, 2), (12, 13, 1), (24, u128::MAX, 2)], "test");
        assert_eq!(layer, [(0, None), (10, Some(1)), (15, None), (20, Some(2))], "{layer:?}");
    }

    #[test]
    fn a_range_from_zero_and_neighbours_merge() {
        assert_eq!(flatten(vec![(0, 4, 7), (5, 9, 7)], "test"), [(0, Some(7)), (10, None)]);
    }
}
