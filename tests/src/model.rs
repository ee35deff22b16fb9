//! The naive model: who may go where, straight from the policy's words, by linear scan.
//!
//! Shares no code with the compiler, the image or the classifier: no classes, no tries, no intervals.
//! It knows destinations, not packets. Slow on purpose; [`Rows`] is the one concession to a million
//! questions (a hash table per prefix length, still longest match first).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use sov_common::verdict::Reason;

/// A prefix of either family; host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

impl Prefix {
    /// Zeroes the host bits of `address`.
    pub fn new(address: IpAddr, length: u8) -> Self {
        let address = match address {
            IpAddr::V4(a) => Ipv4Addr::from(u32::from(a) & mask4(length)).into(),
            IpAddr::V6(a) => Ipv6Addr::from(u128::from(a) & mask6(length)).into(),
        };
        Self { address, length }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::new(address, self.length) == *self
    }

    pub fn first(&self) -> IpAddr {
        self.address
    }

    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => Ipv4Addr::from(u32::from(a) | !mask4(self.length)).into(),
            IpAddr::V6(a) => Ipv6Addr::from(u128::from(a) | !mask6(self.length)).into(),
        }
    }

    /// First, last and the addresses on either side of both, where they exist.
    pub fn edges(&self) -> Vec<IpAddr> {
        let (first, last) = (self.first(), self.last());
        let mut out = vec![first, last];
        out.extend(
            [offset(first, -1), offset(first, 1), offset(last, -1), offset(last, 1)]
                .into_iter()
                .flatten(),
        );
        out
    }
}

impl std::str::FromStr for Prefix {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = text.split_once('/').ok_or_else(|| text.to_owned())?;
        let address: IpAddr = address.parse().map_err(|_| text.to_owned())?;
        Ok(Self::new(address, length.parse().map_err(|_| text.to_owned())?))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The address `by` further on; `None` outside of its family.
pub fn offset(address: IpAddr, by: i8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => {
            u32::from(a).checked_add_signed(by.into()).map(|a| Ipv4Addr::from(a).into())
        }
        IpAddr::V6(a) => {
            u128::from(a).checked_add_signed(by.into()).map(|a| Ipv6Addr::from(a).into())
        }
    }
}

fn mask4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    Country(String),
    Anycast,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    Country(String),
    Contested,
    Unknown,
}

/// What is known of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    pub location: Location,
    pub sources: u8,
    pub asn: u32,
    pub operator: Option<String>,
    pub control: Control,
    /// The catalog names the controlling parent (else the registration country stands in).
    pub catalog: bool,
}

impl Attributes {
    pub fn unknown() -> Self {
        Self {
            location: Location::Unknown,
            sources: 0,
            asn: 0,
            operator: None,
            control: Control::Unknown,
            catalog: false,
        }
    }
}

/// Attributes of prefixes; the longest wins.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub list: Vec<(Prefix, Attributes)>,
    by_length: BTreeMap<(bool, u8), HashMap<IpAddr, usize>>,
    /// First address of each range, to its last and its attributes; asked where no prefix matches.
    ranges: BTreeMap<IpAddr, (IpAddr, Attributes)>,
}

impl Rows {
    /// A later row replaces an earlier one of the same prefix.
    pub fn push(&mut self, prefix: Prefix, attributes: Attributes) {
        let table = self.by_length.entry((prefix.address.is_ipv6(), prefix.length)).or_default();
        table.insert(prefix.address, self.list.len());
        self.list.push((prefix, attributes));
    }

    /// A range that is no prefix. Ranges must not overlap each other.
    pub fn push_range(&mut self, first: IpAddr, last: IpAddr, attributes: Attributes) {
        self.ranges.insert(first, (last, attributes));
    }

    /// First and last address of every range.
    pub fn ranges(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.ranges.iter().map(|(first, (last, _))| (*first, *last))
    }

    pub fn find(&self, address: IpAddr) -> Option<&Attributes> {
        let family = address.is_ipv6();
        for ((_, length), table) in self.by_length.range((family, 0)..=(family, 128)).rev() {
            if let Some(index) = table.get(&Prefix::new(address, *length).address) {
                return Some(&self.list[*index].1);
            }
        }
        let (_, (last, attributes)) = self.ranges.range(..=address).next_back()?;
        (address <= *last && last.is_ipv4() == address.is_ipv4()).then_some(attributes)
    }
}

/// One entry of a tier's `allow` or `deny`.
#[derive(Clone, Debug)]
pub struct Rule {
    pub target: Target,
    /// (protocol, lowest, highest port); empty = any.
    pub ports: Vec<(u8, u16, u16)>,
    /// Unix seconds.
    pub until: Option<u64>,
}

#[derive(Clone, Debug)]
pub enum Target {
    Prefix(Prefix),
    Operator(String),
}

