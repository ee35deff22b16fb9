//! The few bpf(2) calls that aya 0.14 does not offer: opening and updating pinned links of any kind,
//! test runs that report the time, and reading a map entry while deleting it.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
const BPF_F_MMAPABLE: u32 = 1 << 10;

const MAP_CREATE: libc::c_long = 0;
const OBJ_PIN: libc::c_long = 6;
const MAP_LOOKUP_AND_DELETE: libc::c_long = 21;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

/// `attr` is one of the structs of `union bpf_attr`, zero-padded by the kernel.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most size_of::<T>() bytes of a live struct.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path contains a NUL byte"))
}

#[repr(C)]
struct Object {
    pathname: u64,
    fd: u32,
    flags: u32,
}

/// Opens whatever is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let name = c_path(path)?;
    let mut attr = Object { pathname: name.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = bpf(OBJ_GET, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Pins a map.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    let fd = object.as_raw_fd() as u32;
    let mut attr = Object { pathname: name.as_ptr() as u64, fd, flags: 0 };
    bpf(OBJ_PIN, &mut attr).map(|_| ())
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

fn create(mut attr: MapCreate, name: &[u8]) -> io::Result<OwnedFd> {
    (attr.key_size, attr.max_entries) = (4, 1);
    attr.name[..name.len()].copy_from_slice(name);
    let fd = bpf(MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// An array of one value that can be mapped.
pub(super) fn create_slot(bytes: u32) -> io::Result<OwnedFd> {
    let (map_type, flags) = (MAP_TYPE_ARRAY, BPF_F_MMAPABLE);
    create(MapCreate { map_type, value_size: bytes, flags, ..MapCreate::default() }, b"sov_slot")
}

/// An array of one map like `slot`.
pub(super) fn create_array_of_slots(slot: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (map_type, inner_map_fd) = (MAP_TYPE_ARRAY_OF_MAPS, slot.as_raw_fd() as u32);
    create(
        MapCreate { map_type, value_size: 4, inner_map_fd, ..MapCreate::default() },
        b"SOV_IMAGE",
    )
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_program: u32,
    flags: u32,
    old_program: u32,
}

/// Replaces the program of a link; no packet sees a moment without one.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_program: program.as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    bpf(LINK_UPDATE, &mut attr).map(|_| ())
}

/// Takes a link's program off its hook (kernel 5.9); when this returns, no new packet meets it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd() as u32;
    bpf(LINK_DETACH, &mut attr).map(|_| ())
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads and deletes one entry of a hash map in one step (kernel 5.14). `false` = no such key.
pub(super) fn take<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<bool> {
    let mut attr = MapElement {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(value) as u64,
        flags: 0,
    };
    match bpf(MAP_LOOKUP_AND_DELETE, &mut attr) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Result of [`test_run`].
#[derive(Clone, Copy, Debug)]
pub struct TestRun {
    /// What the program returned (TC_ACT_*).
    pub action: i32,
    /// Mean nanoseconds of one run.
    pub nanoseconds: u32,
}

/// Runs a program `repeat` times on a packet (PROG_TEST_RUN), not on any interface.
///
/// `context` is a `struct __sk_buff` as bytes, empty for none.
pub fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
    repeat: u32,
) -> io::Result<TestRun> {
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat,
        ctx_size_in: context.len() as u32,
        ctx_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        ..TestRunAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(TestRun { action: attr.retval as i32, nanoseconds: attr.duration })
}
