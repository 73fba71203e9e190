//! `bpf(2)` for programs that are built here: maps, loading with what the verifier says, timed test runs.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

const MAP_CREATE: c_long = 0;
const MAP_LOOKUP_ELEM: c_long = 1;
const MAP_UPDATE_ELEM: c_long = 2;
const PROG_LOAD: c_long = 5;
const PROG_TEST_RUN: c_long = 10;
const OBJ_GET_INFO_BY_FD: c_long = 15;
const MAP_FREEZE: c_long = 22;
const MAP_UPDATE_BATCH: c_long = 26;
const PROG_SCHED_CLS: u32 = 3;
/// Log messages and statistics, not every instruction: `BPF_LOG_STATS`.
const LOG_STATS: u32 = 4;

/// `BPF_MAP_TYPE_HASH`.
pub const HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`.
pub const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_LPM_TRIE`.
pub const LPM_TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`, which LPM tries need.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_RDONLY_PROG`: programs only read; needed by maps that are frozen after they were filled.
pub const RDONLY_PROG: u32 = 1 << 7;

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

fn address_mut(bytes: &mut [u8]) -> [u8; 8] {
    (bytes.as_mut_ptr().expose_provenance() as u64).to_ne_bytes()
}

/// What a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Its number in `enum bpf_map_type`.
    pub kind: u32,
    /// Unit: bytes.
    pub key: u32,
    /// Unit: bytes.
    pub value: u32,
    /// Most entries.
    pub entries: u32,
    /// `BPF_F_` flags.
    pub flags: u32,
}

/// A map, gone when dropped.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    spec: MapSpec,
}

impl Map {
    /// Creates a map.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(spec: MapSpec) -> io::Result<Self> {
        let flags = spec.flags | if spec.kind == LPM_TRIE { NO_PREALLOC } else { 0 };
        let fields = [spec.kind, spec.key, spec.value, spec.entries, flags];
        let fields = fields.map(u32::to_ne_bytes).concat();
        let fd = Attributes::new(&[(0, &fields)]).create(MAP_CREATE)?;
        Ok(Self { fd, spec })
    }

    /// An array with one entry that holds these bytes; programs read them without a helper.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of_bytes(bytes: &[u8]) -> io::Result<Self> {
        let value = bytes.len() as u32;
        let map = Self::new(MapSpec { kind: ARRAY, key: 4, value, entries: 1, flags: 0 })?;
        map.set(&[0; 4], bytes)?;
        Ok(map)
    }

    /// A hash or LPM trie with these entries, of equal length.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of_entries(kind: u32, entries: &[(Vec<u8>, Vec<u8>)]) -> io::Result<Self> {
        let (key, value) = entries.first().map_or((4, 4), |(k, v)| (k.len(), v.len()));
        let n = entries.len() as u32;
        let (key, value) = (key as u32, value as u32);
        let map = Self::new(MapSpec { kind, key, value, entries: n.max(1), flags: 0 })?;
        for chunk in entries.chunks(1 << 16) {
            let keys: Vec<u8> = chunk.iter().flat_map(|(key, _)| key).copied().collect();
            let values: Vec<u8> = chunk.iter().flat_map(|(_, value)| value).copied().collect();
            let n = chunk.len() as u32;
            let tail = [n, map.fd() as u32].map(u32::to_ne_bytes).concat();
            Attributes::new(&[(16, &address(&keys)), (24, &address(&values)), (32, &tail)])
                .call(MAP_UPDATE_BATCH)?;
        }
        Ok(map)
    }

    /// Its descriptor.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// If key or value are not as long as the map's.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!((key.len(), value.len()), (self.spec.key as usize, self.spec.value as usize));
        let fields = [(0, &self.fd().to_ne_bytes()[..]), (8, &address(key)), (16, &address(value))];
        Attributes::new(&fields).call(MAP_UPDATE_ELEM).map(drop)
    }

    /// Size of the values of an array, as memory maps them. Unit: bytes.
    pub fn image(&self) -> usize {
        self.spec.value.next_multiple_of(8) as usize * self.spec.entries as usize
    }

    /// Sets all values of an array, as memory maps them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_all(&self, image: &[u8]) -> io::Result<()> {
        let value = self.spec.value as usize;
        let values = (0_u32..).zip(image.chunks(value.next_multiple_of(8)));
        for (key, bytes) in values.take(self.spec.entries as usize) {
            self.set(&key.to_ne_bytes(), &bytes[..value])?;
        }
        Ok(())
    }

    /// The only entry of an array.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut value = vec![0; self.spec.value as usize];
        let fields = [
            (0, &self.fd().to_ne_bytes()[..]),
            (8, &address(&[0; 4])),
            (16, &address_mut(&mut value)),
        ];
        Attributes::new(&fields).call(MAP_LOOKUP_ELEM)?;
        Ok(value)
    }

    /// Lets nobody change it any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn freeze(&self) -> io::Result<()> {
        Attributes::new(&[(0, &self.fd().to_ne_bytes())]).call(MAP_FREEZE).map(drop)
    }

    /// Memory it takes, as the kernel accounts it; 0 if it does not tell. Unit: bytes.
    pub fn memory(&self) -> u64 {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd()));
        let info = info.unwrap_or_default();
        let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
    }
}

