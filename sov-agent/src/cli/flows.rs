//! `flows`: shows and follows the journal. Reads files only: works with and without a running agent.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use ipnet::IpNet;
use sov_common::verdict::{Reason, Verdict};
use time::{
    Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description,
};

use super::{
    FINDING, Global, OK, logging,
    output::{Output, Paint},
};
use crate::flowlog::{
    journal::reader::{Line, POLL, Reader, Start},
    record::{FlowRecord, Kind, protocol_name},
    words::Word as _,
};

/// Records that `-f` shows before it waits.
const FOLLOW_FROM: usize = 10;
const SECOND: u64 = 1_000_000_000;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent flows -f
  sov-agent flows --verdict block --reason foreign_control --since 1h
  sov-agent flows --dst 13.112.0.0/14 --limit 20
  sov-agent flows --format json --tag koseki | jq .message

Several values of one option: any of them. Several options: all of them.
Exit status: 0 done, 1 the journal has damaged lines (named on stderr, the rest is shown).")]
pub struct Args {
    /// Wait for new records; shows the last 10 first, or --limit
    #[arg(short, long)]
    follow: bool,
    /// Tag; `untagged` for traffic that no selector matched
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    #[arg(long, value_parser = reasons(), hide_possible_values = true)]
    reason: Vec<String>,
    #[arg(long, value_parser = ["allow", "block", "would_block"])]
    verdict: Vec<String>,
    /// Where the destination is: two letters, `anycast` or `unknown`
    #[arg(long, value_name = "CC", value_parser = location)]
    country: Vec<String>,
    /// Whose law reaches the operator: two letters, `contested` or `unknown`
    #[arg(long, value_name = "CC", value_parser = control)]
    control: Vec<String>,
    #[arg(long, value_name = "NUMBER", value_parser = asn)]
    asn: Vec<u32>,
    /// Catalog id of the operator
    #[arg(long, value_name = "ID")]
    operator: Vec<String>,
    /// Process name, executable, unit, or pid
    #[arg(long, value_name = "NAME")]
    process: Vec<String>,
    /// Destination address or prefix
    #[arg(long, value_name = "ADDR[/LEN]", value_parser = prefix)]
    dst: Vec<IpNet>,
    /// Records from then on: RFC 3339, a date (UTC), or a time ago such as 90s, 10m, 2h, 7d
    #[arg(long, value_name = "TIME", value_parser = point)]
    since: Option<Point>,
    /// Records before then
    #[arg(long, value_name = "TIME", value_parser = point)]
    until: Option<Point>,
    /// The newest so many records only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Folder of the journal
    #[arg(long, value_name = "DIR", default_value_os_t = crate::agent::Paths::from_env().journal())]
    dir: PathBuf,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let filter = Filter::new(args, now());
    let start = match filter.since {
        Some(since) => Start::Since(since),
        None if args.follow => Start::Recent,
        None => Start::Oldest,
    };
    let mut reader = Reader::open(&args.dir, start).with_context(|| {
        format!("journal {}: cannot be read; --dir names another folder", args.dir.display())
    })?;
    let mut printer = Printer {
        out: Output::new(global),
        filter,
        damaged: false,
        // A limit is known to be reached only at the end: until then the newest are held back.
        held: (args.limit.map(|limit| limit as usize))
            .or(args.follow.then_some(FOLLOW_FROM))
            .map(|limit| (limit, VecDeque::new())),
    };
    loop {
        match reader.next_line().with_context(|| format!("journal {}", args.dir.display()))? {
            Some(line) => printer.line(line)?,
            None => {
                printer.release()?;
                if !args.follow || printer.filter.is_over(now()) {
                    break;
                }
                printer.out.flush()?;
                thread::sleep(POLL);
            }
        }
    }
    if !args.follow
        && let Some(torn) = reader.finish()
    {
        printer.line(torn)?;
    }
    let code = if printer.damaged { FINDING } else { OK };
    printer.out.finish()?;
    Ok(ExitCode::from(code))
}

