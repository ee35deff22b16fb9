//! Combines the inputs to one table: the voting rule of `data/world.NOTICE`.

use super::{
    format::{
        model::Country,
        prefixes::{self, Order},
        table::{Key, Table},
        world::Record,
    },
    inputs::Fetched,
    ranges::{Layer, countries, mmdb_countries, origins, push},
};
use anyhow::{Result, anyhow};
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};

/// Indexes of the two sources.
const SNAPSHOT: u8 = 0;
const WORLD: u8 = 1;

/// Special-purpose IPv4 space, which has no location. The agent's tests hold it against its own rules.
const SPECIAL_V4: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// IPv6 space that has no location: all but 2000::/3, and what is special or embeds IPv4 in it.
const SPECIAL_V6: [&str; 8] = [
    "::/3",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "4000::/2",
    "8000::/2",
    "c000::/2",
];

pub(super) struct Combined {
    pub(super) v4: Table<u32>,
    pub(super) v6: Table<u128>,
    pub(super) records: Vec<Record>,
    pub(super) register: Vec<(u32, Option<Country>, String)>,
    pub(super) snapshot_rows: u64,
}

/// All that is said about one family.
struct Layers {
    dbip: Layer<Country>,
    rir: Layer<Country>,
    whois: Layer<Country>,
    registered: Layer<Country>,
    origin: Layer<u32>,
    /// Country and ASN.
    snapshot: Layer<(Country, u32)>,
    special: Layer<()>,
}

pub(super) fn combine(inputs: &Fetched, snapshot: &[u8]) -> Result<Combined> {
    let rows = prefixes::parse("jp_snapshot.csv", snapshot, Order::Required)?;
    let mut names = BTreeMap::new();
    let mut families = Vec::new();
    for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let mut whois = countries(&inputs.whois[index], &format!("whois {family}"))?;
        if index == 1 {
            // JPNIC's and other national registries' space stands there as APNIC's own country.
            let australia = Country::new("AU");
            whois.iter_mut().filter(|(_, c)| *c == australia).for_each(|(_, c)| *c = None);
        }
        let (listed, special) = if index == 0 {
            (snapshot_layer(&rows, |net| matches!(net, IpNet::V4(_))), special(&SPECIAL_V4)?)
        } else {
            (snapshot_layer(&rows, |net| matches!(net, IpNet::V6(_))), special(&SPECIAL_V6)?)
        };
        families.push(Layers {
            dbip: countries(&inputs.dbip[index], &format!("DB-IP {family}"))?,
            rir: countries(&inputs.rir[index], &format!("delegated {family}"))?,
            whois,
            registered: mmdb_countries(&inputs.registered[index], &format!("registered {family}"))?,
            origin: origins(&inputs.origin[index], &format!("origin {family}"), &mut names)?,
            snapshot: listed,
            special,
        });
    }
    let register = register(&families, names);
    let merged: Vec<_> = families.iter().map(merge).collect();
    let (ids, records) = number_records(&merged);
    let v4: Vec<_> = merged[0]
        .iter()
        .map(|(start, record)| Ok((u32::try_from(*start)?, ids[record])))
        .collect::<Result<_>>()?;
    let v6: Vec<_> = merged[1].iter().map(|(start, record)| (*start, ids[record])).collect();
    Ok(Combined {
        v4: pack(&v4)?,
        v6: pack(&v6)?,
        records,
        register,
        snapshot_rows: rows.len() as u64,
    })
}

fn pack<K: Key>(intervals: &[(K, u32)]) -> Result<Table<K>> {
    Table::pack(intervals).map_err(|error| anyhow!("the intervals make no table: {error:?}"))
}

/// The rule itself, for one elementary interval.
struct Said {
    dbip: Option<Country>,
    rir: Option<Country>,
    whois: Option<Country>,
    registered: Option<Country>,
    origin: Option<u32>,
    snapshot: Option<(Country, u32)>,
    special: bool,
}

