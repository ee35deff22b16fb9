//! Loading the object, and the handle to programs and maps.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{ArrayOfMaps, MapError},
    programs::Program,
};
use sov_common::{
    abi::{Answers, FlowKey, FlowValue, Ledger},
    image::MIN_SLOT_WORDS,
};

use super::{
    Attached, CgroupRoot, CounterRow, DatapathError, Direction, EventReader, FlowEntry, Interface,
    KernelLog, LiveImage, Pins, Tc, attach, guard,
    pins::mount_bpffs,
    slot::{self, Build},
    stats, xdp,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sov.o"));

/// The maps that outlive the agent, besides that of the image.
const MAPS: [&str; 9] = [
    "SOV_FLOWS",
    "SOV_EVENTS",
    "SOV_COUNTERS",
    "SOV_XDP_COUNT",
    "SOV_LEDGER",
    "SOV_ANSWERS",
    "SOV_SOCKETS",
    "SOV_REPLIES",
    "SOV_GUARDED",
];

const PROGRAMS: [&str; 11] = [
    "sov_egress",
    "sov_egress_l3",
    "sov_ingress",
    "sov_ingress_l3",
    "sov_inbound",
    "sov_inbound_l3",
    "sov_xdp",
    "sov_connect4",
    "sov_connect6",
    "sov_sendmsg4",
    "sov_sendmsg6",
];

/// How the programs are loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder on a bpffs, for example /sys/fs/bpf/sov. A folder per ABI version is made in it.
    pub pins: PathBuf,
    /// Packets that pass are final (TC_ACT_OK) and no later program sees them; otherwise the next
    /// program is asked (TCX_NEXT).
    pub pass_is_final: bool,
    /// Resets and ICMP errors a second, on each CPU, for tags with `response = "reject"`; 0 = none.
    pub reject_rate: u32,
    /// tcx where the kernel has it.
    pub tc: Tc,
    /// Level of the kernel-side log; `None` = off, removed by the verifier.
    pub log: Option<log::Level>,
}

/// The loaded programs and their maps. Dropping it changes nothing for packets: all is pinned.
pub struct Datapath {
    ebpf: Ebpf,
    pins: Pins,
    options: Options,
    build: Build,
    /// What was attached, to be attached again when the programs are replaced.
    interfaces: Vec<(Interface, Direction)>,
    cgroup: Option<CgroupRoot>,
}

const IMAGE: &str = "SOV_IMAGE";

impl Datapath {
    /// Opens the object and its maps, the pinned ones where there are any. Programs are verified when
    /// they are first needed: the kernel takes up to half a second for one.
    pub fn load(options: &Options) -> Result<Self, DatapathError> {
        mount_bpffs(&options.pins)?;
        let pins = Pins::new(&options.pins);
        pins.create()?;
        let path = pins.map(IMAGE);
        let build = match slot::pinned(&path)? {
            Some(build) => build,
            None => {
                slot::create(MIN_SLOT_WORDS, &path)?;
                Build { slot: MIN_SLOT_WORDS, kinds: 0 }
            }
        };
        let mut ebpf = open(options, &pins, &path, build)?;
        guard::claim(&mut ebpf, &pins)?;
        let options = options.clone();
        Ok(Self { ebpf, pins, options, build, interfaces: Vec::new(), cgroup: None })
    }

    /// Verifies every program of the object, needed or not.
    pub fn load_all(&mut self) -> Result<(), DatapathError> {
        self.ensure_all(&PROGRAMS)
    }

    /// Verifies at once what nearly every node will attach. What fails here fails again, and is
    /// reported, where it is needed.
    pub fn prepare(&mut self, sockets: bool) {
        let hooks = attach::SOCKET_HOOKS.iter().map(|hook| hook.1).chain([guard::PROGRAM]);
        let names: Vec<_> = ["sov_egress"].into_iter().chain(hooks.filter(|_| sockets)).collect();
        if let Err(e) = self.ensure_all(&names) {
            log::debug!("{e}");
        }
    }

    /// Verifies one program, once.
    fn ensure(&mut self, name: &'static str) -> Result<(), DatapathError> {
        self.ensure_all(&[name])
    }

