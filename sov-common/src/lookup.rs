//! Longest-prefix lookup in an image: address to class, selector key to tag.
//!
//! IPv4: a root by the upper 16 bits, then run-compressed 8-bit strides (a bitmap bit says "a new run
//! starts here", the population count finds its value). IPv6: a static 9-ary B+ tree over the interval
//! starts of the upper 64 bits, compared without branches, and an exact table where a boundary is
//! finer than /64. Decision 0001 has the measurements behind the choice.

use crate::image::{DEEP, DEEP_STEPS, LEAF, NO_TAG, Words, table};

/// Class of an IPv4 address (host byte order) in the prefix table at `table`.
#[inline(always)]
pub fn lookup_v4<W: Words + ?Sized>(image: &W, table: u32, address: u32) -> u16 {
    let root = image.word(table + table::V4_ROOT);
    let mut value = image.word(root.wrapping_add(address >> 16));
    if value & LEAF == 0 {
        value = step_v4(image, table, value, (address >> 8) & 0xff);
        if value & LEAF == 0 {
            value = step_v4(image, table, value, address & 0xff);
        }
    }
    value as u16
}

#[inline(always)]
fn step_v4<W: Words + ?Sized>(image: &W, table: u32, node: u32, byte: u32) -> u32 {
    let nodes = image.word(table + table::V4_NODES);
    let values = image.word(table + table::V4_VALUES);
    // A node is one cache line: four pairs {bitmap, index of the value before the first set bit}.
    let pair = nodes.wrapping_add(node.wrapping_mul(8)).wrapping_add((byte >> 6) * 2);
    let bitmap = image.dword(pair);
    let base = image.dword(pair.wrapping_add(1)) as u32;
    let upto = bitmap & (u64::MAX >> (63 - (byte & 63)));
    image.word(values.wrapping_add(base).wrapping_add(popcount(upto)))
}

/// Set bits; BPF has no instruction for it.
#[inline(always)]
fn popcount(mut x: u64) -> u32 {
    x -= (x >> 1) & 0x5555_5555_5555_5555;
    x = (x & 0x3333_3333_3333_3333) + ((x >> 2) & 0x3333_3333_3333_3333);
    x = (x + (x >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (x.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

/// Class of an IPv6 address (upper and lower half, host byte order) in the prefix table at `table`.
#[inline(always)]
pub fn lookup_v6<W: Words + ?Sized>(image: &W, table: u32, high: u64, low: u64) -> u16 {
    let tree = table + table::V6_TREES + (high >> 62) as u32 * table::TREE_WORDS;
    let key = high & (u64::MAX >> 2);
    let depth = image.word(tree + table::DEPTH);
    // An inner node has nine children. A leaf node has eight keys: its number and what is below the
    // address give the rank.
    let zero = image.zero();
    let (mut node, mut leaf, mut below) = (zero, zero, zero);
    let mut level = 0;
    while level < table::MAX_DEPTH {
        if level >= depth {
            break;
        }
        let keys = image.word(tree + table::LEVELS + level).wrapping_add(node.wrapping_mul(8));
        below = keys_below(image, keys, key);
        leaf = node;
        node = node.wrapping_mul(9).wrapping_add(below);
        level += 1;
    }
    let rank = leaf.wrapping_mul(8).wrapping_add(below);
    let values = image.word(tree + table::VALUES);
    let value = image.word(values.wrapping_add(rank));
    if value & DEEP == 0 {
        return value as u16;
    }
    lookup_deep(image, table, value & !DEEP, low)
}

/// How many of the eight keys (each below 2^63) are less than or equal to `key` (below 2^62).
#[inline(always)]
fn keys_below<W: Words + ?Sized>(image: &W, keys: u32, key: u64) -> u32 {
    let mut above = 0u64;
    above += key.wrapping_sub(image.dword(keys)) >> 63;
    above += key.wrapping_sub(image.dword(keys.wrapping_add(1))) >> 63;
    above += key.wrapping_sub(image.dword(keys.wrapping_add(2))) >> 63;
    above += key.wrapping_sub(image.dword(keys.wrapping_add(3))) >> 63;
    above += key.wrapping_sub(image.dword(keys.wrapping_add(4))) >> 63;
    above += key.wrapping_sub(image.dword(keys.wrapping_add(5))) >> 63;
    above += key.wrapping_sub(image.dword(keys.wrapping_add(6))) >> 63;
    above += key.wrapping_sub(image.dword(keys.wrapping_add(7))) >> 63;
    8 - above as u32
}

/// Boundaries inside one /64: sorted starts of the lower half (the first is 0), padded to a power of
/// two with the last class, then their classes.
#[inline(always)]
fn lookup_deep<W: Words + ?Sized>(image: &W, table: u32, index: u32, low: u64) -> u16 {
    let entry = image.word(table + table::V6_DEEP).wrapping_add(index.wrapping_mul(2));
    let keys = image.word(entry);
    let count = image.word(entry.wrapping_add(1));
    let mut position = image.zero();
    let mut half = count >> 1;
    let mut i = 0;
    while i < DEEP_STEPS {
        if half == 0 {
            break;
        }
        // Without branches: two ways at each of sixteen steps are more than a verifier walks.
        let key = image.dword(keys.wrapping_add(position).wrapping_add(half));
        let reached = 1 - borrow(low, key) as u32;
        position = position.wrapping_add(half & reached.wrapping_neg());
        half >>= 1;
        i += 1;
    }
    let classes = keys.wrapping_add(count).wrapping_mul(2);
    image.word(classes.wrapping_add(position)) as u16
}

/// 1 if `a < b`: the borrow of `a - b` (Hacker's Delight, 2-13).
#[inline(always)]
fn borrow(a: u64, b: u64) -> u64 {
    ((!a & b) | ((!a | b) & a.wrapping_sub(b))) >> 63
}

/// Selector value of `key` in the hash table described at `descriptor`, or [`NO_TAG`].
#[inline(always)]
pub fn lookup_key<W: Words + ?Sized>(image: &W, descriptor: u32, key: u64) -> u32 {
    let offset = image.word(descriptor);
    let mask = image.word(descriptor + 1);
    let mut slot = hash(key);
    let mut probe = 0;
    while probe < PROBES {
        let entry = offset.wrapping_add((slot & mask).wrapping_mul(4));
        let value = image.word(entry.wrapping_add(2));
        if value == 0 {
            return NO_TAG;
        }
        if image.dword(entry >> 1) == key {
            return value & NO_TAG;
        }
        slot = slot.wrapping_add(1);
        probe += 1;
    }
    NO_TAG
}

/// The builder grows a table until no key needs more probes than this.
pub const PROBES: u32 = 4;

/// Fibonacci hashing: the upper bits of the product.
#[inline(always)]
pub fn hash(key: u64) -> u32 {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}
