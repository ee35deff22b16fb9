//! Counters, ledger and flow table, read from the kernel.

use aya::{
    Ebpf,
    maps::{HashMap, MapData, PerCpuArray},
};
use sov_common::{
    abi::{Answers, COUNTERS, Counter, FlowKey, FlowValue, Ledger, MAX_TAGS},
    verdict::{Reason, Verdict},
};

use super::{DatapathError, loader::map_error, sys};

/// Sum over all CPUs of one (tag slot, reason, verdict).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterRow {
    /// Tag slot; 64 = untagged.
    pub slot: u8,
    /// `None` for untagged traffic, which nobody judges.
    pub reason: Option<Reason>,
    pub verdict: Verdict,
    pub packets: u64,
    pub bytes: u64,
}

/// An entry of the flow table.
#[derive(Clone, Copy, Debug)]
pub struct FlowEntry {
    pub key: FlowKey,
    pub value: FlowValue,
}

/// Counters of tc and socket hooks.
pub(super) const COUNTS: &str = "SOV_COUNTERS";
/// Counters of XDP.
pub(super) const XDP_COUNTS: &str = "SOV_XDP_COUNT";

/// All counters of one of the two maps that ever moved.
pub(super) fn counters(
    ebpf: &Ebpf,
    counts: &'static str,
) -> Result<Vec<CounterRow>, DatapathError> {
    let map = ebpf.map(counts).ok_or(DatapathError::NoMap { map: counts })?;
    let map = PerCpuArray::<_, Counter>::try_from(map).map_err(map_error(counts))?;
    let mut rows = Vec::new();
    for slot in 0..=MAX_TAGS as u8 {
        for reason in 0..32u8 {
            for verdict in [Verdict::Allow, Verdict::Block, Verdict::WouldBlock] {
                let known = Reason::from_u8(reason);
                if known.is_none() && (reason != 0 || slot != MAX_TAGS as u8) {
                    continue;
                }
                let index = sov_common::abi::counter_index(slot, reason, verdict as u8);
                debug_assert!(index < COUNTERS);
                let cpus = map.get(&index, 0).map_err(map_error(counts))?;
                let packets = cpus.iter().map(|c| c.packets).sum();
                let bytes = cpus.iter().map(|c| c.bytes).sum();
                if packets != 0 {
                    rows.push(CounterRow { slot, reason: known, verdict, packets, bytes });
                }
            }
        }
    }
    Ok(rows)
}

/// The ledger, summed over all CPUs.
pub(super) fn ledger(ebpf: &Ebpf) -> Result<Ledger, DatapathError> {
    const MAP: &str = "SOV_LEDGER";
    let map = ebpf.map(MAP).ok_or(DatapathError::NoMap { map: MAP })?;
    let map = PerCpuArray::<_, Ledger>::try_from(map).map_err(map_error(MAP))?;
    let mut sum = Ledger::default();
    for cpu in map.get(&0, 0).map_err(map_error(MAP))?.iter() {
        sum.blocked += cpu.blocked;
        sum.recorded += cpu.recorded;
        sum.aggregated += cpu.aggregated;
        sum.suppressed += cpu.suppressed;
        sum.lost += cpu.lost;
        sum.table_full += cpu.table_full;
    }
    Ok(sum)
}

/// Polite refusals, summed over all CPUs; the limit's state stays zero.
pub(super) fn answers(ebpf: &Ebpf) -> Result<Answers, DatapathError> {
    const MAP: &str = "SOV_ANSWERS";
    let map = ebpf.map(MAP).ok_or(DatapathError::NoMap { map: MAP })?;
    let map = PerCpuArray::<_, Answers>::try_from(map).map_err(map_error(MAP))?;
    let mut sum = Answers::default();
    for cpu in map.get(&0, 0).map_err(map_error(MAP))?.iter() {
        sum.sent += cpu.sent;
        sum.suppressed += cpu.suppressed;
        sum.failed += cpu.failed;
    }
    Ok(sum)
}

const FLOWS: &str = "SOV_FLOWS";

/// A snapshot of the flow table. Entries that come or go meanwhile may be missing.
pub(super) fn flows(ebpf: &Ebpf) -> Result<Vec<FlowEntry>, DatapathError> {
    let map = ebpf.map(FLOWS).ok_or(DatapathError::NoMap { map: FLOWS })?;
    let map = HashMap::<&MapData, FlowKey, FlowValue>::try_from(map).map_err(map_error(FLOWS))?;
    Ok(map.iter().flatten().map(|(key, value)| FlowEntry { key, value }).collect())
}

/// Deletes a flow and returns its final counts; `None` if it is gone already.
pub(super) fn take_flow(ebpf: &Ebpf, key: &FlowKey) -> Result<Option<FlowValue>, DatapathError> {
    let map = ebpf.map(FLOWS).ok_or(DatapathError::NoMap { map: FLOWS })?;
    let aya::maps::Map::HashMap(data) = map else {
        return Err(DatapathError::NoMap { map: FLOWS });
    };
    let mut value = FlowValue {
        packets: 0,
        bytes: 0,
        first_ns: 0,
        last_ns: 0,
        cookie: 0,
        cgroup: 0,
        generation: 0,
        class: 0,
        rule: 0,
        pad: 0,
    };
    let fd = std::os::fd::AsFd::as_fd(data.fd());
    let found = sys::take(fd, key, &mut value)
        .map_err(|source| DatapathError::System { what: "map SOV_FLOWS".into(), source })?;
    Ok(found.then_some(value))
}
