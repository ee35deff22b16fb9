//! Longest-prefix lookup in an image: address to class, selector key to tag.
//!
//! IPv4: a root by the upper 16 bits, then run-compressed 8-bit strides (a bitmap bit says "a new run
//! starts here", the population count finds its code). IPv6: interval starts in steps of 31 bits. Each
//! step is a static 17-ary B+ tree, or a short list, over what the address has there; its codes are
//! classes, or lead to the next step where a boundary is finer. Two keys are compared at a time, without
//! branches. Decision 0001 has the measurements behind the choice.

use crate::image::{NO_TAG, Words, table};

/// Class of an IPv4 address (host byte order) in the prefix table at `table`.
#[inline(always)]
pub fn lookup_v4<W: Words + ?Sized>(image: &W, table: u32, address: u32) -> u16 {
    let codes = Codes::new(image, table + table::V4_WIDTH);
    let mut code = codes.read(image, image.word(table + table::V4_ROOT), address >> 16);
    if let Some(node) = codes.next(code) {
        code = step_v4(image, table, &codes, node, (address >> 8) & 0xff);
        if let Some(node) = codes.next(code) {
            code = step_v4(image, table, &codes, node, address & 0xff);
        }
    }
    code as u16
}

#[inline(always)]
fn step_v4<W: Words + ?Sized>(image: &W, table: u32, codes: &Codes, node: u32, byte: u32) -> u32 {
    let nodes = image.word(table + table::V4_NODES);
    // A node is one cache line: four pairs {bitmap, index of the code before the first set bit}.
    let pair = nodes.wrapping_add(node).wrapping_mul(4).wrapping_add(byte >> 6);
    let [bitmap, before] = image.pair(pair);
    let upto = bitmap & (u64::MAX >> (63 - (byte & 63)));
    let index = (before as u32).wrapping_add(popcount(upto));
    codes.read(image, image.word(table + table::V4_CODES), index)
}

/// Set bits; BPF has no instruction for it.
#[inline(always)]
fn popcount(mut x: u64) -> u32 {
    x -= (x >> 1) & 0x5555_5555_5555_5555;
    x = (x & 0x3333_3333_3333_3333) + ((x >> 2) & 0x3333_3333_3333_3333);
    x = (x + (x >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (x.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

/// How codes of one family are stored, and which of them lead on.
struct Codes {
    /// 0 = 32 bits, 1 = 16 bits.
    width: u32,
    first: u32,
    count: u32,
}

impl Codes {
    #[inline(always)]
    fn new<W: Words + ?Sized>(image: &W, descriptor: u32) -> Self {
        Self {
            width: image.word(descriptor) & 1,
            first: image.word(descriptor + 1),
            count: image.word(descriptor + 2),
        }
    }

    /// Code `index` of the array at word `offset`.
    #[inline(always)]
    fn read<W: Words + ?Sized>(&self, image: &W, offset: u32, index: u32) -> u32 {
        let word = image.word(offset.wrapping_add(index >> self.width));
        let half = self.width << 4;
        (word >> ((index << 4) & half)) & (u32::MAX >> half)
    }

    /// Where a code leads, `None` for a class.
    #[inline(always)]
    fn next(&self, code: u32) -> Option<u32> {
        let next = code.wrapping_sub(self.first);
        if next < self.count { Some(next) } else { None }
    }
}

/// Class of an IPv6 address (upper and lower half, host byte order) in the prefix table at `table`.
#[inline(always)]
pub fn lookup_v6<W: Words + ?Sized>(image: &W, table: u32, high: u64, low: u64) -> u16 {
    let codes = Codes::new(image, table + table::V6_WIDTH);
    let mut reference = image.word(table + table::V6_ROOTS + (high >> 62) as u32);
    let (mut high, mut low) = (high << 2 | low >> 62, low << 2);
    let mut code = image.zero();
    let mut step = 0;
    while step < table::STEPS {
        let key = Key::new((high >> (64 - table::KEY_BITS)) as u32);
        let place = reference & table::PLACE;
        let list = reference >> table::LIST_SHIFT;
        code = if list == 0 {
            let (offset, rank) = search_tree(image, place, &key);
            codes.read(image, offset, rank)
        } else {
            let rank = search_list(image, place, list, &key);
            codes.read(image, place.wrapping_add(list).wrapping_mul(2), rank)
        };
        let Some(next) = codes.next(code) else { break };
        reference = image.word(image.word(table + table::V6_TABLES).wrapping_add(next));
        high = high << table::KEY_BITS | low >> (64 - table::KEY_BITS);
        low <<= table::KEY_BITS;
        step += 1;
    }
    code as u16
}

/// What 31 bits of an address are compared with two keys by: both halves hold them less one, with the
/// bit above set. It survives the subtraction of a stored key where the key is reached.
struct Key(u64);

/// The lowest bit of both halves.
const LANES: u64 = 1 << 32 | 1;

impl Key {
    #[inline(always)]
    fn new(bits: u32) -> Self {
        // Up to 2^32 - 2: nothing crosses into the upper half.
        Self((bits as u64 + table::PADDING as u64).wrapping_mul(LANES))
    }

    /// How many of the two keys are less than or equal, counted in both halves.
    #[inline(always)]
    fn reached(&self, keys: u64) -> u64 {
        (self.0.wrapping_sub(keys) >> 31) & LANES
    }
}

#[inline(always)]
fn sum(counts: u64) -> u32 {
    (counts as u32).wrapping_add((counts >> 32) as u32)
}

/// Offset of the codes, and the rank among all keys of the tree whose descriptor is at `place`.
#[inline(always)]
fn search_tree<W: Words + ?Sized>(image: &W, place: u32, key: &Key) -> (u32, u32) {
    let tree = place.wrapping_mul(2);
    let depth = image.word(tree + table::DEPTH);
    // An inner node has 17 children. A leaf has 16 keys: its number and what is below give the rank.
    let zero = image.zero();
    let (mut node, mut leaf, mut below) = (zero, zero, zero);
    let mut level = 0;
    while level < table::MAX_DEPTH {
        if level >= depth {
            break;
        }
        let lines = image.word((tree + table::LEVELS).wrapping_add(level));
        below = sum(image.sum_line(lines.wrapping_add(node), |keys| key.reached(keys)));
        leaf = node;
        node = node.wrapping_mul(17).wrapping_add(below);
        level += 1;
    }
    (image.word(tree + table::CODES), leaf.wrapping_mul(16).wrapping_add(below))
}

/// Rank among the keys of the `count` u64 words at `place`.
#[inline(always)]
fn search_list<W: Words + ?Sized>(image: &W, place: u32, count: u32, key: &Key) -> u32 {
    let mut below = image.zero() as u64;
    let mut i = 0;
    while i < table::MAX_LIST {
        if i >= count {
            break;
        }
        below += key.reached(image.dword(place.wrapping_add(i)));
        i += 1;
    }
    sum(below)
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
