//! The IPv6 prefix table: steps of 31 bits below the two highest ones (so that two keys fit a u64 and
//! leave a bit for their comparison). A step is a list of up to sixteen keys or a 17-ary B+ tree; where
//! a boundary lies inside what a key stands for, its code leads to the table of the next step.

use sov_common::image::table;

use super::{
    build::{BuildError, Layout},
    codes::{Coding, NEXT},
};

const KEYS: usize = 16;
const CHILDREN: usize = 17;
const LARGEST: u32 = (1 << table::KEY_BITS) - 1;
const STEPS: usize = table::STEPS as usize;

/// Appends the table of `intervals` (starts ascending, first 0) and fills the descriptor at `at`.
/// Classes are `0..classes`, or from `embedded::FIRST` on.
pub(super) fn build(
    words: &mut Layout,
    at: u32,
    intervals: &[(u128, u16)],
    classes: u32,
) -> Result<(), BuildError> {
    let mut tables = Tables::default();
    let mut rest = Rest { intervals, quarter: 0, class: 0 };
    let mut roots = [0; 4];
    for root in &mut roots {
        *root = tables.table(&mut rest, 0, 0);
        rest.quarter += 1;
    }
    let coding = Coding::new(classes, tables.list.len());
    let mut references = Vec::with_capacity(tables.list.len());
    for index in 0..tables.list.len() {
        references.push(tables.place(words, index, coding)?);
    }
    for (quarter, root) in (0..).zip(roots) {
        words.set(at + table::V6_ROOTS + quarter, references[root as usize]);
    }
    let references_at = words.0.len() as u32;
    words.0.extend(references);
    words.set(at + table::V6_TABLES, references_at);
    words.set(at + table::V6_WIDTH, coding.width);
    words.set(at + table::V6_FIRST, coding.first);
    words.set(at + table::V6_COUNT, coding.count);
    Ok(())
}

/// The intervals that are still to come, and the class in force before them.
struct Rest<'a> {
    intervals: &'a [(u128, u16)],
    /// The two highest bits: others are not looked at.
    quarter: u128,
    class: u16,
}

impl Rest<'_> {
    /// The next start in this quarter, without its two highest bits, at the upper end.
    fn next(&self) -> Option<u128> {
        self.intervals.first().filter(|i| i.0 >> 126 == self.quarter).map(|i| i.0 << 2)
    }

    fn enter(&mut self) {
        if let Some((first, after)) = self.intervals.split_first() {
            (self.class, self.intervals) = (first.1, after);
        }
    }
}

/// What is below the first `step` steps of an address.
fn below(address: u128, step: usize) -> u128 {
    address.checked_shl(table::KEY_BITS * step as u32).unwrap_or(0)
}

/// The first `step` steps of an address.
fn above(address: u128, step: usize) -> u128 {
    let bits = table::KEY_BITS * step as u32;
    address.checked_shr(128u32.saturating_sub(bits)).unwrap_or(0)
}

fn key(address: u128, step: usize) -> u32 {
    (below(address, step) >> (128 - table::KEY_BITS)) as u32
}

/// All tables, each with one value more than keys.
#[derive(Default)]
struct Tables {
    /// Where a table's keys begin and end; its values begin as much later as there are tables before it.
    list: Vec<(usize, usize)>,
    /// Keys less one.
    keys: Vec<u32>,
    values: Vec<u32>,
    /// The table that is being made of each step.
    open: [Open; STEPS],
}

#[derive(Default)]
struct Open {
    keys: Vec<u32>,
    values: Vec<u32>,
}

impl Open {
    /// From `key` on the value is this one.
    fn push(&mut self, key: u32, value: u32) {
        match key.checked_sub(1) {
            None => self.values[0] = value,
            Some(less) if self.values.last() != Some(&value) => {
                self.keys.push(less);
                self.values.push(value);
            }
            Some(_) => {}
        }
    }
}

