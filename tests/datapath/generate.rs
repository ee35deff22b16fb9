//! Random data and policies. Writes the same meaning twice: as TOML and a data set for the product,
//! as rows and tiers for the naive model.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sov_agent::data::{
    catalog::Catalog,
    dataset::Dataset,
    model::{self as data, ControlBasis, Country, SourceInfo},
};
use sov_tests::{
    model::{Attributes, Control, Location, Prefix, Rows, Rule, Target, Tier},
    rng::Rng,
};

/// A policy, its data, and what both mean.
pub(crate) struct World {
    pub(crate) policy: String,
    pub(crate) dataset: Dataset,
    pub(crate) rows: Rows,
    /// Tag name, mark, tier.
    pub(crate) tags: Vec<(String, u32, Tier)>,
    /// Prefixes of data, zones and rules: where errors hide.
    pub(crate) prefixes: Vec<Prefix>,
}

/// The moment of judgement that `until` is generated around, unix seconds.
pub(crate) struct Now(pub(crate) u64);

const COUNTRIES: [&str; 5] = ["JP", "US", "DE", "SG", "KR"];

/// Small: a handful of tiers with every kind of rule, over a few dozen nested prefixes.
pub(crate) fn small(seed: u64, now: &Now) -> World {
    let mut rng = Rng::new(seed);
    let catalog = Catalog::embedded().expect("the embedded catalog parses");
    let operators: Vec<String> = catalog.ids().take(12).map(str::to_owned).collect();
    let kinds = attributes(&mut rng, &operators, 12);
    let mut rows = Rows::default();
    for _ in 0..60 {
        let prefix = near(&mut rng, &rows);
        rows.push(prefix, rng.pick(&kinds).clone());
    }
    let mut text = header("random");
    let zones: Vec<Vec<Prefix>> =
        (0..2).map(|_| (0..3).map(|_| near(&mut rng, &rows)).collect()).collect();
    for (i, prefixes) in zones.iter().enumerate() {
        let list: Vec<String> = prefixes.iter().map(|p| format!("\"{p}\"")).collect();
        let _ = writeln!(text, "[[zone]]\nname = \"zone{i}\"\nprefixes = [{}]\n", list.join(", "));
    }
    let mut tags = vec![];
    let mut prefixes: Vec<Prefix> = zones.concat();
    for i in 0..3 {
        let tier = tier(&mut rng, i, &rows, &zones, &operators, now, &mut text);
        prefixes.extend(tier.allow.iter().chain(&tier.deny).filter_map(|rule| match rule.target {
            Target::Prefix(prefix) => Some(prefix),
            Target::Operator(_) => None,
        }));
        tags.push(tag(&mut text, i, tier));
    }
    prefixes.extend(rows.list.iter().map(|row| row.0));
    World { policy: text, dataset: dataset(&rows, catalog), rows, tags, prefixes }
}

/// Large: `v4` and `v6` random prefixes, three tiers by location and control.
pub(crate) fn large(seed: u64, v4: usize, v6: usize) -> World {
    let mut rng = Rng::new(seed);
    let catalog = Catalog::embedded().expect("the embedded catalog parses");
    let operators: Vec<String> = catalog.ids().take(40).map(str::to_owned).collect();
    let kinds = attributes(&mut rng, &operators, 60);
    let mut rows = Rows::default();
    for i in 0..v4 + v6 {
        let prefix = if i < v4 {
            // As in routing tables: mostly /16 to /24, some finer.
            let length = 12 + rng.below(13) as u8 + u8::from(rng.chance(5)) * 8;
            Prefix::new(Ipv4Addr::from(rng.u32()).into(), length)
        } else {
            let length = if rng.chance(5) { 65 + rng.below(64) } else { 20 + rng.below(45) } as u8;
            let bits = rng.u128() >> 3 | 1 << 125;
            Prefix::new(Ipv6Addr::from(bits).into(), length)
        };
        rows.push(prefix, rng.pick(&kinds).clone());
    }
    let mut text = header("large");
    let mut tags = vec![];
    for i in 0..3 {
        let tier = Tier {
            name: format!("tier{i}"),
            location: words(&mut rng, &COUNTRIES),
            control: words(&mut rng, &COUNTRIES),
            min_sources: 1 + i as u8,
            ..Tier::default()
        };
        write_tier(&mut text, &tier, &[]);
        tags.push(tag(&mut text, i, tier));
    }
    let prefixes = rows.list.iter().map(|row| row.0).collect();
    World { policy: text, dataset: dataset(&rows, catalog), rows, tags, prefixes }
}

