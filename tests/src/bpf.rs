//! The few bpf(2) calls that tests make on the agent's own pinned objects: open a pin, run a program
//! on a packet, read per-CPU maps. Raw, so that a million runs cost a second and nothing in between
//! can smooth a result over.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const OBJ_GET: libc::c_int = 7;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const MAP_LOOKUP_BATCH: libc::c_int = 24;

/// `struct __sk_buff`, as far as PROG_TEST_RUN lets callers set it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SkBuff {
    pub len: u32,
    pub pkt_type: u32,
    pub mark: u32,
    pub queue_mapping: u32,
    pub protocol: u32,
    pub vlan_present: u32,
    pub vlan_tci: u32,
    pub vlan_proto: u32,
    pub priority: u32,
    pub ingress_ifindex: u32,
    pub ifindex: u32,
    pub rest: [u32; 37],
}

impl SkBuff {
    pub fn with_mark(mark: u32) -> Self {
        // SAFETY: integers only; zero is a valid value.
        let mut ctx: Self = unsafe { std::mem::zeroed() };
        ctx.mark = mark;
        ctx
    }
}

/// Front of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
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

pub(crate) fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live front part of union bpf_attr and its size is passed along.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// Opens a pinned program, map or link.
pub fn open_pin(path: &Path) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attr = Attr { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = bpf(OBJ_GET, &mut attr).with_context(|| format!("open pin {}", path.display()))?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A program that can be run on packets.
pub struct Program(OwnedFd);

impl Program {
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self(open_pin(path)?))
    }

    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Size of the program after the verifier has removed what is never reached.
    pub fn translated_bytes(&self) -> io::Result<u32> {
        #[repr(C)]
        struct Attr {
            fd: u32,
            length: u32,
            info: u64,
        }
        /// Front of `struct bpf_prog_info`.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            kind: u32,
            id: u32,
            tag: [u8; 8],
            jited: u32,
            translated: u32,
        }
        let mut info = Info::default();
        let mut attr = Attr {
            fd: self.0.as_raw_fd() as u32,
            length: size_of::<Info>() as u32,
            info: (&raw mut info) as u64,
        };
        bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
        Ok(info.translated)
    }

    /// Runs the program on one frame and returns its return code.
    pub fn run(&self, frame: &[u8], ctx: &SkBuff) -> io::Result<u32> {
        self.run_repeated(frame, ctx, 1).map(|(code, _)| code)
    }

    /// Runs an XDP program on one frame whose first piece has `linear` bytes, the rest being fragments
    /// (kernel 6.18; EINVAL before); `None` = one piece.
    pub fn run_xdp(&self, frame: &[u8], linear: Option<usize>) -> io::Result<u32> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, linear.unwrap_or(frame.len()) as u32, 0, 0, 0, 0];
        let mut attr = TestRunAttr {
            prog_fd: self.0.as_raw_fd() as u32,
            retval: 0,
            data_size_in: frame.len() as u32,
            data_size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
            ctx_size_in: if linear.is_some() { size_of_val(&context) as u32 } else { 0 },
            ctx_size_out: 0,
            ctx_in: if linear.is_some() { context.as_ptr() as u64 } else { 0 },
            ctx_out: 0,
            flags: 0,
            cpu: 0,
            batch_size: 0,
            pad: 0,
        };
        bpf(PROG_TEST_RUN, &mut attr)?;
        Ok(attr.retval)
    }

    /// Runs an XDP program `repeat` times on copies of a frame that are real ones: what it redirects is
    /// sent. In the network namespace of the calling thread; kernel 5.18.
    pub fn run_live(&self, frame: &[u8], repeat: u32) -> io::Result<()> {
        const LIVE_FRAMES: u32 = 1 << 1;
        let mut attr = TestRunAttr {
            prog_fd: self.0.as_raw_fd() as u32,
            retval: 0,
            data_size_in: frame.len() as u32,
            data_size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat,
            duration: 0,
            ctx_size_in: 0,
            ctx_size_out: 0,
            ctx_in: 0,
            ctx_out: 0,
            flags: LIVE_FRAMES,
            cpu: 0,
            batch_size: 64,
            pad: 0,
        };
        bpf(PROG_TEST_RUN, &mut attr).map(|_| ())
    }

    /// Runs it `repeat` times; (return code, mean nanoseconds per run).
    pub fn run_repeated(&self, frame: &[u8], ctx: &SkBuff, repeat: u32) -> io::Result<(u32, u32)> {
        let mut attr = TestRunAttr {
            prog_fd: self.0.as_raw_fd() as u32,
            retval: 0,
            data_size_in: frame.len() as u32,
            data_size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat,
            duration: 0,
            ctx_size_in: size_of::<SkBuff>() as u32,
            ctx_size_out: 0,
            ctx_in: ctx as *const SkBuff as u64,
            ctx_out: 0,
            flags: 0,
            cpu: 0,
            batch_size: 0,
            pad: 0,
        };
        bpf(PROG_TEST_RUN, &mut attr)?;
        Ok((attr.retval, attr.duration))
    }
}

