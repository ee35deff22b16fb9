//! Random small policies and data, in a space small enough that everything overlaps.

use crate::{
    data::{
        catalog::{Catalog, Operator},
        dataset::Dataset,
        model::{Attributes, Control, ControlBasis, Country, Location},
    },
    policy::reach::Sample,
};
use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// splitmix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len() as u64) as usize]
    }

    fn some(&mut self, from: &[&str]) -> String {
        let chosen: Vec<_> =
            from.iter().filter(|_| self.one_in(2)).map(|s| format!("\"{s}\"")).collect();
        match self.below(6) {
            0 => "\"*\"".to_owned(),
            _ => format!("[{}]", chosen.join(", ")),
        }
    }
}

/// Bases of the prefixes: global, private, documentation, shared, link-local space of both families.
const BASES: [&str; 11] = [
    "8.8.0.0",
    "8.8.128.0",
    "9.0.0.0",
    "10.0.0.0",
    "100.64.0.0",
    "203.0.113.0",
    "169.254.0.0",
    "2400:1::",
    "2400:1:0:1::",
    "fd00::",
    "fe80::",
];

/// Addresses that no interval of the random data is about, and the special ones.
pub(super) const SPECIAL: [&str; 22] = [
    "0.0.0.0",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "224.0.0.1",
    "224.0.1.1",
    "239.1.1.1",
    "255.255.255.255",
    "192.88.99.1",
    "198.18.0.1",
    "::",
    "::1",
    "fe80::1",
    "fc00::",
    "fdff:ffff::",
    "ff02::1",
    "ff05::1",
    "2001:db8::1",
    "3fff::1",
    "4000::",
    "2001:1::1",
    "64:ff9b:1:fffe::808:1",
];

pub(super) fn address(random: &mut Random) -> IpAddr {
    let base: IpAddr = random.pick(&BASES).parse().unwrap();
    match base {
        IpAddr::V4(v4) => {
            // A few bits differ, so that prefixes and data meet.
            let noise = random.next() as u32 & *random.pick(&[0xffff, 0xff00, 0x0f0f, 0xff, 0]);
            let v4 = Ipv4Addr::from_bits(v4.to_bits() ^ noise);
            if !random.one_in(4) {
                return IpAddr::V4(v4);
            }
            let v4 = u128::from(v4.to_bits());
            let host = u128::from(random.next() as u32);
            let v6 = match random.below(5) {
                0 => 0xffff << 32 | v4,
                1 => 0x64_ff9b << 96 | v4,
                2 => 0x2002 << 112 | v4 << 80 | host,
                3 => 0x2001 << 112 | v4 << 64 | host,
                _ => 0x2001 << 112 | 0x0808_0001 << 64 | u128::from(!(v4 as u32)),
            };
            IpAddr::V6(Ipv6Addr::from_bits(v6))
        }
        IpAddr::V6(v6) => {
            let noise = u128::from(random.next()) << 64 | u128::from(random.next());
            let mask = *random.pick(&[0xffff_u128, 0xffff << 48, 0xffff << 64, 0xf << 80, 0]);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() ^ noise & mask))
        }
    }
}

fn prefix(random: &mut Random) -> String {
    loop {
        let (address, lengths): (_, &[u8]) = match address(random) {
            IpAddr::V4(v4) => (IpAddr::V4(v4), &[8, 12, 16, 20, 23, 24, 25, 28, 31, 32]),
            IpAddr::V6(v6) => (IpAddr::V6(v6), &[16, 32, 48, 56, 63, 64, 65, 96, 112, 127, 128]),
        };
        let net = ipnet::IpNet::new(address, *random.pick(lengths)).unwrap().trunc().to_string();
        if crate::policy::parse::values::rule_prefix(&net).is_ok() {
            return net;
        }
    }
}

pub(super) fn sample(random: &mut Random) -> Sample {
    let protocol = *random.pick(&[6, 6, 17, 1, 58, 47, 253]);
    let port = match protocol {
        6 | 17 => *random.pick(&[0, 52, 53, 54, 80, 443, 444, 999, 1000, 2000, 2001, 65535]),
        _ => 0,
    };
    Sample { protocol, port }
}

/// Times of expiry; the tests judge before, between and after them.
pub(super) const TIMES: [&str; 3] =
    ["2027-01-01T00:00:00Z", "2028-01-01T09:00:00+09:00", "2029-01-01T00:00:00Z"];

fn rule(random: &mut Random, allow: bool) -> String {
    let mut out = "  { ".to_owned();
    match (allow, random.below(5)) {
        (false, 0) => write!(out, "operator = \"{}\"", random.pick(&OPERATORS)).unwrap(),
        _ => write!(out, "prefix = \"{}\"", prefix(random)).unwrap(),
    }
    if random.one_in(3) {
        let all = ["tcp/443", "udp/53", "tcp/1000-2000", "icmp", "tcp", "47"];
        let one = *random.pick(&all);
        let two = *random.pick(&all);
        write!(out, ", ports = [\"{one}\", \"{two}\"]").unwrap();
    }
    if random.one_in(4) {
        let until = random.pick(&TIMES);
        write!(out, ", until = \"{until}\", owner = \"o\", ticket = \"t\"").unwrap();
    }
    out + " },\n"
}

