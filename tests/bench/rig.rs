//! The measuring programs, loaded on the product's own maps, and one timed run of them.

use std::os::fd::AsFd as _;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, LpmTrie, MapData, lpm_trie::Key},
    programs::SchedClassifier,
};
use sov_agent::datapath::{Datapath, EventReader, Options, Tc};
use sov_common::abi::{FlowKey, FlowValue};
use sov_tests::{
    agent::Host,
    bpf::{Program, SkBuff},
    cpu,
};

use crate::tables::{SET, Table};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sov-bench.o"));

/// Maps that the measuring programs share with the product's.
const SHARED: [&str; 6] =
    ["SOV_IMAGE", "SOV_FLOWS", "SOV_EVENTS", "SOV_COUNTERS", "SOV_LEDGER", "SOV_SOCKETS"];

/// What the programs return for "go on".
pub(crate) const NEXT: u32 = u32::MAX;

/// A destination and source port, as `bench.rs` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    address: [u32; 4],
    port: u32,
    pad: u32,
}

// SAFETY: integers without padding.
unsafe impl aya::Pod for Target {}

impl Target {
    /// Source ports differ inside a set, so that every target is a flow of its own.
    pub(crate) fn new(address: u128, index: usize) -> Self {
        let word = |i: u32| (address >> (96 - 32 * i)) as u32;
        let port = u32::from((index as u16).to_be());
        Self { address: [word(0), word(1), word(2), word(3)], port, pad: 0 }
    }
}

/// Which targets come next, as `bench.rs` has it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Cursor {
    first: u32,
    mask: u32,
    next: u32,
    pad: u32,
}

// SAFETY: integers without padding.
unsafe impl aya::Pod for Cursor {}

/// A program of the measuring object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Empty,
    Lookup,
    LookupTrie,
    Egress,
    EgressTrie,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Empty, "bench_empty"),
    (Kind::Lookup, "bench_lookup"),
    (Kind::LookupTrie, "bench_lookup_lpm"),
    (Kind::Egress, "bench_egress"),
    (Kind::EgressTrie, "bench_egress_lpm"),
];

pub(crate) struct Rig {
    runner: Runner,
    ebpf: Ebpf,
    events: EventReader,
    publisher: Publisher,
    _host: Host,
}

/// The loaded programs of [`KINDS`].
pub(crate) struct Runner(Vec<Program>);

/// The product's own programs and maps.
pub(crate) struct Publisher {
    pub(crate) datapath: Datapath,
    generation: u32,
}

impl Publisher {
    pub(crate) fn publish(&mut self, table: &Table) {
        self.generation += 1;
        let words = table.image().live(self.generation, 0);
        self.datapath.publish(&words).expect("the image is published");
    }
}

impl Runner {
    /// Runs a program on a frame; its last return code and the CPU nanoseconds per run. CPU time, not
    /// wall time: what else runs on the machine then disturbs caches only.
    pub(crate) fn run(&self, kind: Kind, frame: &[u8], mark: u32, repeat: u32) -> (u32, f64) {
        let context = SkBuff::with_mark(mark);
        let program = &self.0[kind as usize];
        let start = cpu::thread_ns();
        let (code, _) = program.run_repeated(frame, &context, repeat).expect("a test run");
        (code, (cpu::thread_ns() - start) as f64 / f64::from(repeat))
    }
}

impl Rig {
    pub(crate) fn load() -> Self {
        assert!(
            !OBJECT.is_empty(),
            "built with SOV_EBPF_OBJECT: the measuring programs need the compiler of `cargo xtask setup`"
        );
        let host = Host::new().expect("a bpffs");
        let options = Options {
            pins: host.pin_dir(),
            pass_is_final: false,
            reject_rate: 1000,
            tc: Tc::Tcx,
            log: None,
        };
        let mut datapath = Datapath::load(&options).expect("the product's programs load");
        let events = datapath.take_events().expect("the event ring");
        let (ebpf, runner) = measuring(&datapath);
        let publisher = Publisher { datapath, generation: 0 };
        Self { runner, ebpf, events, publisher, _host: host }
    }

    /// Makes a table live and fills the trie of one family with the same; returns its prefixes.
    pub(crate) fn use_table(&mut self, table: &Table, family: u8) -> usize {
        self.publish(table);
        let prefixes = table.prefixes(family);
        match family {
            4 => {
                let map = self.ebpf.map_mut("BENCH_LPM4").expect("the trie");
                fill::<1>(LpmTrie::try_from(map).expect("a trie"), &prefixes);
            }
            _ => {
                let map = self.ebpf.map_mut("BENCH_LPM6").expect("the trie");
                fill::<4>(LpmTrie::try_from(map).expect("a trie"), &prefixes);
            }
        }
        prefixes.len()
    }

