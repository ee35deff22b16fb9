//! Kernel events and flow-table entries -> [`FlowRecord`]: numbers become names, addresses get attributes.
//!
//! Asks the host through [`Facts`] only, and reads no clock: a record is a function of its inputs. What is
//! not known stays absent; nothing is guessed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::Ipv6Net;
use sov_common::{
    abi::{Event, FlowKey, FlowValue, Hook, SocketOwner},
    verdict::{Reason, Verdict},
};

use super::{
    host::identify,
    record::{
        Attributes, FlowRecord, Host, Icmp, Interface, Kind, Mode, Policy, Process, Response, Rule,
    },
};
use crate::{
    data::{dataset::Dataset, inside::Inside},
    policy::meta::PolicyMeta,
};

/// How many generations are remembered: entries of the flow table may be older than the live image.
const GENERATIONS: usize = 64;

/// A kernel value that this agent cannot read: the kernel side has another ABI, or memory is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel event with unknown {what} {number}; the loaded programs do not match this agent")]
pub struct Unreadable {
    pub what: &'static str,
    pub number: u8,
}

/// What only the host can say. Implemented by [`super::host::LiveFacts`] and by tests.
pub trait Facts {
    /// Name of an interface.
    fn interface(&mut self, index: u32) -> Option<String>;
    /// Path of a cgroup below the hierarchy's root, by its v2 id.
    fn cgroup(&mut self, id: u64) -> Option<String>;
    /// Executable of a process; `None` when `pid` is no longer what `comm` named.
    fn exe(&mut self, pid: u32, comm: &str) -> Option<String>;
    fn user(&mut self, uid: u32) -> Option<String>;
}

/// CLOCK_REALTIME - CLOCK_BOOTTIME, ns. Sample it once per batch: the wall clock may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    pub offset: i64,
}

impl Clock {
    /// Unix time, ns, of a CLOCK_BOOTTIME reading.
    pub fn unix(self, boottime: u64) -> u64 {
        boottime.saturating_add_signed(self.offset)
    }
}

/// Makes records. One per reader of the kernel's buffers.
pub struct Enricher {
    pub host: Host,
    pub clock: Clock,
    pub data: Arc<Dataset>,
    pub facts: Box<dyn Facts + Send>,
    policies: BTreeMap<u32, Arc<PolicyMeta>>,
}

impl Enricher {
    pub fn new(host: Host, clock: Clock, data: Arc<Dataset>, facts: Box<dyn Facts + Send>) -> Self {
        Self { host, clock, data, facts, policies: BTreeMap::new() }
    }

    /// Says what `generation`'s numbers mean. Call before the image goes live. The oldest is forgotten.
    pub fn learn(&mut self, generation: u32, meta: Arc<PolicyMeta>) {
        self.policies.insert(generation, meta);
        while self.policies.len() > GENERATIONS {
            self.policies.pop_first();
        }
    }

    /// The record of a ring-buffer event: the first packet (or the refused connect) of a flow.
    pub fn event(&mut self, event: &Event) -> Result<FlowRecord, Unreadable> {
        let seen = Seen {
            boottime: event.time_ns,
            first: event.time_ns,
            packets: event.packets,
            bytes: event.bytes,
            cookie: event.cookie,
            generation: event.generation,
            rule: event.rule,
        };
        let owner = (event.has_owner == 1).then_some((event.pid, event.uid, &event.comm));
        let mut record = self.record(&event.key, seen, Kind::New)?;
        record.process = self.process(event.cgroup, owner);
        record.ingress = self.interface(event.ingress_ifindex);
        record.source_mac = (event.src_mac != [0; 6]).then_some(event.src_mac);
        record.mark = event.mark;
        record.ethertype = event.ethertype;
        Ok(record)
    }

    /// The record of what a flow-table entry gained: `delta` has the packets and bytes since the last
    /// record of this flow, `first_ns` and `last_ns` as the kernel wrote them.
    pub fn flow(
        &mut self,
        key: &FlowKey,
        delta: &FlowValue,
        owner: Option<&SocketOwner>,
        kind: Kind,
    ) -> Result<FlowRecord, Unreadable> {
        let seen = Seen {
            boottime: delta.last_ns,
            first: delta.first_ns,
            packets: delta.packets,
            bytes: delta.bytes,
            cookie: delta.cookie,
            generation: delta.generation,
            rule: delta.rule,
        };
        let cgroup = if delta.cgroup == 0 { owner.map_or(0, |o| o.cgroup) } else { delta.cgroup };
        let mut record = self.record(key, seen, kind)?;
        record.process = self.process(cgroup, owner.map(|o| (o.pid, o.uid, &o.comm)));
        Ok(record)
    }

