//! Kernel events and flow-table entries to the journal. Never in the way of packets: what it cannot
//! keep up with, the kernel counts as lost.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use sov_common::abi::{Event, FlowKey, FlowValue, SocketOwner};

use super::{
    live::boottime,
    told::{Mark, Progress, Told},
};
use crate::{
    data::dataset::Dataset,
    datapath::{Datapath, DatapathError, EventReader},
    flowlog::{
        FlowRecord,
        enrich::{Clock, Enricher},
        journal::{Journal, JournalState},
        record::{Kind, Ledger},
    },
    policy::PolicyMeta,
};

/// Records that are written at once.
const BATCH: usize = 4096;
/// How often the flow table is looked through.
const SWEEP: Duration = Duration::from_secs(1);
/// A flow that goes on is reported this often.
const REPORT_NS: u64 = 10_000_000_000;
/// A flow without packets for this long is over.
const IDLE_NS: u64 = 30_000_000_000;
/// Entries of the flow table, as the kernel side declares it.
pub(super) const FLOWS: usize = 65_536;

/// Turns what the kernel says into records on disk.
pub(super) struct Recorder {
    events: EventReader,
    enricher: Enricher,
    journal: Journal,
    told: HashMap<FlowKey, Told>,
    progress: Progress,
    sweeps: u64,
    last_sweep: Instant,
    entries: usize,
    /// Events that no record could be made of.
    unreadable: u64,
}

