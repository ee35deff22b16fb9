//! The packed interval table: every address of one family to a small number, searched in place.
//!
//! The whole address space is cut into intervals, each with an id. They are stored in blocks behind an
//! index of block starts, so that a table is one byte string that needs no unpacking: it can be embedded
//! in the binary and costs only the pages that lookups touch. Knows nothing of attributes or files.
//!
//! Layout, all numbers little endian:
//! `intervals: u32, blocks: u32`, then per block `start: key, offset: u32` (into the data), then the data.
//! A block is `id` of its first interval, then per further interval `step, id`. An id is LEB128. A step is
//! the distance from the previous start: one byte with its count of trailing zero bits in the low 7 bits
//! and, if anything but one set bit remains, the high bit and LEB128 of the rest. Most steps take one byte.

use std::{borrow::Cow, marker::PhantomData};

/// Intervals per block: a lookup decodes half a block on average.
const BLOCK: usize = 32;
const HEADER: usize = 8;

/// An address as a number in host byte order: `u32` for IPv4, `u128` for IPv6.
pub trait Key: Copy + Ord + std::fmt::Debug {
    const BYTES: usize;
    const ZERO: Self;
    const MAX: Self;
    fn read(bytes: &[u8]) -> Option<Self>;
    fn write(self, out: &mut Vec<u8>);
    fn checked_add(self, other: Self) -> Option<Self>;
    fn wrapping_sub(self, other: Self) -> Self;
    fn trailing_zeros(self) -> u32;
    fn shl(self, bits: u32) -> Option<Self>;
    fn shr(self, bits: u32) -> Self;
    fn or_low(self, bits: u8) -> Self;
    fn low(self) -> u8;
}

macro_rules! key {
    ($type:ty) => {
        impl Key for $type {
            const BYTES: usize = size_of::<$type>();
            const ZERO: Self = 0;
            const MAX: Self = <$type>::MAX;
            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|chunk| <$type>::from_le_bytes(*chunk))
            }
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn checked_add(self, other: Self) -> Option<Self> {
                <$type>::checked_add(self, other)
            }
            fn wrapping_sub(self, other: Self) -> Self {
                <$type>::wrapping_sub(self, other)
            }
            fn trailing_zeros(self) -> u32 {
                <$type>::trailing_zeros(self)
            }
            fn shl(self, bits: u32) -> Option<Self> {
                (bits == 0 || self.leading_zeros() >= bits)
                    .then(|| <$type>::checked_shl(self, bits))
                    .flatten()
            }
            fn shr(self, bits: u32) -> Self {
                self.checked_shr(bits).unwrap_or(0)
            }
            fn or_low(self, bits: u8) -> Self {
                self | <$type>::from(bits)
            }
            fn low(self) -> u8 {
                self.to_le_bytes()[0]
            }
        }
    };
}
key!(u32);
key!(u128);

/// One interval: first address, last address, id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval<K> {
    pub first: K,
    pub last: K,
    pub id: u32,
}

/// Why intervals or bytes are no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableError {
    /// There is no interval, or the first does not start at address 0.
    NotFromZero,
    /// The interval with this index does not start after the one before it.
    NotAscending(usize),
    /// Bytes end early, or an offset points outside them.
    Truncated,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Table<K> {
    bytes: Cow<'static, [u8]>,
    blocks: usize,
    key: PhantomData<K>,
}

impl<K: Key> Table<K> {
    /// Packs `(start, id)`; neighbours with the same id become one interval.
    pub fn pack(intervals: &[(K, u32)]) -> Result<Self, TableError> {
        let mut packer = Packer::default();
        intervals.iter().try_for_each(|&(start, id)| packer.push(start, id))?;
        packer.finish()
    }

    /// Takes bytes that [`Table::as_bytes`] gave. Checks the frame, not every interval.
    pub fn from_bytes(bytes: Cow<'static, [u8]>) -> Result<Self, TableError> {
        let read = |at: usize| bytes.get(at..).and_then(u32::read).ok_or(TableError::Truncated);
        let (count, blocks) = (read(0)? as usize, read(4)? as usize);
        let data = blocks.checked_mul(K::BYTES + 4).map(|index| index + HEADER);
        let complete = data.is_some_and(|data| data < bytes.len());
        if count == 0 || blocks != count.div_ceil(BLOCK) || !complete {
            return Err(TableError::Truncated);
        }
        let table = Self { bytes, blocks, key: PhantomData };
        match table.block(0) {
            Some((start, _)) if start == K::ZERO => Ok(table),
            _ => Err(TableError::NotFromZero),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of intervals.
    pub fn len(&self) -> usize {
        u32::read(&self.bytes).unwrap_or(0) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The interval that holds `key`.
    pub fn find(&self, key: K) -> Interval<K> {
        // The first block starts at 0, so at least one block starts at or before every key.
        let (mut low, mut high) = (0, self.blocks);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.block(middle) {
                Some((start, _)) if start <= key => low = middle,
                _ => high = middle,
            }
        }
        let mut walk = self.walk(low);
        let mut found = (K::ZERO, 0);
        for (start, id) in walk.by_ref() {
            if start > key {
                return Interval {
                    first: found.0,
                    last: start.wrapping_sub(K::ZERO.or_low(1)),
                    id: found.1,
                };
            }
            found = (start, id);
        }
        Interval { first: found.0, last: K::MAX, id: found.1 }
    }

    /// All intervals as `(start, id)`, ascending, from address 0.
    pub fn iter(&self) -> impl Iterator<Item = (K, u32)> + '_ {
        self.walk(0)
    }

    fn walk(&self, block: usize) -> Walk<'_, K> {
        Walk { table: self, block, left: 0, at: 0, start: K::ZERO }
    }

