//! MMDB files: MaxMind's and DB-IP's nested layout, and the flat one of ip-location-db.
//!
//! Every byte is hostile. The reader bounds decoding; this file bounds the walk of the search tree,
//! decodes each distinct record once, and takes nothing from a file that has one fault.

use super::{
    model::Country,
    overlay::{Said, Steps},
    text::Problem,
};
use crate::text::is_hidden;
use maxminddb::{Reader, WithinOptions};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    net::IpAddr,
};

#[cfg(test)]
pub(super) mod writer;

/// Longest AS name kept, in bytes.
const MAX_NAME: usize = 63;
/// A tree has at most one leaf more than nodes; aliases of the IPv4 subtree repeat it a few times.
const LEAVES_PER_NODE: usize = 8;
/// IPv6 space that repeats or embeds IPv4: mapped, Teredo, 6to4, NAT64. It is judged by the address inside.
const EMBEDDING: [(u128, u32); 4] =
    [(0xffff << 32, 96), (0x2001_0000 << 96, 32), (0x2002 << 112, 16), (0x0064_ff9b << 96, 96)];

/// What one file says.
#[derive(Debug)]
pub struct Mmdb {
    pub database_type: String,
    /// Unix seconds.
    pub built: u64,
    /// Whether any record names a country, an AS number.
    pub countries: bool,
    pub origins: bool,
    /// Networks with data.
    pub records: u64,
    pub(super) v4: Vec<(u32, Said)>,
    pub(super) v6: Vec<(u128, Said)>,
    /// AS names, printable.
    pub names: BTreeMap<u32, String>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    country_code: Option<&'a str>,
    country: Option<Nested<'a>>,
    autonomous_system_number: Option<Number>,
    autonomous_system_organization: Option<&'a str>,
}

#[derive(Deserialize)]
struct Nested<'a> {
    iso_code: Option<&'a str>,
}

