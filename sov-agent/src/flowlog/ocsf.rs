//! OCSF Network Activity (class 4001), one JSON line per record: the encoding of the journal, and back.
//!
//! Every fact of a [`FlowRecord`] has one home in the event, so decoding our own lines loses nothing. What
//! OCSF has no attribute for is under `unmapped`; what the data say about the destination is an enrichment
//! of type `jurisdiction`. An unknown country is absent, never a code. `ocsf/wire.rs` has the shapes.

mod wire;

use std::{borrow::Cow, io::Write as _, net::IpAddr};

use sov_common::verdict::Verdict;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use self::wire::{
    Actor, Connection, Device, Endpoint, Enrichment, Event, FirewallRule, Metadata, OwnProcess,
    PolicyInfo, Product, System, Traffic, Unmapped, User,
};
use super::record::{FlowRecord, Host, Icmp, Kind, Policy, Process, Response, Rule, protocol_name};
use crate::data::model::Location;

/// Schema version that is emitted.
pub const VERSION: &str = "1.8.0";
/// Network Activity.
pub const CLASS: u32 = 4001;
const PROFILES: [&str; 3] = ["datetime", "host", "security_control"];

/// A line that is no record of ours.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("not a flow record: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a flow record: class_uid is {0}, Network Activity is {CLASS}")]
    Class(u32),
    #[error("not a flow record: {field} is {value:.60?}, which is no {wanted}")]
    Field { field: &'static str, value: String, wanted: &'static str },
    #[error("not a flow record: no enrichment of type jurisdiction")]
    NoAttributes,
}

/// Appends `record` to `line` as one JSON line, newline included.
pub fn encode(record: &FlowRecord, line: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *line, &event(record))?;
    line.push(b'\n');
    Ok(())
}

/// Reads a line that [`encode`] wrote. Foreign OCSF events are errors, not half-read records.
pub fn decode(line: &[u8]) -> Result<FlowRecord, DecodeError> {
    let event: Event<'_> = serde_json::from_slice(line)?;
    record(event)
}

/// activity, action, disposition, severity, is_alert.
fn outcome(record: &FlowRecord) -> (u8, u8, u8, u8, bool) {
    let tagged = record.tag.is_some();
    match (record.verdict, record.kind, record.response) {
        (Verdict::Allow, Kind::New, _) => (1, 1, 1, 1, false),
        (Verdict::Allow, Kind::Update, _) => (6, 1, 1, 1, false),
        (Verdict::Allow, Kind::End, _) => (2, 1, 1, 1, false),
        (Verdict::WouldBlock, _, _) => (6, 3, 17, 3, true),
        (Verdict::Block, _, Some(Response::Drop)) => (5, 2, 6, if tagged { 4 } else { 2 }, tagged),
        (Verdict::Block, _, _) => (5, 2, 25, if tagged { 4 } else { 2 }, tagged),
    }
}

