//! The running kernel as a machine for BPF programs, by the raw system call.

use libtest_mimic::Failed;
use seg_compiler::bpf::{Insn, Program};
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// Commands and types of uapi/linux/bpf.h.
const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_SCHED_CLS: u32 = 3;

#[repr(C)]
struct MapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

fn bpf<T>(command: i32, attr: &mut T) -> Result<i32, Error> {
    // SAFETY: `attr` is the start of the kernel's `union bpf_attr`, its true size is given, and the pointers in it
    // are those of buffers that their owners keep alive and that are as long as the sizes beside them say.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), std::mem::size_of::<T>())
    };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result as i32) }
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just made this descriptor for the caller alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An array map of words.
pub(crate) struct ArrayMap {
    fd: OwnedFd,
    pub(crate) n_entries: u32,
    pub(crate) n_words: usize,
}

impl ArrayMap {
    pub(crate) fn new(n_entries: u32, n_words: usize) -> Result<Self, Failed> {
        let value_size = 8 * n_words as u32;
        let mut attr =
            MapAttr { map_type: MAP_TYPE_ARRAY, key_size: 4, value_size, max_entries: n_entries };
        Ok(Self { fd: own(bpf(MAP_CREATE, &mut attr)?), n_entries, n_words })
    }

    pub(crate) fn set(&self, words: &[u64]) -> Result<(), Failed> {
        for (key, value) in (0..self.n_entries).zip(words.chunks(self.n_words)) {
            let value = value.as_ptr() as u64;
            self.elem(MAP_UPDATE_ELEM, &key, value)?;
        }
        Ok(())
    }

    pub(crate) fn get(&self) -> Result<Vec<u64>, Failed> {
        let mut words = vec![0u64; self.n_entries as usize * self.n_words];
        for (key, value) in (0..self.n_entries).zip(words.chunks_mut(self.n_words)) {
            let value = value.as_mut_ptr() as u64;
            self.elem(MAP_LOOKUP_ELEM, &key, value)?;
        }
        Ok(words)
    }

    fn elem(&self, command: i32, key: &u32, value: u64) -> Result<(), Failed> {
        let map_fd = self.fd.as_raw_fd().cast_unsigned();
        let key = std::ptr::from_ref(key) as u64;
        bpf(command, &mut ElemAttr { map_fd, padding: 0, key, value, flags: 0 })?;
        Ok(())
    }
}

/// A loaded program.
pub(crate) struct Loaded(OwnedFd);

/// Loads a program whose maps are all `map`; the error is the verifier's log.
pub(crate) fn load(program: &Program, map: Option<&ArrayMap>) -> Result<Loaded, Failed> {
    let mut program = program.clone();
    for &(i, _) in &program.relocations {
        if let (Insn::MapFd { fd, .. }, Some(map)) = (&mut program.insns[i], map) {
            *fd = map.fd.as_raw_fd();
        }
    }
    let insns = program.encode();
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_SCHED_CLS,
        insn_cnt: program.insns.len() as u32,
        insns: insns.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    if let Ok(fd) = bpf(PROG_LOAD, &mut attr) {
        return Ok(Loaded(own(fd)));
    }
    let mut log = vec![0u8; 1 << 20];
    attr.log_level = 1;
    attr.log_size = log.len() as u32;
    attr.log_buf = log.as_mut_ptr() as u64;
    match bpf(PROG_LOAD, &mut attr) {
        Ok(fd) => Ok(Loaded(own(fd))),
        Err(error) => {
            let text = String::from_utf8_lossy(&log);
            let text: Vec<&str> = text.trim_end_matches('\0').lines().collect();
            let tail = text[text.len().saturating_sub(40)..].join("\n");
            Err(format!("{error}\n{tail}").into())
        }
    }
}

impl Loaded {
    /// What it returns for a frame.
    pub(crate) fn run(&self, frame: &[u8]) -> Result<u32, Failed> {
        let mut attr = TestAttr {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            retval: 0,
            data_size_in: frame.len() as u32,
            data_size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
        };
        bpf(PROG_TEST_RUN, &mut attr)?;
        Ok(attr.retval)
    }
}
