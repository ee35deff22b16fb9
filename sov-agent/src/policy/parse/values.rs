//! The small grammars inside a policy's strings: prefixes, ports, marks, times, endpoints.
//!
//! Each takes a text and gives a value, or what is wrong and the fix.

use super::super::{image::PortRange, model::Endpoint};
use crate::text::is_hidden;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Bytes of an owner, ticket or reason: every record of the rule carries them.
const MAX_REMARK: usize = 256;

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub code: &'static str,
    pub message: String,
    pub help: String,
}

fn wrong<T>(
    code: &'static str,
    message: impl Into<String>,
    help: impl Into<String>,
) -> Result<T, Wrong> {
    Err(Wrong { code, message: message.into(), help: help.into() })
}

/// At most this much of a bad text is repeated in a message.
pub fn short(text: &str) -> String {
    let mut out: String = text.chars().take(60).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

/// A prefix without host bits; an address alone is a prefix of full length.
pub fn prefix(text: &str) -> Result<IpNet, Wrong> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => match text.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => {
                return wrong(
                    "prefix",
                    format!("`{}` is not a prefix", short(text)),
                    "write an IPv4 or IPv6 prefix such as \"203.0.113.0/24\" or \"2001:db8::/32\"",
                );
            }
        },
    };
    if net.trunc() != net {
        let right = net.trunc();
        return wrong(
            "host-bits",
            format!("prefix {net} has host bits set"),
            format!("write \"{right}\", or \"{}\" for the one address", net.addr()),
        );
    }
    Ok(net)
}

/// Address space that carries an IPv4 address inside and is judged by that address.
pub const EMBEDDING: [(Ipv6Net, &str); 4] = [
    (Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), "IPv4-mapped"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96), "NAT64"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), "6to4"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32), "Teredo"),
];

/// A [`prefix`] that traffic can be judged by: not inside [`EMBEDDING`] space.
pub fn rule_prefix(text: &str) -> Result<IpNet, Wrong> {
    let net = prefix(text)?;
    let IpNet::V6(v6) = net else { return Ok(net) };
    for (space, what) in EMBEDDING {
        if space.contains(&v6) {
            let help = match inner(v6, what) {
                Some(v4) => format!("write the IPv4 prefix \"{v4}\""),
                None => "write the IPv4 prefix of the endpoint".to_owned(),
            };
            return wrong(
                "embedded-ipv4",
                format!("{net} is {what} space, which is judged as the IPv4 address inside"),
                help,
            );
        }
    }
    Ok(net)
}

/// The IPv4 prefix inside a prefix of embedding space, where it is whole.
fn inner(net: Ipv6Net, what: &str) -> Option<Ipv4Net> {
    let (shift, skipped) = match what {
        "6to4" => (80, 16),
        "Teredo" => return None,
        _ => (0, 96),
    };
    let bits = (u128::from(net.addr()) >> shift) as u32;
    let length = (net.prefix_len() - skipped).min(32);
    Ipv4Net::new(Ipv4Addr::from(bits), length).ok().map(|v4| v4.trunc())
}

/// `"64:ff9b:1:fffe::/96"`.
pub fn nat64_prefix(text: &str) -> Result<Ipv6Net, Wrong> {
    match prefix(text)? {
        IpNet::V6(net) if net.prefix_len() == 96 => {
            if EMBEDDING.iter().any(|(space, _)| space.contains(&net)) {
                return wrong(
                    "nat64",
                    format!("{net} is recognised without being listed"),
                    "remove it",
                );
            }
            Ok(net)
        }
        net => wrong(
            "nat64",
            format!("{net} is not an IPv6 /96"),
            "write a NAT64 prefix of RFC 6052 with length 96; other lengths are not supported",
        ),
    }
}

const PROTOCOLS: [(&str, u8); 9] = [
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("sctp", 132),
];

/// Protocols that have ports.
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

/// `tcp` for 6, otherwise the number.
pub fn protocol_name(number: u8) -> String {
    match PROTOCOLS.iter().find(|p| p.1 == number) {
        Some(p) => p.0.to_owned(),
        None => number.to_string(),
    }
}

fn protocol(text: &str) -> Option<u8> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|p| p.1);
    known.or_else(|| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())))
}

const PORTS_HELP: &str =
    "write \"tcp/443\", \"udp/1000-2000\", or a protocol alone: \"tcp\", \"icmp\", \"47\"";

