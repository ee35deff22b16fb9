//! The maps: who writes, who reads, how large and why. And the live image.

use aya_ebpf::{
    Global,
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use sov_common::{
    abi::{COUNTERS, Counter, Event, FlowKey, FlowValue, Ledger, ReplyKey, SocketOwner},
    image::{SLOT_WORDS, Words},
    parse::Parsed,
};

/// One image, as large as the slot. Mapped and filled by the agent before it is made live.
#[repr(C, align(8))]
pub(crate) struct Slot {
    words: [u32; SLOT_WORDS as usize],
}

const MMAPABLE: usize = 1 << 10;

/// The live image. Written by the agent (one outer update is one swap), read for every packet.
#[btf_map]
static SOV_IMAGE: ArrayOfMaps<Array<Slot, 1, MMAPABLE>, 1> = ArrayOfMaps::new();

/// Blocked and would-block flows. Written by the programs, read and deleted by the agent. Not an LRU
/// map: an entry that vanished by itself would be a loss that nobody counted.
#[btf_map]
pub(crate) static SOV_FLOWS: HashMap<FlowKey, FlowValue, 65536> = HashMap::new();

/// First packets of those flows. 4 MiB hold about 27,000 events, several polls of the agent.
#[btf_map]
pub(crate) static SOV_EVENTS: RingBuf<Event, 4194304> = RingBuf::new();

/// Packets and bytes by tag, reason and verdict. Written by the programs, read by the agent.
#[btf_map]
pub(crate) static SOV_COUNTERS: PerCpuArray<Counter, { COUNTERS as usize }> = PerCpuArray::new();

/// The same for packets judged by XDP: they may be judged again by tc, and are one packet all the same.
#[btf_map]
pub(crate) static SOV_XDP_COUNT: PerCpuArray<Counter, { COUNTERS as usize }> = PerCpuArray::new();

/// What became of every blocked packet.
#[btf_map]
pub(crate) static SOV_LEDGER: PerCpuArray<Ledger, 1> = PerCpuArray::new();

/// Who opened a tagged socket, by cookie. Written by the socket hooks, read by the packet hooks.
#[btf_map]
pub(crate) static SOV_SOCKETS: LruHashMap<u64, SocketOwner, 16384> = LruHashMap::new();

/// Conversations that the other side opened; filled only while a tag has `replies = "allow"`.
#[btf_map]
pub(crate) static SOV_REPLIES: LruHashMap<ReplyKey, u64, 65536> = LruHashMap::new();

/// Working memory of the packet hooks: they run with softirqs off, one at a time on a CPU. It keeps
/// the programs below the 512 bytes of stack, and what is read from it has no history for the verifier.
#[btf_map]
static SOV_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

pub(crate) struct Scratch {
    pub(crate) parsed: Parsed,
    pub(crate) event: Event,
}

impl Scratch {
    #[inline(always)]
    pub(crate) fn mine() -> Option<*mut Self> {
        SOV_SCRATCH.get_ptr_mut(0)
    }
}

/// What a packet hook returns for a packet that may go on: TC_ACT_UNSPEC (-1) asks the next program,
/// TC_ACT_OK (0) is final. Set at load.
#[unsafe(no_mangle)]
pub(crate) static SOV_PASS: Global<i32> = Global::new(-1);

/// The live image as it stands at this packet; held until the program returns (RCU).
#[derive(Clone, Copy)]
pub(crate) struct Image(*const u32);

impl Image {
    #[inline(always)]
    pub(crate) fn live() -> Option<Self> {
        let slot = SOV_IMAGE.get_value(0, &0)?;
        Some(Self(slot.words.as_ptr()))
    }
}

impl Words for Image {
    #[inline(always)]
    fn word(&self, index: u32) -> u32 {
        // SAFETY: the mask keeps the index inside the slot.
        unsafe { *self.0.add((index & (SLOT_WORDS - 1)) as usize) }
    }

    #[inline(always)]
    fn dword(&self, index: u32) -> u64 {
        // SAFETY: the mask keeps the index inside the slot, which is aligned for u64.
        unsafe { *self.0.cast::<u64>().add((index & (SLOT_WORDS / 2 - 1)) as usize) }
    }
}