impl Tables {
    /// The table of all addresses that begin with `prefix`, `step` steps long.
    fn table(&mut self, rest: &mut Rest<'_>, step: usize, prefix: u128) -> u32 {
        if rest.next().is_some_and(|n| above(n, step) == prefix && below(n, step) == 0) {
            rest.enter();
        }
        self.open[step].keys.clear();
        self.open[step].values.clear();
        self.open[step].values.push(u32::from(rest.class));
        let here = |rest: &Rest<'_>| rest.next().filter(|n| above(*n, step) == prefix);
        while let Some(next) = here(rest) {
            let key = key(next, step);
            if below(next, step + 1) == 0 {
                rest.enter();
            }
            let inside = prefix << table::KEY_BITS | u128::from(key);
            if rest.next().is_none_or(|n| above(n, step + 1) != inside) {
                self.open[step].push(key, u32::from(rest.class));
                continue;
            }
            let child = self.table(rest, step + 1, inside);
            self.open[step].push(key, NEXT | child);
            if key < LARGEST {
                // Replaced in the next turn if there is a boundary just here.
                let open = &mut self.open[step];
                open.keys.push(key);
                open.values.push(u32::from(rest.class));
                if here(rest).is_some_and(|n| self::key(n, step) == key + 1) {
                    open.keys.pop();
                    open.values.pop();
                }
            }
        }
        let start = self.keys.len();
        self.keys.extend_from_slice(&self.open[step].keys);
        self.values.extend_from_slice(&self.open[step].values);
        self.list.push((start, self.keys.len()));
        (self.list.len() - 1) as u32
    }

    /// Writes a table; returns the reference to it.
    fn place(&self, words: &mut Layout, index: usize, coding: Coding) -> Result<u32, BuildError> {
        let (start, end) = self.list[index];
        let keys = &self.keys[start..end];
        let values = &self.values[start + index..][..keys.len() + 1];
        if keys.len() <= KEYS {
            let place = words.align() / 2;
            words.0.extend(keys);
            // At least two keys: a list without any would count as a tree.
            words.0.resize(words.0.len() + padding(keys.len()), table::PADDING);
            let pairs = keys.len().div_ceil(2).max(1) as u32;
            coding.append(words, values);
            return Ok(pairs << table::LIST_SHIFT | place);
        }
        let levels = levels(keys);
        if levels.len() > table::MAX_DEPTH as usize {
            return Err(BuildError::Intervals {
                what: "IPv6, with more than twenty million starts",
            });
        }
        let codes_at = coding.append(words, values);
        let tree = words.align();
        words.0.resize(words.0.len() + table::TREE_WORDS as usize, 0);
        words.set(tree + table::DEPTH, levels.len() as u32);
        words.set(tree + table::CODES, codes_at);
        for (i, level) in (0..).zip(levels.iter().rev()) {
            let level_at = words.align_line();
            words.0.extend(level);
            words.set(tree + table::LEVELS + i, level_at / 16);
        }
        Ok(tree / 2)
    }
}

/// Keys that fill a list up to whole u64 words.
fn padding(keys: usize) -> usize {
    if keys == 0 { 2 } else { keys % 2 }
}

/// Leaf level first. Key k of an inner node is the smallest key below its child k + 1.
fn levels(keys: &[u32]) -> Vec<Vec<u32>> {
    let mut leaf = keys.to_vec();
    leaf.resize(keys.len().next_multiple_of(KEYS), table::PADDING);
    let mut smallest: Vec<u32> = leaf.iter().step_by(KEYS).copied().collect();
    let mut levels = vec![leaf];
    while smallest.len() > 1 {
        let mut level = Vec::with_capacity(smallest.len().div_ceil(CHILDREN) * KEYS);
        for (i, children) in smallest.chunks(CHILDREN).enumerate() {
            level.extend(&children[1..]);
            level.resize((i + 1) * KEYS, table::PADDING);
        }
        smallest = smallest.iter().step_by(CHILDREN).copied().collect();
        levels.push(level);
    }
    levels
}
