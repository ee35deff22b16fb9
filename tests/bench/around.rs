//! The programs around the product: the sink at the far end, an empty hook, the XDP floor, and the
//! generator.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray},
    programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, tc::TcAttachOptions},
};
use sov_tests::netns::Netns;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sov-lab.o"));

/// What the programs count.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    /// Datagrams that arrived at the far end.
    Sink = 0,
    /// Packets that the XDP floor dropped.
    Drop = 1,
    /// Packets that the generator made.
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

    fn attach(&mut self, ns: &Netns, interface: &str, name: &str, direction: TcAttachType) {
        let program = tc(&mut self.0, name);
        ns.run(|| {
            let options = TcAttachOptions::TcxOrder(LinkOrder::last());
            program.attach_with_options(interface, direction, options).expect("a tcx link");
        });
    }

    /// Drops everything before an skb exists.
    pub(crate) fn floor(&mut self, ns: &Netns, interface: &str) {
        let program = xdp(&mut self.0, "lab_drop");
        ns.run(|| program.attach(interface, XdpMode::Driver).map(drop))
            .expect("native XDP on veth");
    }

    pub(crate) fn generator(&mut self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd as _;
        xdp(&mut self.0, "lab_generate").fd().expect("loaded").as_fd()
    }

    /// Where the generator sends, and the destinations of one family that it writes: as many as the
    /// largest power of two that fits.
    pub(crate) fn generate(&mut self, ifindex: u32, v6: bool, to: &[u128]) {
        let used = to.len() + 1;
        let used = 1 << (usize::BITS - 1 - (used - 1).leading_zeros());
        let map = self.0.map_mut("LAB_TARGETS").expect("the targets");
        let mut targets = Array::<_, [u32; 4]>::try_from(map).expect("an array");
        for (i, address) in to.iter().take(used).enumerate() {
            let word = |at: u32| ((address >> (96 - 32 * at)) as u32).to_be();
            let words = if v6 { [0, 1, 2, 3].map(word) } else { [word(3), 0, 0, 0] };
            targets.set(i as u32, words, 0).expect("a slot");
        }
        let map = self.0.map_mut("LAB_SETTINGS").expect("the settings");
        let mut settings = Array::<_, u32>::try_from(map).expect("an array");
        for (i, value) in [ifindex, used as u32 - 1, 0].into_iter().enumerate() {
            settings.set(i as u32, value, 0).expect("a slot");
        }
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
