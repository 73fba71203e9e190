//! Packet programs in the kernel, by `BPF_PROG_TEST_RUN`: single programs without loader or object file, or a whole object.

use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use seg_artifact::addresses::{Addresses4, Nets};
use seg_artifact::maps::{self, About, Store, address_key};
use seg_compiler::bpf::{Insn, Program};
use seg_compiler::ir::Map;
use seg_compiler::link::{MapKind, map_specs};
use std::collections::BTreeMap;
use std::ffi::c_long;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

pub(crate) const MAP_CREATE: c_long = 0;
const MAP_LOOKUP_ELEM: c_long = 1;
pub(crate) const MAP_UPDATE_ELEM: c_long = 2;
const MAP_DELETE_ELEM: c_long = 3;
pub(crate) const PROG_LOAD: c_long = 5;
pub(crate) const PROG_TEST_RUN: c_long = 10;

/// `BPF_MAP_FREEZE`.
const MAP_FREEZE: c_long = 22;

const MAP_ARRAY: u32 = 2;
/// `BPF_F_RDONLY_PROG`.
const READ_ONLY: u32 = 1 << 7;
pub(crate) const PROG_SCHED_CLS: u32 = 3;
/// Log only statistics: `BPF_LOG_STATS`.
const LOG_STATS: u32 = 4;

/// Interface that test runs come in on: the loopback's number in every network namespace.
pub const IFINDEX: u32 = 1;

/// Loaded programs and their maps, gone when dropped.
pub struct Kernel {
    /// By [`Map`]; none for tables that are empty.
    maps: Vec<Option<OwnedFd>>,
    /// The memory of array maps.
    arrays: BTreeMap<&'static str, Memory>,
    addresses: Addresses4,
    programs: Vec<OwnedFd>,
    n_cpus: usize,
}

/// `union bpf_attr`, as far as it is used here.
#[repr(C, align(8))]
pub(crate) struct Attributes(pub(crate) [u8; 128]);

impl Attributes {
    pub(crate) fn new(fields: &[(usize, &[u8])]) -> Self {
        let mut bytes = [0; 128];
        for (offset, field) in fields {
            bytes[*offset..][..field.len()].copy_from_slice(field);
        }
        Self(bytes)
    }

