//! Two tiny tc programs in bytecode, for comparison: one that does nothing, and one that looks the
//! destination up in the kernel's LPM trie. Assembled here so that no second object has to be built.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

use crate::bpf::{Program, bpf};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LPM_TRIE: u32 = 11;
const SCHED_CLS: u32 = 3;
const NO_PREALLOC: u32 = 1;

/// One instruction: opcode, destination and source register, offset, immediate.
fn op(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> u64 {
    u64::from(code)
        | u64::from(dst) << 8
        | u64::from(src) << 12
        | u64::from(offset as u16) << 16
        | u64::from(imm as u32) << 32
}

fn load(code: &[u64]) -> Result<Program> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log: [u64; 2],
        rest: [u64; 4],
    }
    let license = c"GPL";
    let mut attr = Attr {
        kind: SCHED_CLS,
        count: code.len() as u32,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 2],
        rest: [0; 4],
    };
    let fd = bpf(PROG_LOAD, &mut attr).context("load a comparison program")?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(Program::from_fd(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R10: u8 = 10;
const MOV_IMM: u8 = 0xb7;
const MOV: u8 = 0xbf;
const ADD_IMM: u8 = 0x07;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const STORE_WORD_IMM: u8 = 0x62;
const JUMP_IF_ABOVE: u8 = 0x2d;
const JUMP_IF_ZERO: u8 = 0x15;
const LOAD_MAP: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// Returns TC_ACT_UNSPEC.
pub fn empty() -> Result<Program> {
    load(&[op(MOV_IMM, R0, 0, 0, -1), op(EXIT, 0, 0, 0, 0)])
}

/// The kernel's LPM trie with u32 values.
pub struct LpmTrie {
    fd: OwnedFd,
    words: usize,
}

impl LpmTrie {
    /// For IPv4 (one address word) or IPv6 (four).
    pub fn new(words: usize, entries: usize) -> Result<Self> {
        #[repr(C)]
        struct Attr {
            kind: u32,
            key: u32,
            value: u32,
            entries: u32,
            flags: u32,
            rest: [u32; 11],
        }
        let mut attr = Attr {
            kind: LPM_TRIE,
            key: 4 + 4 * words as u32,
            value: 4,
            entries: entries.max(1) as u32,
            flags: NO_PREALLOC,
            rest: [0; 11],
        };
        let fd = bpf(MAP_CREATE, &mut attr).context("create an LPM trie")?;
        // SAFETY: the kernel has just returned this descriptor to us alone.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd as i32) }, words })
    }

    /// `address` in network byte order.
    pub fn insert(&self, address: &[u8], length: u8, value: u32) -> io::Result<()> {
        #[repr(C)]
        struct Attr {
            map_fd: u32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let mut key = u32::from(length).to_ne_bytes().to_vec();
        key.extend_from_slice(address);
        let mut attr = Attr {
            map_fd: self.fd.as_raw_fd() as u32,
            pad: 0,
            key: key.as_ptr() as u64,
            value: &raw const value as u64,
            flags: 0,
        };
        bpf(MAP_UPDATE, &mut attr).map(drop)
    }

    /// Looks the packet's destination up and returns TC_ACT_UNSPEC.
    pub fn program(&self) -> Result<Program> {
        const DATA: i16 = 76;
        const DATA_END: i16 = 80;
        let (at, end) = if self.words == 1 { (30, 34) } else { (38, 54) };
        let key = -(4 + 4 * self.words as i16);
        let mut code = vec![
            op(LOAD_WORD, R2, R1, DATA, 0),
            op(LOAD_WORD, R3, R1, DATA_END, 0),
            op(MOV, R4, R2, 0, 0),
            op(ADD_IMM, R4, 0, 0, end),
        ];
        let mut body = vec![];
        for word in 0..self.words as i16 {
            body.push(op(LOAD_WORD, R4, R2, at + 4 * word, 0));
            body.push(op(STORE_WORD, R10, R4, key + 4 + 4 * word, 0));
        }
        body.extend([
            op(STORE_WORD_IMM, R10, 0, key, 32 * self.words as i32),
            op(MOV, R2, R10, 0, 0),
            op(ADD_IMM, R2, 0, 0, key.into()),
            // A descriptor in an instruction of two slots.
            op(LOAD_MAP, R1, 1, 0, self.fd.as_raw_fd()),
            0,
            op(CALL, 0, 0, 0, 1),
            op(JUMP_IF_ZERO, R0, 0, 1, 0),
            op(LOAD_WORD, R0, R0, 0, 0),
        ]);
        code.push(op(JUMP_IF_ABOVE, R4, R3, body.len() as i16, 0));
        code.extend(body);
        code.extend([op(MOV_IMM, R0, 0, 0, -1), op(EXIT, 0, 0, 0, 0)]);
        load(&code)
    }
}