/// An unsigned number of any width: writers differ.
#[derive(Clone, Copy)]
struct Number(u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an AS number")
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Number, E> {
                u32::try_from(number).map(Number).map_err(|_| E::custom("an AS number has 32 bits"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Reads a whole file. `file` is for messages.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Mmdb, Problem> {
    let problem = |message: String, fix: &str| Problem {
        file: file.to_owned(),
        line: 0,
        column: 0,
        message,
        fix: fix.to_owned(),
    };
    let damaged = |error: &dyn Display| {
        problem(format!("no readable MMDB: {error}"), "download it again and compare its checksum")
    };
    let reader = Reader::from_source(bytes).map_err(|error| damaged(&error))?;
    let metadata = reader.metadata();
    let mut mmdb = Mmdb {
        database_type: printable(&metadata.database_type),
        built: metadata.build_epoch,
        countries: false,
        origins: false,
        records: 0,
        v4: Vec::new(),
        v6: Vec::new(),
        names: BTreeMap::new(),
    };
    let (mut v4, mut v6) = (Steps::<u32>::default(), Steps::<u128>::default());
    let mut decoded: HashMap<usize, Said> = HashMap::new();
    let mut leaves_left = (metadata.node_count as usize).saturating_add(1) * LEAVES_PER_NODE;
    // Empty leaves and aliases count too: a tree that folds back on itself must not be walked for ever.
    let options =
        WithinOptions::default().include_aliased_networks().include_networks_without_data();
    for found in reader.networks(options).map_err(|error| damaged(&error))? {
        let found = found.map_err(|error| damaged(&error))?;
        leaves_left =
            leaves_left.checked_sub(1).ok_or_else(|| damaged(&"its search tree has a cycle"))?;
        let Some(offset) = found.offset() else { continue };
        let network = found.network().map_err(|error| damaged(&error))?;
        let said = match decoded.get(&offset) {
            Some(said) => *said,
            None => {
                let record: Option<Record<'_>> = found.decode().map_err(|error| damaged(&error))?;
                let said = record.map(|record| record.said(&mut mmdb.names)).transpose();
                let said = said.map_err(|code| {
                    problem(
                        format!("`{}` at {network} is no country", code.escape_debug()),
                        "use a database with ISO 3166 codes",
                    )
                })?;
                decoded.insert(offset, said.unwrap_or_default());
                said.unwrap_or_default()
            }
        };
        mmdb.countries |= said.country.is_some();
        mmdb.origins |= said.asn.is_some();
        mmdb.records += 1;
        let ascends = match (network.network(), network.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => v4.push(first.to_bits(), last.to_bits(), said),
            (IpAddr::V6(first), _) if embeds_ipv4(first.to_bits()) => true,
            (IpAddr::V6(first), IpAddr::V6(last)) => v6.push(first.to_bits(), last.to_bits(), said),
            _ => false,
        };
        if !ascends {
            return Err(damaged(&"its networks overlap"));
        }
    }
    if !mmdb.countries && !mmdb.origins {
        return Err(problem(
            format!("type `{}` has neither countries nor AS numbers", mmdb.database_type),
            "use a country, city or ASN database",
        ));
    }
    (mmdb.v4, mmdb.v6) = (v4.finish(), v6.finish());
    Ok(mmdb)
}

impl Record<'_> {
    /// `Err` is a country code that is none.
    fn said(&self, names: &mut BTreeMap<u32, String>) -> Result<Said, String> {
        let code = self.country_code.or(self.country.as_ref().and_then(|nested| nested.iso_code));
        let country = match code {
            // Three ways to say that it is not known.
            None | Some("" | "-" | "ZZ") => None,
            Some(code) => Some(Country::new(code).ok_or_else(|| code.to_owned())?),
        };
        let asn = self.autonomous_system_number.map(|number| number.0).filter(|asn| *asn != 0);
        if let (Some(asn), Some(name)) = (asn, self.autonomous_system_organization) {
            names.entry(asn).or_insert_with(|| printable(name));
        }
        Ok(Said { country, asn })
    }
}

fn embeds_ipv4(address: u128) -> bool {
    EMBEDDING.iter().any(|(prefix, length)| (address ^ prefix) >> (128 - length) == 0)
}

/// One line without control characters, of bounded length.
fn printable(text: &str) -> String {
    let text: String = text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
    text[..text.floor_char_boundary(MAX_NAME)].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{writer::*, *};
    use proptest::prelude::*;

    fn at<K: Ord + Copy>(steps: &[(K, Said)], key: K) -> Said {
        steps[steps.partition_point(|step| step.0 <= key) - 1].1
    }

    fn v4(mmdb: &Mmdb, address: &str) -> (Option<String>, Option<u32>) {
        let said = at(&mmdb.v4, address.parse::<std::net::Ipv4Addr>().unwrap().to_bits());
        (said.country.map(|c| c.to_string()), said.asn)
    }

    fn v6(mmdb: &Mmdb, address: &str) -> (Option<String>, Option<u32>) {
        let said = at(&mmdb.v6, address.parse::<std::net::Ipv6Addr>().unwrap().to_bits());
        (said.country.map(|c| c.to_string()), said.asn)
    }

    #[test]
    fn reads_both_layouts_in_every_record_size_and_ip_version() {
        for record_size in [24, 28, 32] {
            let rows = [
                ("192.0.2.0/24", flat("JP")),
                ("198.51.100.128/25", nested("DE")),
                ("203.0.113.7/32", origin(64500, "Ex\u{1b}[31mample")),
            ];
            for version in [4, 6] {
                let mut rows = rows.to_vec();
                if version == 6 {
                    rows.push(("2001:db8::/33", nested("FR")));
                    rows.push(("2001:db8:ffff::1/128", flat("zz")));
                }
                let bytes = write(&rows, Options { record_size, version, ..Options::default() });
                let mmdb = parse("x.mmdb", &bytes).unwrap();
                assert!(mmdb.countries && mmdb.origins);
                assert_eq!(mmdb.built, 1_795_000_000);
                let code = |code: &str| (Some(code.to_owned()), None);
                assert_eq!(v4(&mmdb, "192.0.1.255"), (None, None));
                assert_eq!(v4(&mmdb, "192.0.2.0"), code("JP"));
                assert_eq!(v4(&mmdb, "192.0.2.255"), code("JP"));
                assert_eq!(v4(&mmdb, "192.0.3.0"), (None, None));
                assert_eq!(v4(&mmdb, "198.51.100.127"), (None, None));
                assert_eq!(v4(&mmdb, "198.51.100.128"), code("DE"));
                assert_eq!(v4(&mmdb, "203.0.113.7"), (None, Some(64500)));
                assert_eq!(mmdb.names[&64500], "Ex [31mample");
                if version == 6 {
                    assert_eq!(v6(&mmdb, "2001:db8:7fff:ffff::"), code("FR"));
                    assert_eq!(v6(&mmdb, "2001:db8:8000::"), (None, None));
                    assert_eq!(v6(&mmdb, "2001:db8:ffff::1"), code("ZZ"));
                }
            }
        }
    }

    #[test]
    fn an_aliased_ipv4_tree_is_read_once() {
        let rows = [("192.0.2.0/24", flat("JP")), ("2001:db8::/32", flat("DE"))];
        let bytes = write(&rows, Options { alias: true, ..Options::default() });
        let mmdb = parse("x.mmdb", &bytes).unwrap();
        assert_eq!(v4(&mmdb, "192.0.2.1").0.as_deref(), Some("JP"));
        assert_eq!(v6(&mmdb, "2002:c000:201::"), (None, None));
        assert_eq!(mmdb.v6.len(), 3);
    }

    fn refusal(bytes: &[u8]) -> String {
        let text = parse("x.mmdb", bytes).unwrap_err().to_string();
        assert!(text.starts_with("x.mmdb: ") && text.contains("; "), "{text}");
        text
    }

    #[test]
    fn refuses_what_is_no_country_or_asn_database() {
        assert!(refusal(b"").contains("no readable MMDB"));
        assert!(refusal(b"PK\x03\x04 not this").contains("no readable MMDB"));
        let domain = [("192.0.2.0/24", vec![("domain", Value::Text("example.org".into()))])];
        assert!(
            refusal(&write(&domain, Options::default()))
                .contains("neither countries nor AS numbers")
        );
        let wrong = [("192.0.2.0/24", flat("JPN"))];
        assert!(
            refusal(&write(&wrong, Options::default()))
                .contains("`JPN` at 192.0.2.0/24 is no country")
        );
        // A short number is a number too.
        let short = [("192.0.2.0/24", vec![("autonomous_system_number", Value::Short(7))])];
        let mmdb = parse("x.mmdb", &write(&short, Options::default())).unwrap();
        assert_eq!(v4(&mmdb, "192.0.2.0"), (None, Some(7)));
        let long = [("192.0.2.0/24", vec![("autonomous_system_number", Value::Long(1 << 32))])];
        assert!(refusal(&write(&long, Options::default())).contains("32 bits"));
        let number = [("192.0.2.0/24", vec![("country_code", Value::Number(7))])];
        assert!(refusal(&write(&number, Options::default())).contains("no readable MMDB"));
    }

    #[test]
    fn a_looping_tree_ends() {
        // One node whose records both point to itself.
        let bytes = write_raw(1, &[[0, 0]], &[], Options::default());
        refusal(&bytes);
        // Every node's records both point to the next: 2^127 leaves.
        let nodes: Vec<_> = (1..=127u32).map(|next| [next, next]).collect();
        let bytes = write_raw(127, &nodes, &[], Options::default());
        refusal(&bytes);
        // The metadata lie about the number of nodes.
        let bytes = write_raw(u32::MAX, &[[1, 1]], &[], Options::default());
        refusal(&bytes);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn damaged_bytes_are_answered(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in prop::option::of(any::<prop::sample::Index>()),
            alias in any::<bool>(),
        ) {
            let rows = [
                ("192.0.2.0/24", flat("JP")),
                ("198.51.100.128/25", nested("DE")),
                ("203.0.113.7/32", origin(64500, "Example")),
                ("2001:db8::/33", nested("FR")),
            ];
            let mut bytes = write(&rows, Options { alias, ..Options::default() });
            for (index, value) in edits {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let _ = parse("x.mmdb", &bytes);
        }
    }
}