fn event(record: &FlowRecord) -> Event<'_> {
    let (activity_id, action_id, disposition_id, severity_id, is_alert) = outcome(record);
    let attributes = &record.attributes;
    let country = match &attributes.location {
        Location::Country(country) => Some(country.to_string()),
        Location::Anycast | Location::Unknown => None,
    };
    Event {
        class_uid: CLASS,
        category_uid: 4,
        type_uid: CLASS * 100 + u32::from(activity_id),
        activity_id,
        action_id,
        disposition_id,
        severity_id,
        is_alert,
        status_code: record.reason.as_str().into(),
        message: message(record).into(),
        time: record.time / 1_000_000,
        time_dt: timestamp(record.time).into(),
        start_time: record.first / 1_000_000,
        start_time_dt: timestamp(record.first).into(),
        end_time: record.last / 1_000_000,
        end_time_dt: timestamp(record.last).into(),
        observation_point_id: 1,
        metadata: Metadata {
            version: VERSION.into(),
            profiles: PROFILES.iter().map(|&p| p.into()).collect(),
            uid: format!("{}-{}", record.host.id, record.sequence).into(),
            sequence: record.sequence,
            product: Product {
                name: "sov-agent".into(),
                vendor_name: "sov".into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
        },
        device: Device {
            type_id: 1,
            uid: record.host.id.as_str().into(),
            hostname: record.host.name.as_str().into(),
        },
        policy: PolicyInfo {
            name: record.policy.name.as_deref().map(Cow::from),
            uid: record.policy.hash.as_deref().map(Cow::from),
            version: Some(record.policy.generation.to_string().into()),
            // `type` makes the object valid where the generation is no longer known.
            kind: "egress sovereignty".into(),
            is_applied: record.verdict != Verdict::WouldBlock,
        },
        firewall_rule: record.rule.as_ref().map(|rule| FirewallRule {
            uid: rule.id.to_string().into(),
            name: rule.name.as_deref().map(Cow::from),
        }),
        src_endpoint: Endpoint {
            ip: record.source.to_string().into(),
            port: port(record.source_port),
            mac: record.source_mac.map(|mac| mac_text(mac).into()),
            ..Endpoint::default()
        },
        dst_endpoint: Endpoint {
            ip: record.destination.to_string().into(),
            port: port(record.destination_port),
            location: country.map(|country| wire::Place { country: country.into() }),
            autonomous_system: (attributes.asn != 0).then(|| wire::AutonomousSystem {
                number: attributes.asn,
                name: attributes.asn_name.as_deref().map(Cow::from),
            }),
            ..Endpoint::default()
        },
        connection_info: Connection {
            direction_id: 2,
            protocol_num: record.protocol,
            protocol_name: protocol_name(record.protocol).map(Cow::from),
            protocol_ver_id: if record.destination.is_ipv4() { 4 } else { 6 },
            uid: (record.cookie != 0).then(|| record.cookie.to_string().into()),
        },
        traffic: Traffic {
            packets: record.packets,
            bytes: record.bytes,
            packets_out: record.packets,
            bytes_out: record.bytes,
        },
        actor: record.process.as_ref().and_then(actor),
        enrichments: vec![Enrichment {
            name: "dst_endpoint.ip".into(),
            value: record.destination.to_string().into(),
            kind: "jurisdiction".into(),
            provider: "sov-agent".into(),
            data: Some(Cow::Borrowed(attributes)),
        }],
        unmapped: Unmapped {
            kind: record.kind,
            verdict: record.verdict,
            tag: record.tag.as_deref().map(Cow::from),
            tier: record.tier.as_deref().map(Cow::from),
            mode: record.mode,
            response: record.response,
            hook: record.hook,
            boottime: record.boottime.to_string().into(),
            rule_owner: record.rule.as_ref().and_then(|r| r.owner.as_deref()).map(Cow::from),
            rule_ticket: record.rule.as_ref().and_then(|r| r.ticket.as_deref()).map(Cow::from),
            icmp_type: record.icmp.map(|icmp| icmp.kind),
            icmp_code: record.icmp.map(|icmp| icmp.code),
            interface: record.interface.as_ref().map(Cow::Borrowed),
            ingress: record.ingress.as_ref().map(Cow::Borrowed),
            mark: (record.mark != 0).then_some(record.mark),
            ethertype: (record.ethertype != 0).then_some(record.ethertype),
            process: record.process.as_ref().map(own_process),
            ledger: record.ledger,
        },
    }
}