    /// Verifies programs, each once and on a thread of its own: the kernel verifies what a privileged
    /// process loads side by side.
    fn ensure_all(&mut self, names: &[&'static str]) -> Result<(), DatapathError> {
        if let Some(missing) = names.iter().find(|name| self.ebpf.program(name).is_none()) {
            let problem = "not in the object".into();
            return Err(DatapathError::Program { program: missing, problem });
        }
        let wanted = self.ebpf.programs_mut().filter_map(|(name, program)| {
            let name = names.iter().find(|wanted| **wanted == name)?;
            program.fd().is_err().then_some((*name, program))
        });
        let mut wanted: Vec<_> = wanted.collect();
        if let [(name, program)] = &mut wanted[..] {
            return verify(name, program);
        }
        thread::scope(|scope| {
            let runs =
                wanted.into_iter().map(|(name, program)| scope.spawn(|| verify(name, program)));
            let runs: Vec<_> = runs.collect();
            let ends = runs.into_iter().map(|run| run.join().unwrap_or_else(|p| resume_unwind(p)));
            // Every one is waited for before the first error is returned.
            ends.collect::<Vec<_>>().into_iter().collect()
        })
    }

    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The kernel-side log; can be taken once, and again when the programs were replaced.
    pub fn kernel_log(&mut self) -> Option<KernelLog> {
        KernelLog::new(&mut self.ebpf)
    }

    /// Makes `words` the live image. Returns after every packet that was judged by the old one is
    /// through; the old slot is freed then.
    pub fn publish(&mut self, words: &[u32]) -> Result<(), DatapathError> {
        let build = self.build.with(words).ok_or_else(|| DatapathError::System {
            what: format!("an image of {} KiB", words.len() / 256),
            source: io::ErrorKind::FileTooLarge.into(),
        })?;
        if build == self.build {
            return publish(&mut self.ebpf, build, words);
        }
        self.replace(build, words)
    }

    /// Words of the slot that holds the live image.
    pub fn slot_words(&self) -> u32 {
        self.build.slot
    }

    /// Selector kinds (`flags::SELECTORS`) that the programs look at.
    pub fn kinds(&self) -> u32 {
        self.build.kinds
    }

    /// Replaces maps and programs by such that take more. Packets are judged by the old image until
    /// their link has the new program, and there is no moment without one. Until the first link is
    /// touched an error changes nothing.
    fn replace(&mut self, build: Build, words: &[u32]) -> Result<(), DatapathError> {
        let path = self.pins.map("SOV_IMAGE_NEW");
        let pin_error = |source| DatapathError::Pin { path: path.clone(), source };
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(pin_error(e)),
            _ => {}
        }
        slot::create(build.slot, &path)?;
        let mut ebpf = open(&self.options, &self.pins, &path, build)?;
        publish(&mut ebpf, build, words)?;
        // Links of an agent that is gone too: they would go on with the old image for ever.
        let orphans = self.orphans();
        let interfaces: Vec<_> = self.interfaces.drain(..).collect();
        let cgroup = self.cgroup.take();
        let (old_ebpf, old) = (std::mem::replace(&mut self.ebpf, ebpf), self.build);
        self.build = build;
        let needed: Vec<_> = (interfaces.iter().chain(&orphans))
            .map(|(interface, direction)| direction.program(interface.ethernet))
            .chain(attach::SOCKET_HOOKS.iter().map(|hook| hook.1).filter(|_| cgroup.is_some()))
            .collect();
        if let Err(e) = self.ensure_all(&needed) {
            (self.ebpf, self.build) = (old_ebpf, old);
            (self.interfaces, self.cgroup) = (interfaces, cgroup);
            let _ = fs::remove_file(&path);
            return Err(e);
        }
        // From here on the new map is the one that a restarted agent takes over.
        fs::rename(&path, self.pins.map(IMAGE)).map_err(pin_error)?;
        if build.slot != old.slot {
            let kib = |build: Build| build.slot / 256;
            log::info!("the image slot has grown from {} to {} KiB", kib(old), kib(build));
        }
        log::debug!("programs for selector kinds {:#x}, before {:#x}", build.kinds, old.kinds);
        let mut first_error = None;
        for (interface, direction) in interfaces {
            match self.attach_interface(&interface, direction) {
                Ok(_) => {}
                // It went away, and its links with it: the watch for interfaces tells.
                Err(_) if !super::interfaces().is_ok_and(|all| all.contains(&interface)) => {}
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        for (interface, direction) in orphans {
            if let Err(e) = self.attach_interface(&interface, direction) {
                log::warn!("{e}; what an earlier agent left there goes on with its policy");
            }
        }
        if let Some(root) = cgroup {
            first_error = first_error.or(self.attach_cgroup(&root).err());
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Pinned links of interfaces that this process has not attached.
    fn orphans(&self) -> Vec<(Interface, Direction)> {
        let present = super::interfaces().unwrap_or_default();
        let pinned = self.pins.links().unwrap_or_default();
        let known = |direction: Direction, index: u32| {
            self.interfaces.iter().any(|(i, d)| (i.index, *d) == (index, direction))
        };
        let pinned = pinned.iter().filter_map(|name| Direction::of_pin(name));
        pinned
            .filter(|(direction, index)| !known(*direction, *index))
            .filter_map(|(direction, index)| {
                let interface = present.iter().find(|interface| interface.index == index)?;
                Some((interface.clone(), direction))
            })
            .collect()
    }

    /// The header of the live image, `None` before the first.
    pub fn live(&self) -> Result<Option<LiveImage>, DatapathError> {
        let map = self.ebpf.map(IMAGE).ok_or(DatapathError::NoMap { map: IMAGE })?;
        slot::live(&ArrayOfMaps::try_from(map).map_err(map_error(IMAGE))?)
    }

    pub fn attach_interface(
        &mut self,
        interface: &Interface,
        direction: Direction,
    ) -> Result<Attached, DatapathError> {
        self.ensure(direction.program(interface.ethernet))?;
        let done = match direction {
            Direction::Xdp => xdp::attach(&mut self.ebpf, &self.pins, interface)?,
            _ => {
                let tc = self.options.tc;
                attach::attach_interface(&mut self.ebpf, &self.pins, interface, direction, tc)?
            }
        };
        if direction == Direction::Egress {
            guard::watch(&mut self.ebpf, interface.index)?;
        }
        self.interfaces.retain(|(i, d)| (i.index, *d) != (interface.index, direction));
        self.interfaces.push((interface.clone(), direction));
        Ok(done)
    }

    pub fn attach_cgroup(&mut self, root: &CgroupRoot) -> Result<Vec<Attached>, DatapathError> {
        self.ensure_all(&attach::SOCKET_HOOKS.map(|hook| hook.1))?;
        let mut done = attach::attach_cgroup(&mut self.ebpf, &self.pins, root)?;
        self.cgroup = Some(root.clone());
        match self.ensure(guard::PROGRAM) {
            Ok(()) => done.push(guard::attach(&mut self.ebpf, &self.pins, root)?),
            Err(e) => log::warn!(
                "{e}; interfaces that appear later are open until they are found (kernel 6.15 closes that gap)"
            ),
        }
        Ok(done)
    }

    /// Interfaces with a program at their egress; on all others the guard judges what sockets send.
    pub fn watched(&mut self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError> {
        guard::watch_only(&mut self.ebpf, ifindexes)
    }

    /// The event reader; can be taken once.
    pub fn take_events(&mut self) -> Result<EventReader, DatapathError> {
        const MAP: &str = "SOV_EVENTS";
        let map = self.ebpf.take_map(MAP).ok_or(DatapathError::NoMap { map: MAP })?;
        match map {
            aya::maps::Map::RingBuf(map) => EventReader::new(map),
            _ => Err(DatapathError::NoMap { map: MAP }),
        }
    }

    pub fn counters(&self) -> Result<Vec<CounterRow>, DatapathError> {
        stats::counters(&self.ebpf, stats::COUNTS)
    }

    /// The same for packets that XDP judged; those that pass are judged again by tc.
    pub fn xdp_counters(&self) -> Result<Vec<CounterRow>, DatapathError> {
        stats::counters(&self.ebpf, stats::XDP_COUNTS)
    }

    pub fn ledger(&self) -> Result<Ledger, DatapathError> {
        stats::ledger(&self.ebpf)
    }

    /// Polite refusals since the maps were made.
    pub fn answers(&self) -> Result<Answers, DatapathError> {
        stats::answers(&self.ebpf)
    }

    pub fn flows(&self) -> Result<Vec<FlowEntry>, DatapathError> {
        stats::flows(&self.ebpf)
    }

    pub fn take_flow(&self, key: &FlowKey) -> Result<Option<FlowValue>, DatapathError> {
        stats::take_flow(&self.ebpf, key)
    }

    /// Kernel id of a pinned link.
    pub fn link_id(&self, name: &str) -> Option<u32> {
        let link = aya::programs::links::PinnedLink::from_pin(self.pins.link(name)).ok()?;
        aya::programs::links::FdLink::from(link).info().ok().map(|info| info.id())
    }

    /// A loaded packet program (`sov_egress`, `sov_xdp`, …), for test runs.
    pub fn program(&mut self, name: &'static str) -> Result<BorrowedFd<'_>, DatapathError> {
        self.ensure(name)?;
        let fail =
            |problem: &str| DatapathError::Program { program: name, problem: problem.into() };
        let program = self.ebpf.program(name).ok_or_else(|| fail("not in the object"))?;
        let fd = match program {
            Program::SchedClassifier(program) => program.fd(),
            Program::Xdp(program) => program.fd(),
            _ => return Err(fail("not a packet program")),
        };
        Ok(fd.map_err(|_| fail("not loaded"))?.as_fd())
    }
}

fn verify(name: &'static str, program: &mut Program) -> Result<(), DatapathError> {
    let fail = |problem: String| DatapathError::Program { program: name, problem };
    match program {
        Program::SchedClassifier(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSkb(p) => p.load(),
        Program::Xdp(p) => p.load(),
        other => return Err(fail(format!("unexpected type {:?}", other.prog_type()))),
    }
    .map_err(|e| fail(attach::chain(&e)))?;
    if let Ok(info) = program.info() {
        let count = info.verified_instruction_count().unwrap_or(0);
        log::debug!("program {name}: {count} instructions verified");
    }
    Ok(())
}

/// Opens the object on the pinned maps. `image` is the outer map's pin, made for slots of that size.
fn open(options: &Options, pins: &Pins, image: &Path, build: Build) -> Result<Ebpf, DatapathError> {
    let pass: i32 = if options.pass_is_final { 0 } else { -1 };
    let level = options.log.map_or(0u8, |level| level as u8);
    let mask = build.slot - 1;
    let cost: u64 = 1_000_000_000u64.checked_div(options.reject_rate.into()).unwrap_or(0);
    let netns = guard::netns_cookie();
    let paths: Vec<_> = MAPS.iter().map(|name| (*name, pins.map(name))).collect();
    let mut loader = EbpfLoader::new();
    loader
        .override_global("SOV_PASS", &pass, true)
        .override_global("SOV_SLOT_MASK", &mask, true)
        .override_global("SOV_KINDS", &build.kinds, true)
        .override_global("SOV_ANSWER_COST", &cost, true)
        .override_global("SOV_NETNS", &netns, true)
        .override_global(aya_log::LEVEL, &level, false)
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_pin_path(IMAGE, image);
    for (name, path) in &paths {
        loader.map_pin_path(name, path);
    }
    loader.load(OBJECT).map_err(|e| DatapathError::Load { problem: attach::chain(&e) })
}

fn publish(ebpf: &mut Ebpf, build: Build, words: &[u32]) -> Result<(), DatapathError> {
    let map = ebpf.map_mut(IMAGE).ok_or(DatapathError::NoMap { map: IMAGE })?;
    slot::publish(&mut ArrayOfMaps::try_from(map).map_err(map_error(IMAGE))?, build, words)
}

pub(super) fn map_error(map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { map, source }
}
