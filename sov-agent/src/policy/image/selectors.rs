//! The selector tables: hash tables by cgroup, user, interface and VLAN, lists by mark and DSCP, prefix
//! tables by source.

use sov_common::{
    image::{NO_TAG, flags, header},
    lookup::{PROBES, hash},
};

use super::{
    build::{BuildError, Layout, Order},
    spec::SelectorSpec,
    v4, v6,
};

/// Marks are compared one after the other for every packet.
const MAX_MARKS: usize = sov_common::tags::MAX_MARKS as usize;
/// Selector values are below: rank and slot are both below 64. [`NO_TAG`] is far above.
const SOURCE_VALUES: u32 = 1 << 14;
/// Largest hash table, in slots.
const MAX_SLOTS: usize = 1 << 14;

/// Appends all tables and returns the flags of the kinds in use.
pub(super) fn build(
    words: &mut Layout,
    selectors: &SelectorSpec,
    order: &Order,
) -> Result<u32, BuildError> {
    let mut used = 0;
    let cgroups: Vec<_> = selectors.cgroups.iter().map(|(id, _, slot)| (*id, *slot)).collect();
    let uids: Vec<_> = selectors.uids.iter().map(|(u, slot)| (u64::from(*u), *slot)).collect();
    let interfaces: Vec<_> =
        selectors.interfaces.iter().map(|(i, slot)| (u64::from(*i), *slot)).collect();
    let vlans: Vec<_> = selectors.vlans.iter().map(|(v, slot)| (u64::from(*v), *slot)).collect();
    for (flag, at, what, keys) in [
        (flags::CGROUP, header::CGROUPS, "cgroup", cgroups),
        (flags::UID, header::UIDS, "uid", uids),
        (flags::VLAN, header::VLANS, "vlan", vlans),
        (flags::INTERFACE, header::INTERFACES, "interface", interfaces),
    ] {
        if !keys.is_empty() {
            used |= flag;
            hash_table(words, at, what, &keys, order)?;
        }
    }
    let levels = selectors.cgroups.iter().fold(0, |bits, (_, depth, _)| bits | 1 << (depth & 31));
    words.set(header::CGROUP_LEVELS, levels);
    if !selectors.dscps.is_empty() {
        used |= flags::DSCP;
        let at = words.align();
        words.set(header::DSCPS, at);
        words.0.extend([NO_TAG; 64]);
        for (dscp, slot) in &selectors.dscps {
            let entry = &mut words.0[at as usize + usize::from(dscp & 63)];
            *entry = (*entry).min(order.value(*slot));
        }
    }
    if !selectors.marks.is_empty() {
        used |= flags::MARK;
        let count = selectors.marks.len();
        if count > MAX_MARKS {
            return Err(BuildError::ManySelectors { what: "mark", count, limit: MAX_MARKS });
        }
        let at = words.align();
        words.set(header::MARKS, at);
        words.set(header::MARKS + 1, count as u32);
        // The first that matches wins: the highest rank comes first.
        let mut marks: Vec<_> =
            selectors.marks.iter().map(|(v, mask, slot)| (order.value(*slot), *v, *mask)).collect();
        marks.sort_unstable();
        for (tag, value, mask) in marks {
            words.0.extend([value, mask, tag, 0]);
        }
    }
    // A frame that hides source, DSCP and VLAN may be any of these tags': it counts as the strictest.
    let by_dscp = selectors.dscps.iter().map(|(_, slot)| *slot);
    let by_v4 = selectors.sources_v4.iter().filter_map(|(_, slot)| *slot);
    let by_v6 = selectors.sources_v6.iter().filter_map(|(_, slot)| *slot);
    let by_vlan = selectors.vlans.iter().map(|(_, slot)| *slot);
    let blind =
        by_dscp.chain(by_vlan).chain(by_v4).chain(by_v6).map(|slot| order.value(slot)).min();
    words.set(header::BLIND_TAG, blind.unwrap_or(NO_TAG));
    if sources(words, selectors, order)? {
        used |= flags::SOURCE;
    }
    Ok(used)
}

/// Open addressing, linear probing: {key low, key high, 1 << 16 | selector value, 0}.
pub(super) fn hash_table(
    words: &mut Layout,
    at: u32,
    what: &'static str,
    keys: &[(u64, u8)],
    order: &Order,
) -> Result<(), BuildError> {
    let mut slots = (keys.len() * 2).next_power_of_two().max(4);
    let table = loop {
        if slots > MAX_SLOTS {
            return Err(BuildError::ManySelectors {
                what,
                count: keys.len(),
                limit: MAX_SLOTS / 2,
            });
        }
        if let Some(table) = place(keys, slots, order) {
            break table;
        }
        slots *= 2;
    };
    let offset = words.align();
    words.set(at, offset);
    words.set(at + 1, slots as u32 - 1);
    for entry in table {
        let (key, value) = entry.map_or((0, 0), |(key, value)| (key, 1 << 16 | value));
        words.push_u64(key);
        words.0.extend([value, 0]);
    }
    Ok(())
}

/// `None` when a key needs more probes than the reader makes.
fn place(keys: &[(u64, u8)], slots: usize, order: &Order) -> Option<Vec<Option<(u64, u32)>>> {
    let mut table: Vec<Option<(u64, u32)>> = vec![None; slots];
    for (key, slot) in keys {
        let value = order.value(*slot);
        let first = hash(*key) as usize;
        let place = (0..PROBES as usize)
            .map(|probe| (first + probe) & (slots - 1))
            .find(|i| table[*i].is_none_or(|(k, _)| k == *key))?;
        let entry = table[place].get_or_insert((*key, value));
        entry.1 = entry.1.min(value);
    }
    Some(table)
}

/// Source prefixes, as prefix tables whose classes are selector values.
fn sources(
    words: &mut Layout,
    selectors: &SelectorSpec,
    order: &Order,
) -> Result<bool, BuildError> {
    let value = |slot: &Option<u8>| slot.map_or(NO_TAG, |s| order.value(s)) as u16;
    let any = selectors.sources_v4.iter().any(|(_, s)| s.is_some())
        || selectors.sources_v6.iter().any(|(_, s)| s.is_some());
    if !any {
        return Ok(false);
    }
    let mut low: Vec<_> = selectors.sources_v4.iter().map(|(a, s)| (*a, value(s))).collect();
    let mut high: Vec<_> = selectors.sources_v6.iter().map(|(a, s)| (*a, value(s))).collect();
    if low.first().is_none_or(|f| f.0 != 0) {
        low.insert(0, (0, NO_TAG as u16));
    }
    if high.first().is_none_or(|f| f.0 != 0) {
        high.insert(0, (0, NO_TAG as u16));
    }
    let sorted = low.windows(2).all(|w| w[0].0 < w[1].0);
    if !sorted || !high.windows(2).all(|w| w[0].0 < w[1].0) {
        return Err(BuildError::Intervals { what: "source prefixes" });
    }
    v4::build(words, header::SOURCES, &low, SOURCE_VALUES);
    v6::build(words, header::SOURCES, &high, SOURCE_VALUES)?;
    Ok(true)
}
