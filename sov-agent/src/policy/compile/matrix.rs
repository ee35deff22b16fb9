//! What a tier says about a destination by its attributes alone: operator denials, then the matrix.

use crate::{
    data::model::{Attributes, Control, ControlBasis, Country, Location},
    policy::{
        image::{ChainEntry, Final},
        model::Set,
    },
};
use sov_common::verdict::Reason;
use std::collections::{HashMap, HashSet};

/// A tier's matrix, ready for many questions.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) location: Members,
    pub(crate) control: Members,
    pub(crate) min_sources: u8,
    pub(crate) catalog_only: bool,
    /// `None` = any.
    pub(crate) operators: Option<HashSet<String>>,
    /// By operator, in order of precedence.
    pub(crate) denied: HashMap<String, Verdict>,
}

/// Conditional entries, then what holds without them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Verdict {
    pub(crate) chain: Vec<ChainEntry>,
    /// `None` = the next stage decides.
    pub(crate) end: Option<Final>,
}

/// A set of countries and the two special values of its kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    any: bool,
    /// A bit for each pair of letters.
    countries: [u64; 11],
    /// `anycast` or `contested`.
    special: bool,
    unknown: bool,
}

impl Members {
    /// Word and bit of a country; its letters are upper-case ASCII.
    fn place(country: Country) -> (usize, u64) {
        let [a, b] = country.to_bytes().map(|letter| usize::from(letter.wrapping_sub(b'A')) % 26);
        let index = a * 26 + b;
        (index / 64, 1 << (index % 64))
    }

    fn add(&mut self, country: Country) {
        let (word, bit) = Self::place(country);
        self.countries[word] |= bit;
    }

    fn has(&self, country: Country) -> bool {
        let (word, bit) = Self::place(country);
        self.countries[word] & bit != 0
    }

    pub(crate) fn locations(set: &Set<Location>) -> Self {
        let mut members = Self { any: matches!(set, Set::Any), ..Self::default() };
        for item in set.items() {
            match item.value {
                Location::Country(country) => members.add(country),
                Location::Anycast => members.special = true,
                Location::Unknown => members.unknown = true,
            }
        }
        members
    }

    pub(crate) fn controls(set: &Set<Control>) -> Self {
        let mut members = Self { any: matches!(set, Set::Any), ..Self::default() };
        for item in set.items() {
            match item.value {
                Control::Country(country) => members.add(country),
                Control::Contested => members.special = true,
                Control::Unknown => members.unknown = true,
            }
        }
        members
    }
}

impl Matrix {
    /// The operator's denial, else the matrix.
    pub(crate) fn judge(&self, to: &Attributes) -> Verdict {
        let denial = to.operator.as_deref().and_then(|id| self.denied.get(id));
        let mut verdict = denial.cloned().unwrap_or_default();
        verdict.end.get_or_insert_with(|| match self.refusal(to) {
            Some(reason) => Final { allow: false, reason, rule: 0 },
            None => Final { allow: true, reason: Reason::TierMatch, rule: 0 },
        });
        verdict
    }

    /// The most specific reason against a destination, `None` if every criterion holds.
    fn refusal(&self, to: &Attributes) -> Option<Reason> {
        let location = &self.location;
        let located = location.any
            || match to.location {
                Location::Country(country) => location.has(country),
                Location::Anycast => location.special,
                Location::Unknown => location.unknown,
            };
        if !located {
            return Some(match to.location {
                Location::Country(_) => Reason::ForeignLocation,
                Location::Anycast | Location::Unknown => Reason::Unlocatable,
            });
        }
        // Sources agree on a country. Anycast has none: a tier that lists it asks for the operator only.
        // Unknown space has none either, which satisfies no demand beyond the default.
        let agreed = match to.location {
            Location::Country(_) => to.sources >= self.min_sources,
            Location::Unknown => self.min_sources <= 1,
            Location::Anycast => true,
        };
        if !agreed {
            return Some(Reason::Unlocatable);
        }
        let control = &self.control;
        if to.asn == 0 && !control.any {
            return Some(Reason::Unannounced);
        }
        let controlled = control.any
            || match to.control {
                Control::Country(country) => control.has(country),
                Control::Contested => control.special,
                Control::Unknown => control.unknown,
            };
        if !controlled {
            return Some(match to.control {
                Control::Country(_) => Reason::ForeignControl,
                Control::Contested => Reason::ContestedControl,
                Control::Unknown => Reason::UnlistedOperator,
            });
        }
        if self.catalog_only && to.control_basis != ControlBasis::Catalog {
            return Some(Reason::UnlistedOperator);
        }
        let listed = self.operators.as_ref().is_none_or(|operators| {
            to.operator.as_deref().is_some_and(|id| operators.contains(id))
        });
        (!listed).then_some(Reason::UnlistedOperator)
    }
}