#[derive(Clone, Debug, Default)]
pub struct Tier {
    pub name: String,
    /// "*" = any; empty = none.
    pub location: Vec<String>,
    pub control: Vec<String>,
    pub min_sources: u8,
    pub catalog_only: bool,
    /// Prefixes of the zones that the tier names.
    pub zones: Vec<Prefix>,
    pub operators: Vec<String>,
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    pub address: IpAddr,
    pub protocol: u8,
    pub port: u16,
    /// Unix seconds.
    pub now: u64,
}

/// The answer of a tier: whether the packet may go, and why.
pub fn judge(rows: &Rows, tier: &Tier, query: &Query) -> (bool, Reason) {
    match embedded(query.address) {
        Embedded::None => judge_plain(rows, tier, query),
        Embedded::Mapped => (false, Reason::Malformed),
        Embedded::One(inner) => judge_plain(rows, tier, &Query { address: inner.into(), ..*query }),
        Embedded::Two(server, client) => {
            let first = judge_plain(rows, tier, &Query { address: server.into(), ..*query });
            if !first.0 {
                return first;
            }
            judge_plain(rows, tier, &Query { address: client.into(), ..*query })
        }
    }
}

fn judge_plain(rows: &Rows, tier: &Tier, query: &Query) -> (bool, Reason) {
    let address = query.address;
    if loopback(address) {
        return (true, Reason::Scope);
    }
    let attributes = rows.find(address).cloned().unwrap_or_else(Attributes::unknown);

    // Explicit rules by prefix: longest first, deny before allow on a tie.
    let mut hits: Vec<(u8, bool, &Rule)> = vec![];
    for (allow, rules) in [(false, &tier.deny), (true, &tier.allow)] {
        for rule in rules.iter().filter(|rule| live(rule, query)) {
            if let Target::Prefix(prefix) = rule.target
                && prefix.contains(address)
            {
                hits.push((prefix.length, allow, rule));
            }
        }
    }
    hits.sort_by_key(|(length, allow, _)| (128 - length, *allow));
    let mut other_port = false;
    for (_, allow, rule) in hits {
        if port_matches(rule, query) {
            let reason = match (allow, rule.until) {
                (false, _) => Reason::DenyRule,
                (true, Some(_)) => Reason::Exception,
                (true, None) => Reason::AllowRule,
            };
            return (allow, reason);
        }
        other_port |= allow;
    }
    let refuse = |reason| (false, if other_port { Reason::Port } else { reason });

    if tier.zones.iter().any(|zone| zone.contains(address)) {
        return (true, Reason::Zone);
    }
    if special(address) {
        return refuse(Reason::Scope);
    }
    let denied = tier.deny.iter().any(|rule| {
        matches!(&rule.target, Target::Operator(id) if Some(id) == attributes.operator.as_ref())
            && live(rule, query)
            && port_matches(rule, query)
    });
    if denied {
        return (false, Reason::DenyRule);
    }
    match matrix(tier, &attributes) {
        None => (true, Reason::TierMatch),
        Some(reason) => refuse(reason),
    }
}

/// `None` if location, sources, control and operator are all in the tier's matrix.
fn matrix(tier: &Tier, known: &Attributes) -> Option<Reason> {
    let has = |list: &[String], word: &str| list.iter().any(|entry| entry == word || entry == "*");
    let (location, elsewhere) = match &known.location {
        Location::Country(code) => (code.as_str(), Reason::ForeignLocation),
        Location::Anycast => ("anycast", Reason::Unlocatable),
        Location::Unknown => ("unknown", Reason::Unlocatable),
    };
    if !has(&tier.location, location) {
        return Some(elsewhere);
    }
    // Sources agree on a country; anycast has none, and unknown space satisfies no demand for several.
    let agreed = match known.location {
        Location::Country(_) => known.sources >= tier.min_sources,
        Location::Unknown => tier.min_sources < 2,
        Location::Anycast => true,
    };
    if !agreed {
        return Some(Reason::Unlocatable);
    }
    // Nobody announces it: nobody is known to control it, whatever the data says besides.
    if known.asn == 0 && !tier.control.iter().any(|entry| entry == "*") {
        return Some(Reason::Unannounced);
    }
    let (control, elsewhere) = match &known.control {
        Control::Country(code) => (code.as_str(), Reason::ForeignControl),
        Control::Contested => ("contested", Reason::ContestedControl),
        Control::Unknown => ("unknown", Reason::UnlistedOperator),
    };
    if !has(&tier.control, control) {
        return Some(elsewhere);
    }
    let listed = known.operator.as_ref().is_some_and(|id| tier.operators.contains(id));
    if tier.catalog_only && !known.catalog || !tier.operators.is_empty() && !listed {
        return Some(Reason::UnlistedOperator);
    }
    None
}

fn live(rule: &Rule, query: &Query) -> bool {
    rule.until.is_none_or(|until| query.now < until)
}

fn port_matches(rule: &Rule, query: &Query) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().any(|(protocol, low, high)| {
            *protocol == query.protocol && (*low..=*high).contains(&query.port)
        })
}

