//! The guard of unknown interfaces, from the agent's side: its link at the root of the cgroup tree, and the
//! set of interfaces that a tc program watches. Judges nothing; `sov-ebpf/src/guard.rs` does.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
    programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, links::FdLink},
};

use super::{
    Attached, CgroupRoot, DatapathError, Pins,
    attach::{chain, take_over},
    loader::map_error,
};

pub(super) const PROGRAM: &str = "sov_guard";
const HOOK: &str = "cgroup_egress";
const WATCHED: &str = "SOV_GUARDED";
/// No interface has this number; its entry is the cookie of the agent's network namespace.
const OWNER: u32 = 0;

/// What `bpf_get_netns_cookie` says in this thread's network namespace; 0 where the kernel (before 5.14)
/// does not tell, and the guard cannot be loaded either.
pub(super) fn netns_cookie() -> u64 {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    // SAFETY: a plain socket call.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return 0;
    }
    // SAFETY: just made.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: a live u64 and its size.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed == 0 { cookie } else { 0 }
}

/// Attaches (or takes over) the guard; the program is loaded.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    root: &CgroupRoot,
) -> Result<Attached, DatapathError> {
    let target = root.path().display().to_string();
    let fail =
        |problem: String| DatapathError::Attach { hook: HOOK, target: target.clone(), problem };
    let folder = fs::File::open(root.path())
        .map_err(|source| DatapathError::System { what: target.clone(), source })?;
    let program: &mut CgroupSkb = ebpf
        .program_mut(PROGRAM)
        .and_then(|p| p.try_into().ok())
        .ok_or(DatapathError::Program { program: PROGRAM, problem: "not in the object".into() })?;
    let fd = program.fd().map_err(|e| fail(e.to_string()))?.as_fd();
    let pin = pins.adopt(HOOK)?;
    let taken_over =
        take_over(&pin, fd).map_err(|source| DatapathError::Pin { path: pin.clone(), source })?;
    if !taken_over {
        let id = program
            .attach(&folder, CgroupSkbAttachType::Egress, CgroupAttachMode::Single)
            .map_err(|e| fail(chain(&e)))?;
        let link = program.take_link(id).map_err(|e| fail(chain(&e)))?;
        let link: FdLink = link.try_into().map_err(|_| fail("not a link".into()))?;
        link.pin(&pin).map_err(|e| fail(chain(&e)))?;
    }
    Ok(Attached { hook: HOOK, kind: "cgroup", target, ifindex: 0, taken_over })
}

/// Makes the maps this namespace's. Links name interfaces by number: an agent of another namespace that
/// took them over would guard the wrong ones. Cookies do not repeat until the next boot.
pub(super) fn claim(ebpf: &mut Ebpf, pins: &Pins) -> Result<(), DatapathError> {
    let cookie = netns_cookie();
    let mut map = watched(ebpf)?;
    let owner = match map.get(&OWNER, 0) {
        Ok(owner) => owner,
        Err(MapError::KeyNotFound) => 0,
        Err(e) => return Err(map_error(WATCHED)(e)),
    };
    if owner != 0 && owner != cookie && pins.links().is_ok_and(|links| !links.is_empty()) {
        return Err(DatapathError::OtherNamespace { path: pins.path().to_path_buf() });
    }
    if owner != cookie {
        map.insert(OWNER, cookie, 0).map_err(map_error(WATCHED))?;
    }
    Ok(())
}

/// From now on tc watches `ifindex`; say so only when its program is in place.
pub(super) fn watch(ebpf: &mut Ebpf, ifindex: u32) -> Result<(), DatapathError> {
    watched(ebpf)?.insert(ifindex, 1, 0).map_err(map_error(WATCHED))
}

/// Only these interfaces are watched: all others are the guard's.
pub(super) fn watch_only(ebpf: &mut Ebpf, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError> {
    let mut map = watched(ebpf)?;
    let known: Vec<u32> = map.keys().collect::<Result<_, _>>().map_err(map_error(WATCHED))?;
    for ifindex in known.iter().filter(|i| **i != OWNER && !ifindexes.contains(i)) {
        map.remove(ifindex).map_err(map_error(WATCHED))?;
    }
    Ok(())
}

fn watched(ebpf: &mut Ebpf) -> Result<HashMap<&mut MapData, u32, u64>, DatapathError> {
    let map = ebpf.map_mut(WATCHED).ok_or(DatapathError::NoMap { map: WATCHED })?;
    HashMap::try_from(map).map_err(map_error(WATCHED))
}
