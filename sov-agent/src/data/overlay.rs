//! Lays a site's own data over the embedded table: the rules of docs/decisions/0003-site-data.md.
//!
//! Country databases vote, prefix lists state. Works on intervals; reads no files.

use super::{
    model::Country,
    table::{Key, Packer, Table, TableError},
    world::Record,
};
use std::collections::HashMap;

/// What one input says of an interval; the default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub country: Option<Country>,
    /// 0 = stated not to be announced.
    pub asn: Option<u32>,
}

/// How an input counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// One voice: agreement raises the number of sources, disagreement moves the location and leaves one.
    Vote,
    /// The site's own statement: two sources, whatever others say.
    Statement,
}

/// One input over one family: ascending `(start, what it says)`, from address 0.
pub(super) struct Layer<'a, K> {
    pub(super) steps: &'a [(K, Said)],
    pub(super) weight: Weight,
    /// Index into the dataset's sources.
    pub(super) source: u8,
}

/// Builds a layer's steps from ascending ranges.
#[derive(Debug)]
pub(super) struct Steps<K> {
    steps: Vec<(K, Said)>,
    /// First address that no range has covered; `None` behind the last address.
    free: Option<K>,
}

impl<K: Key> Default for Steps<K> {
    fn default() -> Self {
        Self { steps: vec![(K::ZERO, Said::default())], free: Some(K::ZERO) }
    }
}

impl<K: Key> Steps<K> {
    /// `false` if the range does not lie behind all before it.
    pub(super) fn push(&mut self, first: K, last: K, said: Said) -> bool {
        let Some(free) = self.free else { return false };
        if first < free || last < first {
            return false;
        }
        if first > free {
            self.append(free, Said::default());
        }
        self.append(first, said);
        self.free = last.checked_add(K::ZERO.or_low(1));
        true
    }

    pub(super) fn finish(mut self) -> Vec<(K, Said)> {
        if let Some(free) = self.free {
            self.append(free, Said::default());
        }
        self.steps
    }

    fn append(&mut self, start: K, said: Said) {
        match self.steps.last_mut() {
            Some(last) if last.0 == start => last.1 = said,
            Some(last) if last.1 == said => {}
            _ => self.steps.push((start, said)),
        }
    }
}

/// Numbers records in the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Interner {
    ids: HashMap<Record, u32>,
    pub(super) records: Vec<Record>,
}

impl Interner {
    fn id(&mut self, record: Record) -> Result<u32, TableError> {
        if let Some(id) = self.ids.get(&record) {
            return Ok(*id);
        }
        let id = u32::try_from(self.records.len()).map_err(|_| TableError::Truncated)?;
        self.records.push(record);
        self.ids.insert(record, id);
        Ok(id)
    }
}

