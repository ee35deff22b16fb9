//! The real programs, loaded by the product's own loader into a bpffs of the test's own.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use sov_agent::{
    datapath::{Datapath, Options, Pins, Tc},
    policy::image::Image,
};
use sov_common::{
    abi::{Counter, Ledger, counter_index},
    verdict::{Reason, Verdict},
};
use sov_tests::{
    agent::Host,
    bpf::{PerCpuArray, Program, SkBuff},
};

/// TC_ACT_SHOT, and what the programs return for "go on": TC_ACT_UNSPEC.
const SHOT: u32 = 2;
const NEXT: u32 = u32::MAX;
/// TC_ACT_REDIRECT: a reset or an ICMP error takes the packet's place.
const REDIRECT: u32 = 7;

/// Tag slots that the tests look at, from 0, and their counters: reading all takes milliseconds.
const SLOTS: u8 = 4;
const READ: u32 = counter_index(SLOTS, 0, 0);

pub(crate) struct Kernel {
    datapath: RefCell<Datapath>,
    egress: Loaded,
    ingress: Loaded,
    /// The XDP program is asked instead of the one at tc egress.
    gateway: Option<Gateway>,
    counters: PerCpuArray,
    ledger: PerCpuArray,
    /// Unmounts the pins last.
    _host: Host,
}

/// A program, verified when it is first asked.
struct Loaded {
    name: &'static str,
    program: RefCell<Option<Arc<Program>>>,
}

impl Loaded {
    fn new(name: &'static str) -> Self {
        Self { name, program: RefCell::new(None) }
    }

    fn get(&self, datapath: &RefCell<Datapath>) -> Arc<Program> {
        let load = || {
            let mut datapath = datapath.borrow_mut();
            let fd = datapath.program(self.name).expect("the program loads");
            Arc::new(Program::from_fd(fd.try_clone_to_owned().expect("dup")))
        };
        Arc::clone(self.program.borrow_mut().get_or_insert_with(load))
    }

    /// The datapath has others now.
    fn forget(&self) {
        *self.program.borrow_mut() = None;
    }
}

/// The XDP program. It sees no marks: the low four bits of a mark become the DSCP.
struct Gateway {
    program: Loaded,
    /// Frames asked; every other one lies in two pieces, where the kernel can make such.
    asked: Cell<usize>,
    pieces: bool,
}

/// XDP_DROP, XDP_PASS, XDP_TX.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

impl Gateway {
    fn passes(&self, program: &Program, frame: &[u8], mark: u32) -> Option<bool> {
        let mut frame = frame.to_vec();
        let dscp = (mark & 0xf) as u8;
        match frame.get(12..14) {
            Some([0x08, 0x00]) if frame.len() > 15 => frame[15] = dscp << 2 | frame[15] & 3,
            Some([0x86, 0xdd]) if frame.len() > 15 => {
                frame[14] = frame[14] & 0xf0 | dscp >> 2;
                frame[15] = dscp << 6 | frame[15] & 0x3f;
            }
            _ => {}
        }
        let asked = self.asked.replace(self.asked.get() + 1);
        // From "not even the ethertype" to "all but the ports".
        let linear = (self.pieces && asked % 2 == 1).then(|| 14 + asked / 2 % 48);
        match program.run_xdp(&frame, linear.filter(|l| *l < frame.len())) {
            Ok(XDP_DROP | XDP_TX) => Some(false),
            Ok(XDP_PASS) => Some(true),
            Ok(other) => panic!("the program returned {other}"),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => None,
            Err(e) => panic!("test run of a frame of {} bytes: {e}", frame.len()),
        }
    }
}

/// (tag slot, reason, verdict, packets)
pub(crate) type Moved = (u8, Reason, Verdict, u64);

impl Kernel {
    pub(crate) fn load() -> Self {
        let host = Host::new().expect("a bpffs");
        let options = Options {
            pins: host.pin_dir(),
            pass_is_final: false,
            reject_rate: 1000,
            tc: Tc::Tcx,
            log: None,
        };
        let datapath = Datapath::load(&options).expect("the programs load");
        let maps = Pins::new(&host.pin_dir()).path().join("maps");
        let counters = PerCpuArray::open(&maps.join("SOV_COUNTERS"), size_of::<Counter>(), READ);
        let ledger = PerCpuArray::open(&maps.join("SOV_LEDGER"), size_of::<Ledger>(), 1);
        Self {
            datapath: RefCell::new(datapath),
            egress: Loaded::new("sov_egress"),
            ingress: Loaded::new("sov_ingress"),
            gateway: None,
            counters: counters.expect("the counters are pinned"),
            ledger: ledger.expect("the ledger is pinned"),
            _host: host,
        }
    }