fn rules(random: &mut Random, allow: bool, count: u64) -> String {
    (0..random.below(count + 1)).map(|_| rule(random, allow)).collect()
}

const COUNTRIES: [&str; 3] = ["JP", "US", "DE"];
const OPERATORS: [&str; 3] = ["alpha", "beta", "gamma"];

/// Two tiers with a tag each; `ranks` of the tags.
pub(super) fn policy(random: &mut Random, ranks: [u8; 2]) -> String {
    let mut out = "version = 1\nname = \"random\"\nnat64 = [\"64:ff9b:1:fffe::/96\"]\n".to_owned();
    for zone in ["z0", "z1"] {
        let list: Vec<_> =
            (0..random.below(4)).map(|_| format!("\"{}\"", prefix(random))).collect();
        write!(out, "[[zone]]\nname = \"{zone}\"\nprefixes = [{}]\n", list.join(", ")).unwrap();
    }
    let deny = rules(random, false, 6);
    let allow = rules(random, true, 8);
    let location = random.some(&["JP", "US", "anycast", "unknown"]);
    let control = random.some(&["JP", "US", "contested", "unknown"]);
    for (tier, rank) in ranks.iter().enumerate() {
        // Tiers of different rank are often alike, or no lattice would ever hold.
        let alike = ranks[0] != ranks[1] && !random.one_in(4);
        let own = |random: &mut Random, text: &str, values: &[&str]| {
            if alike { text.to_owned() } else { random.some(values) }
        };
        let location = own(random, &location, &["JP", "US", "anycast", "unknown"]);
        let control = own(random, &control, &["JP", "US", "contested", "unknown"]);
        write!(out, "[[tier]]\nname = \"t{tier}\"\nlocation = {location}\ncontrol = {control}\n")
            .unwrap();
        if !alike {
            let (sources, basis) = (1 + random.below(3), *random.pick(&["any", "catalog"]));
            write!(out, "min_sources = {sources}\ncontrol_basis = \"{basis}\"\n").unwrap();
            if random.one_in(3) {
                writeln!(out, "operators = {}", random.some(&OPERATORS)).unwrap();
            }
            writeln!(out, "zones = {}", random.pick(&["[]", "[\"z0\"]", "[\"z1\", \"z0\"]"]))
                .unwrap();
        }
        let (deny, allow) = match alike {
            // The second tier denies no more and allows no less.
            true if tier == 0 => (deny.clone() + &rules(random, false, 2), allow.clone()),
            true => (deny.clone(), allow.clone() + &rules(random, true, 2)),
            false => (rules(random, false, 6), rules(random, true, 8)),
        };
        write!(out, "deny = [\n{deny}]\nallow = [\n{allow}]\n").unwrap();
        write!(
            out,
            "[[tag]]\nname = \"g{tier}\"\ntier = \"t{tier}\"\nrank = {rank}\nselect = [{{ mark = \"{}\" }}]\n",
            tier + 1
        )
        .unwrap();
    }
    out
}

/// Data whose intervals begin where prefixes may.
pub(super) fn data(random: &mut Random) -> Dataset {
    let country = |random: &mut Random| {
        let code: &&str = random.pick(&COUNTRIES);
        Country::new(code).unwrap()
    };
    let mut attributes = vec![Attributes::UNKNOWN];
    for _ in 0..12 {
        let operator = random.one_in(2).then(|| Box::from(*random.pick(&OPERATORS)));
        attributes.push(Attributes {
            location: match random.below(5) {
                0 => Location::Anycast,
                1 => Location::Unknown,
                _ => Location::Country(country(random)),
            },
            sources: random.below(4) as u8,
            asn: if random.one_in(5) { 0 } else { 64500 + random.below(4) as u32 },
            control: match random.below(5) {
                0 => Control::Contested,
                1 => Control::Unknown,
                _ => Control::Country(country(random)),
            },
            control_basis: *random.pick(&[
                ControlBasis::Catalog,
                ControlBasis::Registered,
                ControlBasis::None,
            ]),
            operator,
            ..Attributes::UNKNOWN
        });
    }
    let (mut v4, mut v6) = (vec![0u32], vec![0u128]);
    for _ in 0..40 {
        match address(random) {
            IpAddr::V4(address) => v4.push(address.to_bits()),
            IpAddr::V6(address) => v6.push(address.to_bits()),
        }
    }
    let mut id = || random.below(13) as u32;
    let mut v4: Vec<_> = v4.into_iter().map(|start| (start, id())).collect();
    let mut v6: Vec<_> = v6.into_iter().map(|start| (start, id())).collect();
    v4.sort_unstable();
    v4.dedup_by_key(|interval| interval.0);
    v6.sort_unstable();
    v6.dedup_by_key(|interval| interval.0);
    let operators = OPERATORS.iter().zip(1u32..).map(|(id, asn)| Operator {
        id: (*id).to_owned(),
        name: (*id).to_owned(),
        group: String::new(),
        control: Control::Unknown,
        anycast: false,
        certifications: Vec::new(),
        asns: vec![(asn, None)],
    });
    let catalog = Catalog::new(operators.collect()).unwrap();
    Dataset::from_intervals(v4, v6, attributes, Vec::new(), catalog).unwrap()
}