fn header(name: &str) -> String {
    format!(
        "version = 1\nname = \"{name}\"\n\n[defaults]\nmode = \"enforce\"\nresponse = \"drop\"\n\
         max_data_age = \"3650d\"\n\n"
    )
}

/// Disjoint marks and equal ranks: the tiers need not contain one another.
fn tag(text: &mut String, i: usize, tier: Tier) -> (String, u32, Tier) {
    let (name, mark) = (format!("tag{i}"), 0x11 * (i as u32 + 1));
    let _ = writeln!(
        text,
        "[[tag]]\nname = \"{name}\"\ntier = \"{}\"\nrank = 1\nselect = [ {{ mark = \"{mark:#x}/0xff\" }}, {{ dscp = {} }} ]\n",
        tier.name,
        mark & 0xf
    );
    (name, mark, tier)
}

fn words(rng: &mut Rng, pool: &[&str]) -> Vec<String> {
    if rng.chance(10) {
        return vec!["*".into()];
    }
    let mut list: Vec<String> = pool.iter().map(|w| (*w).to_owned()).collect();
    let keep = 1 + rng.below(pool.len() - 1);
    while list.len() > keep {
        list.remove(rng.below(list.len()));
    }
    list
}

fn attributes(rng: &mut Rng, operators: &[String], count: usize) -> Vec<Attributes> {
    let one = |rng: &mut Rng| {
        let location = match rng.below(8) {
            0 => Location::Anycast,
            1 => Location::Unknown,
            _ => Location::Country((*rng.pick(&COUNTRIES)).into()),
        };
        let asn = if rng.chance(15) { 0 } else { 64_500 + rng.below(400) as u32 };
        let operator = (asn != 0 && rng.chance(60)).then(|| rng.pick(operators).clone());
        let control = match rng.below(8) {
            _ if asn == 0 => Control::Unknown,
            0 => Control::Unknown,
            1 => Control::Contested,
            _ => Control::Country((*rng.pick(&COUNTRIES)).into()),
        };
        let known = matches!(control, Control::Country(_));
        let catalog = known && operator.is_some() || matches!(control, Control::Contested);
        Attributes { location, sources: rng.below(4) as u8, asn, operator, control, catalog }
    };
    (0..count).map(|_| one(rng)).collect()
}

/// A prefix that overlaps what is there more often than not, of any length from /8 to a host.
fn near(rng: &mut Rng, rows: &Rows) -> Prefix {
    let six = rng.chance(50);
    let base: IpAddr = match rows.list.len() {
        n if n > 4 && rng.chance(60) => rows.list[rng.below(n)].0.last(),
        _ if six => Ipv6Addr::from(0x2400 << 112 | rng.u128() >> 20).into(),
        _ => Ipv4Addr::from(0x2000_0000 | rng.u32() >> 6).into(),
    };
    let length = match base {
        IpAddr::V4(_) => 8 + rng.below(25),
        // Half of them finer than /64.
        IpAddr::V6(_) => 20 + rng.below(109),
    };
    Prefix::new(base, length as u8)
}

fn tier(
    rng: &mut Rng,
    i: usize,
    rows: &Rows,
    zones: &[Vec<Prefix>],
    operators: &[String],
    now: &Now,
    text: &mut String,
) -> Tier {
    let named: Vec<usize> = (0..zones.len()).filter(|_| rng.chance(50)).collect();
    let mut tier = Tier {
        name: format!("tier{i}"),
        location: words(rng, &COUNTRIES),
        control: words(rng, &COUNTRIES),
        min_sources: 1 + rng.below(2) as u8,
        catalog_only: rng.chance(30),
        zones: named.iter().flat_map(|zone| zones[*zone].clone()).collect(),
        operators: if rng.chance(30) { operators[..8].to_vec() } else { vec![] },
        ..Tier::default()
    };
    for _ in 0..8 {
        let allow = rule(rng, rows, now);
        tier.allow.push(allow);
        let deny = rule(rng, rows, now);
        // The same prefix in both lists now and then: deny wins the tie.
        let tie = Rule { target: tier.allow[0].target.clone(), ports: vec![], until: None };
        tier.deny.push(if rng.chance(5) { tie } else { deny });
    }
    if rng.chance(50) {
        let target = Target::Operator(rng.pick(operators).clone());
        let Rule { ports, until, .. } = rule(rng, rows, now);
        tier.deny.push(Rule { target, ports, until });
    }
    dedup(&mut tier.allow);
    dedup(&mut tier.deny);
    write_tier(text, &tier, &named);
    tier
}