    pub(crate) fn publish(&mut self, table: &Table) {
        let build =
            |publisher: &Publisher| (publisher.datapath.slot_words(), publisher.datapath.kinds());
        let before = build(&self.publisher);
        self.publisher.publish(table);
        if build(&self.publisher) != before {
            // Other programs have another map: the measuring programs must read that one.
            (self.ebpf, self.runner) = measuring(&self.publisher.datapath);
        }
    }

    /// For a reader beside a writer.
    pub(crate) fn split(&mut self) -> (&Runner, &mut Publisher) {
        (&self.runner, &mut self.publisher)
    }

    /// Stores a set of destinations; there is room for four.
    pub(crate) fn set_targets(&mut self, set: u32, targets: &[Target]) {
        assert_eq!(targets.len(), SET);
        let map = self.ebpf.map_mut("BENCH_TARGETS").expect("the targets");
        let mut map = Array::<_, Target>::try_from(map).expect("an array");
        for (i, target) in targets.iter().enumerate() {
            map.set(set * SET as u32 + i as u32, target, 0).expect("a slot");
        }
    }

    /// Aims at the first `count` (a power of two) targets of a set, from number `next` on.
    pub(crate) fn aim(&mut self, set: u32, count: u32, next: u32) {
        assert!(count.is_power_of_two() && count as usize <= SET);
        let map = self.ebpf.map_mut("BENCH_CURSOR").expect("the cursor");
        let mut map = Array::<_, Cursor>::try_from(map).expect("an array");
        let cursor = Cursor { first: set * SET as u32, mask: count - 1, next, pad: 0 };
        map.set(0, cursor, 0).expect("the cursor");
    }

    pub(crate) fn run(&self, kind: Kind, frame: &[u8], mark: u32, repeat: u32) -> (u32, f64) {
        self.runner.run(kind, frame, mark, repeat)
    }

    /// Empties the flow table and the ring buffer; how many of each there were.
    pub(crate) fn drain(&mut self) -> (usize, usize) {
        let mut events = 0;
        while self.events.next_event().is_some() {
            events += 1;
        }
        self.events.commit();
        let flows = self.publisher.datapath.flows().expect("the flow table");
        for flow in &flows {
            let key: &FlowKey = &flow.key;
            let _: Option<FlowValue> =
                self.publisher.datapath.take_flow(key).expect("the flow table");
        }
        (flows.len(), events)
    }
}

/// The measuring programs, on the maps of the product's.
fn measuring(datapath: &Datapath) -> (Ebpf, Runner) {
    let maps = datapath.pins().path().join("maps");
    let paths: Vec<_> = SHARED.iter().map(|name| (*name, maps.join(name))).collect();
    let mut loader = EbpfLoader::new();
    let mask = datapath.slot_words() - 1;
    loader.override_global("AYA_LOG_LEVEL", &0u8, true);
    let kinds = datapath.kinds();
    loader.override_global("SOV_SLOT_MASK", &mask, true);
    loader.override_global("SOV_KINDS", &kinds, true);
    for (name, path) in &paths {
        loader.map_pin_path(name, path);
    }
    let mut ebpf = loader.load(OBJECT).expect("the measuring object");
    let programs = KINDS
        .iter()
        .map(|(_, name)| {
            let program = ebpf.program_mut(name).expect("a program of bench.rs");
            let program: &mut SchedClassifier = program.try_into().expect("a tc program");
            program.load().unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let fd = program.fd().expect("loaded").as_fd();
            Program::from_fd(fd.try_clone_to_owned().expect("dup"))
        })
        .collect();
    (ebpf, Runner(programs))
}

/// Replaces the content of a trie. `N` words of address.
fn fill<const N: usize>(
    mut trie: LpmTrie<&mut MapData, [u32; N], u32>,
    prefixes: &[(u128, u8, u16)],
) where
    [u32; N]: aya::Pod,
{
    let old: Vec<_> = trie.keys().collect::<Result<_, _>>().expect("the trie's keys");
    for key in old {
        trie.remove(&key).expect("a key of the trie");
    }
    for &(address, length, class) in prefixes {
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            *word = ((address >> (32 * (N - 1 - i))) as u32).to_be();
        }
        trie.insert(&Key::new(length.into(), words), u32::from(class), 0)
            .expect("room in the trie");
    }
}