    /// Start and data position of a block.
    fn block(&self, block: usize) -> Option<(K, usize)> {
        let entry = self.bytes.get(HEADER + block * (K::BYTES + 4)..)?;
        let offset = u32::read(entry.get(K::BYTES..)?)? as usize;
        Some((K::read(entry)?, HEADER + self.blocks * (K::BYTES + 4) + offset))
    }
}

/// Packs intervals one by one.
#[derive(Debug)]
pub struct Packer<K> {
    index: Vec<u8>,
    data: Vec<u8>,
    count: u32,
    blocks: u32,
    /// Start and id of the interval that was written last.
    written: Option<(K, u32)>,
    /// Start that was pushed last, and how many were.
    pushed: Option<K>,
    position: usize,
}

impl<K> Default for Packer<K> {
    fn default() -> Self {
        let (index, data) = (Vec::new(), Vec::new());
        Self { index, data, count: 0, blocks: 0, written: None, pushed: None, position: 0 }
    }
}

impl<K: Key> Packer<K> {
    /// Starts must ascend, from 0; a neighbour with the same id continues the interval.
    pub fn push(&mut self, start: K, id: u32) -> Result<(), TableError> {
        match self.pushed {
            None if start != K::ZERO => return Err(TableError::NotFromZero),
            Some(pushed) if start <= pushed => return Err(TableError::NotAscending(self.position)),
            _ => {}
        }
        self.pushed = Some(start);
        self.position += 1;
        if self.written.is_some_and(|written| written.1 == id) {
            return Ok(());
        }
        if (self.count as usize).is_multiple_of(BLOCK) {
            start.write(&mut self.index);
            let offset = u32::try_from(self.data.len()).map_err(|_| TableError::Truncated)?;
            offset.write(&mut self.index);
            self.blocks += 1;
        } else if let Some((previous, _)) = self.written {
            write_step(&mut self.data, start.wrapping_sub(previous));
        }
        write_leb(&mut self.data, u128::from(id));
        self.count = self.count.checked_add(1).ok_or(TableError::Truncated)?;
        self.written = Some((start, id));
        Ok(())
    }

    pub fn finish(mut self) -> Result<Table<K>, TableError> {
        if self.count == 0 {
            return Err(TableError::NotFromZero);
        }
        let mut bytes = Vec::with_capacity(HEADER + self.index.len() + self.data.len());
        self.count.write(&mut bytes);
        self.blocks.write(&mut bytes);
        bytes.append(&mut self.index);
        bytes.append(&mut self.data);
        Ok(Table { bytes: Cow::Owned(bytes), blocks: self.blocks as usize, key: PhantomData })
    }
}

/// Decodes from the start of a block to the end of the table.
struct Walk<'a, K> {
    table: &'a Table<K>,
    /// Next block to enter.
    block: usize,
    /// Intervals left in the current block.
    left: usize,
    at: usize,
    start: K,
}

impl<K: Key> Iterator for Walk<'_, K> {
    type Item = (K, u32);

    fn next(&mut self) -> Option<(K, u32)> {
        let bytes = &self.table.bytes;
        if self.left == 0 {
            if self.block >= self.table.blocks {
                return None;
            }
            (self.start, self.at) = self.table.block(self.block)?;
            self.left = (self.table.len() - self.block * BLOCK).min(BLOCK);
            self.block += 1;
        } else {
            self.start = self.start.checked_add(read_step(bytes, &mut self.at)?)?;
        }
        self.left -= 1;
        let id = read_leb::<u32>(bytes, &mut self.at)?;
        Some((self.start, id))
    }
}

fn write_step<K: Key>(out: &mut Vec<u8>, step: K) {
    let zeros = step.trailing_zeros();
    // Bits above the lowest set one.
    let rest = step.shr(zeros).shr(1);
    #[expect(clippy::cast_possible_truncation, reason = "at most 127: a step is never zero")]
    let head = zeros as u8;
    if rest == K::ZERO {
        return out.push(head);
    }
    out.push(head | 0x80);
    let mut rest = rest;
    while rest.shr(7) != K::ZERO {
        out.push(rest.low() | 0x80);
        rest = rest.shr(7);
    }
    out.push(rest.low());
}

