//! The ring buffer of first packets, and the kernel-side log.

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use sov_common::abi::Event;

/// Reads events. The kernel never waits for it: what it does not read in time is counted as lost.
pub struct EventReader(pub(super) RingBuf<MapData>);

impl EventReader {
    /// The next event, `None` when there is none at the moment. Never blocks; the kernel sends no
    /// wake-ups, so poll a few times per second.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let item = self.0.next()?;
            if item.len() == size_of::<Event>() {
                // SAFETY: the length matches, every bit pattern is a valid Event, and the read does
                // not ask for alignment.
                return Some(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
            }
            log::warn!("ring buffer item of {} bytes, expected {}", item.len(), size_of::<Event>());
        }
    }
}

/// Messages of the kernel programs, for debugging. Exists only when a level was chosen at load.
pub struct KernelLog(EbpfLogger<&'static dyn log::Log>);

impl KernelLog {
    pub(super) fn new(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init(ebpf).inspect_err(|e| log::warn!("kernel-side log: {e}")).ok().map(Self)
    }

    /// Passes waiting messages to the logger.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