/// `tcp/443`, `udp/1000-2000`, `tcp`, `icmp`, `47`. `icmp` covers ICMPv6 too.
pub fn ports(text: &str) -> Result<Vec<PortRange>, Wrong> {
    let bad = |why: String| wrong("ports", why, PORTS_HELP);
    let (name, range) = match text.split_once('/') {
        Some((name, range)) => (name, Some(range)),
        None => (text, None),
    };
    let Some(number) = protocol(name) else {
        return bad(format!("`{}` names no protocol", short(text)));
    };
    let Some(range) = range else {
        let whole = |protocol| PortRange { protocol, low: 0, high: u16::MAX };
        let mut ranges = vec![whole(number)];
        if name == "icmp" {
            ranges.push(whole(58));
        }
        return Ok(ranges);
    };
    if !has_ports(number) {
        return bad(format!("protocol {name} has no ports"));
    }
    let (low, high) = range.split_once('-').unwrap_or((range, range));
    match (port(low), port(high)) {
        (Some(low), Some(high)) if low <= high => {
            Ok(vec![PortRange { protocol: number, low, high }])
        }
        (Some(low), Some(high)) => bad(format!("port range {low}-{high} runs backwards")),
        _ => bad(format!("`{}` is not a port or a range of ports from 0 to 65535", short(range))),
    }
}

fn port(text: &str) -> Option<u16> {
    // `parse` alone would take `+1`.
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

/// `"0x30/0xf0"`, `"48/240"`, or `"0x30"` for all 32 bits.
pub fn mark(text: &str) -> Result<(u32, u32), Wrong> {
    let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()
        }
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (number(value), number(mask)),
        None => (number(text), Some(u32::MAX)),
    };
    let (Some(value), Some(mask)) = (value, mask) else {
        return wrong(
            "mark",
            format!("`{}` is not a packet mark", short(text)),
            "write value and mask, such as \"0x30/0xf0\"",
        );
    };
    if mask == 0 {
        return wrong(
            "mark",
            "a mask of 0 matches every packet",
            "write the bits that matter, or use `untagged` in [defaults]",
        );
    }
    if value & !mask != 0 {
        return wrong(
            "mark",
            format!("value {value:#x} has bits outside the mask {mask:#x}: nothing matches"),
            format!(
                "write \"{:#x}/{mask:#x}\" or \"{value:#x}/{:#x}\"",
                value & mask,
                value | mask
            ),
        );
    }
    if value == 0 {
        return wrong(
            "mark",
            "value 0 matches traffic that nobody marked",
            "write a value above 0, or use `untagged` in [defaults]",
        );
    }
    Ok((value, mask))
}

/// RFC 3339 with an offset, as unix seconds.
pub fn until(text: &str) -> Result<u32, Wrong> {
    let help = "write RFC 3339 with an offset, such as \"2027-03-31T00:00:00+09:00\"";
    let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) else {
        let message = match text.parse::<toml::value::Datetime>() {
            Ok(time) if time.offset.is_none() => format!("`{}` has no offset", short(text)),
            _ => format!("`{}` is not a time", short(text)),
        };
        return wrong("until", message, help);
    };
    match u32::try_from(time.unix_timestamp()) {
        Ok(seconds) if seconds > 0 => Ok(seconds),
        _ => wrong(
            "until",
            format!("`{}` is outside 1970 to 2106", short(text)),
            "write a nearer time, or remove `until` for a rule without an end",
        ),
    }
}

/// `"45d"`, `"12h"`, as seconds.
pub fn duration(text: &str) -> Result<u64, Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(60 * 60),
        "d" => Some(24 * 60 * 60),
        "w" => Some(7 * 24 * 60 * 60),
        _ => None,
    };
    let value = number.parse::<u64>().ok().zip(seconds).and_then(|(n, s)| n.checked_mul(s));
    match value {
        Some(value) if value > 0 => Ok(value),
        _ => wrong(
            "duration",
            format!("`{}` is not a duration", short(text)),
            "write a number above 0 and a unit s, m, h, d or w, such as \"45d\"",
        ),
    }
}