    /// The same with the XDP program in the place of the one at tc egress, and with its counters.
    pub(crate) fn load_gateway() -> Self {
        let mut kernel = Self::load();
        let program = Loaded::new("sov_xdp");
        let pieces = program.get(&kernel.datapath).run_xdp(&[0; 64], Some(20)).is_ok();
        eprintln!("frames in pieces: {pieces}");
        kernel.gateway = Some(Gateway { program, asked: Cell::new(0), pieces });
        let maps = Pins::new(&kernel._host.pin_dir()).path().join("maps");
        let counters = PerCpuArray::open(&maps.join("SOV_XDP_COUNT"), size_of::<Counter>(), READ);
        kernel.counters = counters.expect("the counters are pinned");
        kernel
    }

    /// Makes the image live; returns its words as the kernel sees them.
    pub(crate) fn publish(&self, image: &Image, generation: u32) -> Vec<u32> {
        let words = image.live(generation, epoch());
        let mut datapath = self.datapath.borrow_mut();
        let made_for = |datapath: &Datapath| (datapath.slot_words(), datapath.kinds());
        let before = made_for(&datapath);
        datapath.publish(&words).expect("the image is published");
        if made_for(&datapath) != before {
            self.egress.forget();
            self.ingress.forget();
            if let Some(gateway) = &self.gateway {
                gateway.program.forget();
            }
        }
        words
    }

    /// Whether the egress program lets the frame go on.
    pub(crate) fn passes(&self, frame: &[u8], mark: u32) -> bool {
        self.try_passes(frame, mark).expect("the kernel takes the frame")
    }

    /// `None` where the kernel itself builds no packet of the frame (its IP header is cut off).
    pub(crate) fn try_passes(&self, frame: &[u8], mark: u32) -> Option<bool> {
        match &self.gateway {
            Some(gateway) => gateway.passes(&gateway.program.get(&self.datapath), frame, mark),
            None => answer(&self.program(), frame, mark),
        }
    }

    /// The same for the program at the ingress of a workload's interface.
    pub(crate) fn enters(&self, frame: &[u8], mark: u32) -> Option<bool> {
        answer(&self.ingress.get(&self.datapath), frame, mark)
    }

    /// Packet counters as they stand, flat.
    pub(crate) fn counters(&self) -> Vec<u64> {
        let words = self.counters.read().expect("the counters are readable");
        words.chunks(size_of::<Counter>() / 8).map(|counter| counter[0]).collect()
    }

    /// Tagged counters that moved since `before`, by slot and reason.
    pub(crate) fn moved(&self, before: &[u64]) -> Vec<Moved> {
        let now = self.counters();
        let mut moved = vec![];
        for slot in 0..SLOTS {
            for reason in Reason::ALL {
                for verdict in [Verdict::Allow, Verdict::Block, Verdict::WouldBlock] {
                    let index = counter_index(slot, *reason as u8, verdict as u8) as usize;
                    if now[index] != before[index] {
                        moved.push((slot, *reason, verdict, now[index] - before[index]));
                    }
                }
            }
        }
        moved
    }

    /// All tagged packets counted since `before`.
    pub(crate) fn total(&self, before: &[u64]) -> u64 {
        self.counters().iter().zip(before).map(|(now, then)| now - then).sum()
    }

    /// [blocked, recorded, aggregated, suppressed, lost, table_full] over all CPUs.
    pub(crate) fn ledger(&self) -> [u64; 6] {
        let words = self.ledger.read().expect("the ledger is readable");
        words.try_into().expect("six words")
    }

    pub(crate) fn datapath(&self) -> std::cell::RefMut<'_, Datapath> {
        self.datapath.borrow_mut()
    }

    pub(crate) fn program(&self) -> Arc<Program> {
        self.egress.get(&self.datapath)
    }
}

fn answer(program: &Program, frame: &[u8], mark: u32) -> Option<bool> {
    match program.run(frame, &SkBuff::with_mark(mark)) {
        // Answered is blocked: the packet itself goes nowhere.
        Ok(SHOT | REDIRECT) => Some(false),
        Ok(NEXT) => Some(true),
        Ok(other) => panic!("the program returned {other}"),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => None,
        Err(e) => panic!("test run of a frame of {} bytes: {e}", frame.len()),
    }
}

pub(crate) fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}

/// Unix seconds minus CLOCK_BOOTTIME seconds.
fn epoch() -> u32 {
    // SAFETY: integers only; zero is a valid value.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    (unix_now() - time.tv_sec as u64) as u32
}
