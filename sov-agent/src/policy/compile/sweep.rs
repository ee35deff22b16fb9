//! One pass over the address space: every elementary interval gets its class.
//!
//! A class is the vector of what all tiers say. Vectors are found once per (rules, kind of address,
//! attributes) and interned, so that the pass itself only compares small numbers.

use super::{
    fixed::Fixed,
    laminar::NONE,
    matrix::{Matrix, Verdict},
    rules::Stage,
};
use crate::{
    data::{dataset::Dataset, model::AttrId},
    policy::image::{DecisionSpec, Final},
};
use sov_common::{
    image::{decision::MAX_CHAIN, embedded},
    verdict::Reason,
};
use std::collections::HashMap;

const UNSEEN: u32 = u32::MAX;
const NO_CLASS: u16 = u16::MAX;

/// Classes of one compilation, both families.
pub(crate) struct Classes<'a> {
    data: &'a Dataset,
    matrices: &'a [Matrix],
    /// By attribute id: index into `groups`, [`UNSEEN`] before the first use.
    group_of: Vec<u32>,
    /// What the tiers' matrices say, per tier.
    groups: Vec<Vec<Verdict>>,
    group_ids: HashMap<Vec<Verdict>, u32>,
    /// `decisions[class][tier]`.
    pub(crate) decisions: Vec<Vec<DecisionSpec>>,
    class_ids: HashMap<Vec<DecisionSpec>, u16>,
    /// There are more classes than numbers.
    pub(crate) overflow: bool,
    /// Some chain is longer than an image can hold.
    pub(crate) long_chain: bool,
}

/// One family's result.
pub(crate) struct Swept {
    pub(crate) intervals: Vec<(u128, u16)>,
    /// For each range of the stage: it is the innermost one somewhere that rules are asked.
    pub(crate) spoke: Vec<bool>,
}

impl<'a> Classes<'a> {
    pub(crate) fn new(data: &'a Dataset, matrices: &'a [Matrix]) -> Self {
        Self {
            data,
            matrices,
            group_of: vec![UNSEEN; data.attribute_count()],
            groups: Vec::new(),
            group_ids: HashMap::new(),
            decisions: Vec::new(),
            class_ids: HashMap::new(),
            overflow: false,
            long_chain: false,
        }
    }

    /// `data` are one family's intervals; all three lists start at 0 and ascend.
    pub(crate) fn sweep(
        &mut self,
        fixed: &[(u128, Fixed)],
        stage: &Stage,
        data: impl Iterator<Item = (u128, AttrId)>,
    ) -> Swept {
        let rules = &stage.laminar.intervals;
        let mut spoke = vec![false; stage.ranges.len()];
        let mut intervals: Vec<(u128, u16)> = Vec::with_capacity(rules.len() + 1024);
        let mut data = data.peekable();
        let (mut fixed_at, mut rules_at) = (0, 0);
        let mut attributes = data.next().map_or(UNSEEN, |first| first.1);
        let mut memo = Memo::default();
        let mut start = 0;
        loop {
            let kind = fixed[fixed_at].1;
            let range = rules[rules_at].1;
            let next_fixed = fixed.get(fixed_at + 1).map(|next| next.0);
            let next_rules = rules.get(rules_at + 1).map(|next| next.0);
            // Up to here only the data change.
            let end = [next_fixed, next_rules].into_iter().flatten().min();
            let state = if range == NONE { 0 } else { stage.state_of[range] };
            if range != NONE && matches!(kind, Fixed::Global | Fixed::Special { .. }) {
                spoke[range] = true;
            }
            loop {
                let class = match kind {
                    Fixed::Embedded(class) => class,
                    _ => self.class(&mut memo, stage, kind, state, attributes),
                };
                if intervals.last().is_none_or(|last| last.1 != class) {
                    intervals.push((start, class));
                }
                match data.peek() {
                    Some(next) if end.is_none_or(|end| next.0 < end) => {
                        (start, attributes) = *next;
                        data.next();
                    }
                    _ => break,
                }
            }
            let Some(end) = end else { break };
            start = end;
            fixed_at += usize::from(next_fixed == Some(end));
            rules_at += usize::from(next_rules == Some(end));
            if let Some(next) = data.next_if(|next| next.0 == end) {
                attributes = next.1;
            }
        }
        Swept { intervals, spoke }
    }