    pub(crate) fn call(&mut self, command: c_long) -> io::Result<c_long> {
        // SAFETY: the attributes are 128 bytes of this process; pointers in them are to memory that the callers below keep
        // alive for the call and that is as large as the command reads or writes.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut self.0, 128_usize) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    pub(crate) fn create(&mut self, command: c_long) -> io::Result<OwnedFd> {
        let fd = self.call(command)? as RawFd;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A map of this kind, size of keys, size of values and number of entries.
fn create(sizes: [u32; 4], flags: u32) -> Result<OwnedFd, String> {
    let numbers = sizes.into_iter().chain([flags]);
    let fields: Vec<u8> = numbers.flat_map(u32::to_ne_bytes).collect();
    Attributes::new(&[(0, &fields)]).create(MAP_CREATE).map_err(|e| format!("no map: {e}"))
}

/// A map of one value that programs and we can only read.
fn frozen(value: &[u8]) -> Result<OwnedFd, String> {
    let fd = create([MAP_ARRAY, 4, value.len() as u32, 1], READ_ONLY)?;
    let number = fd.as_raw_fd().to_ne_bytes();
    let filled = Attributes::new(&[(0, &number), (8, &address(&[0; 4])), (16, &address(value))])
        .call(MAP_UPDATE_ELEM);
    let frozen = Attributes::new(&[(0, &number)]).call(MAP_FREEZE);
    filled.and(frozen).map(|_| fd).map_err(|e| e.to_string())
}

/// The memory of an array map.
struct Memory {
    base: *mut u8,
    bytes: usize,
}

impl Memory {
    fn new(map: &OwnedFd, bytes: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping where the kernel likes touches no memory in use.
        let base = unsafe { libc::mmap(null, bytes, access, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), bytes })
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.bytes, "a store beyond the map");
        // SAFETY: the range lies in the mapping; programs that read it run only when this thread asks for it.
        unsafe { self.base.add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped; nothing points there.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

pub(crate) fn address(bytes: &[u8]) -> [u8; 8] {
    (bytes.as_ptr().expose_provenance() as u64).to_ne_bytes()
}

fn n_cpus() -> Result<usize, String> {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible");
    let last = possible.map_err(|e| e.to_string())?;
    let last = last.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<usize>().ok());
    Ok(last.ok_or("no list of processors")? + 1)
}

impl Kernel {
    /// Creates the maps and loads the programs; `tables` is what [`Map::Tables`] holds.
    ///
    /// # Errors
    /// What the kernel refuses, with the end of the verifier's log.
    pub fn new(programs: &[Program], n_values: u32, tables: &[u8]) -> Result<Self, String> {
        let mut maps: Vec<Option<OwnedFd>> = Vec::new();
        for spec in map_specs(n_values, 1024) {
            let sizes = [spec.kind as u32, spec.key.bytes(), spec.value.bytes(), spec.entries];
            maps.push(Some(create(sizes, spec.kind.flags())?));
        }
        maps.push((!tables.is_empty()).then(|| frozen(tables)).transpose()?);
        let mut kernel = Self::of_maps(maps, n_values)?;
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
        let mut fds = Vec::new();
        for spec in map_specs(0, 0) {
            let data = match bpf.map(spec.name) {
                Some(
                    aya::maps::Map::HashMap(data)
                    | aya::maps::Map::Array(data)
                    | aya::maps::Map::LruHashMap(data)
                    | aya::maps::Map::PerCpuArray(data),
                ) => data,
                _ => return Err(format!("no map {}", spec.name)),
            };
            fds.push(Some(data.fd().as_fd().try_clone_to_owned().map_err(|e| e.to_string())?));
        }
        let records = match bpf.map(maps::RECORDS) {
            Some(aya::maps::Map::Array(data)) => data.info().map_err(|e| e.to_string())?,
            _ => return Err("no records".to_owned()),
        };
        // As many values as fill it, whatever the manifest calls them.
        let n_values = (records.value_size() - maps::RECORD_LABELS) / 4;
        Ok(Self { programs, ..Self::of_maps(fds, n_values)? })
    }

    fn of_maps(maps: Vec<Option<OwnedFd>>, n_values: u32) -> Result<Self, String> {
        let mut arrays = BTreeMap::new();
        for (spec, fd) in map_specs(n_values, 0).iter().zip(&maps) {
            if let (MapKind::Array, Some(fd)) = (spec.kind, fd) {
                let bytes = (spec.value.bytes() * spec.entries) as usize;
                let memory = Memory::new(fd, bytes).map_err(|e| format!("{}: {e}", spec.name))?;
                arrays.insert(spec.name, memory);
            }
        }
        let (addresses, programs) = Default::default();
        Ok(Self { maps, arrays, addresses, programs, n_cpus: n_cpus()? })
    }

    /// Says what is known of an ident.
    pub fn set_ident(&mut self, ident: u16, about: &About) {
        about.stores(ident).iter().for_each(|store| self.store(store));
    }

    /// Makes nets known, before any address.
    ///
    /// # Errors
    /// If they have too many borders.
    pub fn set_nets(&mut self, nets: &Nets) -> Result<(), String> {
        let (addresses, stores) = nets.addresses4().map_err(|e| e.to_string())?;
        self.addresses = addresses;
        stores.iter().for_each(|store| self.store(store));
        Ok(())
    }

    /// Gives an address an ident; 0 takes it away.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_address(&mut self, address: IpAddr, ident: u16) -> Result<(), String> {
        match address {
            IpAddr::V4(v4) => {
                let stores = self.addresses.set(v4, ident).map_err(|e| e.to_string())?;
                stores.iter().for_each(|store| self.store(store));
                // Programs run when they are told to, so none is in a block that was left.
                self.addresses.reclaim();
                return Ok(());
            }
            IpAddr::V6(_) if ident == 0 => self.remove(Map::Addresses6, &address_key(address)),
            IpAddr::V6(_) => {
                let ident = u32::from(ident).to_ne_bytes();
                self.set(Map::Addresses6, &address_key(address), &ident)
            }
        }
        .map_err(|e| e.to_string())
    }

    /// Says who is behind an interface under an address that no endpoint has, in a net or in none (0).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_local(&self, ifindex: u32, net: u16, ident: u16) -> io::Result<()> {
        self.set(Map::Local, &maps::local_key(ifindex, net), &u32::from(ident).to_ne_bytes())
    }

    fn store(&mut self, store: &Store) {
        let memory = self.arrays.get_mut(store.map).expect("an array map");
        memory.write(store.offset as usize, &store.bytes);
    }

    fn fd(&self, map: Map) -> RawFd {
        self.maps[map as usize].as_ref().expect("the object has tables").as_raw_fd()
    }

    fn load(&self, program: &Program) -> Result<OwnedFd, String> {
        let mut insns = program.insns.clone();
        for &(at, map) in &program.relocations {
            if let Insn::MapFd { fd, .. } | Insn::MapValue { fd, .. } = &mut insns[at] {
                *fd = self.fd(map);
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
        let fd = self.fd(map).to_ne_bytes();
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
        let fd = self.fd(map).to_ne_bytes();
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