/// An absolute cgroup path in normal form.
pub fn cgroup(text: &str) -> Result<String, Wrong> {
    let help = "write the path below the cgroup v2 mount, such as \"/sovereign.slice\"";
    if text.contains('\0') || text.len() > 4096 {
        return wrong("cgroup", "not a path", help);
    }
    if text == "/" {
        return wrong(
            "cgroup",
            "`/` holds every process",
            "use `untagged` in [defaults] to tag all that has no tag",
        );
    }
    let normal: Vec<_> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if normal.is_empty() || normal.contains(&"..") {
        return wrong("cgroup", format!("`{}` is not a cgroup path", short(text)), help);
    }
    let normal = format!("/{}", normal.join("/"));
    if normal != text {
        return wrong(
            "cgroup",
            format!("`{}` is not an absolute path in normal form", short(text)),
            format!("write \"{}\"", short(&normal)),
        );
    }
    Ok(normal)
}

/// A name that a Linux interface can have.
pub fn interface(text: &str) -> Result<String, Wrong> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > 15 || matches!(text, "." | "..") || text.contains(bad) {
        return wrong(
            "interface",
            format!("`{}` cannot be an interface name", short(text)),
            "write the name as `ip link` shows it: 1 to 15 bytes, no blanks, `/` or `:`",
        );
    }
    Ok(text.to_owned())
}

/// An owner, ticket or reason: one line that can be shown and recorded as it is.
pub fn remark(key: &str, text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() || text.len() > MAX_REMARK || text.contains(is_hidden) {
        return wrong(
            "remark",
            format!("`{}` cannot be the {key} of a rule", short(text)),
            format!("write one line of 1 to {MAX_REMARK} bytes, without control characters"),
        );
    }
    Ok(text.to_owned())
}

/// A name of a zone, tier or tag.
pub fn name(text: &str) -> Result<String, Wrong> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 63 || !text.bytes().all(good) {
        return wrong(
            "name",
            format!("`{}` cannot be a name", short(text)),
            "use 1 to 63 letters, digits, `-`, `_` or `.`",
        );
    }
    Ok(text.to_owned())
}