    fn record(&mut self, key: &FlowKey, seen: Seen, kind: Kind) -> Result<FlowRecord, Unreadable> {
        let unreadable = |what, number| move || Unreadable { what, number };
        let verdict =
            Verdict::from_u8(key.verdict).ok_or_else(unreadable("verdict", key.verdict))?;
        let reason = Reason::from_u8(key.reason).ok_or_else(unreadable("reason", key.reason))?;
        let hook = Hook::from_u8(key.hook).ok_or_else(unreadable("hook", key.hook))?;
        let meta = self.policies.get(&seen.generation).cloned();
        let tag = meta.as_ref().and_then(|m| m.tag_at(key.tag));
        let nat64 = meta.as_ref().map_or(&[][..], |m| &m.nat64);
        let destination = address(key.dst);
        let icmp = matches!(key.proto, 1 | 58).then(|| {
            let [kind, code] = key.dport.to_be_bytes();
            Icmp { kind, code }
        });
        let time = self.clock.unix(seen.boottime);
        Ok(FlowRecord {
            kind,
            time,
            boottime: seen.boottime,
            host: self.host.clone(),
            sequence: 0,
            policy: Policy {
                name: meta.as_ref().map(|m| m.name.clone()),
                hash: meta.as_ref().map(|m| m.hash.clone()),
                generation: seen.generation,
            },
            tag: tag.map(|t| t.name.clone()).or_else(|| nameless_tag(key.tag)),
            tier: tag.map(|t| t.tier.clone()),
            mode: tag.and_then(|t| Mode::parse(&t.mode)),
            response: tag.and_then(|t| Response::parse(&t.response)),
            verdict,
            reason,
            rule: rule(meta.as_deref(), seen.rule),
            source: address(key.src),
            source_port: if icmp.is_some() { 0 } else { key.sport },
            destination,
            destination_port: if icmp.is_some() { 0 } else { key.dport },
            protocol: key.proto,
            icmp,
            interface: self.interface(key.ifindex),
            ingress: None,
            source_mac: None,
            hook,
            cookie: seen.cookie,
            mark: 0,
            ethertype: 0,
            packets: seen.packets,
            bytes: seen.bytes,
            first: self.clock.unix(seen.first),
            last: time,
            attributes: attributes(&self.data, nat64, destination),
            process: None,
            ledger: None,
        })
    }

    fn interface(&mut self, index: u32) -> Option<Interface> {
        (index != 0).then(|| Interface { index, name: self.facts.interface(index) })
    }

    fn process(&mut self, cgroup: u64, owner: Option<(u32, u32, &[u8; 16])>) -> Option<Process> {
        if cgroup == 0 && owner.is_none() {
            return None;
        }
        let mut process = Process::default();
        if cgroup != 0 {
            process.cgroup_id = Some(cgroup);
            process.cgroup = self.facts.cgroup(cgroup);
            if let Some(path) = &process.cgroup {
                (process.unit, process.container, process.pod) = identify(path);
            }
        }
        if let Some((pid, uid, comm)) = owner {
            let comm = comm.split(|&b| b == 0).next().unwrap_or(&[]);
            let comm = String::from_utf8_lossy(comm).into_owned();
            process.pid = Some(pid);
            process.exe = self.facts.exe(pid, &comm);
            process.comm = Some(comm);
            process.uid = Some(uid);
            process.user = self.facts.user(uid);
        }
        Some(process)
    }
}

/// The numbers that events and flow-table entries have in common.
struct Seen {
    boottime: u64,
    first: u64,
    packets: u64,
    bytes: u64,
    cookie: u64,
    generation: u32,
    rule: u16,
}

/// A tag of a generation that is no longer known keeps its slot, so that the record stays a tagged one.
fn nameless_tag(slot: u8) -> Option<String> {
    (slot != sov_common::abi::UNTAGGED).then(|| format!("slot-{slot}"))
}

fn rule(meta: Option<&PolicyMeta>, id: u16) -> Option<Rule> {
    let known = meta.and_then(|m| m.rule(id));
    (id != 0).then(|| Rule {
        id,
        name: known.map(|r| format!("{}.{}:{}", r.tier, r.kind.as_str(), r.line)),
        owner: known.and_then(|r| r.owner.clone()),
        ticket: known.and_then(|r| r.ticket.clone()),
    })
}

fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

/// What `data` say about `destination`, or about the IPv4 address that it embeds; `nat64` are the site's
/// own prefixes.
pub fn attributes(data: &Dataset, nat64: &[Ipv6Net], destination: IpAddr) -> Attributes {
    let inside = Inside::of(destination, nat64);
    let destination = inside.map_or(destination, |inside| inside.address.into());
    let found = data.lookup(destination);
    let known = found.attributes;
    let dataset = data.sources().get(usize::from(known.dataset)).map(|source| source.id.clone());
    Attributes {
        scope: data.scope(destination),
        location: known.location,
        sources: known.sources,
        asn: known.asn,
        asn_name: found.asn_name.map(str::to_owned),
        operator: known.operator.map(String::from),
        control: known.control,
        control_basis: known.control_basis,
        registered: known.registered,
        provider_region: known.provider_region.map(String::from),
        prefix: Some(found.prefix),
        dataset,
    }
}

#[cfg(test)]
mod tests;
