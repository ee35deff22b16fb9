//! The operator catalog: who runs an ASN, and whose law reaches its controlling parent.
//!
//! Operators are matched by ASN, never by name: names collide ("SAKURA LINK LIMITED" is not SAKURA
//! internet). Certifications are facts with a validity, given by the catalog file and nowhere else.

use super::{
    model::{Control, Country},
    prefixes::{parse_asn, parse_country},
    text::{Field, Problem, Problems, Report, Row, rows},
};
use std::collections::BTreeMap;

/// The file in the repository's `data/`.
pub const EMBEDDED: &[u8] = include_bytes!("../../../data/operators.csv");

/// A certification that an operator holds, for example `govcloud`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certification {
    pub name: String,
    /// First day, unix seconds at 00:00 UTC.
    pub from: u64,
    /// Last day's end, unix seconds; `None` = no end is known.
    pub until: Option<u64>,
}

/// One operator; several ASNs may belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Stable slug, for example `sakura`.
    pub id: String,
    pub name: String,
    /// The group it belongs to, empty where none is recorded.
    pub group: String,
    pub control: Control,
    /// Announces the same addresses from many places: its space has no location.
    pub anycast: bool,
    pub certifications: Vec<Certification>,
    /// Each ASN with its registration country.
    pub asns: Vec<(u32, Option<Country>)>,
}

/// All operators, by id and by ASN.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    operators: Vec<Operator>,
    by_id: BTreeMap<String, usize>,
    by_asn: BTreeMap<u32, usize>,
}

impl Catalog {
    /// `Err` names an id or ASN that occurs twice.
    pub fn new(operators: Vec<Operator>) -> Result<Self, String> {
        let mut catalog = Self { operators, ..Self::default() };
        for (index, operator) in catalog.operators.iter().enumerate() {
            if catalog.by_id.insert(operator.id.clone(), index).is_some() {
                return Err(format!("operator {} occurs twice", operator.id));
            }
            for (asn, _) in &operator.asns {
                if catalog.by_asn.insert(*asn, index).is_some() {
                    return Err(format!("AS{asn} belongs to two operators"));
                }
            }
        }
        Ok(catalog)
    }

    /// The catalog that the binary carries.
    pub fn embedded() -> Result<Self, Problems> {
        parse("operators.csv (embedded)", EMBEDDED)
    }

    /// This catalog with a site's own over it: the site's operators replace those of the same id, and
    /// take the AS numbers that they name from all others.
    pub fn overlaid(self, site: &Self) -> Self {
        let mut operators = self.operators;
        operators.retain(|operator| site.by_id(&operator.id).is_none());
        for operator in &mut operators {
            operator.asns.retain(|(asn, _)| site.by_asn(*asn).is_none());
        }
        operators.extend(site.operators.iter().cloned());
        let mut catalog = Self { operators, ..Self::default() };
        for (index, operator) in catalog.operators.iter().enumerate() {
            catalog.by_id.insert(operator.id.clone(), index);
            catalog.by_asn.extend(operator.asns.iter().map(|(asn, _)| (*asn, index)));
        }
        catalog
    }

    pub fn by_asn(&self, asn: u32) -> Option<&Operator> {
        self.by_asn.get(&asn).map(|index| &self.operators[*index])
    }

    pub fn by_id(&self, id: &str) -> Option<&Operator> {
        self.by_id.get(id).map(|index| &self.operators[*index])
    }

    /// All operators, in the catalog's order.
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// All ids, sorted: for suggestions.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.by_id.keys().map(String::as_str)
    }
}

pub const HEADER: [&str; 9] = [
    "id",
    "name",
    "asn",
    "group",
    "control",
    "registered",
    "anycast",
    "certifications",
    "evidence",
];

