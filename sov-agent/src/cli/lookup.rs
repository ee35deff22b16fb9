//! `lookup`: what the data say about addresses. Judges nothing: that is `explain`.
//!
//! [`Facts`] is the one JSON form of an address's attributes; other verbs flatten it into their lines.

use std::{
    io::{self, BufRead, BufReader, IsTerminal as _, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use ipnet::Ipv6Net;
use serde::Serialize;

use super::{
    Global, OK, USAGE, inputs, logging,
    output::{Cell, Output, Paint, Table},
};
use crate::data::{
    dataset::Dataset,
    inside::Inside,
    model::{Control, Location},
};

/// Longest line of input, in bytes; no address comes near it.
const MAX_LINE: u64 = 256;
/// Rows that are aligned together when a batch is written as text.
const TABLE_ROWS: usize = 1000;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent lookup 8.8.8.8 2001:200::1
  sov-agent lookup --format json 54.64.0.1 | jq .control
  ss -Htn | awk '{print $5}' | sed 's/:[0-9]*$//' | tr -d '[]' | sov-agent lookup -

Exit status: 0 every address was answered, 2 some input is no address (the rest is answered).")]
pub struct Args {
    /// Addresses; `-` reads them from stdin, one a line
    #[arg(required = true, value_name = "ADDR", allow_hyphen_values = true)]
    addresses: Vec<String>,
    /// Folder with MMDB files, prefix lists and operators.csv over the embedded data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A policy whose NAT64 prefixes are unwrapped, as its node does
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let data = match &args.data {
        // Looking something up enforces nothing: old data are used, and said to be old.
        Some(dir) => Dataset::load(dir, now, None).context("the data folder was not used")?,
        None => Dataset::embedded()?,
    };
    for source in data.sources().iter().filter(|source| source.expires.is_some_and(|e| e < now)) {
        log::warn!("{} has expired; give newer data with --data", source.id);
    }
    let nat64 = match &args.policy {
        Some(path) => inputs::read_nat64(path, global)?,
        None => Vec::new(),
    };
    let mut answers = Answers::new(&data, &nat64, Output::new(global));
    for argument in &args.addresses {
        if argument == "-" {
            answers.stdin()?;
        } else {
            answers.answer(argument, None)?;
        }
    }
    answers.finish()
}

/// What is known about one address, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts<'a> {
    pub address: IpAddr,
    pub scope: &'static str,
    /// ISO 3166 code, `anycast` or `unknown`.
    pub location: String,
    /// How many independent sources agree on the location.
    pub sources: u8,
    /// 0 = not announced.
    pub asn: u32,
    pub asn_name: Option<&'a str>,
    pub operator: Option<Box<str>>,
    pub operator_name: Option<&'a str>,
    /// ISO 3166 code, `contested` or `unknown`.
    pub control: String,
    /// `catalog`, `registered` or `none`.
    pub control_basis: &'static str,
    pub registered: Option<String>,
    pub provider_region: Option<Box<str>>,
    /// The largest aligned prefix around the address (or what it embeds) with these attributes.
    pub prefix: String,
    /// Id of the source that located the address.
    pub dataset: Option<&'a str>,
    /// The IPv4 address inside an IPv6 address: all other fields but `address` are about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded: Option<Ipv4Addr>,
    /// How it is embedded: `mapped`, `nat64`, `6to4` or `teredo` (its client).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<&'static str>,
    /// The relay that a Teredo address is reached through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teredo_server: Option<Ipv4Addr>,
    #[serde(skip)]
    foreign: bool,
}

impl<'a> Facts<'a> {
    /// `nat64` are the NAT64 prefixes that a policy names, if there is one.
    pub fn of(data: &'a Dataset, nat64: &[Ipv6Net], address: IpAddr) -> Self {
        let inside = Inside::of(address, nat64);
        let judged = inside.map_or(address, |inside| inside.address.into());
        let found = data.lookup(judged);
        let attributes = found.attributes;
        let foreign = match (attributes.location, attributes.control) {
            (Location::Country(location), Control::Country(control)) => location != control,
            _ => false,
        };
        Self {
            address,
            scope: data.scope(judged).as_str(),
            location: attributes.location.to_string(),
            sources: attributes.sources,
            asn: attributes.asn,
            asn_name: found.asn_name,
            operator: attributes.operator,
            operator_name: found.operator_name,
            control: attributes.control.to_string(),
            control_basis: attributes.control_basis.as_str(),
            registered: attributes.registered.map(|country| country.to_string()),
            provider_region: attributes.provider_region,
            prefix: found.prefix.to_string(),
            dataset: data.sources().get(usize::from(attributes.dataset)).map(|s| s.id.as_str()),
            embedded: inside.map(|inside| inside.address),
            embedding: inside.map(|inside| inside.kind),
            teredo_server: inside.and_then(|inside| inside.server),
            foreign,
        }
    }

    fn cells(&self) -> [Cell; 6] {
        let address = match self.embedded {
            Some(inside) => format!("{} ({inside})", self.address),
            None => self.address.to_string(),
        };
        let location = match self.scope {
            "global" if self.sources > 0 => format!("{} ({})", self.location, self.sources),
            "global" => self.location.clone(),
            scope => scope.to_owned(),
        };
        let control = match self.control_basis {
            "none" => "-".to_owned(),
            basis => format!("{} ({basis})", self.control),
        };
        // Located here, controlled from elsewhere: what plain geolocation does not show.
        let control =
            if self.foreign { Cell::painted(Paint::Yellow, control) } else { control.into() };
        let origin = match (self.asn, self.asn_name) {
            (0, _) => "-".to_owned(),
            (asn, name) => format!("AS{asn} {}", name.unwrap_or("")).trim_end().to_owned(),
        };
        let operator = self.operator.as_deref().unwrap_or("-");
        [
            address.into(),
            location.into(),
            control,
            operator.into(),
            self.prefix.as_str().into(),
            origin.into(),
        ]
    }
}

/// Writes answers as they come: JSON lines at once, table rows in groups.
struct Answers<'a> {
    data: &'a Dataset,
    nat64: &'a [Ipv6Net],
    out: Output,
    rows: Table,
    waiting: usize,
    invalid: bool,
}

