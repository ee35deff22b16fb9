//! The maps: who writes, who reads, how large and why. And the live image.

use core::intrinsics::is_val_statically_known;

use aya_ebpf::{
    Global,
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns},
    macros::btf_map,
};
use sov_common::{
    abi::{Answers, COUNTERS, Counter, Event, FlowKey, FlowValue, Ledger, ReplyKey, SocketOwner},
    answer::Answer,
    image::{MIN_SLOT_WORDS, Words, header},
    parse::Parsed,
};

/// The smallest slot for an image. Which size is used is decided when the agent makes the map; it is
/// mapped and filled before it is made live.
#[repr(C, align(8))]
pub(crate) struct Slot {
    words: [u32; MIN_SLOT_WORDS as usize],
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

/// Polite refusals sent and left out, and the limit's state.
#[btf_map]
pub(crate) static SOV_ANSWERS: PerCpuArray<Answers, 1> = PerCpuArray::new();

/// An answer while it is made; the slow path's own.
#[btf_map]
pub(crate) static SOV_ANSWER: PerCpuArray<Answer, 1> = PerCpuArray::new();

/// Working memory of the packet hooks: they run with softirqs off, one at a time on a CPU. It keeps
/// the programs below the 512 bytes of stack, and what is read from it has no history for the verifier.
#[btf_map]
static SOV_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

pub(crate) struct Scratch {
    pub(crate) parsed: Parsed,
    pub(crate) event: Event,
    pub(crate) clock: Clock,
    /// Bytes of the frame, where XDP has to ask for them.
    pub(crate) length: u64,
}

/// CLOCK_BOOTTIME as it was at the first question of this tick (1 to 10 ms): the tick is a load, the
/// clock a call.
pub(crate) struct Clock {
    tick: u64,
    ns: u64,
}

impl Clock {
    /// At most a tick old.
    #[inline(always)]
    pub(crate) fn coarse(&mut self) -> u64 {
        // SAFETY: no arguments.
        let tick = unsafe { bpf_jiffies64() };
        if self.tick != tick {
            self.tick = tick;
            self.exact();
        }
        self.ns
    }

    #[inline(always)]
    pub(crate) fn exact(&mut self) -> u64 {
        // SAFETY: no arguments.
        self.ns = unsafe { bpf_ktime_get_boot_ns() };
        self.ns
    }
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

/// Words of a slot less one; a power of two less one. Set at load to what the map holds, and checked
/// against it by the verifier.
#[unsafe(no_mangle)]
static SOV_SLOT_MASK: Global<u32> = Global::new(MIN_SLOT_WORDS - 1);

/// Selector kinds (`flags::SELECTORS`) that the image may use. Set at load; the verifier removes the code
/// of all others. The agent makes no image live that uses more.
#[unsafe(no_mangle)]
static SOV_KINDS: Global<u32> = Global::new(u32::MAX);

/// Nanoseconds that an answer costs: one second through answers per second and CPU; 0 = never answer.
/// Set at load.
#[unsafe(no_mangle)]
pub(crate) static SOV_ANSWER_COST: Global<u64> = Global::new(1_000_000);

/// The live image as it stands at this packet; held until the program returns (RCU).
#[derive(Clone, Copy)]
pub(crate) struct Image {
    words: *const u32,
    /// As wide as a register: older verifiers forget a narrower constant that went over the stack.
    mask: u64,
}

impl Image {
    #[inline(always)]
    pub(crate) fn live() -> Option<Self> {
        let slot = SOV_IMAGE.get_value(0, &0)?;
        Some(Self { words: slot.words.as_ptr(), mask: SOV_SLOT_MASK.load() as u64 })
    }
}

impl Words for Image {
    #[inline(always)]
    fn word(&self, index: u32) -> u32 {
        // What the compiler knows to be in the header needs no mask.
        if is_val_statically_known(index) && index < header::END {
            // SAFETY: the header is inside the smallest slot.
            return unsafe { *self.words.add(index as usize) };
        }
        // SAFETY: the mask keeps the index inside the slot.
        unsafe { *self.words.add((index as u64 & self.mask) as usize) }
    }

    #[inline(always)]
    fn kinds(&self) -> u32 {
        self.word(header::FLAGS) & SOV_KINDS.load()
    }

    #[inline(always)]
    fn dword(&self, index: u32) -> u64 {
        // SAFETY: the mask keeps the index inside the slot, which is aligned for u64.
        unsafe { *self.words.cast::<u64>().add((index as u64 & (self.mask >> 1)) as usize) }
    }

    #[inline(always)]
    fn pair(&self, index: u32) -> [u64; 2] {
        // SAFETY: as above: a slot is a whole number of pairs.
        unsafe { *self.words.cast::<[u64; 2]>().add((index as u64 & (self.mask >> 2)) as usize) }
    }

    #[inline(always)]
    fn sum_line(&self, index: u32, of: impl Fn(u64) -> u64) -> u64 {
        // SAFETY: as above: a slot is a whole number of lines.
        let at = unsafe {
            self.words.cast::<[u64; 8]>().add((index as u64 & (self.mask >> 4)) as usize)
        };
        let at = at.cast::<u64>();
        // SAFETY: inside that line.
        let key = |i: usize| of(unsafe { *at.add(i) });
        // Written out: the compiler keeps a loop here.
        key(0) + key(1) + key(2) + key(3) + key(4) + key(5) + key(6) + key(7)
    }
}