enum Embedded {
    None,
    Mapped,
    One(Ipv4Addr),
    Two(Ipv4Addr, Ipv4Addr),
}

/// The IPv4 address inside an IPv6 one, by RFC 4291, 6052, 3056 and 4380.
fn embedded(address: IpAddr) -> Embedded {
    let IpAddr::V6(v6) = address else { return Embedded::None };
    let s = v6.segments();
    let join = |a: u16, b: u16| Ipv4Addr::from(u32::from(a) << 16 | u32::from(b));
    match s {
        [0, 0, 0, 0, 0, 0xffff, _, _] => Embedded::Mapped,
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Embedded::One(join(a, b)),
        [0x2002, a, b, ..] => Embedded::One(join(a, b)),
        [0x2001, 0, a, b, _, _, c, d] => Embedded::Two(join(a, b), join(!c, !d)),
        _ => Embedded::None,
    }
}

fn loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[0] == 127,
        IpAddr::V6(a) => a == Ipv6Addr::LOCALHOST,
    }
}

/// Not globally reachable, from the IANA special-purpose registries (2025) as plain prefixes.
pub fn special(address: IpAddr) -> bool {
    static GLOBAL_WITHIN: LazyLock<Vec<Prefix>> = LazyLock::new(|| {
        parse(&[
            "2001:1::1/128",
            "2001:1::2/128",
            "2001:1::3/128",
            "2001:3::/32",
            "2001:4:112::/48",
            "2001:20::/28",
            "2001:30::/28",
        ])
    });
    static SPECIAL: LazyLock<Vec<Prefix>> = LazyLock::new(|| {
        parse(&[
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
            "2001::/23",
            "2001:db8::/32",
            "3fff::/20",
        ])
    });
    let within = |list: &[Prefix]| list.iter().any(|prefix| prefix.contains(address));
    if let IpAddr::V6(a) = address {
        // Only 2000::/3 is global unicast.
        if a.segments()[0] >> 13 != 1 {
            return true;
        }
        if within(&GLOBAL_WITHIN) {
            return false;
        }
    }
    within(&SPECIAL)
}

fn parse(list: &[&str]) -> Vec<Prefix> {
    list.iter().map(|text| text.parse().expect("a constant prefix")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, country: &str, control: &str) -> (Prefix, Attributes) {
        let attributes = Attributes {
            location: Location::Country(country.into()),
            sources: 2,
            asn: 64500,
            operator: None,
            control: Control::Country(control.into()),
            catalog: true,
        };
        (text.parse().unwrap(), attributes)
    }

    #[test]
    fn the_words_of_the_design() {
        let mut rows = Rows::default();
        for (prefix, attributes) in [
            row("5.0.0.0/8", "JP", "JP"),
            row("5.1.0.0/16", "JP", "US"),
            row("6.0.0.0/8", "US", "US"),
        ] {
            rows.push(prefix, attributes);
        }
        let allow = Rule {
            target: Target::Prefix("5.1.2.0/24".parse().unwrap()),
            ports: vec![(6, 443, 443)],
            until: Some(1000),
        };
        let tier = Tier {
            location: vec!["JP".into()],
            control: vec!["JP".into()],
            min_sources: 2,
            zones: vec!["10.0.0.0/8".parse().unwrap()],
            allow: vec![allow],
            ..Tier::default()
        };
        let ask = |address: &str, protocol, port, now| {
            let address = address.parse().unwrap();
            judge(&rows, &tier, &Query { address, protocol, port, now })
        };
        assert_eq!(ask("5.0.0.1", 6, 1, 0), (true, Reason::TierMatch));
        assert_eq!(ask("5.1.0.1", 6, 1, 0), (false, Reason::ForeignControl));
        assert_eq!(ask("6.0.0.1", 6, 1, 0), (false, Reason::ForeignLocation));
        assert_eq!(ask("7.0.0.1", 6, 1, 0), (false, Reason::Unlocatable));
        assert_eq!(ask("5.1.2.3", 6, 443, 999), (true, Reason::Exception));
        assert_eq!(ask("5.1.2.3", 6, 443, 1000), (false, Reason::ForeignControl));
        assert_eq!(ask("5.1.2.3", 17, 443, 999), (false, Reason::Port));
        assert_eq!(ask("10.1.1.1", 17, 443, 999), (true, Reason::Zone));
        assert_eq!(ask("192.168.1.1", 17, 443, 999), (false, Reason::Scope));
        assert_eq!(ask("127.0.0.1", 17, 443, 999), (true, Reason::Scope));
        assert_eq!(ask("2002:500:1::1", 17, 1, 0), (true, Reason::TierMatch));
        assert_eq!(ask("64:ff9b::6.0.0.1", 17, 1, 0), (false, Reason::ForeignLocation));
        assert_eq!(ask("::ffff:5.0.0.1", 17, 1, 0), (false, Reason::Malformed));
    }
}