struct Printer {
    out: Output,
    filter: Filter,
    damaged: bool,
    held: Option<(usize, VecDeque<(Line, FlowRecord)>)>,
}

impl Printer {
    fn line(&mut self, line: Line) -> io::Result<()> {
        let record = match line.record() {
            Ok(record) => record,
            Err(problem) => {
                self.damaged = true;
                logging::error(&format_args!("{}:{}: {problem}", line.path.display(), line.number));
                return Ok(());
            }
        };
        if !self.filter.matches(&record) {
            return Ok(());
        }
        match &mut self.held {
            None => self.print(&line, &record),
            Some((limit, held)) => {
                if held.len() == *limit {
                    held.pop_front();
                }
                held.push_back((line, record));
                Ok(())
            }
        }
    }

    fn release(&mut self) -> io::Result<()> {
        for (line, record) in self.held.take().map(|(_, held)| held).unwrap_or_default() {
            self.print(&line, &record)?;
        }
        Ok(())
    }

    fn print(&mut self, line: &Line, record: &FlowRecord) -> io::Result<()> {
        if self.out.is_json() {
            self.out.write_all(&line.bytes)?;
            return self.out.write_all(b"\n");
        }
        let paint = match record.verdict {
            Verdict::Allow => Paint::Green,
            Verdict::Block => Paint::Red,
            Verdict::WouldBlock => Paint::Yellow,
        };
        let verdict =
            self.out.paint(paint, &format!("{:11}", record.verdict.as_str())).into_owned();
        let time = self.out.paint(Paint::Dim, &clock(record.time)).into_owned();
        writeln!(self.out, "{time}  {verdict}  {}", crate::text::visible(&describe(record)))
    }
}

/// Everything after the verdict, on one line.
fn describe(record: &FlowRecord) -> String {
    let tag = record.tag.as_deref().unwrap_or("-");
    format!("{:18} {tag:10} {}  {}", record.reason.as_str(), path(record, 6), whom(record))
}

/// For narrow screens, without tag and verdict: what went where at what time of day; whose it is.
pub(super) fn two_lines(record: &FlowRecord) -> [String; 2] {
    let clock = clock(record.time);
    let time = clock.get(11..23).unwrap_or(&clock);
    [format!("{:16} {time} {}", record.reason.as_str(), path(record, 4)), whom(record)]
}

/// Protocol and both ends.
fn path(record: &FlowRecord, width: usize) -> String {
    let protocol = protocol_name(record.protocol)
        .map_or_else(|| format!("proto-{}", record.protocol), str::to_owned);
    let mut text = format!(
        "{protocol:width$} {} -> {}",
        endpoint(record.source, record.source_port),
        endpoint(record.destination, record.destination_port),
    );
    if let Some(icmp) = record.icmp {
        text += &format!(" type {} code {}", icmp.kind, icmp.code);
    }
    text
}

/// Place and operator of the destination, the process, and what a later record adds.
fn whom(record: &FlowRecord) -> String {
    let attributes = &record.attributes;
    let mut text = match attributes.scope.as_str() {
        "global" => format!("{}/{}", attributes.location, attributes.control),
        scope => scope.to_owned(),
    };
    if let Some(operator) = attributes.operator.as_ref().or(attributes.asn_name.as_ref()) {
        text += &format!(" {operator}");
    }
    if attributes.asn != 0 {
        text += &format!(" AS{}", attributes.asn);
    }
    if let Some(process) = &record.process
        && let Some(label) = process.label()
    {
        text += &match process.pid {
            Some(pid) => format!("  {label}[{pid}]"),
            None => format!("  {label}"),
        };
    }
    if record.kind != Kind::New {
        text += &format!("  +{} packets, {} bytes", record.packets, record.bytes);
    }
    text
}