impl Recorder {
    /// `told` is the file that says how far the last agent came.
    pub(super) fn new(
        mut events: EventReader,
        enricher: Enricher,
        journal: Journal,
        told: PathBuf,
    ) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let (progress, restored) =
            Progress::open(told, boot.trim(), events.map_id(), journal.next_sequence());
        events.resume(restored.position);
        Self {
            events,
            enricher,
            journal,
            told: restored.told,
            progress,
            sweeps: 0,
            last_sweep: Instant::now(),
            entries: 0,
            unreadable: 0,
        }
    }

    /// Says what the numbers of a generation mean; before it is live.
    pub(super) fn learn(&mut self, generation: u32, meta: Arc<PolicyMeta>) {
        self.enricher.learn(generation, meta);
    }

    pub(super) fn use_data(&mut self, data: Arc<Dataset>) {
        self.enricher.data = data;
    }

    pub(super) fn journal(&self) -> JournalState {
        self.journal.state()
    }

    pub(super) fn flow_entries(&self) -> usize {
        self.entries
    }

    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// New events, and once a second the flow table.
    pub(super) fn tick(&mut self, datapath: &Datapath) {
        self.enricher.clock = Clock::sample();
        self.drain(datapath);
        if self.last_sweep.elapsed() >= SWEEP {
            self.last_sweep = Instant::now();
            self.sweep(datapath, false);
        }
        self.journal.tick(self.now());
    }

    /// Everything that is counted so far, whether it is due or not.
    pub(super) fn flush(&mut self, datapath: &Datapath) {
        self.enricher.clock = Clock::sample();
        self.drain(datapath);
        self.sweep(datapath, true);
        self.journal.tick(self.now());
    }

    fn drain(&mut self, datapath: &Datapath) {
        // Bounded: a flood must not keep the sweep and the watch for interfaces from their turn.
        for _ in 0..16 {
            let (mut records, mut marks) = (Vec::new(), Vec::new());
            while records.len() < BATCH
                && let Some(event) = self.events.next_event()
            {
                match self.enricher.event(&event) {
                    Ok(record) => {
                        records.push(record);
                        marks.push(Mark::Event(self.events.position()));
                    }
                    Err(e) => self.cannot_read(&e),
                }
                self.remember(&event);
            }
            let more = records.len() == BATCH;
            self.append(records, &marks, datapath);
            // Only now: what was read and is not on record is read again by the next agent.
            self.events.commit();
            if !more {
                return;
            }
        }
    }

    /// Who sent, and when it was last spoken of. What was told of the flow's entry stays: of two first
    /// packets at once only one made it.
    fn remember(&mut self, event: &Event) {
        let owner = (event.has_owner == 1).then_some(SocketOwner {
            pid: event.pid,
            uid: event.uid,
            comm: event.comm,
            cgroup: event.cgroup,
            time_ns: event.time_ns,
        });
        let told = self.told.entry(event.key).or_default();
        told.at = event.time_ns;
        told.owner = owner.or(told.owner);
    }

    /// Reports flows that went on and forgets those that are over.
    fn sweep(&mut self, datapath: &Datapath, all: bool) {
        let flows = match datapath.flows() {
            Ok(flows) => flows,
            Err(e) => return log::error!("{e}"),
        };
        self.entries = flows.len();
        self.sweeps += 1;
        let now = boottime();
        // A table that fills up is emptied sooner: an entry that finds no room is recorded per packet.
        let idle = if flows.len() * 4 > FLOWS * 3 { IDLE_NS / 30 } else { IDLE_NS };
        let (mut records, mut marks, mut over) = (Vec::new(), Vec::new(), Vec::new());
        for flow in flows {
            let first_ns = flow.value.first_ns;
            let told =
                self.told.entry(flow.key).or_insert(Told { at: first_ns, ..Told::default() });
            told.sweep = self.sweeps;
            if told.first_ns != first_ns {
                // Another entry than the one that was told of.
                *told = Told { first_ns, packets: 0, bytes: 0, ..*told };
            }
            let kind = if now.saturating_sub(flow.value.last_ns) > idle {
                over.push(flow.key);
                Kind::End
            } else if all || now.saturating_sub(told.at) >= REPORT_NS {
                Kind::Update
            } else {
                continue;
            };
            self.tell(&flow.key, &flow.value, kind, now, &mut records, &mut marks);
        }
        self.append(records, &marks, datapath);
        // On record first, then deleted. What came in between is told at once.
        let (mut records, mut marks) = (Vec::new(), Vec::new());
        for key in over {
            match datapath.take_flow(&key) {
                Ok(Some(last)) => {
                    self.tell(&key, &last, Kind::End, now, &mut records, &mut marks);
                }
                Ok(None) => {}
                Err(e) => log::error!("{e}"),
            }
            self.told.remove(&key);
        }
        self.append(records, &marks, datapath);
        // Flows that never got an entry (the table was full) are remembered no longer than others.
        let sweep = self.sweeps;
        self.told.retain(|_, told| {
            told.sweep == sweep || now.saturating_sub(told.at) < 2 * (REPORT_NS + IDLE_NS)
        });
        if self.progress.is_due() {
            self.progress.rewrite(&self.told, self.events.position());
        }
    }

    /// A record of what a flow gained since the last one, if it gained anything.
    fn tell(
        &mut self,
        key: &FlowKey,
        value: &FlowValue,
        kind: Kind,
        now: u64,
        records: &mut Vec<FlowRecord>,
        marks: &mut Vec<Mark>,
    ) {
        let Some(told) = self.told.get_mut(key) else { return };
        let delta = FlowValue {
            packets: value.packets.saturating_sub(told.packets),
            bytes: value.bytes.saturating_sub(told.bytes),
            ..*value
        };
        if delta.packets == 0 {
            return;
        }
        (told.packets, told.bytes, told.at) = (value.packets, value.bytes, now);
        let owner = told.owner;
        match self.enricher.flow(key, &delta, owner.as_ref(), kind) {
            Ok(record) => {
                records.push(record);
                let FlowValue { first_ns, packets, bytes, .. } = *value;
                marks.push(Mark::Flow { key: *key, first_ns, packets, bytes });
            }
            Err(e) => self.cannot_read(&e),
        }
    }

    /// `marks` says what each of the records stands for.
    fn append(&mut self, mut records: Vec<FlowRecord>, marks: &[Mark], datapath: &Datapath) {
        if records.is_empty() {
            return;
        }
        let ledger = ledger(datapath).inspect_err(|e| log::error!("{e}")).ok();
        let now = self.now();
        let wanted = records.len();
        self.progress.announce(self.journal.next_sequence(), marks);
        let written = self.journal.append(&mut records, ledger, now);
        if written < wanted {
            log::error!("journal: {} of {wanted} records could not be written", wanted - written);
        }
    }

    fn cannot_read(&mut self, error: &dyn std::error::Error) {
        if self.unreadable == 0 {
            log::error!("{error}");
        }
        self.unreadable += 1;
    }

    fn now(&self) -> u64 {
        self.enricher.clock.unix(boottime())
    }
}

/// The kernel's ledger as records carry it.
pub(super) fn ledger(datapath: &Datapath) -> Result<Ledger, DatapathError> {
    Ok(datapath.ledger()?.into())
}
