//! What a running node says about itself: the kernel's numbers with the policy's names.

use sov_common::abi::{ABI_VERSION, UNTAGGED};

use super::{core::Core, recorder};
use crate::{
    cli::inputs,
    control::status::{
        Agent, Cgroup, Counter, Dataset, FlowTable, Interface, Link, Policy, Rejects, Status, Tag,
    },
    datapath::{CounterRow, DatapathError},
    flowlog::record::{Host, Mode, Response},
};

impl Core {
    /// Reads counters and ledger from the kernel.
    pub fn status(&self) -> Result<Status, DatapathError> {
        let now = inputs::now();
        let meta = &self.live.meta;
        let named = |row: CounterRow| Counter {
            tag: (row.slot != UNTAGGED).then(|| {
                let tag = meta.tag_at(row.slot);
                tag.map_or_else(|| format!("slot-{}", row.slot), |t| t.name.clone())
            }),
            verdict: row.verdict.as_str().into(),
            reason: row.reason.map_or("untagged", |reason| reason.as_str()).into(),
            packets: row.packets,
            bytes: row.bytes,
        };
        let counters = self.datapath.counters()?.into_iter().map(named).collect();
        let xdp_counters = self.datapath.xdp_counters()?.into_iter().map(named).collect();
        let answers = self.datapath.answers()?;
        Ok(Status {
            agent: Agent {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").into(),
                abi: ABI_VERSION,
                started: self.started,
                uptime_seconds: self.since.elapsed().as_secs(),
                host: Host::current(),
            },
            policy: Policy {
                name: meta.name.clone(),
                hash: meta.hash.clone(),
                generation: self.live.generation,
                applied: self.live.applied,
                source: self.config.policy.as_ref().map(|p| p.display().to_string()),
                untagged: meta.untagged.clone(),
                restored: self.restored().map(str::to_owned),
            },
            tags: meta
                .tags
                .iter()
                .filter_map(|tag| {
                    Some(Tag {
                        name: tag.name.clone(),
                        tier: tag.tier.clone(),
                        mode: Mode::parse(&tag.mode)?,
                        response: Response::parse(&tag.response)?,
                        rank: tag.rank,
                    })
                })
                .collect(),
            datasets: self
                .data
                .sources()
                .iter()
                .map(|source| {
                    let age = now.saturating_sub(source.built);
                    let expired = source.expires.is_some_and(|at| now >= at);
                    Dataset {
                        id: source.id.clone(),
                        built: source.built,
                        age_seconds: age,
                        stale: expired || age > meta.max_data_age,
                    }
                })
                .collect(),
            interfaces: self.interfaces(),
            cgroup: self.cgroup(),
            ledger: recorder::ledger(&self.datapath)?,
            counters,
            xdp_counters,
            rejects: Rejects {
                sent: answers.sent,
                suppressed: answers.suppressed,
                failed: answers.failed,
            },
            flow_table: FlowTable {
                entries: self.recorder.flow_entries() as u64,
                capacity: recorder::FLOWS as u64,
            },
            journal: self.recorder.journal(),
            warnings: self.warnings(now),
        })
    }

    fn interfaces(&self) -> Vec<Interface> {
        let mut interfaces: Vec<Interface> = Vec::new();
        for (direction, link) in self.wiring.links() {
            let id = self.datapath.link_id(&direction.pin(link.ifindex));
            let pinned = id.is_some() || link.kind == "clsact";
            let link_status = Link { hook: link.hook.into(), kind: link.kind.into(), id, pinned };
            match interfaces.iter_mut().find(|i| i.index == link.ifindex) {
                Some(interface) => interface.links.push(link_status),
                None => interfaces.push(Interface {
                    name: link.target.clone(),
                    index: link.ifindex,
                    links: vec![link_status],
                }),
            }
        }
        interfaces
    }

    fn cgroup(&self) -> Option<Cgroup> {
        let sockets = self.wiring.sockets();
        let path = sockets.first()?.target.clone();
        let links = sockets
            .iter()
            .map(|link| {
                let id = self.datapath.link_id(link.hook);
                Link { hook: link.hook.into(), kind: "cgroup".into(), id, pinned: id.is_some() }
            })
            .collect();
        Some(Cgroup { path, links })
    }

    /// What an operator should look at.
    fn warnings(&self, now: u64) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(why) = self.restored() {
            warnings.push(format!(
                "RESTORED: the image of the last boot is in force, because no new one could be made: {why}; \
                 repair that and send SIGHUP"
            ));
        }
        let egress = |d| d == crate::datapath::Direction::Egress;
        if !self.wiring.links().iter().any(|(direction, _)| egress(*direction)) {
            warnings.push(
                "no uplink is guarded: there is no default route; name one with --interface".into(),
            );
        }
        for name in self.wiring.missing() {
            warnings
                .push(format!("interface {name} does not exist; it is attached when it appears"));
        }
        for selector in &self.live.unresolved {
            warnings.push(format!(
                "tag {}: {} {} does not exist on this host yet",
                selector.tag, selector.kind, selector.name
            ));
        }
        let age = now.saturating_sub(self.live.meta.data_built);
        if age > self.live.meta.max_data_age {
            warnings.push(format!(
                "the data are {} days old, the policy allows {}; the live image goes on, new ones are refused",
                age / 86_400,
                self.live.meta.max_data_age / 86_400
            ));
        }
        if self.recorder.unreadable() > 0 {
            warnings
                .push(format!("{} kernel events could not be read", self.recorder.unreadable()));
        }
        warnings
    }
}