/// One rule per target: repeated rules are a finding of the compiler's, and none of this test's.
fn dedup(rules: &mut Vec<Rule>) {
    let mut seen = std::collections::HashSet::new();
    rules.retain(|rule| seen.insert(format!("{:?}", rule.target)));
}

fn rule(rng: &mut Rng, rows: &Rows, now: &Now) -> Rule {
    let mut ports = vec![];
    if rng.chance(30) {
        for _ in 0..1 + rng.below(2) {
            let low = rng.below(2000) as u16;
            let high = if rng.chance(50) { low } else { low + rng.below(500) as u16 };
            let range = (if rng.chance(50) { 6 } else { 17 }, low, high);
            if !ports.contains(&range) {
                ports.push(range);
            }
        }
    }
    // Well before or well after the moment of judgement.
    let until = match rng.below(10) {
        0 => Some(now.0 - 86_400),
        1 | 2 => Some(now.0 + 86_400),
        _ => None,
    };
    Rule { target: Target::Prefix(near(rng, rows)), ports, until }
}

fn write_tier(text: &mut String, tier: &Tier, zones: &[usize]) {
    let quoted = |list: &[String]| {
        let list: Vec<String> = list.iter().map(|w| format!("\"{w}\"")).collect();
        format!("[{}]", list.join(", "))
    };
    let set = |list: &[String]| if list == ["*"] { "\"*\"".to_owned() } else { quoted(list) };
    let _ = writeln!(text, "[[tier]]\nname = \"{}\"", tier.name);
    let _ = writeln!(text, "location = {}", set(&tier.location));
    let _ = writeln!(text, "control = {}", set(&tier.control));
    let _ = writeln!(text, "min_sources = {}", tier.min_sources);
    if tier.catalog_only {
        let _ = writeln!(text, "control_basis = \"catalog\"");
    }
    let zones: Vec<String> = zones.iter().map(|zone| format!("zone{zone}")).collect();
    let _ = writeln!(text, "zones = {}", quoted(&zones));
    if !tier.operators.is_empty() {
        let _ = writeln!(text, "operators = {}", quoted(&tier.operators));
    }
    for (name, rules) in [("allow", &tier.allow), ("deny", &tier.deny)] {
        let _ = writeln!(text, "{name} = [");
        for rule in rules {
            let _ = writeln!(text, "    {},", write_rule(rule));
        }
        let _ = writeln!(text, "]");
    }
    text.push('\n');
}

fn write_rule(rule: &Rule) -> String {
    let mut out = match &rule.target {
        Target::Prefix(prefix) => format!("{{ prefix = \"{prefix}\""),
        Target::Operator(id) => format!("{{ operator = \"{id}\""),
    };
    if !rule.ports.is_empty() {
        let ports: Vec<String> = rule
            .ports
            .iter()
            .map(|(protocol, low, high)| {
                let protocol = if *protocol == 6 { "tcp" } else { "udp" };
                let range = if low == high { low.to_string() } else { format!("{low}-{high}") };
                format!("\"{protocol}/{range}\"")
            })
            .collect();
        let _ = write!(out, ", ports = [{}]", ports.join(", "));
    }
    if let Some(until) = rule.until {
        let _ = write!(out, ", until = \"{}\"", rfc3339(until));
    }
    out + " }"
}

/// UTC, from days since the epoch (Howard Hinnant's civil-from-days).
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00")
}

/// A data set that knows no address.
pub(crate) fn no_data() -> Dataset {
    dataset(&Rows::default(), Catalog::embedded().expect("the embedded catalog parses"))
}