fn endpoint(address: IpAddr, port: u16) -> String {
    match (address, port) {
        // A refused connect has no source yet.
        (address, 0) if address.is_unspecified() => "-".to_owned(),
        (address, 0) => address.to_string(),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    }
}

/// UTC, to the millisecond.
fn clock(unix_ns: u64) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ns))
        .ok()
        .and_then(|at| at.format(&format).ok())
        .unwrap_or_default()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Which records are shown.
struct Filter {
    tags: Vec<String>,
    reasons: Vec<String>,
    verdicts: Vec<String>,
    countries: Vec<String>,
    controls: Vec<String>,
    asns: Vec<u32>,
    operators: Vec<String>,
    processes: Vec<String>,
    destinations: Vec<IpNet>,
    since: Option<u64>,
    until: Option<u64>,
}

impl Filter {
    fn new(args: &Args, now: u64) -> Self {
        Self {
            tags: args.tag.clone(),
            reasons: args.reason.clone(),
            verdicts: args.verdict.clone(),
            countries: args.country.clone(),
            controls: args.control.clone(),
            asns: args.asn.clone(),
            operators: args.operator.clone(),
            processes: args.process.clone(),
            destinations: args.dst.clone(),
            since: args.since.map(|point| point.at(now)),
            until: args.until.map(|point| point.at(now)),
        }
    }

    fn is_over(&self, now: u64) -> bool {
        self.until.is_some_and(|until| now > until)
    }

    fn matches(&self, record: &FlowRecord) -> bool {
        let word = |wanted: &[String], word: &str| {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted == word)
        };
        let attributes = &record.attributes;
        self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && word(&self.tags, record.tag.as_deref().unwrap_or("untagged"))
            && word(&self.reasons, record.reason.as_str())
            && word(&self.verdicts, record.verdict.as_str())
            && word(&self.countries, &attributes.location.to_string())
            && word(&self.controls, &attributes.control.to_string())
            && word(&self.operators, attributes.operator.as_deref().unwrap_or(""))
            && (self.asns.is_empty() || self.asns.contains(&attributes.asn))
            && (self.destinations.is_empty()
                || self.destinations.iter().any(|d| d.contains(&record.destination)))
            && (self.processes.is_empty() || self.processes.iter().any(|p| is_process(record, p)))
    }
}

fn is_process(record: &FlowRecord, wanted: &str) -> bool {
    let Some(process) = &record.process else { return false };
    let names = [&process.comm, &process.exe, &process.unit, &process.container];
    let base = process.exe.as_deref().and_then(|exe| exe.rsplit('/').next());
    names.iter().any(|name| name.as_deref() == Some(wanted))
        || base == Some(wanted)
        || process.pid.is_some_and(|pid| wanted == pid.to_string())
}

fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(Reason::ALL.iter().map(|reason| reason.as_str()))
}

fn location(text: &str) -> Result<String, String> {
    crate::data::model::Location::parse(text)
        .map(|location| location.to_string())
        .ok_or_else(|| "write a two-letter country code, anycast or unknown".into())
}

fn control(text: &str) -> Result<String, String> {
    crate::data::model::Control::parse(text)
        .map(|control| control.to_string())
        .ok_or_else(|| "write a two-letter country code, contested or unknown".into())
}

fn asn(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("AS").or(text.strip_prefix("as")).unwrap_or(text);
    digits.parse().map_err(|_| "write a number up to 4294967295, with or without AS".into())
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let address = |text: &str| text.parse::<IpAddr>().map(IpNet::from).ok();
    (text.parse::<IpNet>().ok())
        .or_else(|| address(text))
        .ok_or_else(|| "write an address or a prefix, for example 13.112.0.0/14".into())
}

/// A point in time, or so many nanoseconds before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    At(u64),
    Ago(u64),
}

impl Point {
    fn at(self, now: u64) -> u64 {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.saturating_sub(ago),
        }
    }
}

