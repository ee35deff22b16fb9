//! Where a thread runs and how much CPU time it used.

/// CPU time of the calling thread, nanoseconds. Soft interrupts that run on top of it are in it.
pub fn thread_ns() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Monotonic time, nanoseconds.
pub fn wall_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

fn clock(id: libc::clockid_t) -> u64 {
    // SAFETY: integers only; zero is a valid value.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: a live timespec.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPUs that exist.
pub fn count() -> usize {
    // SAFETY: no pointers.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }.max(1) as usize
}

/// Keeps the calling thread, and what it starts, on one CPU: a thread that moves leaves its caches
/// behind. Where there is no such CPU nothing changes.
pub fn pin(cpu: usize) {
    set([cpu]);
}

/// Undoes [`pin`] for the calling thread.
pub fn unpin() {
    set(0..count());
}

fn set(cpus: impl IntoIterator<Item = usize>) {
    // SAFETY: plain bits; zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus.into_iter().filter(|cpu| *cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: the set is live and the CPU inside of it.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the set is live and as large as said.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
}