fn read_step<K: Key>(bytes: &[u8], at: &mut usize) -> Option<K> {
    let head = *bytes.get(*at)?;
    *at += 1;
    let odd = K::ZERO.or_low(1);
    let mantissa = match head & 0x80 {
        0 => odd,
        _ => read_leb::<K>(bytes, at)?.shl(1)?.or_low(1),
    };
    mantissa.shl(u32::from(head & 0x7f))
}

/// Appends a number in LEB128.
pub fn write_leb(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push(number.low() | 0x80);
        number >>= 7;
    }
    out.push(number.low());
}

/// Reads a number in LEB128 and moves `at` behind it; `None` where it is cut off or too large.
pub fn read_leb<K: Key>(bytes: &[u8], at: &mut usize) -> Option<K> {
    let first = *bytes.get(*at)?;
    *at += 1;
    let mut number = K::ZERO.or_low(first & 0x7f);
    let (mut more, mut shift) = (first & 0x80 != 0, 7);
    while more {
        let byte = *bytes.get(*at)?;
        *at += 1;
        let part = K::ZERO.or_low(byte & 0x7f).shl(shift)?;
        number = number.checked_add(part)?;
        more = byte & 0x80 != 0;
        shift += 7;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What a table must answer, by scanning.
    fn scan<K: Key>(intervals: &[(K, u32)], key: K) -> u32 {
        intervals.iter().take_while(|(start, _)| *start <= key).last().unwrap().1
    }

    fn check<K: Key>(intervals: BTreeMap<K, u32>, probes: &[K]) {
        let mut list: Vec<_> = intervals.into_iter().collect();
        if list.first().map(|i| i.0) != Some(K::ZERO) {
            list.insert(0, (K::ZERO, 0));
        }
        let packed = Table::pack(&list).unwrap();
        let table = Table::<K>::from_bytes(Cow::Owned(packed.as_bytes().to_vec())).unwrap();
        let one = K::ZERO.or_low(1);
        let edges = list.iter().flat_map(|(start, _)| [*start, start.wrapping_sub(one)]);
        for key in edges.chain(probes.iter().copied()).chain([K::MAX]) {
            let found = table.find(key);
            assert_eq!(found.id, scan(&list, key));
            assert!(found.first <= key && key <= found.last);
            assert_eq!(scan(&list, found.first), found.id);
            if found.first != K::ZERO {
                assert_ne!(
                    scan(&list, found.first.wrapping_sub(one)),
                    found.id,
                    "interval is maximal"
                );
            }
            if found.last != K::MAX {
                assert_ne!(scan(&list, found.last.checked_add(one).unwrap()), found.id);
            }
        }
        let mut merged = list.clone();
        merged.dedup_by_key(|interval| interval.1);
        assert_eq!(table.iter().collect::<Vec<_>>(), merged);
        assert_eq!(table.len(), merged.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn ipv4_equals_a_scan(
            map in prop::collection::btree_map((any::<u32>(), 0..32u32).prop_map(|(a, z)| a & (u32::MAX << z)), 0..200_000u32, 0..150),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            check(map, &probes);
        }

        #[test]
        fn ipv6_equals_a_scan(
            map in prop::collection::btree_map((any::<u128>(), 0..128u32).prop_map(|(a, z)| a & (u128::MAX << z)), 0..5u32, 0..150),
            probes in prop::collection::vec(any::<u128>(), 20),
        ) {
            check(map, &probes);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), key in any::<u32>()) {
            if let Ok(table) = Table::<u32>::from_bytes(Cow::Owned(bytes.clone())) {
                table.find(key);
                table.iter().count();
            }
            if let Ok(table) = Table::<u128>::from_bytes(Cow::Owned(bytes)) {
                table.find(u128::from(key));
                table.iter().count();
            }
        }
    }

    #[test]
    fn refuses_what_is_no_partition() {
        assert_eq!(Table::<u32>::pack(&[]).unwrap_err(), TableError::NotFromZero);
        assert_eq!(Table::pack(&[(1u32, 0)]).unwrap_err(), TableError::NotFromZero);
        assert_eq!(
            Table::pack(&[(0u32, 0), (5, 1), (5, 2)]).unwrap_err(),
            TableError::NotAscending(2)
        );
        assert_eq!(
            Table::pack(&[(0u32, 0), (5, 0), (4, 2)]).unwrap_err(),
            TableError::NotAscending(2)
        );
        let bytes = Table::pack(&[(0u128, 3)]).unwrap().as_bytes().to_vec();
        for cut in 0..bytes.len() {
            let error = Table::<u128>::from_bytes(Cow::Owned(bytes[..cut].to_vec())).unwrap_err();
            assert_eq!(error, TableError::Truncated);
        }
    }
}