/// Flattens nested prefixes into the intervals that a data set is made of.
fn dataset(rows: &Rows, catalog: Catalog) -> Dataset {
    let mut kinds: Vec<Attributes> = vec![];
    let mut ids = std::collections::HashMap::new();
    let mut id = |attributes: &Attributes| {
        *ids.entry(attributes.clone()).or_insert_with(|| {
            kinds.push(attributes.clone());
            kinds.len() as u32 - 1
        })
    };
    let (mut v4, mut v6) = (vec![], vec![]);
    for six in [false, true] {
        let mut starts = std::collections::BTreeSet::new();
        starts.insert(0u128);
        for (prefix, _) in rows.list.iter().filter(|row| row.0.address.is_ipv6() == six) {
            starts.insert(bits(prefix.first()));
            starts.extend(sov_tests::model::offset(prefix.last(), 1).map(bits));
        }
        let mut last = None;
        for start in starts {
            let address: IpAddr = if six {
                Ipv6Addr::from(start).into()
            } else {
                Ipv4Addr::from(start as u32).into()
            };
            let here = id(rows.find(address).unwrap_or(&Attributes::unknown()));
            if last != Some(here) {
                last = Some(here);
                if six { v6.push((start, here)) } else { v4.push((start as u32, here)) }
            }
        }
    }
    let source = SourceInfo {
        id: "generated".into(),
        title: "generated".into(),
        built: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
        expires: None,
        licence: "none".into(),
        sha256: "0".repeat(64),
        records: rows.list.len() as u64,
    };
    let kinds = kinds.iter().map(to_data).collect();
    Dataset::from_intervals(v4, v6, kinds, vec![source], catalog).expect("intervals are sound")
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

fn to_data(known: &Attributes) -> data::Attributes {
    let country = |code: &str| Country::new(code).expect("two letters");
    let control_basis = match (&known.control, known.catalog) {
        (Control::Unknown, _) => ControlBasis::None,
        (_, true) => ControlBasis::Catalog,
        (_, false) => ControlBasis::Registered,
    };
    data::Attributes {
        location: match &known.location {
            Location::Country(code) => data::Location::Country(country(code)),
            Location::Anycast => data::Location::Anycast,
            Location::Unknown => data::Location::Unknown,
        },
        sources: known.sources,
        asn: known.asn,
        operator: known.operator.as_deref().map(Into::into),
        control: match &known.control {
            Control::Country(code) => data::Control::Country(country(code)),
            Control::Contested => data::Control::Contested,
            Control::Unknown => data::Control::Unknown,
        },
        control_basis,
        registered: None,
        provider_region: None,
        dataset: 0,
    }
}

/// The model's rows of a finished data set.
pub(crate) fn rows_of(dataset: &Dataset) -> Rows {
    let mut rows = Rows::default();
    let v4: Vec<_> = dataset.v4().collect();
    for (i, (start, id)) in v4.iter().enumerate() {
        let last = v4.get(i + 1).map_or(u32::MAX, |next| next.0 - 1);
        let (first, last) = (Ipv4Addr::from(*start), Ipv4Addr::from(last));
        rows.push_range(first.into(), last.into(), from_data(&dataset.attributes(*id)));
    }
    let v6: Vec<_> = dataset.v6().collect();
    for (i, (start, id)) in v6.iter().enumerate() {
        let last = v6.get(i + 1).map_or(u128::MAX, |next| next.0 - 1);
        let (first, last) = (Ipv6Addr::from(*start), Ipv6Addr::from(last));
        rows.push_range(first.into(), last.into(), from_data(&dataset.attributes(*id)));
    }
    rows
}

fn from_data(known: &data::Attributes) -> Attributes {
    Attributes {
        location: match known.location {
            data::Location::Country(code) => Location::Country(code.to_string()),
            data::Location::Anycast => Location::Anycast,
            data::Location::Unknown => Location::Unknown,
        },
        sources: known.sources,
        asn: known.asn,
        operator: known.operator.as_deref().map(str::to_owned),
        control: match known.control {
            data::Control::Country(code) => Control::Country(code.to_string()),
            data::Control::Contested => Control::Contested,
            data::Control::Unknown => Control::Unknown,
        },
        catalog: known.control_basis == ControlBasis::Catalog,
    }
}