/// Lays `layers`, in their order, over `base`, whose ids are indexes into `records`.
pub(super) fn merge<K: Key>(
    base: &Table<K>,
    records: &[Record],
    layers: &[Layer<'_, K>],
    interner: &mut Interner,
) -> Result<Table<K>, TableError> {
    let mut packer = Packer::default();
    let mut base = base.iter().peekable();
    let mut cursors = vec![0usize; layers.len()];
    let mut start = K::ZERO;
    let mut below = Record { asn: 0, location: None, sources: 0, source: 0 };
    loop {
        while let Some((_, id)) = base.next_if(|(begin, _)| *begin <= start) {
            below = *records.get(id as usize).ok_or(TableError::Truncated)?;
        }
        let mut record = below;
        let mut next = base.peek().map(|(begin, _)| *begin);
        for (layer, cursor) in layers.iter().zip(&mut cursors) {
            while layer.steps.get(*cursor + 1).is_some_and(|step| step.0 <= start) {
                *cursor += 1;
            }
            if let Some((_, said)) = layer.steps.get(*cursor) {
                record = apply(record, layer.weight, layer.source, *said);
            }
            if let Some((begin, _)) = layer.steps.get(*cursor + 1) {
                next = Some(next.map_or(*begin, |next: K| next.min(*begin)));
            }
        }
        packer.push(start, interner.id(record)?)?;
        match next {
            Some(next) => start = next,
            None => return packer.finish(),
        }
    }
}

fn apply(mut record: Record, weight: Weight, source: u8, said: Said) -> Record {
    if let Some(asn) = said.asn {
        record.asn = asn;
    }
    let Some(country) = said.country else { return record };
    match weight {
        Weight::Statement => {
            record.location = Some(country);
            (record.sources, record.source) = (2, source);
        }
        Weight::Vote if record.location == Some(country) => {
            record.sources = record.sources.saturating_add(1);
        }
        Weight::Vote => {
            record.location = Some(country);
            (record.sources, record.source) = (1, source);
        }
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(code: &str, asn: Option<u32>) -> Said {
        Said { country: Country::new(code), asn }
    }

    fn record(code: &str, sources: u8, asn: u32, source: u8) -> Record {
        Record { asn, location: Country::new(code), sources, source }
    }

    #[test]
    fn votes_and_statements_follow_the_decision() {
        let base = record("JP", 2, 9370, 0);
        let vote = |base, said| apply(base, Weight::Vote, 5, said);
        assert_eq!(vote(base, said("JP", None)), record("JP", 3, 9370, 0));
        assert_eq!(vote(base, said("TW", None)), record("TW", 1, 9370, 5));
        assert_eq!(vote(base, said("-", Some(1))), record("JP", 2, 1, 0));
        assert_eq!(vote(base, Said::default()), base);
        let unknown = record("-", 0, 0, 1);
        assert_eq!(vote(unknown, said("DE", Some(3320))), record("DE", 1, 3320, 5));
        let state = |base, said| apply(base, Weight::Statement, 5, said);
        assert_eq!(state(base, said("TW", Some(0))), record("TW", 2, 0, 5));
        assert_eq!(state(base, said("JP", Some(7))), record("JP", 2, 7, 5));
    }

    #[test]
    fn steps_refuse_ranges_that_do_not_ascend() {
        let jp = said("JP", None);
        let mut steps = Steps::<u32>::default();
        assert!(steps.push(0, 9, jp) && steps.push(10, 19, jp) && !steps.push(19, 30, jp));
        assert!(steps.push(u32::MAX, u32::MAX, jp) && !steps.push(u32::MAX, u32::MAX, jp));
        assert_eq!(steps.finish(), [(0, jp), (20, Said::default()), (u32::MAX, jp)]);
        assert_eq!(Steps::<u32>::default().finish(), [(0, Said::default())]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn merging_equals_asking_every_layer(
            base in prop::collection::btree_map(0..200u32, 0..4u32, 0..20),
            layers in prop::collection::vec(
                prop::collection::btree_map(0..200u32, (0..4usize, prop::option::of(0..3u32)), 0..20), 0..4),
        ) {
            let codes = ["JP", "US", "DE", "-"];
            let records: Vec<_> = (0u32..).zip(codes).map(|(n, code)| record(code, 2, n, 0)).collect();
            let mut base: Vec<_> = base.into_iter().collect();
            if base.first().is_none_or(|first| first.0 != 0) {
                base.insert(0, (0, 0));
            }
            let steps: Vec<Vec<(u32, Said)>> = layers.iter().map(|layer| {
                let mut steps = vec![(0, Said::default())];
                steps.extend(layer.iter().filter(|(start, _)| **start > 0)
                    .map(|(start, (code, asn))| (*start, said(codes[*code], *asn))));
                steps
            }).collect();
            let weights = [Weight::Vote, Weight::Statement, Weight::Vote, Weight::Vote];
            let layers: Vec<_> = steps.iter().zip(weights).zip(1u8..)
                .map(|((steps, weight), source)| Layer { steps, weight, source }).collect();
            let mut interner = Interner::default();
            let merged = merge(&Table::pack(&base).unwrap(), &records, &layers, &mut interner).unwrap();
            for address in (0..210).chain([u32::MAX]) {
                let below = base.iter().rev().find(|(start, _)| *start <= address).unwrap().1;
                let mut expected = records[below as usize];
                for layer in &layers {
                    let step = layer.steps.iter().rev().find(|(start, _)| *start <= address).unwrap();
                    expected = apply(expected, layer.weight, layer.source, step.1);
                }
                prop_assert_eq!(interner.records[merged.find(address).id as usize], expected);
            }
        }
    }
}