impl Said {
    fn judge(&self) -> Record {
        let asn = self.origin.unwrap_or(0);
        let nothing = Record { asn: 0, location: None, sources: 0, source: WORLD };
        if self.special {
            return nothing;
        }
        if let Some((country, asn)) = self.snapshot {
            return Record { asn, location: Some(country), sources: 2, source: SNAPSHOT };
        }
        if self.rir.is_none() && asn == 0 {
            return nothing;
        }
        let agrees = |country| self.registered == Some(country);
        let (location, agreeing) = match (self.dbip, self.rir) {
            (Some(country), rir) => {
                let registry = rir == Some(country) || self.whois == Some(country);
                (Some(country), 1 + u8::from(registry || agrees(country)))
            }
            (None, Some(country)) => (Some(country), 1 + u8::from(agrees(country))),
            (None, None) => (None, 0),
        };
        // The snapshot's rule is stricter: what it left out has not enough agreement.
        let japan = location.is_some() && location == Country::new("JP");
        let sources = if japan { agreeing.min(1) } else { agreeing };
        Record { asn, location, sources, source: WORLD }
    }
}

fn merge(layers: &Layers) -> Vec<(u128, Record)> {
    let mut starts: Vec<u128> = Vec::new();
    for layer in [&layers.dbip, &layers.rir, &layers.whois, &layers.registered] {
        starts.extend(layer.iter().map(|(start, _)| *start));
    }
    starts.extend(layers.origin.iter().map(|(start, _)| *start));
    starts.extend(layers.snapshot.iter().map(|(start, _)| *start));
    starts.extend(layers.special.iter().map(|(start, _)| *start));
    starts.sort_unstable();
    starts.dedup();
    let mut dbip = Cursor::new(&layers.dbip);
    let mut rir = Cursor::new(&layers.rir);
    let mut whois = Cursor::new(&layers.whois);
    let mut registered = Cursor::new(&layers.registered);
    let mut origin = Cursor::new(&layers.origin);
    let mut snapshot = Cursor::new(&layers.snapshot);
    let mut special = Cursor::new(&layers.special);
    let mut merged = Vec::new();
    for start in starts {
        let said = Said {
            dbip: dbip.at(start),
            rir: rir.at(start),
            whois: whois.at(start),
            registered: registered.at(start),
            origin: origin.at(start),
            snapshot: snapshot.at(start),
            special: special.at(start).is_some(),
        };
        push(&mut merged, start, said.judge());
    }
    merged
}

/// Walks a layer; asked for ascending addresses.
struct Cursor<'a, V> {
    layer: &'a Layer<V>,
    index: usize,
}

impl<'a, V: Copy> Cursor<'a, V> {
    fn new(layer: &'a Layer<V>) -> Self {
        Self { layer, index: 0 }
    }

    fn at(&mut self, address: u128) -> Option<V> {
        while self.layer.get(self.index + 1).is_some_and(|next| next.0 <= address) {
            self.index += 1;
        }
        self.layer[self.index].1
    }
}

/// The most used record gets the smallest id, and with it the shortest form.
fn number_records(families: &[Vec<(u128, Record)>]) -> (HashMap<Record, u32>, Vec<Record>) {
    let mut uses: BTreeMap<Record, usize> = BTreeMap::new();
    for (_, record) in families.iter().flatten() {
        *uses.entry(*record).or_default() += 1;
    }
    let mut order: Vec<_> = uses.into_iter().collect();
    order.sort_by_key(|(record, count)| (usize::MAX - count, *record));
    let records: Vec<_> = order.into_iter().map(|(record, _)| record).collect();
    let ids = (0u32..).zip(&records).map(|(id, record)| (*record, id)).collect();
    (ids, records)
}

