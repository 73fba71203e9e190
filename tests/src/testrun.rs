//! Packet programs in the kernel, by `BPF_PROG_TEST_RUN`: single programs without loader or object file, or a whole object.

use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use seg_artifact::maps;
use seg_compiler::bpf::{Insn, Program};
use seg_compiler::ir::Map;
use std::ffi::c_long;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

const MAP_CREATE: c_long = 0;
const MAP_LOOKUP_ELEM: c_long = 1;
const MAP_UPDATE_ELEM: c_long = 2;
const MAP_DELETE_ELEM: c_long = 3;
const PROG_LOAD: c_long = 5;
const PROG_TEST_RUN: c_long = 10;

const MAP_HASH: u32 = 1;
const MAP_PERCPU_ARRAY: u32 = 6;
const MAP_LRU_HASH: u32 = 9;
const PROG_SCHED_CLS: u32 = 3;
/// Log only statistics: `BPF_LOG_STATS`.
const LOG_STATS: u32 = 4;

/// Interface that test runs come in on: the loopback's number in every network namespace.
pub const IFINDEX: u32 = 1;

/// Loaded programs and their maps, gone when dropped.
pub struct Kernel {
    maps: [OwnedFd; 4],
    programs: Vec<OwnedFd>,
    n_cpus: usize,
}

/// `union bpf_attr`, as far as it is used here.
#[repr(C, align(8))]
struct Attributes([u8; 128]);

impl Attributes {
    fn new(fields: &[(usize, &[u8])]) -> Self {
        let mut bytes = [0; 128];
        for (offset, field) in fields {
            bytes[*offset..][..field.len()].copy_from_slice(field);
        }
        Self(bytes)
    }

    fn call(&mut self, command: c_long) -> io::Result<c_long> {
        // SAFETY: the attributes are 128 bytes of this process; pointers in them are to memory that the callers below keep
        // alive for the call and that is as large as the command reads or writes.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut self.0, 128_usize) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    fn create(&mut self, command: c_long) -> io::Result<OwnedFd> {
        let fd = self.call(command)? as RawFd;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn address(bytes: &[u8]) -> [u8; 8] {
    (bytes.as_ptr().expose_provenance() as u64).to_ne_bytes()
}

fn n_cpus() -> Result<usize, String> {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible");
    let last = possible.map_err(|e| e.to_string())?;
    let last = last.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<usize>().ok());
    Ok(last.ok_or("no list of processors")? + 1)
}

impl Kernel {
    /// Creates the maps and loads the programs.
    ///
    /// # Errors
    /// What the kernel refuses, with the end of the verifier's log.
    pub fn new(programs: &[Program], n_values: u32) -> Result<Self, String> {
        let record = maps::record_bytes(n_values);
        let create = |map: Map| {
            let (kind, key, value, entries) = match map {
                Map::Endpoints => (MAP_HASH, maps::ADDRESS_KEY_BYTES, record, 64),
                Map::Local => (MAP_HASH, 4, record, 64),
                Map::Conntrack => (
                    MAP_LRU_HASH,
                    maps::CONNTRACK_KEY_BYTES,
                    maps::CONNTRACK_VALUE_BYTES,
                    maps::CONNTRACK_MAX,
                ),
                Map::Counters => (MAP_PERCPU_ARRAY, 4, maps::COUNTER_BYTES, 1024),
            };
            let fields = [kind, key, value, entries].map(u32::to_ne_bytes).concat();
            Attributes::new(&[(0, &fields)]).create(MAP_CREATE)
        };
        let [endpoints, local, conntrack, counters] = Map::ALL.map(create);
        let maps = (|| io::Result::Ok([endpoints?, local?, conntrack?, counters?]))();
        let maps = maps.map_err(|e| format!("no maps: {e}"))?;
        let mut kernel = Self { maps, programs: Vec::new(), n_cpus: n_cpus()? };
        for program in programs {
            let loaded = kernel.load(program)?;
            kernel.programs.push(loaded);
        }
        Ok(kernel)
    }

