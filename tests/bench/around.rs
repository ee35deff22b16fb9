//! The programs around the product: the sink at the far end, an empty hook, the XDP floor, and the
//! generator.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray},
    programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, tc::TcAttachOptions},
};
use sov_tests::{bpf::Program, netns::Netns};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sov-lab.o"));

/// What the programs count.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    /// Datagrams that arrived at the far end.
    Sink = 0,
    /// Frames that the XDP floor dropped.
    Drop = 1,
    /// Frames that the generator made.
    Made = 2,
}

pub(crate) struct Around(Ebpf);

impl Around {
    pub(crate) fn load() -> Self {
        let mut ebpf = EbpfLoader::new().load(OBJECT).expect("the lab's object");
        for name in ["lab_sink", "lab_empty"] {
            tc(&mut ebpf, name).load().expect("a program of lab.rs");
        }
        for name in ["lab_drop", "lab_generate"] {
            xdp(&mut ebpf, name).load().expect("a program of lab.rs");
        }
        Self(ebpf)
    }

    /// Ends the benchmark's datagrams where they arrive.
    pub(crate) fn sink(&mut self, ns: &Netns, interface: &str) {
        self.attach(ns, interface, "lab_sink", TcAttachType::Ingress);
    }

    /// A hook that does nothing where packets leave.
    pub(crate) fn empty(&mut self, ns: &Netns, interface: &str) {
        self.attach(ns, interface, "lab_empty", TcAttachType::Egress);
    }

    /// Drops everything before an skb exists.
    pub(crate) fn floor(&mut self, ns: &Netns, interface: &str) {
        let program = xdp(&mut self.0, "lab_drop");
        ns.run(|| program.attach(interface, XdpMode::Driver).map(drop))
            .expect("native XDP on veth");
    }

    pub(crate) fn generator(&mut self) -> Program {
        use std::os::fd::AsFd as _;
        let fd = xdp(&mut self.0, "lab_generate").fd().expect("loaded").as_fd();
        Program::from_fd(fd.try_clone_to_owned().expect("dup"))
    }

    /// Stores the generator's destinations of one family; a power of two of them.
    pub(crate) fn generate_to(&mut self, family: u8, to: &[u128]) {
        assert!(to.len().is_power_of_two());
        let map = self.0.map_mut("LAB_TARGETS").expect("the targets");
        let mut targets = Array::<_, [u32; 4]>::try_from(map).expect("an array");
        for (i, address) in to.iter().enumerate() {
            let word = |at: u32| ((address >> (96 - 32 * at)) as u32).to_be();
            let words = if family == 6 { [0, 1, 2, 3].map(word) } else { [word(3), 0, 0, 0] };
            targets.set(i as u32, words, 0).expect("a slot");
        }
        self.set(1, to.len() as u32 - 1);
    }

    /// The interface that the generator sends into.
    pub(crate) fn generate_into(&mut self, ifindex: u32) {
        self.set(0, ifindex);
        self.set(2, 0);
    }

    fn set(&mut self, index: u32, value: u32) {
        let map = self.0.map_mut("LAB_SETTINGS").expect("the settings");
        let mut settings = Array::<_, u32>::try_from(map).expect("an array");
        settings.set(index, value, 0).expect("a slot");
    }

    fn attach(&mut self, ns: &Netns, interface: &str, name: &str, direction: TcAttachType) {
        let program = tc(&mut self.0, name);
        ns.run(|| {
            let options = TcAttachOptions::TcxOrder(LinkOrder::last());
            program.attach_with_options(interface, direction, options).expect("a tcx link");
        });
    }

    pub(crate) fn count(&self, what: Count) -> u64 {
        let map = self.0.map("LAB_COUNT").expect("the counts");
        let counts = PerCpuArray::<_, u64>::try_from(map).expect("a per-CPU array");
        counts.get(&(what as u32), 0).expect("a slot").iter().sum()
    }
}

fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).and_then(|p| p.try_into().ok()).expect("a tc program of lab.rs")
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name).and_then(|p| p.try_into().ok()).expect("an XDP program of lab.rs")
}
