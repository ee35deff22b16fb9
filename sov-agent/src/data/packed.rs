//! [`Attributes`] in their stored form, and the rule that gives an address its operator and control.

use super::{
    catalog::Catalog,
    dataset::DatasetError,
    model::{Attributes, Control, ControlBasis, Country, Location},
    world::{Record, Register},
};
use std::collections::HashMap;

/// [`Attributes`] in 20 bytes: a dataset has a hundred thousand of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    asn: u32,
    /// Letters, or `[0, 0]` unknown, `[0, 1]` anycast or contested.
    location: [u8; 2],
    control: [u8; 2],
    registered: [u8; 2],
    /// Indexes into the strings, [`NO_STRING`] for none.
    operator: u16,
    region: u16,
    dataset: u16,
    sources: u8,
    basis: ControlBasis,
}

const NO_STRING: u16 = u16::MAX;

impl Packed {
    pub(super) fn new(value: &Attributes, strings: &mut Strings) -> Result<Self, DatasetError> {
        Ok(Self {
            asn: value.asn,
            location: match value.location {
                Location::Country(country) => country.to_bytes(),
                Location::Unknown => [0, 0],
                Location::Anycast => [0, 1],
            },
            control: pack_control(value.control),
            registered: value.registered.map_or([0, 0], Country::to_bytes),
            operator: strings.intern(value.operator.as_deref())?,
            region: strings.intern(value.provider_region.as_deref())?,
            dataset: value.dataset,
            sources: value.sources,
            basis: value.control_basis,
        })
    }

    /// The rule of control: the catalog's word, else the country of registration, marked as such.
    pub(super) fn from_record(
        record: &Record,
        catalog: &Catalog,
        register: &Register,
        strings: &mut Strings,
    ) -> Result<Self, DatasetError> {
        let operator = catalog.by_asn(record.asn);
        let listed = operator.and_then(|o| o.asns.iter().find(|(asn, _)| *asn == record.asn)?.1);
        let registered = listed.or_else(|| register.registered(record.asn));
        let (control, basis) = match (operator, registered) {
            (Some(operator), _) => (operator.control, ControlBasis::Catalog),
            (None, Some(country)) => (Control::Country(country), ControlBasis::Registered),
            (None, None) => (Control::Unknown, ControlBasis::None),
        };
        let location = match record.location {
            _ if operator.is_some_and(|operator| operator.anycast) => [0, 1],
            Some(country) => country.to_bytes(),
            None => [0, 0],
        };
        Ok(Self {
            asn: record.asn,
            location,
            control: pack_control(control),
            registered: registered.map_or([0, 0], Country::to_bytes),
            operator: strings.intern(operator.map(|operator| operator.id.as_str()))?,
            region: NO_STRING,
            dataset: u16::from(record.source),
            sources: record.sources,
            basis,
        })
    }

    pub(super) fn unpack(&self, strings: &Strings) -> Attributes {
        Attributes {
            location: match (self.location, Country::from_bytes(self.location)) {
                (_, Some(country)) => Location::Country(country),
                ([0, 1], None) => Location::Anycast,
                _ => Location::Unknown,
            },
            sources: self.sources,
            asn: self.asn,
            operator: strings.get(self.operator).map(Into::into),
            control: match (self.control, Country::from_bytes(self.control)) {
                (_, Some(country)) => Control::Country(country),
                ([0, 1], None) => Control::Contested,
                _ => Control::Unknown,
            },
            control_basis: self.basis,
            registered: Country::from_bytes(self.registered),
            provider_region: strings.get(self.region).map(Into::into),
            dataset: self.dataset,
        }
    }
}

fn pack_control(control: Control) -> [u8; 2] {
    match control {
        Control::Country(country) => country.to_bytes(),
        Control::Unknown => [0, 0],
        Control::Contested => [0, 1],
    }
}

/// Operator ids and provider regions, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Strings {
    list: Vec<Box<str>>,
    index: HashMap<Box<str>, u16>,
}

impl Strings {
    fn intern(&mut self, text: Option<&str>) -> Result<u16, DatasetError> {
        let Some(text) = text else { return Ok(NO_STRING) };
        if let Some(index) = self.index.get(text) {
            return Ok(*index);
        }
        let index = u16::try_from(self.list.len()).unwrap_or(NO_STRING);
        if index == NO_STRING {
            return Err(DatasetError::TooMany { what: "operators and regions" });
        }
        self.list.push(text.into());
        self.index.insert(text.into(), index);
        Ok(index)
    }

    fn get(&self, index: u16) -> Option<&str> {
        self.list.get(usize::from(index)).map(|text| &**text)
    }
}