    fn class(
        &mut self,
        memo: &mut Memo,
        stage: &Stage,
        kind: Fixed,
        state: u32,
        attributes: AttrId,
    ) -> u16 {
        // Attributes are asked for global addresses only.
        let group = if kind == Fixed::Global { self.group(attributes) } else { 0 };
        if kind == Fixed::Global && state == 0 {
            let known = memo.plain.get(group as usize).copied().unwrap_or(NO_CLASS);
            if known != NO_CLASS {
                return known;
            }
            let class = self.intern(stage, kind, state, group);
            if memo.plain.len() <= group as usize {
                memo.plain.resize(group as usize + 1, NO_CLASS);
            }
            memo.plain[group as usize] = class;
            return class;
        }
        if let Some(class) = memo.other.get(&(kind, state, group)) {
            return *class;
        }
        let class = self.intern(stage, kind, state, group);
        memo.other.insert((kind, state, group), class);
        class
    }

    /// The group of attributes that no tier can tell apart.
    fn group(&mut self, attributes: AttrId) -> u32 {
        let slot = self.group_of.get(attributes as usize).copied().unwrap_or(UNSEEN);
        if slot != UNSEEN {
            return slot;
        }
        let to = self.data.attributes(attributes);
        let verdicts: Vec<_> = self.matrices.iter().map(|matrix| matrix.judge(&to)).collect();
        let group = match self.group_ids.get(&verdicts) {
            Some(group) => *group,
            None => {
                let next = self.groups.len() as u32;
                self.groups.push(verdicts.clone());
                self.group_ids.insert(verdicts, next);
                next
            }
        };
        if let Some(slot) = self.group_of.get_mut(attributes as usize) {
            *slot = group;
        }
        group
    }

    fn intern(&mut self, stage: &Stage, kind: Fixed, state: u32, group: u32) -> u16 {
        let mut decisions = Vec::with_capacity(self.matrices.len());
        for (tier, verdict) in stage.states[state as usize].iter().enumerate() {
            let asked = stage.verdicts[*verdict as usize].clone();
            let attributes = self.groups.get(group as usize).map(|verdicts| &verdicts[tier]);
            decisions.push(decide(kind, asked, attributes));
        }
        self.long_chain |= decisions.iter().any(|d| d.chain.len() > MAX_CHAIN as usize);
        let next = self.decisions.len();
        let number = match u16::try_from(next) {
            Ok(number) if number < embedded::FIRST => number,
            _ => {
                self.overflow = true;
                return 0;
            }
        };
        let class = *self.class_ids.entry(decisions.clone()).or_insert(number);
        if class == number {
            self.decisions.push(decisions);
        }
        class
    }
}

/// Found classes of one stage.
#[derive(Default)]
struct Memo {
    /// Global addresses without any rule, by group.
    plain: Vec<u16>,
    other: HashMap<(Fixed, u32, u32), u16>,
}

/// The order of judgement for one tier.
fn decide(kind: Fixed, asked: Verdict, attributes: Option<&Verdict>) -> DecisionSpec {
    let scope = |allow| Final { allow, reason: Reason::Scope, rule: 0 };
    let (link, next) = match kind {
        Fixed::Loopback => {
            return DecisionSpec { chain: Vec::new(), otherwise: scope(true), link: false };
        }
        Fixed::Special { link } => (link, None),
        Fixed::Global | Fixed::Embedded(_) => (false, attributes),
    };
    let Verdict { mut chain, end } = asked;
    let otherwise = end.unwrap_or_else(|| match next {
        Some(next) => {
            chain.extend(&next.chain);
            // A matrix always ends.
            next.end.unwrap_or(Final { allow: false, reason: Reason::NoPolicy, rule: 0 })
        }
        None => scope(false),
    });
    DecisionSpec { chain, otherwise, link }
}