impl<'a> Answers<'a> {
    fn new(data: &'a Dataset, nat64: &'a [Ipv6Net], out: Output) -> Self {
        let rows = Table::new(&["ADDRESS", "LOCATION", "CONTROL", "OPERATOR", "PREFIX", "ORIGIN"]);
        Self { data, nat64, out, rows, waiting: 0, invalid: false }
    }

    /// `line` is where the text stands, 1-based, if it comes from stdin.
    fn answer(&mut self, text: &str, line: Option<usize>) -> io::Result<()> {
        let Ok(address) = text.parse::<IpAddr>() else {
            let place = line.map_or(String::new(), |line| format!("stdin:{line}: "));
            self.refuse(&format!("{place}`{}` is no address", text.escape_debug()));
            return Ok(());
        };
        let facts = Facts::of(self.data, self.nat64, address);
        if self.out.is_json() {
            return self.out.json(&facts);
        }
        self.rows.row(facts.cells());
        self.waiting += 1;
        if self.waiting == TABLE_ROWS { self.write_rows() } else { Ok(()) }
    }

    fn stdin(&mut self) -> anyhow::Result<()> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            log::warn!("reading addresses from the terminal, one a line");
        }
        let mut reader = BufReader::with_capacity(1 << 16, stdin.lock());
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let mut bounded = reader.by_ref().take(MAX_LINE);
            if bounded.read_until(b'\n', &mut line).context("cannot read stdin")? == 0 {
                break;
            }
            if line.last() != Some(&b'\n') && line.len() as u64 == MAX_LINE {
                self.refuse(&format!("stdin:{number}: longer than {MAX_LINE} bytes, no address"));
                skip_line(&mut reader).context("cannot read stdin")?;
                continue;
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim();
            if !text.is_empty() && !text.starts_with('#') {
                self.answer(text, Some(number))?;
            }
            // Whoever writes line by line gets answers line by line.
            if reader.buffer().is_empty() {
                self.write_rows()?;
                self.out.flush()?;
            }
        }
        Ok(())
    }

    fn refuse(&mut self, message: &str) {
        logging::error(&format_args!("{message}; write it like 192.0.2.1 or 2001:db8::1"));
        self.invalid = true;
    }

    fn write_rows(&mut self) -> io::Result<()> {
        if self.waiting > 0 {
            self.out.table(&self.rows)?;
            // The header stands once.
            self.rows = Table::new(&[]);
            self.waiting = 0;
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<ExitCode> {
        self.write_rows()?;
        self.out.finish()?;
        Ok(ExitCode::from(if self.invalid { USAGE } else { OK }))
    }
}

/// Reads to the end of the line without keeping it.
fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(length);
        if end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(data: &Dataset, address: &str) -> serde_json::Value {
        serde_json::to_value(Facts::of(data, &[], address.parse().unwrap())).unwrap()
    }

    #[test]
    fn json_has_the_fields_of_the_contract() {
        let data = Dataset::embedded().unwrap();
        assert_eq!(
            json(&data, "54.64.0.1"),
            serde_json::json!({
                "address": "54.64.0.1", "scope": "global", "location": "JP", "sources": 2,
                "asn": 16509, "asn_name": "Amazon.com, Inc.",
                "operator": "aws", "operator_name": "Amazon Web Services",
                "control": "US", "control_basis": "catalog", "registered": "US",
                "provider_region": null, "prefix": "54.64.0.0/15",
                "dataset": "jp-snapshot-2026-11-23",
            })
        );
        let private = json(&data, "10.0.0.1");
        assert_eq!(
            (&private["scope"], &private["location"]),
            (&"private".into(), &"unknown".into())
        );
    }

    #[test]
    fn embedded_addresses_are_told_as_what_they_are() {
        let data = Dataset::embedded().unwrap();
        let google = json(&data, "8.8.8.8");
        for (address, kind) in [
            ("::ffff:8.8.8.8", "mapped"),
            ("64:ff9b::8.8.8.8", "nat64"),
            ("2002:808:808::1", "6to4"),
            ("2001:0:101:101:0:0:f7f7:f7f7", "teredo"),
        ] {
            let facts = json(&data, address);
            assert_eq!(
                (&facts["embedded"], &facts["embedding"]),
                (&"8.8.8.8".into(), &kind.into())
            );
            for field in ["scope", "location", "operator", "control", "asn", "prefix"] {
                assert_eq!(facts[field], google[field], "{address} {field}");
            }
        }
        assert_eq!(json(&data, "2001:0:101:101:0:0:f7f7:f7f7")["teredo_server"], "1.1.1.1");
        for plain in ["::8.8.8.8", "64:ff9b:1::8.8.8.8", "2001:1::1", "2001:200::1"] {
            assert_eq!(json(&data, plain)["embedded"], serde_json::Value::Null, "{plain}");
        }
    }

    #[test]
    fn long_lines_are_skipped_whole() {
        let mut reader = BufReader::with_capacity(4, &b"aaaaaaaaaa\nb\n"[..]);
        skip_line(&mut reader).unwrap();
        let mut rest = String::new();
        reader.read_line(&mut rest).unwrap();
        assert_eq!(rest, "b\n");
    }
}
