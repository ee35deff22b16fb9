//! The IPv4 prefix table: a root by the upper 16 bits, then run-compressed 8-bit strides.
//!
//! Exact to /32. Equal nodes are stored once.

use std::collections::HashMap;

use sov_common::image::table;

use super::{
    build::Layout,
    codes::{Coding, NEXT},
};

/// Appends the table of `intervals` (starts ascending, first 0) and fills the descriptor at `at`.
/// Classes are `0..classes`, or from `embedded::FIRST` on.
pub(super) fn build(words: &mut Layout, at: u32, intervals: &[(u32, u16)], classes: u32) {
    let mut nodes = Nodes::default();
    let mut rest = Rest { intervals, class: 0 };
    let mut root = Vec::with_capacity(1 << 16);
    for block in 0..1u64 << 16 {
        root.push(nodes.block(&mut rest, block << 16, 16));
    }
    let coding = Coding::new(classes, nodes.nodes.len() / 8);
    let root_at = coding.append(words, &root);
    let nodes_at = words.align_line();
    for value in &nodes.nodes {
        words.push_u64(*value);
    }
    let codes_at = coding.append(words, &nodes.values);
    words.set(at + table::V4_ROOT, root_at);
    words.set(at + table::V4_NODES, nodes_at / 16);
    words.set(at + table::V4_CODES, codes_at);
    words.set(at + table::V4_WIDTH, coding.width);
    words.set(at + table::V4_FIRST, coding.first);
    words.set(at + table::V4_COUNT, coding.count);
}

/// The intervals that are still to come, and the class in force before them.
struct Rest<'a> {
    intervals: &'a [(u32, u16)],
    class: u16,
}

impl Rest<'_> {
    /// Where the class changes next, if that is before `end`.
    fn before(&self, end: u64) -> Option<u64> {
        self.intervals.first().map(|i| u64::from(i.0)).filter(|start| *start < end)
    }

    fn enter(&mut self) {
        if let Some((first, after)) = self.intervals.split_first() {
            (self.class, self.intervals) = (first.1, after);
        }
    }
}

#[derive(Default)]
struct Nodes {
    /// Eight u64 per node.
    nodes: Vec<u64>,
    values: Vec<u32>,
    /// Nodes by a hash of their content. Two that happen to share one are not joined, no more.
    known: HashMap<u64, u32>,
}

/// A node under construction: 256 addresses' or blocks' values as runs.
struct Runs {
    bitmaps: [u64; 4],
    values: [u32; 256],
    count: usize,
}

impl Runs {
    /// From `byte` on the value is this one.
    fn push(&mut self, byte: u64, value: u32) {
        if self.count == 0 || self.values[self.count - 1] != value {
            self.bitmaps[(byte >> 6) as usize & 3] |= 1 << (byte & 63);
            self.values[self.count] = value;
            self.count += 1;
        }
    }

    fn values(&self) -> &[u32] {
        &self.values[..self.count]
    }

    fn hash(&self) -> u64 {
        let words = self.bitmaps.iter().copied().chain(self.values().iter().map(|v| u64::from(*v)));
        words
            .fold(0, |hash, word| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
    }
}

impl Nodes {
    /// The value of the block of `1 << bits` addresses at `start`: a class or a node.
    fn block(&mut self, rest: &mut Rest<'_>, start: u64, bits: u32) -> u32 {
        let end = start + (1 << bits);
        if rest.before(end) == Some(start) {
            rest.enter();
        }
        match rest.before(end) {
            None => u32::from(rest.class),
            Some(_) => self.node(rest, start, bits),
        }
    }

    /// The node of a block whose class changes inside: of more than one address, then.
    fn node(&mut self, rest: &mut Rest<'_>, start: u64, bits: u32) -> u32 {
        let (end, below) = (start + (1 << bits), bits - 8);
        let mut runs = Runs { bitmaps: [0; 4], values: [0; 256], count: 0 };
        let mut byte = 0;
        while byte < 256 {
            let change = rest.before(end).map_or(256, |change| (change - start) >> below);
            if change > byte {
                runs.push(byte, u32::from(rest.class));
                byte = change;
            } else {
                let value = self.block(rest, start + (byte << below), below);
                runs.push(byte, value);
                byte += 1;
            }
        }
        NEXT | self.intern(&runs)
    }

    fn intern(&mut self, runs: &Runs) -> u32 {
        let next = (self.nodes.len() / 8) as u32;
        let node = *self.known.entry(runs.hash()).or_insert(next);
        if node != next && self.equals(node, runs) {
            return node;
        }
        // The first set bit counts one: a base is the index before the value of that bit.
        let mut base = (self.values.len() as u32).wrapping_sub(1);
        for bitmap in runs.bitmaps {
            self.nodes.push(bitmap);
            self.nodes.push(u64::from(base));
            base = base.wrapping_add(bitmap.count_ones());
        }
        self.values.extend(runs.values());
        next
    }

    fn equals(&self, node: u32, runs: &Runs) -> bool {
        let stored = &self.nodes[node as usize * 8..][..8];
        let first = (stored[1] as u32).wrapping_add(1) as usize;
        (0..4).all(|i| stored[i * 2] == runs.bitmaps[i])
            && self.values[first..].starts_with(runs.values())
    }
}
