//! The IPv6 prefix table: four static 9-ary B+ trees over the upper 64 bits (one for each value of the
//! two highest bits, so that keys compare as signed numbers), and exact lists where a boundary is
//! finer than /64.

use std::net::Ipv6Addr;

use sov_common::image::{DEEP, DEEP_STEPS, table};

use super::build::{BuildError, Layout};

const KEYS: usize = 8;
const CHILDREN: usize = 9;
/// Above every key of 62 bits, and still positive.
const PADDING: u64 = 1 << 62;

/// Appends the table of `intervals` (starts ascending, first 0) and fills the descriptor at `at`.
pub(super) fn build(
    words: &mut Layout,
    at: u32,
    intervals: &[(u128, u16)],
) -> Result<(), BuildError> {
    let (entries, deep) = split(intervals)?;
    let mut index = Vec::new();
    for list in &deep {
        let keys_at = words.align();
        index.extend([keys_at / 2, list.len() as u32]);
        for (low, _) in list {
            words.push_u64(*low);
        }
        words.0.extend(list.iter().map(|(_, class)| u32::from(*class)));
    }
    let deep_at = words.align();
    words.0.extend(index);
    words.set(at + table::V6_DEEP, deep_at);

    let mut value = 0;
    for (number, entries) in quarters(&entries).into_iter().enumerate() {
        let descriptor = at + table::V6_TREES + number as u32 * table::TREE_WORDS;
        value = tree(words, descriptor, entries, value);
    }
    Ok(())
}

/// Starts of lower halves and classes.
type Deep = Vec<(u64, u16)>;
/// Starts of upper halves and values; the lists that values with `DEEP` name.
type Split = (Vec<(u64, u32)>, Vec<Deep>);

/// Reduces intervals to starts of upper halves; a /64 with boundaries inside gets its own list.
fn split(intervals: &[(u128, u16)]) -> Result<Split, BuildError> {
    let mut entries: Vec<(u64, u32)> = Vec::new();
    let mut deep: Vec<Deep> = Vec::new();
    let mut class = 0;
    let mut rest = intervals;
    while let Some((start, first)) = rest.first() {
        let high = (start >> 64) as u64;
        let inside = rest.iter().take_while(|(s, _)| (s >> 64) as u64 == high).count();
        let (here, after) = rest.split_at(inside);
        rest = after;
        if inside == 1 && *start as u64 == 0 {
            class = *first;
            entries.push((high, u32::from(class)));
            continue;
        }
        let mut list: Deep = here.iter().map(|(s, c)| (*s as u64, *c)).collect();
        if list.first().is_none_or(|f| f.0 != 0) {
            list.insert(0, (0, class));
        }
        if list.len() > 1 << DEEP_STEPS {
            let prefix = Ipv6Addr::from(u128::from(high) << 64);
            return Err(BuildError::DeepPrefix { prefix, limit: 1 << DEEP_STEPS });
        }
        class = list.last().map_or(class, |l| l.1);
        // Padding repeats the last class: a search that ends there is right.
        list.resize(list.len().next_power_of_two(), (u64::MAX, class));
        entries.push((high, DEEP | deep.len() as u32));
        deep.push(list);
        let next = rest.first().map(|(s, _)| (s >> 64) as u64);
        if let Some(following) = high.checked_add(1)
            && next != Some(following)
        {
            entries.push((following, u32::from(class)));
        }
        // A list that starts inside the next /64 needs the class before it: `class` carries it.
    }
    Ok((entries, deep))
}

/// The entries by the two highest bits.
fn quarters(entries: &[(u64, u32)]) -> [&[(u64, u32)]; 4] {
    let cut = |n: u64| entries.partition_point(|(high, _)| high >> 62 < n);
    [&entries[..cut(1)], &entries[cut(1)..cut(2)], &entries[cut(2)..cut(3)], &entries[cut(3)..]]
}

/// Writes one tree; `before` is the value in force at its first address. Returns the value at its end.
fn tree(words: &mut Layout, at: u32, entries: &[(u64, u32)], before: u32) -> u32 {
    let mut before = before;
    let mut keys = Vec::with_capacity(entries.len());
    let mut values = vec![before];
    for (high, value) in entries {
        let key = high & (u64::MAX >> 2);
        if key == 0 {
            values[0] = *value;
        } else if *value & DEEP != 0 || values.last() != Some(value) {
            keys.push(key);
            values.push(*value);
        }
        before = *value;
    }
    let levels = levels(&keys);
    words.set(at + table::DEPTH, levels.len() as u32);
    for (i, level) in levels.iter().rev().enumerate() {
        // Nodes of eight u64 keys are one cache line.
        let level_at = words.align_line();
        for key in level {
            words.push_u64(*key);
        }
        words.set(at + table::LEVELS + i as u32, level_at / 2);
    }
    let values_at = words.align();
    words.0.extend(values);
    words.set(at + table::VALUES, values_at);
    before
}

/// Leaf level first. Key k of an inner node is the smallest key below its child k + 1.
fn levels(keys: &[u64]) -> Vec<Vec<u64>> {
    if keys.is_empty() {
        return Vec::new();
    }
    let mut leaf = keys.to_vec();
    leaf.resize(keys.len().next_multiple_of(KEYS), PADDING);
    let mut smallest: Vec<u64> = leaf.iter().step_by(KEYS).copied().collect();
    let mut levels = vec![leaf];
    while smallest.len() > 1 {
        let mut level = Vec::with_capacity(smallest.len().div_ceil(CHILDREN) * KEYS);
        for children in smallest.chunks(CHILDREN) {
            level.extend(&children[1..]);
            level.resize(level.len().next_multiple_of(KEYS), PADDING);
            if children.len() == 1 {
                level.extend([PADDING; KEYS]);
            }
        }
        smallest = smallest.iter().step_by(CHILDREN).copied().collect();
        levels.push(level);
    }
    levels
}