/// A loaded program, gone when dropped.
#[derive(Debug)]
pub struct Loaded {
    fd: OwnedFd,
    /// What loading it took.
    pub cost: Cost,
}

/// What a program costs before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Slots.
    pub insns: u32,
    /// Instructions the verifier went through.
    pub verified: u32,
    /// Machine code. Unit: bytes.
    pub jited: u32,
    /// Time of the system call.
    pub load: Duration,
}

/// Loads a `SCHED_CLS` program.
///
/// # Errors
/// What the kernel says, with the last words of the verifier.
pub fn load(code: &[u8]) -> Result<Loaded, String> {
    let insns = (code.len() / 8) as u32;
    let head = [PROG_SCHED_CLS, insns].map(u32::to_ne_bytes).concat();
    let mut log = vec![0; 1 << 16];
    let log_head = [LOG_STATS, log.len() as u32].map(u32::to_ne_bytes).concat();
    let mut attributes = Attributes::new(&[
        (0, &head),
        (8, &address(code)),
        (16, &address(b"Apache-2.0\0")),
        (24, &log_head),
        (32, &address_mut(&mut log)),
    ]);
    let start = Instant::now();
    let loaded = attributes.create(PROG_LOAD);
    let load = start.elapsed();
    let fd = loaded.map_err(|error| {
        let text = String::from_utf8_lossy(&log);
        let lines = text.trim_end_matches('\0').lines();
        // Statistics follow what is wrong.
        let wrong = lines.take_while(|line| !line.starts_with("verification time")).last();
        format!("{error}: {}", wrong.unwrap_or_default())
    })?;
    let mut info = vec![0; 256];
    let head = [fd.as_raw_fd() as u32, info.len() as u32].map(u32::to_ne_bytes).concat();
    Attributes::new(&[(0, &head), (8, &address_mut(&mut info))])
        .call(OBJ_GET_INFO_BY_FD)
        .map_err(|e| e.to_string())?;
    // `jited_prog_len` and `verified_insns` of `struct bpf_prog_info`, uapi/linux/bpf.h.
    let [jited, verified] = [16, 216].map(|at| number(&info[at..]));
    Ok(Loaded { fd, cost: Cost { insns, verified, jited, load } })
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl Loaded {
    /// Runs it so many times on a frame; the result is how long one run took on average.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&self, frame: &[u8], repeat: u32) -> io::Result<Duration> {
        let mut attributes = Attributes::new(&[
            (0, &self.fd.as_raw_fd().to_ne_bytes()),
            (8, &(frame.len() as u32).to_ne_bytes()),
            (16, &address(frame)),
            (32, &repeat.to_ne_bytes()),
        ]);
        let start = Instant::now();
        attributes.call(PROG_TEST_RUN)?;
        Ok(start.elapsed())
    }
}