fn record(event: Event<'_>) -> Result<FlowRecord, DecodeError> {
    if event.class_uid != CLASS {
        return Err(DecodeError::Class(event.class_uid));
    }
    let own = event.unmapped;
    let attributes = (event.enrichments.into_iter())
        .find(|enrichment| enrichment.kind == "jurisdiction")
        .and_then(|enrichment| enrichment.data)
        .ok_or(DecodeError::NoAttributes)?
        .into_owned();
    let reason = super::words::Word::parse(&event.status_code)
        .ok_or_else(|| wrong("status_code", &event.status_code, "reason"))?;
    let generation = event.policy.version.unwrap_or(Cow::Borrowed("0"));
    let generation =
        generation.parse().map_err(|_| wrong("policy.version", &generation, "generation"))?;
    let number = |field, text: &str| text.parse().map_err(|_| wrong(field, text, "number"));
    let cookie = event.connection_info.uid;
    let cookie = cookie.map_or(Ok(0), |text| number("connection_info.uid", &text))?;
    let mac = event.src_endpoint.mac;
    Ok(FlowRecord {
        kind: own.kind,
        time: nanoseconds("time_dt", &event.time_dt)?,
        boottime: number("unmapped.boottime", &own.boottime)?,
        host: Host { id: event.device.uid.into_owned(), name: event.device.hostname.into_owned() },
        sequence: event.metadata.sequence,
        policy: Policy {
            name: event.policy.name.map(Cow::into_owned),
            hash: event.policy.uid.map(Cow::into_owned),
            generation,
        },
        tag: own.tag.map(Cow::into_owned),
        tier: own.tier.map(Cow::into_owned),
        mode: own.mode,
        response: own.response,
        verdict: own.verdict,
        reason,
        rule: match event.firewall_rule {
            None => None,
            Some(rule) => Some(Rule {
                id: (rule.uid.parse())
                    .map_err(|_| wrong("firewall_rule.uid", &rule.uid, "rule number"))?,
                name: rule.name.map(Cow::into_owned),
                owner: own.rule_owner.map(Cow::into_owned),
                ticket: own.rule_ticket.map(Cow::into_owned),
            }),
        },
        source: address("src_endpoint.ip", &event.src_endpoint.ip)?,
        source_port: event.src_endpoint.port.unwrap_or(0),
        destination: address("dst_endpoint.ip", &event.dst_endpoint.ip)?,
        destination_port: event.dst_endpoint.port.unwrap_or(0),
        protocol: event.connection_info.protocol_num,
        icmp: own.icmp_type.zip(own.icmp_code).map(|(kind, code)| Icmp { kind, code }),
        interface: own.interface.map(Cow::into_owned),
        ingress: own.ingress.map(Cow::into_owned),
        source_mac: match mac {
            None => None,
            Some(text) => {
                Some(mac_bytes(&text).ok_or_else(|| wrong("src_endpoint.mac", &text, "address"))?)
            }
        },
        hook: own.hook,
        cookie,
        mark: own.mark.unwrap_or(0),
        ethertype: own.ethertype.unwrap_or(0),
        packets: event.traffic.packets,
        bytes: event.traffic.bytes,
        first: nanoseconds("start_time_dt", &event.start_time_dt)?,
        last: nanoseconds("end_time_dt", &event.end_time_dt)?,
        attributes,
        process: own.process.map(|own| process(own, event.actor)),
        ledger: own.ledger,
    })
}

/// What OCSF can say of the process: only with a pid is it a process at all.
fn actor(process: &Process) -> Option<Actor<'_>> {
    let user = (process.uid.is_some() || process.user.is_some()).then(|| User {
        uid: process.uid.map(|uid| uid.to_string().into()),
        name: process.user.as_deref().map(Cow::from),
    });
    process.pid.map(|pid| Actor {
        process: System {
            pid,
            name: process.comm.as_deref().map(Cow::from),
            path: process.exe.as_deref().map(Cow::from),
            user,
        },
    })
}

/// The rest: cgroup, unit, container, pod; and everything where there is no pid.
fn own_process(process: &Process) -> OwnProcess<'_> {
    let here = process.pid.is_none();
    OwnProcess {
        comm: process.comm.as_deref().filter(|_| here).map(Cow::from),
        exe: process.exe.as_deref().filter(|_| here).map(Cow::from),
        uid: process.uid.filter(|_| here),
        user: process.user.as_deref().filter(|_| here).map(Cow::from),
        cgroup_id: process.cgroup_id,
        cgroup: process.cgroup.as_deref().map(Cow::from),
        unit: process.unit.as_deref().map(Cow::from),
        container: process.container.as_deref().map(Cow::from),
        pod: process.pod.as_deref().map(Cow::from),
    }
}

