//! The IPv4 prefix table: a root by the upper 16 bits, then run-compressed 8-bit strides.
//!
//! Exact to /32. Equal nodes are stored once.

use std::collections::HashMap;

use sov_common::image::{LEAF, table};

use super::build::Layout;

/// Appends the table of `intervals` (starts ascending, first 0) and fills the descriptor at `at`.
pub(super) fn build(words: &mut Layout, at: u32, intervals: &[(u32, u16)]) {
    let mut nodes = Nodes::default();
    let mut cursor = Cursor { intervals, next: 0, class: 0 };
    let root: Vec<u32> = (0..1u64 << 16).map(|i| nodes.value(&mut cursor, i << 16, 16)).collect();
    let root_at = words.align();
    words.0.extend(root);
    let nodes_at = words.align_line();
    for value in nodes.nodes {
        words.push_u64(value);
    }
    let values_at = words.align();
    words.0.extend(nodes.values);
    words.set(at + table::V4_ROOT, root_at);
    words.set(at + table::V4_NODES, nodes_at / 2);
    words.set(at + table::V4_VALUES, values_at);
}

/// Walks the intervals once, in address order.
struct Cursor<'a> {
    intervals: &'a [(u32, u16)],
    next: usize,
    class: u16,
}

impl Cursor<'_> {
    /// Moves to `address` and says its class and where the next interval starts.
    fn seek(&mut self, address: u64) -> (u16, u64) {
        while let Some((start, class)) = self.intervals.get(self.next) {
            if u64::from(*start) > address {
                return (self.class, u64::from(*start));
            }
            self.class = *class;
            self.next += 1;
        }
        (self.class, 1 << 32)
    }
}

#[derive(Default)]
struct Nodes {
    /// Eight u64 per node.
    nodes: Vec<u64>,
    values: Vec<u32>,
    known: HashMap<Runs, u32>,
}

#[derive(PartialEq, Eq, Hash)]
struct Runs {
    bitmaps: [u64; 4],
    values: Vec<u32>,
}

impl Nodes {
    /// The word for the block of `1 << bits` addresses at `start`: a class or a node.
    fn value(&mut self, cursor: &mut Cursor<'_>, start: u64, bits: u32) -> u32 {
        let (class, boundary) = cursor.seek(start);
        if boundary >= start + (1 << bits) {
            return LEAF | u32::from(class);
        }
        let mut runs = Runs { bitmaps: [0; 4], values: Vec::new() };
        for byte in 0..256u64 {
            let value = self.value(cursor, start + (byte << (bits - 8)), bits - 8);
            if runs.values.last() != Some(&value) {
                runs.bitmaps[(byte >> 6) as usize] |= 1 << (byte & 63);
                runs.values.push(value);
            }
        }
        self.intern(runs)
    }

    fn intern(&mut self, runs: Runs) -> u32 {
        if let Some(node) = self.known.get(&runs) {
            return *node;
        }
        let node = (self.nodes.len() / 8) as u32;
        // The first set bit counts one: a base is the index before the value of that bit.
        let mut base = (self.values.len() as u32).wrapping_sub(1);
        for bitmap in runs.bitmaps {
            self.nodes.push(bitmap);
            self.nodes.push(u64::from(base));
            base = base.wrapping_add(bitmap.count_ones());
        }
        self.values.extend(&runs.values);
        self.known.insert(runs, node);
        node
    }
}
