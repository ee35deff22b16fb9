//! Prefix lists: `prefix,country,asn` rows that locate address space and name its origin.
//!
//! Strict: a prefix that is not exactly a prefix, or that says something about space another row has
//! already described, is refused together with the whole file.

use super::{
    model::Country,
    text::{Problems, Report, Row, rows},
};
use ipnet::IpNet;

pub const HEADER: [&str; 3] = ["prefix", "country", "asn"];

/// One row. ASN 0 = not announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixRow {
    pub prefix: IpNet,
    pub country: Country,
    pub asn: u32,
}

/// Whether rows must stand in address order, IPv4 first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Required,
    Free,
}

/// Reads a list; the result is in address order, IPv4 first, without overlaps. `file` is for messages.
pub fn parse(file: &str, bytes: &[u8], order: Order) -> Result<Vec<PrefixRow>, Problems> {
    let mut report = Report::new(file);
    let mut list: Vec<(PrefixRow, usize)> = Vec::new();
    for row in rows(bytes, &HEADER, &mut report) {
        let Some(parsed) = parse_row(&row, &mut report) else { continue };
        if order == Order::Required
            && let Some((previous, line)) = list.last()
            && previous.prefix > parsed.prefix
        {
            report.add(
                row.line,
                1,
                format!("{} stands after {} of line {line}", parsed.prefix, previous.prefix),
                "sort the rows by address, IPv4 first",
            );
        }
        list.push((parsed, row.line));
    }
    // A prefix sorts directly before those that it contains.
    list.sort_by_key(|(row, line)| (row.prefix, *line));
    let mut outer: Option<(PrefixRow, usize)> = None;
    for (row, line) in &list {
        match outer {
            Some((outer, outer_line)) if outer.prefix.contains(&row.prefix) => {
                let message = if outer.prefix == row.prefix {
                    format!("{} is a duplicate of line {outer_line}", row.prefix)
                } else {
                    format!("{} lies inside {} of line {outer_line}", row.prefix, outer.prefix)
                };
                report.add(*line, 1, message, "keep one row, or split the larger prefix");
            }
            _ => outer = Some((*row, *line)),
        }
    }
    report.finish(list.into_iter().map(|(row, _)| row).collect())
}

fn parse_row(row: &Row, report: &mut Report<'_>) -> Option<PrefixRow> {
    let [prefix, country, asn] = &row.fields[..] else { return None };
    let parsed_prefix = match prefix.text.parse::<IpNet>() {
        Ok(net) if net.trunc() != net => {
            report.add(
                row.line,
                prefix.column,
                format!("prefix {net} has host bits set"),
                format!("write {}", net.trunc()),
            );
            None
        }
        Ok(net) => Some(net),
        Err(_) => {
            report.add(
                row.line,
                prefix.column,
                format!("`{}` is no prefix", prefix.text.escape_debug()),
                "write it like 192.0.2.0/24 or 2001:db8::/32",
            );
            None
        }
    };
    let parsed_country = parse_country(&country.text);
    if parsed_country.is_none() {
        report.add(
            row.line,
            country.column,
            format!("`{}` is no country", country.text.escape_debug()),
            "write the two capital letters of ISO 3166, like JP",
        );
    }
    let parsed_asn = parse_asn(&asn.text);
    if parsed_asn.is_none() {
        report.add(
            row.line,
            asn.column,
            format!("`{}` is no AS number", asn.text.escape_debug()),
            "write a decimal number, or 0 for space that is not announced",
        );
    }
    Some(PrefixRow { prefix: parsed_prefix?, country: parsed_country?, asn: parsed_asn? })
}

/// Two capital letters; unlike [`Country::new`], nothing else.
pub fn parse_country(text: &str) -> Option<Country> {
    let country = Country::new(text)?;
    (country.as_str() == text).then_some(country)
}

/// Digits only: no sign, no blanks.
pub fn parse_asn(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str, order: Order) -> Vec<String> {
        let problems = parse("p.csv", text.as_bytes(), order).unwrap_err();
        problems.list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reports_all_problems_at_once_with_their_fix() {
        let text = "prefix,country,asn\n\
                    10.0.0.1/24,JP,1\n\
                    10.0.0.0/33,jp,x\n\
                    192.0.2.0/24,JP,4294967296\n\
                    192.0.2.0/24,JP,+1\n";
        let found = errors(text, Order::Free);
        assert_eq!(found[0], "p.csv:2:1: prefix 10.0.0.1/24 has host bits set; write 10.0.0.0/24");
        let places: Vec<_> =
            found.iter().map(|e| e.split(": ").next().unwrap().to_owned()).collect();
        assert_eq!(
            places,
            ["p.csv:2:1", "p.csv:3:1", "p.csv:3:13", "p.csv:3:16", "p.csv:4:17", "p.csv:5:17"]
        );
    }

    #[test]
    fn refuses_duplicates_overlaps_and_disorder() {
        let head = "prefix,country,asn\n";
        let twice = format!("{head}10.0.0.0/8,JP,1\n10.0.0.0/8,DE,1\n");
        assert!(
            errors(&twice, Order::Free)[0]
                .starts_with("p.csv:3:1: 10.0.0.0/8 is a duplicate of line 2")
        );
        // The containing prefix need not be the neighbour.
        let inside = format!("{head}10.0.0.0/8,JP,1\n10.1.0.0/16,JP,1\n10.2.0.0/16,JP,1\n");
        assert_eq!(errors(&inside, Order::Required).len(), 2);
        let order = format!("{head}2001:db8::/32,JP,1\n10.0.0.0/8,JP,1\n");
        assert_eq!(errors(&order, Order::Required).len(), 1);
        let rows = parse("p.csv", order.as_bytes(), Order::Free).unwrap();
        assert_eq!(rows[0].prefix.to_string(), "10.0.0.0/8");
    }

    #[test]
    fn reads_the_shipped_snapshot() {
        let bytes = include_bytes!("../../../data/jp_snapshot.csv");
        let rows = parse("jp_snapshot.csv", bytes, Order::Required).unwrap();
        let v4 = rows.iter().filter(|row| matches!(row.prefix, IpNet::V4(_))).count();
        assert_eq!((v4, rows.len() - v4), (12_662, 3_828));
        assert!(rows.iter().all(|row| row.country.as_str() == "JP"));
    }
}