/// Reads a catalog file: one row per ASN; rows of one id must agree in all that concerns the operator.
/// `file` is for messages.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Catalog, Problems> {
    let mut report = Report::new(file);
    let mut operators: Vec<(Operator, usize)> = Vec::new();
    let mut by_id: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines_of_asn: BTreeMap<u32, usize> = BTreeMap::new();
    for row in rows(bytes, &HEADER, &mut report) {
        let Some(operator) = parse_row(&row, &mut report) else { continue };
        let asn = operator.asns[0].0;
        if let Some(line) = lines_of_asn.insert(asn, row.line) {
            report.add(
                row.line,
                row.fields[2].column,
                format!("AS{asn} stands in line {line} too"),
                "an AS number belongs to one operator; remove one row",
            );
            continue;
        }
        let Some(index) = by_id.get(&operator.id) else {
            by_id.insert(operator.id.clone(), operators.len());
            operators.push((operator, row.line));
            continue;
        };
        let (first, line) = &mut operators[*index];
        let mut same = operator.clone();
        same.asns.clone_from(&first.asns);
        if same == *first {
            first.asns.extend(operator.asns);
        } else {
            report.add(
                row.line,
                1,
                format!("operator {} is described otherwise in line {line}", operator.id),
                "make name, group, control, anycast and certifications equal, or use another id",
            );
        }
    }
    let operators: Vec<_> =
        report.finish(operators)?.into_iter().map(|(operator, _)| operator).collect();
    Catalog::new(operators).map_err(|message| {
        Problem { file: file.to_owned(), line: 0, column: 0, message, fix: "remove one".into() }
            .into()
    })
}

/// An operator with one ASN.
fn parse_row(row: &Row, report: &mut Report<'_>) -> Option<Operator> {
    let [id, name, asn, group, control, registered, anycast, certifications, _] = &row.fields[..]
    else {
        return None;
    };
    let before = report.count();
    let mut wrong = |field: &Field, what: &str, fix: &str| {
        let message = format!("`{}` is {what}", field.text.escape_debug());
        report.add(row.line, field.column, message, fix);
    };
    let slug = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if id.text.is_empty() || !id.text.bytes().all(slug) {
        wrong(id, "no operator id", "use lower-case letters, digits and `-`");
    }
    if name.text.trim().is_empty() {
        wrong(name, "no name", "write the operator's name");
    }
    let number = parse_asn(&asn.text).filter(|number| *number != 0);
    if number.is_none() {
        wrong(asn, "no AS number", "write a decimal number above 0");
    }
    let controlled = match control.text.as_str() {
        "contested" => Some(Control::Contested),
        text => parse_country(text).map(Control::Country),
    };
    if controlled.is_none() {
        wrong(control, "no control", "write the two capital letters of ISO 3166, or contested");
    }
    let home = parse_country(&registered.text);
    if home.is_none() && !registered.text.is_empty() {
        wrong(registered, "no country", "write two capital letters, or leave it empty");
    }
    if !matches!(anycast.text.as_str(), "yes" | "no") {
        wrong(anycast, "neither yes nor no", "write yes or no");
    }
    let mut held = Vec::new();
    for text in certifications.text.split_whitespace() {
        match parse_certification(text) {
            Some(certification) => held.push(certification),
            None => wrong(
                certifications,
                "no list of certifications",
                "write name:2021-10-26..2026-03-31, or name:2021-10-26.. without a last day",
            ),
        }
    }
    if report.count() != before {
        return None;
    }
    Some(Operator {
        id: id.text.clone(),
        name: name.text.clone(),
        group: group.text.clone(),
        control: controlled?,
        anycast: anycast.text == "yes",
        certifications: held,
        asns: vec![(number?, home)],
    })
}

fn parse_certification(text: &str) -> Option<Certification> {
    let (name, days) = text.split_once(':')?;
    let (from, until) = days.split_once("..")?;
    let slug = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || !name.bytes().all(slug) {
        return None;
    }
    let from = day_start(from)?;
    let until = match until {
        "" => None,
        day => Some(day_start(day)?.checked_add(24 * 60 * 60 - 1)?),
    };
    if until.is_some_and(|until| until < from) {
        return None;
    }
    Some(Certification { name: name.to_owned(), from, until })
}

