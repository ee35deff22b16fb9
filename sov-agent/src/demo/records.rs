//! What the journal says about the probes. Reads it as `flows` does.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::value::RawValue;
use sov_common::verdict::Verdict;

use super::plan::{Expected, Group, Kind, Probe, Tag};
use crate::flowlog::{
    journal::reader::{Reader, Start},
    record::FlowRecord,
};

/// A record, decoded and as the line that the agent wrote: an OCSF event.
pub struct OnRecord {
    pub flow: FlowRecord,
    pub line: Box<RawValue>,
}

/// Follows the journal of the demonstration's agent.
pub struct Records {
    reader: Reader,
    all: Vec<OnRecord>,
}

impl Records {
    pub fn open(journal: &Path) -> anyhow::Result<Self> {
        let reader = Reader::open(journal, Start::Oldest)
            .with_context(|| format!("journal {}", journal.display()))?;
        Ok(Self { reader, all: Vec::new() })
    }

    /// Takes what was written since.
    fn read(&mut self) -> anyhow::Result<()> {
        while let Some(line) = self.reader.next_line()? {
            let flow = line.record().context("the agent wrote a line that is no record")?;
            self.all.push(OnRecord { flow, line: serde_json::from_slice(&line.bytes)? });
        }
        Ok(())
    }

    /// Everything, once the agent has stopped.
    pub fn finish(mut self) -> anyhow::Result<Vec<OnRecord>> {
        self.read()?;
        Ok(self.all)
    }

    /// Waits until everything of the group that is blocked, or would be, is on record, or the time is
    /// over. Returns how long that took. What is allowed is counted, not recorded.
    pub fn wait_for(&mut self, group: &Group, limit: Duration) -> anyhow::Result<Duration> {
        let start = Instant::now();
        loop {
            self.read()?;
            let due = |p: &Probe| p.expected().is_some_and(|(v, _)| v != Verdict::Allow);
            if !group.probes.iter().any(|p| due(p) && self.of(p).is_none())
                || start.elapsed() >= limit
            {
                return Ok(start.elapsed());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Verdict and reason on record for a probe.
    pub fn of(&self, probe: &Probe) -> Expected {
        let record = self.record(probe)?;
        Some((record.verdict, record.reason))
    }

    /// The first record of a probe's flow. Two echo requests of one tag to one place are one flow.
    fn record(&self, probe: &Probe) -> Option<&FlowRecord> {
        let tag = (probe.tag != Tag::Untagged).then(|| probe.tag.as_str());
        self.all.iter().map(|record| &record.flow).find(|record| {
            record.tag.as_deref() == tag
                && record.destination == probe.destination
                && record.protocol == probe.kind.protocol(probe.destination.is_ipv6())
                && (probe.kind == Kind::Icmp || record.destination_port == probe.port)
        })
    }
}
