//! The JSON shapes of an OCSF 1.8.0 Network Activity event, as far as we fill them. No logic.
//!
//! One set of structs serves both directions. Strings borrow from the record when writing. Attributes that
//! others add to an event are ignored when reading.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sov_common::{abi::Hook, verdict::Verdict};

use crate::flowlog::{
    record::{Attributes, Interface, Kind, Ledger, Mode, Response},
    words,
};

type Text<'a> = Cow<'a, str>;

#[derive(Serialize, Deserialize)]
pub(super) struct Event<'a> {
    pub class_uid: u32,
    pub category_uid: u32,
    pub type_uid: u32,
    pub activity_id: u8,
    pub action_id: u8,
    pub disposition_id: u8,
    pub severity_id: u8,
    pub is_alert: bool,
    /// The reason.
    pub status_code: Text<'a>,
    pub message: Text<'a>,
    /// Unix ms; the exact time is in `time_dt`, likewise below.
    pub time: u64,
    pub time_dt: Text<'a>,
    pub start_time: u64,
    pub start_time_dt: Text<'a>,
    pub end_time: u64,
    pub end_time_dt: Text<'a>,
    pub observation_point_id: u8,
    pub metadata: Metadata<'a>,
    pub device: Device<'a>,
    pub policy: PolicyInfo<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_rule: Option<FirewallRule<'a>>,
    pub src_endpoint: Endpoint<'a>,
    pub dst_endpoint: Endpoint<'a>,
    pub connection_info: Connection<'a>,
    pub traffic: Traffic,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor<'a>>,
    pub enrichments: Vec<Enrichment<'a>>,
    pub unmapped: Unmapped<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Metadata<'a> {
    pub version: Text<'a>,
    pub profiles: Vec<Text<'a>>,
    /// Host id and sequence: unique, for the removal of duplicates.
    pub uid: Text<'a>,
    pub sequence: u64,
    pub product: Product<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Product<'a> {
    pub name: Text<'a>,
    pub vendor_name: Text<'a>,
    pub version: Text<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Device<'a> {
    /// 1 = server.
    pub type_id: u8,
    pub uid: Text<'a>,
    pub hostname: Text<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PolicyInfo<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    /// Hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Text<'a>>,
    /// Generation.
    pub version: Option<Text<'a>>,
    #[serde(rename = "type")]
    pub kind: Text<'a>,
    pub is_applied: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FirewallRule<'a> {
    pub uid: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct Endpoint<'a> {
    pub ip: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Place<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autonomous_system: Option<AutonomousSystem<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Place<'a> {
    pub country: Text<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct AutonomousSystem<'a> {
    pub number: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Connection<'a> {
    /// 2 = outbound.
    pub direction_id: u8,
    pub protocol_num: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_name: Option<Text<'a>>,
    pub protocol_ver_id: u8,
    /// Socket cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Traffic {
    pub packets: u64,
    pub bytes: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Actor<'a> {
    pub process: System<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct System<'a> {
    pub pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct User<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Enrichment<'a> {
    pub name: Text<'a>,
    pub value: Text<'a>,
    #[serde(rename = "type")]
    pub kind: Text<'a>,
    pub provider: Text<'a>,
    pub data: Option<Cow<'a, Attributes>>,
}

/// What OCSF has no attribute for.
#[derive(Serialize, Deserialize)]
pub(super) struct Unmapped<'a> {
    pub kind: Kind,
    #[serde(with = "words::verdict")]
    pub verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Response>,
    #[serde(with = "words::hook")]
    pub hook: Hook,
    /// Decimal text: many readers keep only 53 bits of a JSON number.
    pub boottime: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_owner: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_ticket: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<Cow<'a, Interface>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Cow<'a, Interface>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ethertype: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<OwnProcess<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Ledger>,
}

/// What OCSF's process has no attribute for; all of it where the pid is unknown.
#[derive(Serialize, Deserialize)]
pub(super) struct OwnProcess<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Text<'a>>,
}