/// `2026-03-31` as unix seconds at 00:00 UTC; `None` for other texts and days before 1970.
pub fn day_start(text: &str) -> Option<u64> {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    let day = time::Date::parse(text, format).ok()?;
    u64::try_from(day.midnight().assume_utc().unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "id,name,asn,group,control,registered,anycast,certifications,evidence\n";

    fn errors(rows: &str) -> Vec<String> {
        let problems = parse("o.csv", format!("{HEAD}{rows}").as_bytes()).unwrap_err();
        problems.list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reads_the_shipped_catalog() {
        let catalog = Catalog::embedded().unwrap();
        let sakura = catalog.by_asn(9370).unwrap();
        assert_eq!((sakura.id.as_str(), sakura.asns.len()), ("sakura", 4));
        assert_eq!(sakura.control, Control::Country(Country::new("JP").unwrap()));
        let conditional = &sakura.certifications[0];
        assert_eq!(conditional.name, "govcloud-conditional");
        assert_eq!(conditional.until, Some(1_774_915_200 + 86_399));
        let aws = catalog.by_id("aws").unwrap();
        assert_eq!(aws.control, Control::Country(Country::new("US").unwrap()));
        assert!(aws.certifications.iter().any(|c| c.name == "govcloud" && c.until.is_none()));
        assert!(catalog.by_id("cloudflare").unwrap().anycast);
        assert_eq!(catalog.by_asn(2914).unwrap().control, Control::Contested);
        assert_eq!(catalog.by_asn(2518).unwrap().group, "KDDI");
        assert!(catalog.ids().is_sorted());
        let asns: usize = catalog.operators().iter().map(|operator| operator.asns.len()).sum();
        assert_eq!(asns, 171);
    }

    #[test]
    fn reports_all_problems_at_once_with_their_place() {
        let found = errors(
            "Bad,,0,,jp,J,maybe,govcloud,\n\
             ok,Ok,1,,JP,,no,,\n\
             ok,Other,2,,JP,,no,,\n\
             ok,Ok,1,,JP,,no,,\n\
             c,C,3,,contested,US,yes,a:2026-01-02..2026-01-01,\n\
             d,D,4,,contested,US,yes,a:2026-02-30..,\n\
             e,E\x1b[2J,5,g\u{202e},JP,JP,no,,\n\
             f,F,6,g\u{202e},JP,JP,no,,\n",
        );
        let places: Vec<_> = found.iter().map(|e| e.split(": ").next().unwrap()).collect();
        assert_eq!(
            places,
            [
                "o.csv:2:1",
                "o.csv:2:5",
                "o.csv:2:6",
                "o.csv:2:9",
                "o.csv:2:12",
                "o.csv:2:14",
                "o.csv:2:20",
                "o.csv:4:1",
                "o.csv:5:7",
                "o.csv:6:25",
                "o.csv:7:25",
                "o.csv:8:4",
                "o.csv:9:8",
            ],
            "{found:#?}"
        );
        // A site may have no operators of its own.
        assert!(parse("o.csv", HEAD.as_bytes()).unwrap().operators().is_empty());
    }

    #[test]
    fn a_site_catalog_replaces_operators_and_takes_their_asns() {
        let base = parse(
            "o.csv",
            format!("{HEAD}a,A,1,,JP,JP,no,,\na,A,2,,JP,JP,no,,\nb,B,3,,US,US,no,,\n").as_bytes(),
        );
        let site =
            parse("s.csv", format!("{HEAD}c,C,2,,DE,DE,no,,\nb,B2,4,,FR,FR,no,,\n").as_bytes());
        let merged = base.unwrap().overlaid(&site.unwrap());
        let id = |asn| merged.by_asn(asn).map(|operator| operator.id.as_str());
        assert_eq!((id(1), id(2), id(3), id(4)), (Some("a"), Some("c"), None, Some("b")));
        assert_eq!(merged.by_id("b").unwrap().name, "B2");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse("o.csv", &[HEAD.as_bytes(), &bytes].concat());
        }
    }
}
