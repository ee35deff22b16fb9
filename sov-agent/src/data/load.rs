//! Loads a site's data folder over the embedded data: the one place in `data/` that opens files.
//!
//! All or nothing: one file with one fault, and nothing of the folder is used. The time is an argument.

use super::{
    catalog::{self, Catalog},
    dataset::{Dataset, DatasetError},
    embedded::{self, EmbeddedError, hex},
    mmdb::{self, Mmdb},
    model::SourceInfo,
    overlay::{Interner, Layer, Said, Steps, Weight, merge},
    prefixes::{self, Order, PrefixRow},
    text::{Problem, Problems, Report},
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Largest accepted MMDB and text file, in bytes.
const MAX_MMDB: u64 = 512 << 20;
const MAX_TEXT: u64 = 64 << 20;
/// Most files in a folder; a source is numbered in one byte.
const MAX_FILES: usize = 200;
/// Clocks differ: a file may be this much younger than now, in seconds.
const CLOCK_SKEW: u64 = 24 * 60 * 60;
/// The site's operator catalog; every other `.csv` is a prefix list.
const CATALOG: &str = "operators.csv";

/// Why a folder cannot be used. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Every fault of every file.
    #[error(transparent)]
    Files(#[from] Problems),
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}

/// Ascending `(start, what is said)` of one family, from address 0.
type Said4 = Vec<(u32, Said)>;
type Said6 = Vec<(u128, Said)>;

/// One file that was read and found right.
struct Input {
    info: SourceInfo,
    content: Content,
}

enum Content {
    Catalog(Catalog),
    List(Vec<PrefixRow>),
    Mmdb(Mmdb),
}

impl Dataset {
    /// The embedded data with everything in `dir` over them: `*.mmdb` files, `operators.csv` and prefix
    /// lists (other `*.csv`, in the format of the snapshot), in the order of their names. `now` in unix
    /// seconds; files built more than `max_age` seconds before it are refused, `None` accepts any age.
    pub fn load(dir: &Path, now: u64, max_age: Option<u64>) -> Result<Self, LoadError> {
        let mut inputs = Vec::new();
        let mut problems: Option<Problems> = None;
        for path in files(dir)? {
            match read(&path, now, max_age) {
                Ok(input) => inputs.push(input),
                Err(found) => match &mut problems {
                    Some(problems) => {
                        problems.list.extend(found.list);
                        problems.more += found.more;
                    }
                    None => problems = Some(found),
                },
            }
        }
        match problems {
            Some(problems) => Err(problems.into()),
            None => combine(inputs),
        }
    }
}

/// The data files of a folder, by name.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Problems> {
    let name = dir.display().to_string();
    let unreadable = |error: std::io::Error| {
        problem(&name, format!("cannot be read: {error}"), "name a folder with data files")
    };
    let mut report = Report::new(&name);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.starts_with('.') || path.is_dir() {
            continue;
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("mmdb" | "csv") => found.push(path),
            // What data come with.
            None | Some("txt" | "md" | "NOTICE" | "json" | "sha256") => {}
            Some(_) => report.add(
                0,
                0,
                format!("holds `{}`, which is no data file", file.escape_debug()),
                "unpack it to *.mmdb or *.csv, or move it away",
            ),
        }
    }
    if found.len() > MAX_FILES {
        report.add(
            0,
            0,
            format!("holds {} data files", found.len()),
            format!("keep {MAX_FILES} at most"),
        );
    }
    found.sort();
    report.finish(found)
}

