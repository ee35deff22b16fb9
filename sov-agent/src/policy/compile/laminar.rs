//! Prefixes to disjoint intervals: which prefix is the innermost one at each address.
//!
//! Prefixes nest or are disjoint, so the innermost prefix names the whole stack around an address.
//! Addresses of both families are u128 here; the caller knows the width.

use ipnet::IpNet;

/// First and last address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Range {
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl From<IpNet> for Range {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self {
                first: u128::from(net.network().to_bits()),
                last: u128::from(net.broadcast().to_bits()),
            },
            IpNet::V6(net) => {
                Self { first: net.network().to_bits(), last: net.broadcast().to_bits() }
            }
        }
    }
}

/// No prefix covers the address.
pub(crate) const NONE: usize = usize::MAX;

/// Disjoint intervals over the whole space and the nesting of the prefixes.
#[derive(Clone, Debug)]
pub(crate) struct Laminar {
    /// (start, index of the innermost prefix or [`NONE`]), ascending from 0.
    pub(crate) intervals: Vec<(u128, usize)>,
    /// For each prefix the next larger one around it, or [`NONE`]. Parents come before children.
    pub(crate) parents: Vec<usize>,
}

/// `ranges` are distinct prefixes, sorted by [`order`]; `max` is the last address of the family.
pub(crate) fn sweep(ranges: &[Range], max: u128) -> Laminar {
    let mut out = Laminar {
        intervals: Vec::with_capacity(ranges.len() * 2 + 1),
        parents: Vec::with_capacity(ranges.len()),
    };
    let mut stack: Vec<usize> = Vec::new();
    out.intervals.push((0, NONE));
    let top = |stack: &[usize]| stack.last().copied().unwrap_or(NONE);
    for (index, range) in ranges.iter().enumerate() {
        while let Some(&inner) = stack.last()
            && ranges[inner].last < range.first
        {
            stack.pop();
            emit(&mut out.intervals, ranges[inner].last + 1, top(&stack));
        }
        out.parents.push(top(&stack));
        stack.push(index);
        emit(&mut out.intervals, range.first, index);
    }
    while let Some(inner) = stack.pop() {
        if ranges[inner].last < max {
            emit(&mut out.intervals, ranges[inner].last + 1, top(&stack));
        }
    }
    out
}

/// Sort key: by first address, the larger prefix first.
pub(crate) fn order(range: &Range) -> (u128, u128) {
    (range.first, u128::MAX - range.last)
}

/// A later interval with the same start replaces the earlier one.
fn emit(intervals: &mut Vec<(u128, usize)>, start: u128, value: usize) {
    match intervals.last_mut() {
        Some(last) if last.0 == start => last.1 = value,
        _ => intervals.push((start, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prefixes: &[&str]) -> (Vec<Range>, Laminar) {
        let mut ranges: Vec<Range> =
            prefixes.iter().map(|p| Range::from(p.parse::<IpNet>().unwrap())).collect();
        ranges.sort_by_key(order);
        ranges.dedup();
        let laminar = sweep(&ranges, u128::from(u32::MAX));
        (ranges, laminar)
    }

    #[test]
    fn innermost_prefix_at_every_boundary() {
        let (ranges, laminar) = of(&[
            "10.0.0.0/8",
            "10.0.0.0/16",
            "10.0.255.0/24",
            "10.255.0.0/16",
            "0.0.0.0/32",
            "255.255.255.255/32",
            "192.0.2.0/25",
            "192.0.2.128/25",
        ]);
        assert!(laminar.intervals.is_sorted_by(|a, b| a.0 < b.0));
        let at = |address: u32| {
            let i = laminar.intervals.partition_point(|i| i.0 <= u128::from(address));
            laminar.intervals[i - 1].1
        };
        let edges = ranges.iter().flat_map(|r| [r.first, r.last]);
        for edge in
            edges.flat_map(|e| [e as u32, (e as u32).wrapping_sub(1), (e as u32).wrapping_add(1)])
        {
            let naive = (ranges.iter().enumerate())
                .filter(|(_, r)| r.first <= u128::from(edge) && u128::from(edge) <= r.last)
                .min_by_key(|(_, r)| r.last - r.first);
            assert_eq!(at(edge), naive.map_or(NONE, |n| n.0), "{edge:#x}");
        }
        let (_, empty) = of(&[]);
        assert_eq!(empty.intervals, [(0, NONE)]);
    }
}
