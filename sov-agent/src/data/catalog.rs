//! The operator catalog: who runs an ASN, and whose law reaches its controlling parent.
//!
//! Operators are matched by ASN, never by name: names collide ("SAKURA LINK LIMITED" is not SAKURA
//! internet). Certifications are facts with a validity, given by the catalog file and nowhere else.

use super::model::{Control, Country};
use std::collections::BTreeMap;

/// A certification that an operator holds, for example `govcloud`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certification {
    pub name: String,
    /// First day, unix seconds at 00:00 UTC.
    pub from: u64,
    /// Last day's end, unix seconds; `None` = no end is known.
    pub until: Option<u64>,
}

/// One operator; several ASNs may belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Stable slug, for example `sakura`.
    pub id: String,
    pub name: String,
    /// The group it belongs to, empty where none is recorded.
    pub group: String,
    pub control: Control,
    /// Announces the same addresses from many places: its space has no location.
    pub anycast: bool,
    pub certifications: Vec<Certification>,
    /// Each ASN with its registration country.
    pub asns: Vec<(u32, Option<Country>)>,
}

/// All operators, by id and by ASN.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    operators: Vec<Operator>,
    by_id: BTreeMap<String, usize>,
    by_asn: BTreeMap<u32, usize>,
}

impl Catalog {
    /// `Err` names an id or ASN that occurs twice.
    pub fn new(operators: Vec<Operator>) -> Result<Self, String> {
        let mut catalog = Self { operators, ..Self::default() };
        for (index, operator) in catalog.operators.iter().enumerate() {
            if catalog.by_id.insert(operator.id.clone(), index).is_some() {
                return Err(format!("operator {} occurs twice", operator.id));
            }
            for (asn, _) in &operator.asns {
                if catalog.by_asn.insert(*asn, index).is_some() {
                    return Err(format!("AS{asn} belongs to two operators"));
                }
            }
        }
        Ok(catalog)
    }

    pub fn by_asn(&self, asn: u32) -> Option<&Operator> {
        self.by_asn.get(&asn).map(|index| &self.operators[*index])
    }

    pub fn by_id(&self, id: &str) -> Option<&Operator> {
        self.by_id.get(id).map(|index| &self.operators[*index])
    }

    /// All operators, in the catalog's order.
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// All ids, sorted: for suggestions.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.by_id.keys().map(String::as_str)
    }
}