/// Registration country of each AS: what the registration input says of most of the space it originates.
fn register(
    families: &[Layers],
    names: BTreeMap<u32, String>,
) -> Vec<(u32, Option<Country>, String)> {
    let mut votes: HashMap<u32, BTreeMap<Country, u128>> = HashMap::new();
    for (family, layers) in families.iter().enumerate() {
        let end = if family == 0 { 1 << 32 } else { u128::MAX };
        let mut starts: Vec<u128> = layers.origin.iter().map(|(start, _)| *start).collect();
        starts.extend(layers.registered.iter().map(|(start, _)| *start));
        starts.sort_unstable();
        starts.dedup();
        let (mut origin, mut registered) =
            (Cursor::new(&layers.origin), Cursor::new(&layers.registered));
        for (index, start) in starts.iter().enumerate() {
            let next = starts.get(index + 1).copied().unwrap_or(end);
            if let (Some(asn), Some(country)) = (origin.at(*start), registered.at(*start)) {
                // One /24 weighs as much as one /48.
                let unit = if family == 0 { 8 } else { 80 };
                let weight = ((next - start) >> unit).max(1);
                *votes.entry(asn).or_default().entry(country).or_default() += weight;
            }
        }
    }
    let winner = |asn: &u32| {
        let by_weight =
            votes.get(asn)?.iter().max_by_key(|(country, weight)| (**weight, **country));
        by_weight.map(|(country, _)| *country)
    };
    names.into_iter().map(|(asn, name)| (asn, winner(&asn), name)).collect()
}

fn snapshot_layer(
    rows: &[prefixes::PrefixRow],
    belongs: impl Fn(&IpNet) -> bool,
) -> Layer<(Country, u32)> {
    let rows = rows.iter().filter(|row| belongs(&row.prefix));
    layer(rows.map(|row| (row.prefix, (row.country, row.asn))))
}

fn special(blocks: &[&str]) -> Result<Layer<()>> {
    let nets = blocks.iter().map(|block| Ok((block.parse()?, ()))).collect::<Result<Vec<_>>>()?;
    Ok(layer(nets.into_iter()))
}

/// From prefixes in address order without overlaps.
fn layer<V: Copy + PartialEq>(rows: impl Iterator<Item = (IpNet, V)>) -> Layer<V> {
    let mut layer = vec![(0, None)];
    for (prefix, value) in rows {
        let (first, last) = match prefix {
            IpNet::V4(net) => {
                (u128::from(net.network().to_bits()), u128::from(net.broadcast().to_bits()))
            }
            IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
        };
        push(&mut layer, first, Some(value));
        // Above the last address there is nothing; 2^32 is no IPv4 address.
        match last.checked_add(1) {
            Some(end) if !matches!(prefix, IpNet::V4(_)) || end < 1 << 32 => {
                push(&mut layer, end, None);
            }
            _ => {}
        }
    }
    layer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(dbip: &str, rir: &str, whois: &str, registered: &str, origin: u32) -> Said {
        let country = |code: &str| Country::new(code);
        Said {
            dbip: country(dbip),
            rir: country(rir),
            whois: country(whois),
            registered: country(registered),
            origin: (origin != 0).then_some(origin),
            snapshot: None,
            special: false,
        }
    }

    #[test]
    fn location_is_geolocation_and_agreement_is_counted() {
        let judge = |said: Said| {
            let record = said.judge();
            (record.location.map(|c| c.to_string()).unwrap_or_default(), record.sources)
        };
        let is = |code: &str, sources: u8| (code.to_owned(), sources);
        assert_eq!(judge(said("DE", "DE", "-", "-", 1)), is("DE", 2));
        assert_eq!(judge(said("DE", "US", "DE", "US", 1)), is("DE", 2));
        assert_eq!(judge(said("DE", "US", "-", "DE", 1)), is("DE", 2));
        // Registries that agree with each other do not move what geolocation places elsewhere.
        assert_eq!(judge(said("JP", "US", "US", "US", 1)), is("JP", 1));
        assert_eq!(judge(said("JP", "JP", "JP", "JP", 1)), is("JP", 1));
        assert_eq!(judge(said("-", "DE", "-", "DE", 1)), is("DE", 2));
        assert_eq!(judge(said("-", "DE", "DE", "-", 1)), is("DE", 1));
        // Neither delegated nor announced.
        assert_eq!(judge(said("CH", "-", "CH", "-", 0)), is("", 0));
        let listed = Said {
            snapshot: Country::new("JP").zip(Some(9370)),
            ..said("US", "US", "US", "US", 1)
        };
        assert_eq!(
            (listed.judge().asn, listed.judge().sources, listed.judge().source),
            (9370, 2, SNAPSHOT)
        );
        let special = Said { special: true, ..said("US", "US", "US", "US", 1) };
        assert_eq!(judge(special), is("", 0));
    }
}
