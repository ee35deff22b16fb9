//! Counting and recording: every packet moves a counter, every blocked one exactly one ledger term.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    btf_maps::PerCpuArray,
};
use sov_common::{
    abi::{COUNTERS, Counter, Event, FlowKey, FlowValue, Hook, counter_index},
    classify::Address,
    verdict::{Reason, Verdict},
};

use crate::maps::{SOV_COUNTERS, SOV_EVENTS, SOV_FLOWS, SOV_LEDGER, SOV_SOCKETS};

/// One counter for each tag slot, reason and verdict.
pub(crate) type Counters = PerCpuArray<Counter, { COUNTERS as usize }>;

/// What the kernel answers when the key is there.
const EEXIST: i32 = -17;

/// Counts a pass at a hook that sees socket buffers.
#[inline(always)]
pub(crate) fn count_at(
    hook: Hook,
    slot: u8,
    reason: u8,
    verdict: Verdict,
    packets: u64,
    bytes: u64,
) {
    if !matches!(hook, Hook::CgroupEgress) {
        return count(slot, reason, verdict, packets, bytes);
    }
    // A softirq may come in between: it must not find a sum half made.
    if let Some(counter) = SOV_COUNTERS.get_ptr_mut(counter_index(slot, reason, verdict as u8)) {
        // SAFETY: a live per-CPU slot.
        unsafe {
            add(&raw mut (*counter).packets, packets);
            add(&raw mut (*counter).bytes, bytes);
        }
    }
}

#[inline(always)]
pub(crate) fn count(slot: u8, reason: u8, verdict: Verdict, packets: u64, bytes: u64) {
    count_in(&SOV_COUNTERS, slot, reason, verdict, packets, bytes);
}

#[inline(always)]
pub(crate) fn count_in(
    counters: &Counters,
    slot: u8,
    reason: u8,
    verdict: Verdict,
    packets: u64,
    bytes: u64,
) {
    if let Some(counter) = counters.get_ptr_mut(counter_index(slot, reason, verdict as u8)) {
        // SAFETY: a per-CPU slot; only packet hooks count passes, and they do not interrupt each other.
        unsafe {
            (*counter).packets += packets;
            (*counter).bytes += bytes;
        }
    }
}

/// Network byte order, IPv4 as `::ffff:a.b.c.d`.
#[inline(always)]
pub(crate) fn mapped(address: Address) -> [u8; 16] {
    let (high, low) = match address {
        Address::V4(a) => (0, 0xffff_0000_0000 | a as u64),
        Address::V6(high, low) => (high, low),
    };
    // SAFETY: two u64 and sixteen bytes are the same memory.
    unsafe { core::mem::transmute([high.to_be(), low.to_be()]) }
}

/// Counts and records. `zero` as in [`record`].
#[inline(always)]
pub(crate) fn blocked(event: &mut Event, zero: u32) {
    let time = event.time_ns;
    if !known(&SOV_COUNTERS, false, &event.key, event.packets, event.bytes, || time) {
        record(event, zero);
    }
}

/// Whether nothing of ours can come in between while a hook counts on its CPU: tc and XDP run with
/// softirqs off. Tasks do not, and what they add must be whole when a softirq adds.
#[inline(always)]
pub(crate) fn is_alone(hook: Hook) -> bool {
    matches!(hook, Hook::TcEgress | Hook::TcIngress | Hook::Xdp)
}

/// Counts a blocked packet. `true` = its flow is on record and holds it now; `false` = [`record`] it.
/// `alone`: [`is_alone`]; memory of this CPU then needs no atomic sums. Flows are all CPUs'.
#[inline(always)]
pub(crate) fn known(
    counters: &Counters,
    alone: bool,
    key: &FlowKey,
    packets: u64,
    bytes: u64,
    time: impl FnOnce() -> u64,
) -> bool {
    let index = counter_index(key.tag, key.reason, key.verdict);
    let (Some(counter), Some(ledger)) = (counters.get_ptr_mut(index), SOV_LEDGER.get_ptr_mut(0))
    else {
        return true;
    };
    // SAFETY: live per-CPU slots.
    unsafe {
        if alone {
            (*counter).packets += packets;
            (*counter).bytes += bytes;
            (*ledger).blocked += packets;
        } else {
            add(&raw mut (*counter).packets, packets);
            add(&raw mut (*counter).bytes, bytes);
            add(&raw mut (*ledger).blocked, packets);
        }
    }
    let Some(flow) = SOV_FLOWS.get_ptr_mut(key) else { return false };
    let time = time();
    // SAFETY: a live map value. The last time is a plain store, any CPU's will do; a coarse clock may
    // lie before the first packet.
    unsafe {
        add(&raw mut (*flow).packets, packets);
        add(&raw mut (*flow).bytes, bytes);
        if (*flow).last_ns < time {
            (*flow).last_ns = time;
        }
        if alone {
            (*ledger).aggregated += packets;
        } else {
            add(&raw mut (*ledger).aggregated, packets);
        }
    }
    true
}

/// Records the first packet of a flow that [`known`] has counted. The event goes first: a flow enters
/// the table only when it is on record. `zero` is unknown to the compiler, which else calls memset.
#[inline(always)]
pub(crate) fn record(event: &mut Event, zero: u32) {
    let Some(ledger) = SOV_LEDGER.get_ptr_mut(0) else { return };
    if event.cookie != 0
        && let Some(owner) = SOV_SOCKETS.get_ptr(&event.cookie)
    {
        // SAFETY: a live map value; a concurrent eviction can at worst mix two owners' names.
        let owner = unsafe { &*owner };
        event.pid = owner.pid;
        event.uid = owner.uid;
        event.comm = owner.comm;
        event.has_owner = 1;
        if event.cgroup == 0 {
            event.cgroup = owner.cgroup;
        }
    }
    if SOV_EVENTS.output(&*event, BPF_RB_NO_WAKEUP as u64).is_err() {
        // SAFETY: as above.
        unsafe { add(&raw mut (*ledger).lost, event.packets) };
        return;
    }
    let flow = FlowValue {
        packets: zero as u64,
        bytes: zero as u64,
        first_ns: event.time_ns,
        last_ns: event.time_ns,
        cookie: event.cookie,
        cgroup: event.cgroup,
        generation: event.generation,
        class: event.class,
        rule: event.rule,
        pad: zero as u64,
    };
    // Of two first packets at once both are recorded and one makes the entry: the other must not wipe
    // what was added to it since.
    let full = match SOV_FLOWS.insert(&event.key, &flow, BPF_NOEXIST as u64) {
        Err(error) => error != EEXIST,
        Ok(()) => false,
    };
    // SAFETY: as above.
    unsafe {
        add(&raw mut (*ledger).recorded, event.packets);
        add(&raw mut (*ledger).table_full, full as u64);
    }
}

/// The word for a reason, for the log.
#[inline(always)]
pub(crate) fn word(reason: u8) -> &'static str {
    Reason::from_u8(reason).map_or("unknown", Reason::as_str)
}

/// Atomic add without a result (BPF_XADD): the fetching forms do not exist on every kernel.
#[inline(always)]
unsafe fn add(target: *mut u64, value: u64) {
    // SAFETY: the caller has a live, aligned map value.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::Relaxed }>(
            target, value,
        )
    };
}