fn point(text: &str) -> Result<Point, String> {
    const HELP: &str = "write RFC 3339 (2026-11-23T09:00:00+09:00), a date, or a time ago (10m)";
    let unit = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        'w' => Some(7 * 86_400),
        _ => None,
    };
    if let Some(last) = text.chars().last()
        && let Some(seconds) = unit(last)
        && let Ok(count) = text[..text.len() - 1].parse::<u64>()
    {
        return Ok(Point::Ago(count.saturating_mul(seconds).saturating_mul(SECOND)));
    }
    let date = || Date::parse(text, format_description!("[year]-[month]-[day]")).ok();
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(|| Some(date()?.midnight().assume_utc()))
        .and_then(|at| u64::try_from(at.unix_timestamp_nanos()).ok())
        .map(Point::At)
        .ok_or_else(|| HELP.into())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::flowlog::record::samples;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn matches(line: &str, record: &FlowRecord) -> bool {
        let words = ["flows"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|e| e.to_string()).expect(line);
        Filter::new(&line.args, record.time + 60 * SECOND).matches(record)
    }

    #[test]
    fn filters_narrow_and_values_widen() {
        let record = samples::full();
        for line in [
            "",
            "--tag koseki",
            "--tag other --tag koseki",
            "--reason foreign_control --verdict block",
            "--country jp --control US",
            "--asn 16509",
            "--asn AS16509 --operator aws",
            "--process curl",
            "--process /usr/bin/curl",
            "--process 4242",
            "--process koseki.service",
            "--dst 13.112.0.1",
            "--dst ::/0 --dst 13.0.0.0/8",
            "--since 61s --until 59s",
            "--since 2026-11-23 --until 2026-11-24T09:00:00+09:00",
        ] {
            assert!(matches(line, &record), "{line}");
        }
        for line in [
            "--tag other",
            "--tag untagged",
            "--tag koseki --verdict allow",
            "--reason foreign_location",
            "--country US",
            "--control JP",
            "--asn 1",
            "--operator sakura",
            "--process cur",
            "--dst 13.112.0.2",
            "--dst ::/0",
            "--since 59s",
            "--until 61s",
            "--until 2026-11-23",
        ] {
            assert!(!matches(line, &record), "{line}");
        }
        assert!(matches("--tag untagged --country unknown", &samples::bare()));
        assert!(!matches("--process curl", &samples::bare()));
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in [
            "--reason foreign",
            "--verdict blocked",
            "--country japan",
            "--asn -1",
            "--dst 1.2.3",
            "--since yesterday",
            "--since 5ä",
            "--since ä",
            "--limit 0",
        ] {
            let words = ["flows"].into_iter().chain(line.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn points_in_time() {
        assert_eq!(point("90s"), Ok(Point::Ago(90 * SECOND)));
        assert_eq!(point("2w"), Ok(Point::Ago(14 * 86_400 * SECOND)));
        assert_eq!(point("99999999999999999d"), Ok(Point::Ago(u64::MAX)));
        assert_eq!(point("1970-01-01T09:00:01+09:00"), Ok(Point::At(SECOND)));
        assert_eq!(point("1970-01-02"), Ok(Point::At(86_400 * SECOND)));
        assert!(point("1969-12-31").is_err());
        assert!(point("").is_err());
    }

    #[test]
    fn a_line_tells_the_whole_story() {
        let text = describe(&samples::full());
        let expected = "foreign_control    koseki     tcp    10.20.0.5:51514 -> 13.112.0.1:443  JP/US aws AS16509  curl[4242]";
        assert_eq!(text, expected);
        let text = describe(&samples::bare());
        assert!(text.contains("icmpv6 2001:db8::1 -> 2001:db8:ffff::2 type 128 code 0"), "{text}");
        assert!(text.ends_with("documentation  +1 packets, 60 bytes"), "{text}");
        assert_eq!(clock(1_795_466_760_123_456_789), "2026-11-23T20:46:00.123Z");
    }
}
