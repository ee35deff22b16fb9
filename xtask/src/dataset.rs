//! `cargo xtask dataset`: makes `data/world.bin`, the table that the agent embeds.
//!
//! Deterministic: pinned inputs, fixed dates, no clock. Fetches the inputs as packages with npm and
//! checks their hashes; with the packages in place it needs no network. Uses only inputs whose licence
//! allows redistribution, and writes their notices beside the table.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

mod combine;
mod inputs;
mod ranges;

/// The agent's own reader and writer of these formats: the agent library itself cannot be a dependency,
/// because building it needs the kernel side's toolchain.
#[path = "../../sov-agent/src/data"]
#[expect(dead_code, unreachable_pub, reason = "the agent uses the rest")]
mod format {
    pub mod model;
    pub mod prefixes;
    pub mod table;
    pub mod text;
    pub mod world;
}

use format::{model::SourceInfo, world};

/// Day of the build, part of the recipe: raise it with the inputs. 2026-11-23.
const BUILT: (&str, u64) = ("2026-11-23", 1_795_392_000);
/// After this the table should not be relied on: 180 days.
const LIFETIME: u64 = 180 * 24 * 60 * 60;
const SNAPSHOT: &str = "jp_snapshot.csv";
/// The repository's limit for the table.
const MAX_BYTES: usize = 6_000_000;

/// Make the embedded world table from its pinned inputs
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Where the input packages are kept; missing ones are fetched with npm
    #[arg(long, value_name = "DIR", default_value = "target/dataset")]
    inputs: PathBuf,
    /// Write nothing; fail if the table in the repository differs
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
    let snapshot = fs::read(data.join(SNAPSHOT)).context("cannot read data/jp_snapshot.csv")?;
    let fetched = inputs::fetch(&args.inputs)?;
    let table = combine::combine(&fetched, &snapshot)?;

    let (day, built) = BUILT;
    let notice = inputs::notice(day);
    let sources = [
        SourceInfo {
            id: format!("jp-snapshot-{day}"),
            title: "Address space located in Japan by at least two agreeing inputs".into(),
            built,
            expires: Some(built + LIFETIME),
            licence: "CC BY 4.0 (DB-IP, NRO, Route Views), PDDL 1.0; see data/jp_snapshot.NOTICE"
                .into(),
            sha256: hex(&Sha256::digest(&snapshot)),
            records: table.snapshot_rows,
        },
        SourceInfo {
            id: format!("world-{day}"),
            title: "World table: country and origin AS of all address space".into(),
            built,
            expires: Some(built + LIFETIME),
            licence: "CC BY 4.0 (DB-IP, NRO, Route Views), PDDL 1.0; see data/world.NOTICE".into(),
            sha256: hex(&Sha256::digest(notice.as_bytes())),
            records: (table.v4.len() + table.v6.len()) as u64,
        },
    ];
    let bytes = world::encode(&sources, &table.v4, &table.v6, &table.records, &table.register)
        .map_err(|error| anyhow::anyhow!("cannot write the table: {}", error.0))?;
    println!(
        "{} IPv4 and {} IPv6 intervals, {} records, {} ASNs: {} bytes ({} + {} tables)",
        table.v4.len(),
        table.v6.len(),
        table.records.len(),
        table.register.len(),
        bytes.len(),
        table.v4.as_bytes().len(),
        table.v6.as_bytes().len(),
    );
    ensure!(bytes.len() <= MAX_BYTES, "the table has more than {MAX_BYTES} bytes");

    let files = [("world.bin", bytes.as_slice()), ("world.NOTICE", notice.as_bytes())];
    for (name, content) in files {
        let path = data.join(name);
        if args.check {
            let present = fs::read(&path).with_context(|| format!("cannot read data/{name}"))?;
            ensure!(present == content, "data/{name} differs; run `cargo xtask dataset`");
        } else {
            fs::write(&path, content).with_context(|| format!("cannot write data/{name}"))?;
        }
        println!("data/{name}: sha256 {}", hex(&Sha256::digest(content)));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
