//! The table from every IPv4 and IPv6 address to its [`Attributes`].
//!
//! Built from finished intervals; says what is known, never what is allowed.

use super::{
    catalog::Catalog,
    model::{AttrId, Attributes, SourceInfo},
    packed::{Packed, Strings},
    table::{Interval, Table, TableError},
    world::{Record, Register},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sov_common::{
    scope::{scope_v4, scope_v6},
    verdict::Scope,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Why parts do not make a dataset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    #[error("{family} table: the first interval must start at address 0")]
    NotFromZero { family: &'static str },
    #[error("{family} table: interval {index} does not start after the one before it")]
    NotAscending { family: &'static str, index: usize },
    #[error("{family} table: {problem}")]
    Damaged { family: &'static str, problem: &'static str },
    #[error(
        "{family} table: interval {index} has attribute id {id}, but there are {count} attributes"
    )]
    UnknownId { family: &'static str, index: usize, id: AttrId, count: usize },
    #[error("attribute {index} names source {source_index}, but there are {count} sources")]
    UnknownSource { index: usize, source_index: u16, count: usize },
    #[error("more than 65,534 different {what}")]
    TooMany { what: &'static str },
}

impl DatasetError {
    pub(super) fn table(family: &'static str, error: TableError) -> Self {
        match error {
            TableError::NotFromZero => Self::NotFromZero { family },
            TableError::NotAscending(index) => Self::NotAscending { family, index },
            TableError::Truncated => Self::Damaged { family, problem: "truncated or too large" },
        }
    }
}

/// What is known about one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    pub attributes: Attributes,
    /// The largest aligned prefix around the address that has these attributes throughout.
    pub prefix: IpNet,
    /// As registered, from the data; not what decides.
    pub asn_name: Option<&'a str>,
    /// The catalog's display name.
    pub operator_name: Option<&'a str>,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Dataset {
    v4: Table<u32>,
    v6: Table<u128>,
    attributes: Vec<Packed>,
    strings: Strings,
    sources: Vec<SourceInfo>,
    catalog: Catalog,
    register: Register,
    /// AS names of a site's own databases, where they differ from the register's.
    names: BTreeMap<u32, String>,
    built: u64,
}

impl Dataset {
    /// Intervals are `(start, id)` in host byte order, starts strictly ascending, the first is 0.
    pub fn from_intervals(
        v4: Vec<(u32, AttrId)>,
        v6: Vec<(u128, AttrId)>,
        attributes: Vec<Attributes>,
        sources: Vec<SourceInfo>,
        catalog: Catalog,
    ) -> Result<Self, DatasetError> {
        check_ids("IPv4", v4.iter().map(|interval| interval.1), attributes.len())?;
        check_ids("IPv6", v6.iter().map(|interval| interval.1), attributes.len())?;
        let mut strings = Strings::default();
        let mut packed = Vec::with_capacity(attributes.len());
        for (index, value) in attributes.iter().enumerate() {
            if usize::from(value.dataset) >= sources.len() && !sources.is_empty() {
                return Err(DatasetError::UnknownSource {
                    index,
                    source_index: value.dataset,
                    count: sources.len(),
                });
            }
            packed.push(Packed::new(value, &mut strings)?);
        }
        Ok(Self {
            v4: Table::pack(&v4).map_err(|e| DatasetError::table("IPv4", e))?,
            v6: Table::pack(&v6).map_err(|e| DatasetError::table("IPv6", e))?,
            attributes: packed,
            strings,
            built: oldest(&sources),
            sources,
            catalog,
            register: Register::default(),
            names: BTreeMap::new(),
        })
    }

    /// Tables whose ids are indexes into `records`; operators and control come from the catalog, and
    /// where it does not know the ASN, from the register.
    pub(super) fn from_records(
        v4: Table<u32>,
        v6: Table<u128>,
        records: &[Record],
        sources: Vec<SourceInfo>,
        catalog: Catalog,
        register: Register,
    ) -> Result<Self, DatasetError> {
        let mut strings = Strings::default();
        let mut attributes = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            if usize::from(record.source) >= sources.len() {
                let (source_index, count) = (u16::from(record.source), sources.len());
                return Err(DatasetError::UnknownSource { index, source_index, count });
            }
            attributes.push(Packed::from_record(record, &catalog, &register, &mut strings)?);
        }
        let (built, names) = (oldest(&sources), BTreeMap::new());
        Ok(Self { v4, v6, attributes, strings, sources, catalog, register, names, built })
    }

    /// Adds AS names, and the build time that counts if it is not that of the oldest source.
    pub(super) fn with_site(self, names: BTreeMap<u32, String>, built: Option<u64>) -> Self {
        let built = built.unwrap_or(self.built);
        Self { names, built, ..self }
    }

    /// IPv4 intervals `(start, id)`, ascending, covering the whole space; neighbours differ in id.
    pub fn v4(&self) -> impl Iterator<Item = (u32, AttrId)> + '_ {
        self.v4.iter()
    }

    /// IPv6 intervals `(start, id)`, ascending, covering the whole space; neighbours differ in id.
    pub fn v6(&self) -> impl Iterator<Item = (u128, AttrId)> + '_ {
        self.v6.iter()
    }

    /// Numbers of IPv4 and IPv6 intervals.
    pub fn interval_counts(&self) -> (usize, usize) {
        (self.v4.len(), self.v6.len())
    }

    /// Ids are `0..attribute_count()`; an id beyond that gives [`Attributes::UNKNOWN`].
    pub fn attributes(&self, id: AttrId) -> Attributes {
        match self.attributes.get(id as usize) {
            Some(packed) => packed.unpack(&self.strings),
            None => Attributes::UNKNOWN,
        }
    }

    pub fn attribute_count(&self) -> usize {
        self.attributes.len()
    }

    /// Looks the address up as it is: what it may carry inside is the caller's question.
    pub fn lookup(&self, address: IpAddr) -> Found<'_> {
        let (id, prefix) = match address {
            IpAddr::V4(address) => {
                let interval = self.v4.find(address.to_bits());
                (interval.id, IpNet::V4(prefix_v4(address, interval)))
            }
            IpAddr::V6(address) => {
                let interval = self.v6.find(address.to_bits());
                (interval.id, IpNet::V6(prefix_v6(address, interval)))
            }
        };
        let attributes = self.attributes(id);
        let operator = attributes.operator.as_deref().and_then(|id| self.catalog.by_id(id));
        Found {
            prefix,
            asn_name: self.asn_name(attributes.asn),
            operator_name: operator.map(|operator| operator.name.as_str()),
            attributes,
        }
    }

    /// The name an ASN is registered under.
    pub fn asn_name(&self, asn: u32) -> Option<&str> {
        self.names.get(&asn).map(String::as_str).or_else(|| self.register.name(asn))
    }

    /// The address's kind, decided before any data.
    pub fn scope(&self, address: IpAddr) -> Scope {
        match address {
            IpAddr::V4(address) => scope_v4(address.to_bits()),
            IpAddr::V6(address) => scope_v6(address.to_bits()),
        }
    }

    /// The inputs; [`Attributes::dataset`] is an index into them.
    pub fn sources(&self) -> &[SourceInfo] {
        &self.sources
    }

    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// How old the data are, unix seconds, 0 without sources: when the oldest source was built; where a
    /// site's own databases give country and origin, the older of those two.
    pub fn built(&self) -> u64 {
        self.built
    }
}