/// `ADDR`, `ADDR:PORT/tcp`, `[V6]:PORT/udp`, `ADDR/icmp`.
pub fn endpoint(text: &str) -> Result<Endpoint, Wrong> {
    let bad = |why: &str| {
        wrong(
            "destination",
            format!("`{}` {why}", short(text)),
            "write ADDR, ADDR:PORT/tcp, [V6]:PORT/udp or ADDR/icmp",
        )
    };
    let (place, name) = match text.split_once('/') {
        Some((place, name)) => (place, Some(name)),
        None => (text, None),
    };
    let protocol = match name.map(protocol) {
        Some(None) if name.is_some_and(|name| name.parse::<u8>().is_ok()) => {
            return bad("is a prefix, not a destination");
        }
        Some(None) => return bad("names an unknown protocol"),
        Some(Some(_))
            if name.is_some_and(|name| name.parse::<u8>().is_ok())
                && place.parse::<IpAddr>().is_ok() =>
        {
            return bad("is a prefix, not a destination");
        }
        Some(number) => number,
        None => None,
    };
    let bare = place.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(place).parse::<IpAddr>() {
        if bare.is_some() && address.is_ipv4() {
            return bad("has brackets around an IPv4 address");
        }
        return Ok(Endpoint { address, protocol, port: None });
    }
    let Ok(socket) = place.parse::<SocketAddr>() else { return bad("is not a destination") };
    match protocol {
        Some(number) if has_ports(number) => {
            Ok(Endpoint { address: socket.ip(), protocol, port: Some(socket.port()) })
        }
        Some(_) => bad("gives a port to a protocol without ports"),
        None => bad("has a port but no protocol"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_exact_and_corrected() {
        assert_eq!(prefix("203.0.113.7").unwrap().to_string(), "203.0.113.7/32");
        assert_eq!(prefix("2001:db8::1").unwrap().to_string(), "2001:db8::1/128");
        let e = prefix("203.0.113.7/24").unwrap_err();
        assert_eq!(e.code, "host-bits");
        assert!(e.help.contains("\"203.0.113.0/24\""), "{e:?}");
        for bad in ["", "1.2.3/24", "1.2.3.4/33", "::/129", "1.2.3.4/ 8", "x", "1.2.3.4/-1"] {
            assert_eq!(prefix(bad).unwrap_err().code, "prefix", "{bad}");
        }
    }

    #[test]
    fn embedded_space_is_refused_with_the_inner_prefix() {
        for (text, inner) in [
            ("::ffff:8.8.8.0/120", "8.8.8.0/24"),
            ("64:ff9b::808:808", "8.8.8.8/32"),
            ("64:ff9b::/96", "0.0.0.0/0"),
            ("2002:808:800::/40", "8.8.8.0/24"),
            ("2002:808:808:1::/64", "8.8.8.8/32"),
        ] {
            let e = rule_prefix(text).unwrap_err();
            assert!(e.help.contains(&format!("\"{inner}\"")), "{text}: {e:?}");
        }
        assert_eq!(rule_prefix("2001::/32").unwrap_err().code, "embedded-ipv4");
        assert!(rule_prefix("2001::/31").is_ok() && rule_prefix("2000::/3").is_ok());
    }

    #[test]
    fn port_grammar() {
        let one = |text: &str| ports(text).map(|list| list[0]).unwrap();
        assert_eq!(one("tcp/443"), PortRange { protocol: 6, low: 443, high: 443 });
        assert_eq!(one("udp/1000-2000"), PortRange { protocol: 17, low: 1000, high: 2000 });
        assert_eq!(one("47"), PortRange { protocol: 47, low: 0, high: 65535 });
        assert_eq!(ports("icmp").unwrap().len(), 2);
        for bad in ["", "tcp/", "tcp/1-", "tcp/2-1", "tcp/65536", "tcp/+1", "icmp/1", "x/1", "256"]
        {
            assert_eq!(ports(bad).unwrap_err().code, "ports", "{bad}");
        }
    }

    #[test]
    fn mark_grammar() {
        assert_eq!(mark("0x30/0xf0").unwrap(), (0x30, 0xf0));
        assert_eq!(mark("7").unwrap(), (7, u32::MAX));
        assert!(mark("0x31/0xf0").unwrap_err().help.contains("0x30/0xf0"));
        for bad in ["", "0x", "0/0", "0/1", "0x100000000", "-1", "1/2/3", "0x+1", "0x1g"] {
            assert_eq!(mark(bad).unwrap_err().code, "mark", "{bad}");
        }
    }

    #[test]
    fn times_need_an_offset_and_fit_the_kernel() {
        assert_eq!(until("2027-03-31T00:00:00+09:00").unwrap(), 1_806_418_800);
        assert_eq!(until("1970-01-01T00:00:01Z").unwrap(), 1);
        assert!(until("2027-03-31T00:00:00").unwrap_err().message.contains("no offset"));
        for bad in ["2106-02-07T06:28:16Z", "1970-01-01T00:00:00Z", "1969-01-01T00:00:00Z", "soon"]
        {
            assert_eq!(until(bad).unwrap_err().code, "until", "{bad}");
        }
        assert_eq!(duration("45d").unwrap(), 45 * 86_400);
        for bad in
            ["", "45", "d", "0d", "-1d", "1.5d", "99999999999999999999d", "9999999999999999999w"]
        {
            assert_eq!(duration(bad).unwrap_err().code, "duration", "{bad}");
        }
    }

    #[test]
    fn endpoints() {
        let e = |text: &str| endpoint(text).map(|e| (e.address.to_string(), e.protocol, e.port));
        let v4 = || "8.8.8.8".to_owned();
        assert_eq!(e("8.8.8.8").unwrap(), (v4(), None, None));
        assert_eq!(e("8.8.8.8:53/udp").unwrap(), (v4(), Some(17), Some(53)));
        assert_eq!(e("8.8.8.8/icmp").unwrap(), (v4(), Some(1), None));
        assert_eq!(e("[2001:db8::1]:443/tcp").unwrap().2, Some(443));
        assert_eq!(e("[2001:db8::1]").unwrap().0, "2001:db8::1");
        for bad in [
            "",
            "8.8.8.8:53",
            "8.8.8.0/24",
            "8.8.8.8:1/icmp",
            "[8.8.8.8]:1/tcp",
            "8.8.8.8:x/tcp",
            "::1/128",
            "8.8.8.8/xyz",
            "[::1:443/tcp",
            "8.8.8.8/300",
        ] {
            assert!(e(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_and_names() {
        assert!(cgroup("/a.slice/b").is_ok());
        assert!(cgroup("a.slice").unwrap_err().help.contains("\"/a.slice\""));
        for bad in ["", "/", "//", "/a/../b", "/a/", "/a//b", "/a\0"] {
            assert_eq!(cgroup(bad).unwrap_err().code, "cgroup", "{bad}");
        }
        assert!(interface("veth-k0").is_ok());
        for bad in ["", "a234567890123456", "a b", "a/b", ".", "a:1"] {
            assert_eq!(interface(bad).unwrap_err().code, "interface", "{bad}");
        }
        assert!(name("koseki-1").is_ok() && name("日本").is_err() && name("").is_err());
    }
}
