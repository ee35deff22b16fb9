//! The programs around the product: the sink at the far end, and an empty hook.

use aya::{
    Ebpf, EbpfLoader,
    maps::PerCpuArray,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use sov_tests::netns::Netns;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sov-lab.o"));

/// What the programs count.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    /// Datagrams that arrived at the far end.
    Sink = 0,
}

pub(crate) struct Around(Ebpf);

impl Around {
    pub(crate) fn load() -> Self {
        let mut ebpf = EbpfLoader::new().load(OBJECT).expect("the lab's object");
        for name in ["lab_sink", "lab_empty"] {
            tc(&mut ebpf, name).load().expect("a program of lab.rs");
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

    pub(crate) fn count(&self, what: Count) -> u64 {
        let map = self.0.map("LAB_COUNT").expect("the counts");
        let counts = PerCpuArray::<_, u64>::try_from(map).expect("a per-CPU array");
        counts.get(&(what as u32), 0).expect("a slot").iter().sum()
    }
}

fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).and_then(|p| p.try_into().ok()).expect("a tc program of lab.rs")
}