    /// Loads the named programs of a whole object with aya.
    ///
    /// # Errors
    /// What aya or the kernel refuses.
    pub fn of_object(object: &[u8], names: &[String]) -> Result<Self, String> {
        let mut bpf = EbpfLoader::new().load(object).map_err(|e| e.to_string())?;
        let mut programs = Vec::new();
        for name in names {
            let program = bpf.program_mut(name).ok_or_else(|| format!("no program {name}"))?;
            let program: &mut SchedClassifier =
                program.try_into().map_err(|e| format!("{name}: {e}"))?;
            program.load().map_err(|e| format!("{name}: {e}"))?;
            let fd = program.fd().map_err(|e| format!("{name}: {e}"))?.as_fd().try_clone_to_owned();
            programs.push(fd.map_err(|e| e.to_string())?);
        }
        let map = |map: Map| {
            let name = match map {
                Map::Endpoints => maps::ENDPOINTS,
                Map::Local => maps::LOCAL,
                Map::Conntrack => maps::CONNTRACK,
                Map::Counters => maps::COUNTERS,
            };
            let data = match bpf.map(name) {
                Some(
                    aya::maps::Map::HashMap(data)
                    | aya::maps::Map::LruHashMap(data)
                    | aya::maps::Map::PerCpuArray(data),
                ) => data,
                _ => return Err(format!("no map {name}")),
            };
            data.fd().as_fd().try_clone_to_owned().map_err(|e| e.to_string())
        };
        let [endpoints, local, conntrack, counters] = Map::ALL.map(map);
        Ok(Self { maps: [endpoints?, local?, conntrack?, counters?], programs, n_cpus: n_cpus()? })
    }

    fn load(&self, program: &Program) -> Result<OwnedFd, String> {
        let mut insns = program.insns.clone();
        for &(at, map) in &program.relocations {
            if let Insn::MapFd { fd, .. } = &mut insns[at] {
                *fd = self.maps[map as usize].as_raw_fd();
            }
        }
        let code: Vec<u8> = insns.iter().flat_map(|insn| insn.encode()).collect();
        let load = |log: &mut [u8], level: u32| {
            let head = [PROG_SCHED_CLS, insns.len() as u32].map(u32::to_ne_bytes).concat();
            let mut attributes = Attributes::new(&[
                (0, &head),
                (8, &address(&code)),
                (16, &address(b"Apache-2.0\0")),
                (24, &level.to_ne_bytes()),
                (28, &(log.len() as u32).to_ne_bytes()),
                (32, &(log.as_mut_ptr().expose_provenance() as u64).to_ne_bytes()),
            ]);
            attributes.create(PROG_LOAD)
        };
        let mut log = vec![0; 4096];
        if let Ok(loaded) = load(&mut log, LOG_STATS) {
            let text = String::from_utf8_lossy(&log);
            let cost = text.lines().find(|line| line.starts_with("processed")).unwrap_or_default();
            println!("{}: {} instructions, {cost}", program.name, insns.len());
            return Ok(loaded);
        }
        let mut log = vec![0; 1 << 24];
        let refused = load(&mut log, 1).err();
        let text = String::from_utf8_lossy(&log);
        let text = text.trim_end_matches('\0');
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(40)..].join("\n");
        Err(format!("{}: {refused:?}\n{end}", program.name))
    }

    /// Sets an entry of a map.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set(&self, map: Map, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.element(MAP_UPDATE_ELEM, map, key, value.to_vec()).map(drop)
    }

    /// Removes an entry of a map, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, map: Map, key: &[u8]) -> io::Result<()> {
        let fd = self.maps[map as usize].as_raw_fd().to_ne_bytes();
        match Attributes::new(&[(0, &fd), (8, &address(key))]).call(MAP_DELETE_ELEM) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn element(
        &self,
        command: c_long,
        map: Map,
        key: &[u8],
        mut value: Vec<u8>,
    ) -> io::Result<Vec<u8>> {
        let fd = self.maps[map as usize].as_raw_fd().to_ne_bytes();
        let pointer = (value.as_mut_ptr().expose_provenance() as u64).to_ne_bytes();
        Attributes::new(&[(0, &fd), (8, &address(key)), (16, &pointer)]).call(command)?;
        Ok(value)
    }

    /// Packets and bytes a counter has counted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counter(&self, counter: u32) -> io::Result<[u64; 2]> {
        let bytes = vec![0; maps::COUNTER_BYTES as usize * self.n_cpus];
        let bytes = self.element(MAP_LOOKUP_ELEM, Map::Counters, &counter.to_ne_bytes(), bytes)?;
        let mut sums = [0; 2];
        for (i, word) in bytes.chunks_exact(8).enumerate() {
            sums[i % 2] += word.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
        }
        Ok(sums)
    }

    /// Runs a program on a frame; the result is what it returns.
    ///
    /// # Errors
    /// What the kernel says: `EINVAL` for frames it does not take.
    pub fn run(&self, program: usize, frame: &[u8]) -> io::Result<i32> {
        let mut attributes = Attributes::new(&[
            (0, &self.programs[program].as_raw_fd().to_ne_bytes()),
            (8, &(frame.len() as u32).to_ne_bytes()),
            (16, &address(frame)),
        ]);
        attributes.call(PROG_TEST_RUN)?;
        let mut action = [0; 4];
        action.copy_from_slice(&attributes.0[4..8]);
        Ok(i32::from_ne_bytes(action))
    }
}