fn read(path: &Path, now: u64, max_age: Option<u64>) -> Result<Input, Problems> {
    let name = path.display().to_string();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let is_mmdb = path.extension().is_some_and(|extension| extension == "mmdb");
    let limit = if is_mmdb { MAX_MMDB } else { MAX_TEXT };
    let unreadable = |error: std::io::Error| {
        problem(&name, format!("cannot be read: {error}"), "check its permissions")
    };
    // A pipe or device would never end; the size is checked before anything is read.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(problem(&name, "no regular file".into(), "replace it by one"));
    }
    if metadata.len() > limit {
        let message = format!("{} bytes", metadata.len());
        return Err(problem(&name, message, &format!("keep it under {limit} bytes")));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let modified = u64::try_from(metadata.mtime()).unwrap_or(0);

    let (content, built, title, records) = if is_mmdb {
        let mmdb = mmdb::parse(&name, &bytes)?;
        let (built, title, records) =
            (mmdb.built, format!("MMDB {}", mmdb.database_type), mmdb.records);
        (Content::Mmdb(mmdb), built, title, records)
    } else if path.file_name().is_some_and(|file| file == CATALOG) {
        let catalog = catalog::parse(&name, &bytes)?;
        let count = catalog.operators().len() as u64;
        (Content::Catalog(catalog), modified, "Operator catalog of the site".to_owned(), count)
    } else {
        let rows = prefixes::parse(&name, &bytes, Order::Free)?;
        let count = rows.len() as u64;
        (Content::List(rows), modified, "Prefix list of the site".to_owned(), count)
    };
    if built > now.saturating_add(CLOCK_SKEW) {
        let message = format!("built in the future, at {built} (unix time)");
        return Err(problem(&name, message, "set the clock, or get a sound copy"));
    }
    if let Some(max_age) = max_age
        && now.saturating_sub(built) > max_age
    {
        let days = |seconds: u64| seconds / (24 * 60 * 60);
        let message = format!(
            "{} days old, more than the {} that are allowed",
            days(now - built),
            days(max_age)
        );
        let fix = if is_mmdb {
            "get a newer one, or raise max_data_age"
        } else {
            "review it and save it again, or raise max_data_age"
        };
        return Err(problem(&name, message, fix));
    }
    let info = SourceInfo {
        id: format!("site-{stem}"),
        title,
        built,
        expires: max_age.map(|max_age| built.saturating_add(max_age)),
        licence: "the site's own".into(),
        sha256: hex(&Sha256::digest(&bytes)),
        records,
    };
    Ok(Input { info, content })
}

fn combine(inputs: Vec<Input>) -> Result<Dataset, LoadError> {
    let mut world = embedded::world()?;
    let mut catalog = Catalog::embedded()?;
    let mut sources = std::mem::take(&mut world.sources);
    sources.push(embedded::catalog_source(&sources, &catalog));
    let mut names = BTreeMap::new();
    let mut layers = Vec::new();
    let (mut countries, mut origins) = (None, None);
    for input in inputs {
        // MAX_FILES keeps this in a byte.
        let source = u8::try_from(sources.len()).unwrap_or(u8::MAX);
        match input.content {
            Content::Catalog(site) => catalog = catalog.overlaid(&site),
            Content::List(rows) => {
                let (v4, v6) = list_steps(&rows);
                layers.push((v4, v6, Weight::Statement, source));
            }
            Content::Mmdb(mmdb) => {
                let newest = |of: Option<u64>| of.max(Some(mmdb.built));
                if mmdb.countries {
                    countries = newest(countries);
                }
                if mmdb.origins {
                    origins = newest(origins);
                }
                names.extend(mmdb.names);
                layers.push((mmdb.v4, mmdb.v6, Weight::Vote, source));
            }
        }
        sources.push(input.info);
    }
    // What the site states stands over what databases guess.
    layers.sort_by_key(|(_, _, weight, _)| *weight == Weight::Statement);
    names.retain(|asn, name| world.register.name(*asn) != Some(name.as_str()));
    let (mut v4, mut v6, mut records) = (world.v4, world.v6, world.records);
    if !layers.is_empty() {
        let mut interner = Interner::default();
        let over: Vec<_> = layers
            .iter()
            .map(|(steps, _, weight, source)| Layer { steps, weight: *weight, source: *source })
            .collect();
        v4 = merge(&v4, &records, &over, &mut interner)
            .map_err(|e| DatasetError::table("IPv4", e))?;
        let over: Vec<_> = layers
            .iter()
            .map(|(_, steps, weight, source)| Layer { steps, weight: *weight, source: *source })
            .collect();
        v6 = merge(&v6, &records, &over, &mut interner)
            .map_err(|e| DatasetError::table("IPv6", e))?;
        records = interner.records;
    }
    let dataset = Dataset::from_records(v4, v6, &records, sources, catalog, world.register)?;
    // Country and origin databases of the site replace the embedded table as what is relied on.
    let built = countries.zip(origins).map(|(countries, origins)| countries.min(origins));
    Ok(dataset.with_site(names, built))
}

fn list_steps(rows: &[PrefixRow]) -> (Said4, Said6) {
    let (mut v4, mut v6) = (Steps::default(), Steps::default());
    for row in rows {
        let said = Said { country: Some(row.country), asn: Some(row.asn) };
        // Rows are in order and do not overlap.
        match row.prefix {
            IpNet::V4(net) => v4.push(net.network().to_bits(), net.broadcast().to_bits(), said),
            IpNet::V6(net) => v6.push(net.network().to_bits(), net.broadcast().to_bits(), said),
        };
    }
    (v4.finish(), v6.finish())
}

fn problem(file: &str, message: String, fix: &str) -> Problems {
    Problem { file: file.to_owned(), line: 0, column: 0, message, fix: fix.to_owned() }.into()
}

#[cfg(test)]
mod tests;
