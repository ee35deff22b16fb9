//! The data that the binary carries: the world table with the Japanese snapshot in it, and the catalog.
//!
//! A default that makes the first run work, not an authority: it has a build date and an expiry.

use super::{
    catalog::{self, Catalog},
    dataset::{Dataset, DatasetError},
    model::SourceInfo,
    text::Problems,
    world::{self, Damaged, World},
};
use sha2::{Digest, Sha256};

static WORLD: &[u8] = include_bytes!("../../../data/world.bin");

/// Why the embedded data cannot be used; a test proves that they can.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("the embedded world table is damaged: {}; rebuild with `cargo xtask dataset`", .0.0)]
    World(Damaged),
    #[error("the embedded operator catalog is wrong")]
    Catalog(#[from] Problems),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}

impl Dataset {
    /// The embedded data alone.
    pub fn embedded() -> Result<Self, EmbeddedError> {
        let world = world()?;
        let catalog = Catalog::embedded()?;
        let mut sources = world.sources;
        sources.push(catalog_source(&sources, &catalog));
        let (v4, v6, register) = (world.v4, world.v6, world.register);
        Ok(Self::from_records(v4, v6, &world.records, sources, catalog, register)?)
    }
}

/// The embedded world table.
pub(super) fn world() -> Result<World, EmbeddedError> {
    world::decode(WORLD).map_err(EmbeddedError::World)
}

/// The embedded catalog is as old as the tables beside it.
pub(super) fn catalog_source(tables: &[SourceInfo], catalog: &Catalog) -> SourceInfo {
    let asns: usize = catalog.operators().iter().map(|operator| operator.asns.len()).sum();
    SourceInfo {
        id: "operators".into(),
        title: "Operator catalog".into(),
        built: tables.iter().map(|source| source.built).min().unwrap_or(0),
        expires: tables.iter().filter_map(|source| source.expires).min(),
        licence: "see data/operators.NOTICE".into(),
        sha256: hex(&Sha256::digest(catalog::EMBEDDED)),
        records: asns as u64,
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        model::{Control, ControlBasis, Location},
        prefixes::{self, Order},
    };
    use ipnet::IpNet;
    use sov_common::verdict::Scope;
    use std::{net::IpAddr, sync::LazyLock};

    static DATA: LazyLock<Dataset> = LazyLock::new(|| Dataset::embedded().unwrap());
    const SNAPSHOT: &[u8] = include_bytes!("../../../data/jp_snapshot.csv");

    /// `location/sources operator control/basis registered`.
    fn told(address: &str) -> String {
        let found = DATA.lookup(address.parse().unwrap());
        let a = &found.attributes;
        format!(
            "{}/{} {} {}/{} {}",
            a.location,
            a.sources,
            a.operator.as_deref().unwrap_or("-"),
            a.control,
            a.control_basis.as_str(),
            a.registered.map_or("-".into(), |c| c.to_string())
        )
    }

    #[test]
    fn known_places_are_told_right() {
        for (address, expected) in [
            ("8.8.8.8", "US/2 google US/catalog US"),
            ("1.1.1.1", "anycast/2 cloudflare contested/catalog US"),
            // SAKURA internet, Ishikari.
            ("153.127.0.1", "JP/2 sakura JP/catalog JP"),
            // AWS Tokyo: located in Japan, controlled from the United States.
            ("54.64.0.1", "JP/2 aws US/catalog US"),
            ("2406:da14::1", "JP/2 aws US/catalog US"),
            // WIDE.
            ("2001:200::1", "JP/2 wide JP/catalog JP"),
            // Deutsche Telekom, and a provider that the catalog does not know (Telefónica Germany).
            ("80.128.0.1", "DE/2 deutsche-telekom DE/catalog DE"),
            ("77.0.0.1", "DE/2 - DE/registered DE"),
            ("2003::1", "DE/2 deutsche-telekom DE/catalog DE"),
            ("10.0.0.1", "unknown/0 - unknown/none -"),
            ("203.0.113.1", "unknown/0 - unknown/none -"),
            ("fd00::1", "unknown/0 - unknown/none -"),
            ("2002:808:808::1", "unknown/0 - unknown/none -"),
        ] {
            assert_eq!(told(address), expected, "{address}");
        }
    }

    #[test]
    fn names_come_from_catalog_and_register() {
        let found = DATA.lookup("8.8.8.8".parse().unwrap());
        assert_eq!(found.asn_name, Some("Google LLC"));
        assert_eq!(found.operator_name, Some("Google (Google Cloud)"));
        assert_eq!(DATA.lookup("10.0.0.1".parse().unwrap()).asn_name, None);
    }

    #[test]
    fn every_snapshot_row_is_in_the_table_and_nothing_else_has_two_sources_in_japan() {
        let rows = prefixes::parse("jp_snapshot.csv", SNAPSHOT, Order::Required).unwrap();
        let japan = super::super::model::Country::new("JP").unwrap();
        for row in &rows {
            for address in edges(row.prefix) {
                if DATA.scope(address) != Scope::Global {
                    continue;
                }
                let found = DATA.lookup(address).attributes;
                assert!(matches!(found.location, Location::Country(_) | Location::Anycast));
                if found.location != Location::Anycast {
                    assert_eq!(found.location, Location::Country(japan), "{address}");
                }
                assert_eq!((found.sources, found.asn, found.dataset), (2, row.asn, 0), "{address}");
            }
        }
        for (start, id) in DATA.v4() {
            let found = DATA.attributes(id);
            if found.location == Location::Country(japan) && found.sources >= 2 {
                let address = IpAddr::from(std::net::Ipv4Addr::from_bits(start));
                let at = rows.partition_point(|row| row.prefix.network() <= address);
                assert!(rows[..at].iter().rev().take(1).any(|row| row.prefix.contains(&address)));
            }
        }
    }

    fn edges(net: IpNet) -> [IpAddr; 2] {
        [net.network(), net.broadcast()]
    }

    #[test]
    fn the_table_was_made_from_this_snapshot() {
        let source = &DATA.sources()[0];
        assert_eq!(source.id, "jp-snapshot-2026-11-23");
        assert_eq!(source.sha256, hex(&Sha256::digest(SNAPSHOT)), "run `cargo xtask dataset`");
        assert_eq!(source.built, 1_795_392_000);
        assert_eq!(DATA.built(), source.built);
        assert!(source.expires > Some(source.built));
    }

    /// Decodes every block: what start-up does not check.
    #[test]
    fn the_table_is_whole_and_lookup_equals_iteration() {
        let (v4, v6) = DATA.interval_counts();
        let list: Vec<_> = DATA.v4().collect();
        assert_eq!((list.len(), DATA.v6().count()), (v4, v6));
        assert!(v4 > 600_000 && v6 > 400_000);
        assert!(list.is_sorted_by(|a, b| a.0 < b.0 && a.1 != b.1));
        assert!(DATA.v6().is_sorted_by(|a, b| a.0 < b.0 && a.1 != b.1));
        let largest = DATA.v4().chain(DATA.v6().map(|(_, id)| (0, id))).map(|(_, id)| id).max();
        assert_eq!(largest.unwrap() as usize + 1, DATA.attribute_count());
        for window in list.windows(2).step_by(97) {
            for address in [window[0].0, window[1].0 - 1] {
                let found = DATA.lookup(std::net::Ipv4Addr::from_bits(address).into());
                assert_eq!(found.attributes, DATA.attributes(window[0].1));
            }
        }
    }

    #[test]
    fn special_space_is_unknown() {
        let list: Vec<_> = DATA.v4().chain([(u32::MAX, 0)]).collect();
        for window in list.windows(2) {
            if DATA.attributes(window[0].1).location == Location::Unknown {
                continue;
            }
            // Every special block is a multiple of a /24.
            for block in (window[0].0 >> 8)..=((window[1].0 - 1) >> 8) {
                assert_eq!(sov_common::scope::scope_v4(block << 8), Scope::Global, "{block:x}");
            }
        }
        for (start, id) in DATA.v6() {
            if DATA.attributes(id).location != Location::Unknown {
                assert_eq!(sov_common::scope::scope_v6(start), Scope::Global, "{start:x}");
            }
        }
    }

    #[test]
    fn foreign_control_in_japan_is_large_and_told_apart() {
        let japan = super::super::model::Country::new("JP").unwrap();
        let (mut own, mut foreign, mut other) = (0u64, 0u64, 0u64);
        let list: Vec<_> = DATA.v4().chain([(u32::MAX, 0)]).collect();
        for window in list.windows(2) {
            let attributes = DATA.attributes(window[0].1);
            if attributes.location != Location::Country(japan) || attributes.sources < 2 {
                continue;
            }
            let size = u64::from(window[1].0 - window[0].0);
            match (attributes.control, attributes.control_basis) {
                (Control::Country(country), _) if country == japan => own += size,
                (Control::Country(_), _) => foreign += size,
                (_, ControlBasis::None) => other += size,
                _ => {}
            }
        }
        assert!((155_000_000..175_000_000).contains(&own), "{own}");
        assert!((7_000_000..13_000_000).contains(&foreign), "{foreign}");
        assert!((20_000_000..30_000_000).contains(&other), "{other}");
    }
}
