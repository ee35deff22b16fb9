//! `FlowRecord`: the one schema. Every output encodes this struct; none has facts of its own.
//!
//! Times are nanoseconds; addresses are real addresses (IPv4 is never mapped); ports are 0 where the
//! protocol has none.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sov_common::{
    abi::{Hook, Ledger as KernelLedger},
    verdict::{Reason, Scope, Verdict},
};

use super::words;
use crate::data::model::{Control, ControlBasis, Country, Location};

/// What is on record about a flow, or about a part of its life (see [`Kind`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    pub kind: Kind,
    /// Unix time, ns.
    pub time: u64,
    /// CLOCK_BOOTTIME, ns: orders records of one boot even while the wall clock is set.
    pub boottime: u64,
    pub host: Host,
    /// Given by the journal: 1, 2, 3 … without repetition, also over restarts. 0 = not journalled yet.
    pub sequence: u64,
    pub policy: Policy,
    /// `None` = no selector matched.
    pub tag: Option<String>,
    pub tier: Option<String>,
    pub mode: Option<Mode>,
    pub response: Option<Response>,
    #[serde(with = "words::verdict")]
    pub verdict: Verdict,
    #[serde(with = "words::reason")]
    pub reason: Reason,
    pub rule: Option<Rule>,

    pub source: IpAddr,
    pub source_port: u16,
    pub destination: IpAddr,
    /// 0 for ICMP, whose type and code are in `icmp`.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    pub icmp: Option<Icmp>,
    /// By which the packet left (egress hooks) or came (ingress hooks); `None` at socket hooks.
    pub interface: Option<Interface>,
    /// By which a forwarded packet came in; `None` = from this host.
    pub ingress: Option<Interface>,
    /// Source MAC address of forwarded traffic.
    pub source_mac: Option<[u8; 6]>,
    #[serde(with = "words::hook")]
    pub hook: Hook,
    /// Socket cookie; 0 = no local socket.
    pub cookie: u64,
    /// Socket mark; 0 = none.
    pub mark: u32,
    /// Ethertype on the wire; 0 at socket hooks.
    pub ethertype: u16,

    /// In this record alone: summing records counts each packet once.
    pub packets: u64,
    /// Link-layer header excluded.
    pub bytes: u64,
    /// Unix time, ns.
    pub first: u64,
    pub last: u64,

    pub attributes: Attributes,
    pub process: Option<Process>,
    /// Totals of the kernel's ledger when the batch was read; on the last record of a batch.
    pub ledger: Option<Ledger>,
}

/// Which part of a flow's life a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The first packet.
    New,
    /// What came since the last record.
    Update,
    /// Likewise, and the flow has ended or gone idle.
    End,
}

/// Where the record was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// /etc/machine-id, or the boot id where there is none.
    pub id: String,
    pub name: String,
}

/// Which policy judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `None` where the agent no longer knows the generation.
    pub name: Option<String>,
    /// SHA-256 of the policy and its data, lower-case hex.
    pub hash: Option<String>,
    pub generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Audit,
    Enforce,
}

/// What the sender notices of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Reject,
    Drop,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The number that `explain` shows.
    pub id: u16,
    /// Tier, kind and line of the policy: `sovereign.deny:14`. `None` where the policy is no longer known.
    pub name: Option<String>,
    pub owner: Option<String>,
    pub ticket: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Icmp {
    #[serde(rename = "type")]
    pub kind: u8,
    pub code: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub index: u32,
    /// `None` where the interface was gone before it could be asked.
    pub name: Option<String>,
}

/// What the data say about the destination. Location, control and registration are never merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    #[serde(with = "words::scope")]
    pub scope: Scope,
    #[serde(with = "words::location")]
    pub location: Location,
    /// How many independent sources agree on the location.
    pub sources: u8,
    /// 0 = not announced.
    pub asn: u32,
    pub asn_name: Option<String>,
    /// Catalog id.
    pub operator: Option<String>,
    #[serde(with = "words::control")]
    pub control: Control,
    #[serde(with = "words::basis")]
    pub control_basis: ControlBasis,
    #[serde(with = "words::country")]
    pub registered: Option<Country>,
    pub provider_region: Option<String>,
    /// The prefix that these attributes hold for.
    pub prefix: Option<IpNet>,
    /// Id of the dataset that located the address.
    pub dataset: Option<String>,
}

/// Who sent, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: Option<u32>,
    /// The kernel's 15-byte name.
    pub comm: Option<String>,
    pub exe: Option<String>,
    pub uid: Option<u32>,
    pub user: Option<String>,
    /// cgroup v2 id.
    pub cgroup_id: Option<u64>,
    /// Below the hierarchy's root, for example `/system.slice/sshd.service`.
    pub cgroup: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Container id, 64 hex digits.
    pub container: Option<String>,
    /// Kubernetes pod uid.
    pub pod: Option<String>,
}

/// The kernel's ledger, summed over CPUs. `blocked == recorded + aggregated + suppressed + lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub blocked: u64,
    pub recorded: u64,
    pub aggregated: u64,
    pub suppressed: u64,
    pub lost: u64,
    pub table_full: u64,
}

impl Ledger {
    /// Whether every blocked packet is accounted for.
    pub fn balances(&self) -> bool {
        // In u128: the terms may come from a damaged line.
        let terms = [self.recorded, self.aggregated, self.suppressed, self.lost];
        u128::from(self.blocked) == terms.into_iter().map(u128::from).sum::<u128>()
    }
}

impl From<KernelLedger> for Ledger {
    fn from(kernel: KernelLedger) -> Self {
        let KernelLedger { blocked, recorded, aggregated, suppressed, lost, table_full } = kernel;
        Self { blocked, recorded, aggregated, suppressed, lost, table_full }
    }
}

impl Attributes {
    /// An address about which only its kind is known.
    pub fn unknown(scope: Scope) -> Self {
        Self {
            scope,
            location: Location::Unknown,
            sources: 0,
            asn: 0,
            asn_name: None,
            operator: None,
            control: Control::Unknown,
            control_basis: ControlBasis::None,
            registered: None,
            provider_region: None,
            prefix: None,
            dataset: None,
        }
    }
}

impl Mode {
    /// The word in policies and records.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Audit, Self::Enforce].into_iter().find(|mode| mode.as_str() == word)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

impl Response {
    /// The word in policies and records.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "reject" => Some(Self::Reject),
            "drop" => Some(Self::Drop),
            _ => None,
        }
    }
}

impl Process {
    /// `comm` where known, else the last part of the cgroup: what a person recognises.
    pub fn label(&self) -> Option<&str> {
        let last = || self.cgroup.as_deref()?.rsplit('/').next();
        self.comm.as_deref().or(self.unit.as_deref()).or_else(last).filter(|l| !l.is_empty())
    }
}

/// The usual name of an IP protocol, for people; `None` for the rarer ones.
pub fn protocol_name(protocol: u8) -> Option<&'static str> {
    Some(match protocol {
        0 => "hopopt",
        1 => "icmp",
        2 => "igmp",
        4 => "ipip",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        41 => "ipv6",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "icmpv6",
        132 => "sctp",
        136 => "udplite",
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_round_trip() {
        for record in samples::all() {
            let text = serde_json::to_string(&record).expect("encodes");
            assert_eq!(serde_json::from_str::<FlowRecord>(&text).expect(&text), record);
        }
    }

    #[test]
    fn ledger_balance_does_not_overflow() {
        let wild = Ledger { recorded: u64::MAX, aggregated: u64::MAX, ..Ledger::default() };
        assert!(!wild.balances());
        assert!(samples::full().ledger.expect("ledger").balances());
    }
}