fn process(own: OwnProcess<'_>, actor: Option<Actor<'_>>) -> Process {
    let mut process = Process {
        pid: None,
        comm: own.comm.map(Cow::into_owned),
        exe: own.exe.map(Cow::into_owned),
        uid: own.uid,
        user: own.user.map(Cow::into_owned),
        cgroup_id: own.cgroup_id,
        cgroup: own.cgroup.map(Cow::into_owned),
        unit: own.unit.map(Cow::into_owned),
        container: own.container.map(Cow::into_owned),
        pod: own.pod.map(Cow::into_owned),
    };
    if let Some(Actor { process: system }) = actor {
        process.pid = Some(system.pid);
        process.comm = system.name.map(Cow::into_owned);
        process.exe = system.path.map(Cow::into_owned);
        if let Some(user) = system.user {
            process.uid = user.uid.and_then(|uid| uid.parse().ok());
            process.user = user.name.map(Cow::into_owned);
        }
    }
    process
}

/// One sentence for people: `koseki -> 13.112.0.1:443/tcp blocked: foreign_control (JP, controlled by US, aws)`.
fn message(record: &FlowRecord) -> String {
    let word = match record.verdict {
        Verdict::Allow => "allowed",
        Verdict::Block => "blocked",
        Verdict::WouldBlock => "would be blocked",
    };
    let tag = record.tag.as_deref().unwrap_or("untagged");
    let attributes = &record.attributes;
    let operator = attributes.operator.as_deref().or(attributes.asn_name.as_deref());
    let mut text = format!(
        "{tag} -> {} {word}: {} ({}, controlled by {}",
        destination(record),
        record.reason.as_str(),
        attributes.location,
        attributes.control,
    );
    if let Some(operator) = operator {
        text.push_str(", ");
        text.push_str(operator);
    }
    text.push(')');
    text
}

/// `13.112.0.1:443/tcp`, `[2001:db8::1]:53/udp`, `8.8.8.8/icmp`.
pub fn destination(record: &FlowRecord) -> String {
    let protocol = protocol_name(record.protocol)
        .map_or_else(|| Cow::Owned(format!("proto-{}", record.protocol)), Cow::Borrowed);
    match (record.destination, record.destination_port) {
        (address, 0) => format!("{address}/{protocol}"),
        (IpAddr::V4(address), port) => format!("{address}:{port}/{protocol}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}/{protocol}"),
    }
}

/// RFC 3339 in UTC with as many decimals as there are.
pub fn timestamp(unix_ns: u64) -> String {
    // Every u64 is a year before 2555, and RFC 3339 takes years up to 9999.
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ns))
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}

fn nanoseconds(field: &'static str, text: &str) -> Result<u64, DecodeError> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|at| u64::try_from(at.unix_timestamp_nanos()).ok())
        .ok_or_else(|| wrong(field, text, "RFC 3339 time"))
}

fn address(field: &'static str, text: &str) -> Result<IpAddr, DecodeError> {
    text.parse().map_err(|_| wrong(field, text, "address"))
}

fn wrong(field: &'static str, value: &str, wanted: &'static str) -> DecodeError {
    DecodeError::Field { field, value: value.chars().take(80).collect(), wanted }
}

fn port(port: u16) -> Option<u16> {
    (port != 0).then_some(port)
}

fn mac_text(mac: [u8; 6]) -> String {
    let mut text = Vec::with_capacity(17);
    for (at, byte) in mac.iter().enumerate() {
        let colon = if at == 0 { "" } else { ":" };
        // A Vec takes everything.
        let _ = write!(text, "{colon}{byte:02x}");
    }
    String::from_utf8(text).unwrap_or_default()
}

fn mac_bytes(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte =
            parts.next().filter(|p| p.len() == 2).and_then(|p| u8::from_str_radix(p, 16).ok())?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests;