/// Puts an XDP program that passes everything on an interface of the calling thread's namespace, native,
/// until the returned link is dropped.
pub fn pass_xdp(ifindex: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log: [u32; 4],
        kernel: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Create {
        program: u32,
        target: u32,
        attach: u32,
        flags: u32,
    }
    const PROG_LOAD: libc::c_int = 5;
    const LINK_CREATE: libc::c_int = 28;
    const TYPE_XDP: u32 = 6;
    const HAS_FRAGS: u32 = 1 << 5;
    const ATTACH_XDP: u32 = 37;
    const NATIVE: u32 = 1 << 2;
    // r0 = XDP_PASS; exit
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let mut load = Load {
        kind: TYPE_XDP,
        count: 2,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 4],
        kernel: 0,
        flags: HAS_FRAGS,
    };
    let program = bpf(PROG_LOAD, &mut load)? as u32;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    let _program = unsafe { OwnedFd::from_raw_fd(program as i32) };
    let mut create = Create { program, target: ifindex, attach: ATTACH_XDP, flags: NATIVE };
    let link = bpf(LINK_CREATE, &mut create)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(link as i32) })
}

/// A per-CPU array map, or its first entries, read in one go.
pub struct PerCpuArray {
    fd: OwnedFd,
    /// Bytes of one value on one CPU, rounded up to 8 as the kernel does.
    value: usize,
    entries: u32,
    cpus: usize,
}

impl PerCpuArray {
    /// `entries` may be fewer than the map has.
    pub fn open(path: &Path, value: usize, entries: u32) -> Result<Self> {
        let fd = open_pin(path)?;
        Ok(Self { fd, value: value.next_multiple_of(8), entries, cpus: possible_cpus()? })
    }

    /// The u64 words of every value, summed over the CPUs: `[entry][word]`, flat.
    pub fn read(&self) -> Result<Vec<u64>> {
        #[repr(C)]
        struct Batch {
            in_batch: u64,
            out_batch: u64,
            keys: u64,
            values: u64,
            count: u32,
            map_fd: u32,
            elem_flags: u64,
            flags: u64,
        }
        let words = self.value / 8;
        let mut keys = vec![0u32; self.entries as usize];
        let mut values = vec![0u64; self.entries as usize * words * self.cpus];
        let mut out_batch = 0u32;
        let mut attr = Batch {
            in_batch: 0,
            out_batch: &mut out_batch as *mut u32 as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: self.entries,
            map_fd: self.fd.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        match bpf(MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => {}
            // End of the map: the count says how much was read.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return self.read_singly(),
            Err(e) => bail!("read per-CPU map: {e}"),
        }
        ensure!(attr.count == self.entries, "read {} of {} entries", attr.count, self.entries);
        Ok(self.sum(&values))
    }

    /// For kernels without batch operations on per-CPU arrays (before 5.13).
    fn read_singly(&self) -> Result<Vec<u64>> {
        #[repr(C)]
        struct Elem {
            map_fd: u32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let per_entry = self.value / 8 * self.cpus;
        let mut values = vec![0u64; self.entries as usize * per_entry];
        for key in 0..self.entries {
            let at = key as usize * per_entry;
            let mut attr = Elem {
                map_fd: self.fd.as_raw_fd() as u32,
                pad: 0,
                key: &key as *const u32 as u64,
                value: values[at..].as_mut_ptr() as u64,
                flags: 0,
            };
            bpf(MAP_LOOKUP_ELEM, &mut attr).context("read per-CPU map")?;
        }
        Ok(self.sum(&values))
    }

    fn sum(&self, values: &[u64]) -> Vec<u64> {
        let words = self.value / 8;
        let mut out = vec![0u64; self.entries as usize * words];
        for (entry, chunk) in values.chunks(words * self.cpus).enumerate() {
            for (i, value) in chunk.iter().enumerate() {
                out[entry * words + i % words] += value;
            }
        }
        out
    }
}

fn possible_cpus() -> Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or("0");
    Ok(last.parse::<usize>().context("parse possible CPUs")? + 1)
}
