//! What a decision lets through: exact questions about chains of conditional rules.
//!
//! A chain can only change its mind at the edges of its port ranges and at its expiries, so asking there
//! answers for every protocol, port and time.

use super::{
    image::{DecisionSpec, Final},
    parse::values::protocol_name,
};
use std::{collections::BTreeSet, net::IpAddr};

/// A protocol number that no policy can name a port of and that no chain lists.
pub const ANY: u8 = 253;

/// A kind of traffic to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    pub protocol: u8,
    pub port: u16,
}

impl Sample {
    /// Such traffic to an address, as `explain` takes it: `8.8.8.8`, `[2001:db8::1]:443/tcp`, `8.8.8.8/esp`.
    pub fn at(self, address: IpAddr) -> String {
        let Self { protocol, port } = self;
        match (address, protocol) {
            (_, ANY) => address.to_string(),
            (IpAddr::V6(_), _) if port != 0 => {
                format!("[{address}]:{port}/{}", protocol_name(protocol))
            }
            (_, _) if port != 0 => format!("{address}:{port}/{}", protocol_name(protocol)),
            _ => format!("{address}/{}", protocol_name(protocol)),
        }
    }
}

/// What `decision` says about one kind of traffic; link-scope exceptions aside.
pub fn speak(decision: &DecisionSpec, to: Sample, now: u64) -> Final {
    let entry = decision.chain.iter().find(|entry| {
        let alive = entry.until.is_none_or(|until| now < u64::from(until));
        alive
            && entry
                .ports
                .is_none_or(|p| p.protocol == to.protocol && (p.low..=p.high).contains(&to.port))
    });
    entry.map_or(decision.otherwise, |entry| entry.then)
}

/// Traffic that stands for all traffic, as far as these decisions can tell it apart.
pub fn samples<'d>(decisions: impl IntoIterator<Item = &'d DecisionSpec>) -> BTreeSet<Sample> {
    let mut out = BTreeSet::from([Sample { protocol: ANY, port: 0 }]);
    let chains = decisions.into_iter().flat_map(|decision| &decision.chain);
    for range in chains.filter_map(|entry| entry.ports) {
        let protocol = range.protocol;
        out.insert(Sample { protocol, port: 0 });
        out.insert(Sample { protocol, port: range.low });
        if let Some(port) = range.high.checked_add(1) {
            out.insert(Sample { protocol, port });
        }
    }
    out
}

/// `now` and every later time at which an entry ends.
pub fn times<'d>(decisions: impl IntoIterator<Item = &'d DecisionSpec>, now: u64) -> BTreeSet<u64> {
    let mut out = BTreeSet::from([now]);
    let chains = decisions.into_iter().flat_map(|decision| &decision.chain);
    out.extend(chains.filter_map(|e| e.until).map(u64::from).filter(|until| *until > now));
    out
}

/// Traffic that `inner` lets through and `outer` does not, at `now` or later.
pub fn escape(inner: &DecisionSpec, outer: &DecisionSpec, now: u64) -> Option<(Sample, u64)> {
    if inner == outer {
        return None;
    }
    let samples = samples([inner, outer]);
    for time in times([inner, outer], now) {
        for &sample in &samples {
            if speak(inner, sample, time).allow && !speak(outer, sample, time).allow {
                return Some((sample, time));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::image::{ChainEntry, PortRange};
    use sov_common::verdict::Reason;

    fn last(allow: bool) -> Final {
        Final { allow, reason: Reason::AllowRule, rule: 0 }
    }

    fn entry(allow: bool, ports: Option<(u8, u16, u16)>, until: Option<u32>) -> ChainEntry {
        let ports = ports.map(|(protocol, low, high)| PortRange { protocol, low, high });
        ChainEntry { then: last(allow), ports, until }
    }

    fn decision(chain: &[ChainEntry], otherwise: bool) -> DecisionSpec {
        DecisionSpec { chain: chain.to_vec(), otherwise: last(otherwise), link: false }
    }

    #[test]
    fn escapes_are_found_at_ports_and_times() {
        let closed = decision(&[], false);
        let https = decision(&[entry(true, Some((6, 443, 443)), None)], false);
        let web = decision(&[entry(true, Some((6, 80, 443)), None)], false);
        assert_eq!(escape(&https, &web, 0), None);
        assert_eq!(escape(&web, &https, 0).unwrap().0, Sample { protocol: 6, port: 80 });
        assert_eq!(escape(&https, &closed, 0).unwrap().0, Sample { protocol: 6, port: 443 });
        assert_eq!(escape(&closed, &https, 0), None);
        // The outer exception ends before the inner one.
        let long = decision(&[entry(true, None, Some(200))], false);
        let short = decision(&[entry(true, None, Some(100))], false);
        assert_eq!(escape(&short, &long, 0), None);
        assert_eq!(escape(&long, &short, 0).unwrap().1, 100);
        assert_eq!(escape(&long, &short, 200), None);
        // A denial of the inner one that ends.
        let opens = decision(&[entry(false, None, Some(100))], true);
        assert_eq!(escape(&opens, &closed, 0).unwrap().1, 100);
        // The port above a denied range.
        let punched = decision(&[entry(false, Some((17, 0, 99)), None)], true);
        let all_udp_closed = decision(&[entry(false, Some((17, 0, 65535)), None)], true);
        assert_eq!(escape(&punched, &all_udp_closed, 0).unwrap().0.port, 100);
    }
}