fn oldest(sources: &[SourceInfo]) -> u64 {
    sources.iter().map(|source| source.built).min().unwrap_or(0)
}

fn check_ids(
    family: &'static str,
    ids: impl Iterator<Item = AttrId>,
    count: usize,
) -> Result<(), DatasetError> {
    for (index, id) in ids.enumerate() {
        if id as usize >= count {
            return Err(DatasetError::UnknownId { family, index, id, count });
        }
    }
    Ok(())
}

fn prefix_v4(address: Ipv4Addr, interval: Interval<u32>) -> Ipv4Net {
    let bits = address.to_bits();
    let fits = |length: u8| {
        let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        bits & !host >= interval.first && bits | host <= interval.last
    };
    let length = (0..=32).find(|length| fits(*length)).unwrap_or(32);
    // Lengths up to 32 are always valid.
    Ipv4Net::new_assert(address, length).trunc()
}

fn prefix_v6(address: Ipv6Addr, interval: Interval<u128>) -> Ipv6Net {
    let bits = address.to_bits();
    let fits = |length: u8| {
        let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        bits & !host >= interval.first && bits | host <= interval.last
    };
    let length = (0..=128).find(|length| fits(*length)).unwrap_or(128);
    Ipv6Net::new_assert(address, length).trunc()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::model::{Control, ControlBasis, Country, Location};

    fn country(code: &str, asn: u32) -> Attributes {
        let country = Country::new(code);
        Attributes {
            location: country.map_or(Location::Unknown, Location::Country),
            sources: 2,
            asn,
            operator: (asn == 64500).then(|| "example".into()),
            control: country.map_or(Control::Contested, Control::Country),
            control_basis: ControlBasis::Registered,
            registered: country,
            provider_region: (asn == 64501).then(|| "aws:ap-northeast-1".into()),
            dataset: 0,
        }
    }

    fn small() -> Dataset {
        let attributes = vec![Attributes::UNKNOWN, country("JP", 64500), country("DE", 64501)];
        let v4 = vec![(0, 0), (0x0a00_0000, 1), (0x0a00_0003, 2), (0x0a01_0000, 0)];
        let v6 = vec![(0, 0), (0x2001_0200 << 96, 1), (0x2001_0200_0001 << 80, 0)];
        Dataset::from_intervals(v4, v6, attributes, Vec::new(), Catalog::default()).unwrap()
    }

    #[test]
    fn lookup_gives_attributes_and_the_largest_aligned_prefix() {
        let data = small();
        for (address, asn, prefix) in [
            ("9.255.255.255", 0, "8.0.0.0/7"),
            ("10.0.0.0", 64500, "10.0.0.0/31"),
            ("10.0.0.2", 64500, "10.0.0.2/32"),
            ("10.0.0.3", 64501, "10.0.0.3/32"),
            ("10.0.200.1", 64501, "10.0.128.0/17"),
            ("10.1.0.0", 0, "10.1.0.0/16"),
            ("255.255.255.255", 0, "128.0.0.0/1"),
            ("2001:200::5", 64500, "2001:200::/48"),
            ("2001:200:1::", 0, "2001:200:1::/48"),
            ("::", 0, "::/3"),
        ] {
            let found = data.lookup(address.parse().unwrap());
            assert_eq!(
                (found.attributes.asn, found.prefix.to_string().as_str()),
                (asn, prefix),
                "{address}"
            );
        }
    }

    #[test]
    fn attributes_survive_packing() {
        let data = small();
        assert_eq!(data.attribute_count(), 3);
        assert_eq!(data.attributes(0), Attributes::UNKNOWN);
        assert_eq!(data.attributes(1), country("JP", 64500));
        assert_eq!(data.attributes(2), country("DE", 64501));
        assert_eq!(data.attributes(3), Attributes::UNKNOWN);
        let odd = Attributes {
            location: Location::Anycast,
            control: Control::Contested,
            ..country("US", 1)
        };
        let all = || vec![(0, 0)];
        let data = Dataset::from_intervals(
            all(),
            vec![(0, 0)],
            vec![odd.clone()],
            Vec::new(),
            Catalog::default(),
        );
        assert_eq!(data.unwrap().attributes(0), odd);
    }

    #[test]
    fn refuses_broken_parts() {
        let one = || vec![Attributes::UNKNOWN];
        let make = |v4: &[(u32, u32)], v6: &[(u128, u32)]| {
            Dataset::from_intervals(v4.to_vec(), v6.to_vec(), one(), Vec::new(), Catalog::default())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(make(&[(0, 0)], &[]), "IPv6 table: the first interval must start at address 0");
        assert_eq!(
            make(&[(0, 0), (9, 0), (9, 0)], &[(0, 0)]),
            "IPv4 table: interval 2 does not start after the one before it"
        );
        assert_eq!(
            make(&[(0, 0), (9, 1)], &[(0, 0)]),
            "IPv4 table: interval 1 has attribute id 1, but there are 1 attributes"
        );
    }
}
