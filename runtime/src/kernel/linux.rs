//! The running Linux kernel, through aya and netlink.

use super::memory::Memory;
use super::netlink::Route;
use super::{Count, Features, Hook, Kernel, KernelError, Link, Namespace, Side};
use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use seg_artifact::maps::{self, Store};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// Where `ip netns` and container runtimes name namespaces.
const NAMESPACES: &str = "/run/netns";
/// How much of the verifier's log is kept: its end says what was refused. Unit: lines.
const LOG_LINES: usize = 16;
/// `BPF_MAP_UPDATE_ELEM` of `enum bpf_cmd`, include/uapi/linux/bpf.h.
const MAP_UPDATE_ELEM: libc::c_long = 2;
/// `BPF_MAP_DELETE_ELEM`.
const MAP_DELETE_ELEM: libc::c_long = 3;

/// `BPF_LINK_CREATE` and `BPF_LINK_UPDATE`, as above.
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// `BPF_F_BEFORE`; before nothing in particular is before all.
const BEFORE: u32 = 1 << 3;
/// `MEMBARRIER_CMD_GLOBAL`, include/uapi/linux/membarrier.h.
const GLOBAL_BARRIER: libc::c_long = 1;

/// The file system of BPF, where a map stands while one generation hands it to the next.
const BPF_FILES: &str = "/sys/fs/bpf";

/// The kernel this process runs on.
#[derive(Default)]
pub struct Linux {
    /// The newest last.
    generations: Vec<Generation>,
    /// By index and side: an interface may get another name.
    links: BTreeMap<(u32, Side), OwnedFd>,
}

struct Generation {
    object: Ebpf,
    /// The array maps written to.
    arrays: BTreeMap<&'static str, Memory>,
}

impl Kernel for Linux {
    fn features(&mut self) -> Result<Features, KernelError> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_err(call("read the kernel's release"))?;
        // Kernels before 6.6 do not know the attach type.
        let tcx = match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => true,
            Err(error) => match source(error) {
                source if source.raw_os_error() == Some(libc::EINVAL) => false,
                source => {
                    return Err(KernelError::Call { operation: "ask for the tcx hooks", source });
                }
            },
        };
        Ok(Features { release: release.trim().to_owned(), tcx })
    }

    fn links(&mut self) -> Result<Vec<Link>, KernelError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = Route::open().and_then(|mut route| route.dump(message));
        let answers = answers.map_err(call("list the interfaces"))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => link(&message),
                _ => None,
            })
            .collect())
    }

    fn namespace(&mut self, name: &str) -> Result<Namespace, KernelError> {
        const OPERATION: &str = "look a network namespace up";
        let file = match File::open(Path::new(NAMESPACES).join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Namespace::Missing),
            file => file.map_err(call(OPERATION))?,
        };
        let fd = u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX);
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(fd));
        let answers = Route::open()
            .and_then(|mut route| route.request(RouteNetlinkMessage::GetNsId(message), 0));
        let answers = match answers {
            // The file is there and is no namespace, as after a crash of `ip netns`.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Ok(Namespace::Missing);
            }
            answers => answers.map_err(call(OPERATION))?,
        };
        let attributes = answers.iter().flat_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(message) => message.attributes.as_slice(),
            _ => &[],
        });
        // Negative means that no interface here has needed an identifier for it.
        let id = attributes.into_iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        });
        Ok(id.map_or(Namespace::Unrelated, Namespace::Known))
    }

    fn open(&mut self, object: &[u8], n_records: u32) -> Result<(), KernelError> {
        let state = self.generations.last().map(|_| self.lend(maps::CONNTRACK)).transpose()?;
        // A seal tells that nothing changed, not who made it, and aya's reader of BTF indexes by what it reads.
        let load = || {
            let mut loader = EbpfLoader::new();
            loader.map_max_entries(maps::RECORDS, n_records);
            if let Some(state) = &state {
                loader.map_pin_path(maps::CONNTRACK, state.0.as_path());
            }
            loader.load(object)
        };
        let opened = std::panic::catch_unwind(load)
            .map_err(|_| KernelError::Object("its BTF breaks the loader".to_owned()))?;
        let object = opened.map_err(|error| KernelError::Object(chain(&error)))?;
        self.generations.push(Generation { object, arrays: BTreeMap::new() });
        Ok(())
    }

    fn close(&mut self) {
        self.generations.pop();
    }

    fn retire(&mut self) {
        let older = self.generations.len().saturating_sub(1);
        self.generations.drain(..older);
    }

    fn load(&mut self, program: &str) -> Result<(), KernelError> {
        let classifier = classifier(self.generations.last_mut(), program)?;
        if classifier.fd().is_ok() {
            return Ok(());
        }
        classifier.load().map_err(|error| match error {
            ProgramError::LoadError { io_error, verifier_log } => KernelError::Program {
                program: program.to_owned(),
                source: io_error,
                log: last_lines(&verifier_log.to_string()),
            },
            other => KernelError::Program {
                program: program.to_owned(),
                source: source(other),
                log: String::new(),
            },
        })
    }

    fn fill(&mut self, name: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError> {
        let data = self.hash(name)?;
        let info = data.info().map_err(|error| map_error("describe a map", error))?;
        if info.key_size() as usize != key.len() || info.value_size() as usize != value.len() {
            return Err(KernelError::Layout {
                map: name.to_owned(),
                key: info.key_size(),
                value: info.value_size(),
                wanted_key: key.len(),
                wanted_value: value.len(),
            });
        }
        let element = Element::new(data.fd().as_fd(), key, Some(value));
        // SAFETY: through `element` the kernel reads as many bytes of `key` and `value` as the map's sizes say, which were
        // just compared with the slices. Both outlive the call.
        unsafe { element.call(MAP_UPDATE_ELEM) }.map_err(call("fill a map"))
    }

    fn remove(&mut self, name: &str, key: &[u8]) -> Result<(), KernelError> {
        let data = self.hash(name)?;
        let info = data.info().map_err(|error| map_error("describe a map", error))?;
        if info.key_size() as usize != key.len() {
            return Err(missing("key of that size in map", name));
        }
        let element = Element::new(data.fd().as_fd(), key, None);
        // SAFETY: the kernel reads as many bytes of `key` as the map's keys have, and no value.
        unsafe { element.call(MAP_DELETE_ELEM) }.map_err(call("remove from a map"))
    }

    fn store(&mut self, store: &Store) -> Result<(), KernelError> {
        let newest = self.generations.last_mut().ok_or_else(|| missing("map", store.map))?;
        if !newest.arrays.contains_key(store.map) {
            let Some(Map::Array(data)) = newest.object.map(store.map) else {
                return Err(missing("array map", store.map));
            };
            let info = data.info().map_err(|error| map_error("describe a map", error))?;
            let n_bytes = info.value_size() as usize * info.max_entries() as usize;
            let memory = Memory::new(data.fd().as_fd(), n_bytes).map_err(call("map an array"))?;
            newest.arrays.insert(store.map, memory);
        }
        let memory = newest.arrays.get(store.map);
        let written = memory.and_then(|memory| memory.write(store.offset as usize, &store.bytes));
        written.ok_or_else(|| KernelError::Bounds(store.map.to_owned()))
    }

    fn settle(&mut self) -> Result<(), KernelError> {
        // Waits for what programs run under: a grace period of RCU.
        // SAFETY: the call takes no pointers.
        let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL_BARRIER, 0, 0) };
        checked(result).map(drop).map_err(call("wait for packets in flight"))
    }

    fn attach(&mut self, program: &str, at: &Hook) -> Result<(), KernelError> {
        self.decide(program, at, 0)
    }

    fn detach(&mut self, at: &Hook) {
        self.links.remove(&(at.index, at.side));
    }

    fn restore(&mut self, program: &str, at: &Hook) -> Result<(), KernelError> {
        self.decide(program, at, 1)
    }

    fn counters(&mut self, n: u32) -> Result<Vec<Count>, KernelError> {
        let failed = |error| map_error("read the counters", error);
        let counters =
            PerCpuArray::<_, [u64; 2]>::try_from(self.map(maps::COUNTERS)?).map_err(failed)?;
        (0..n)
            .map(|index| {
                let each = counters.get(&index, 0).map_err(failed)?;
                Ok(each.iter().fold(Count::default(), |sum, [packets, bytes]| Count {
                    packets: sum.packets.saturating_add(*packets),
                    bytes: sum.bytes.saturating_add(*bytes),
                }))
            })
            .collect()
    }
}

impl Linux {
    /// Lets a program of the `back`th generation before the newest decide at a hook.
    fn decide(&mut self, program: &str, at: &Hook, back: usize) -> Result<(), KernelError> {
        let fd = |fd: BorrowedFd| u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX);
        let refused =
            |error| KernelError::Call { operation: "attach to tcx", source: source(error) };
        let classifier = classifier(self.generations.iter_mut().rev().nth(back), program)?
            .fd()
            .map_err(refused)?;
        let classifier = fd(classifier.as_fd());
        // aya attaches by name, and lets go of a link whose program it could not replace.
        if let Some(link) = self.links.get(&(at.index, at.side)) {
            let mut attributes = [fd(link.as_fd()), classifier, 0, 0];
            // SAFETY: the attributes are as long as said and hold no pointers.
            let result = unsafe { bpf(LINK_UPDATE, &mut attributes) };
            return result.map(drop).map_err(call("replace a program at tcx"));
        }
        let side = match at.side {
            Side::Ingress => TCX_INGRESS,
            Side::Egress => TCX_EGRESS,
        };
        // First, because a program before ours could accept what ours would drop.
        let mut attributes = [classifier, at.index, side, BEFORE, 0, 0, 0, 0];
        // SAFETY: the attributes are as long as said and hold no pointers.
        let link = unsafe { bpf(LINK_CREATE, &mut attributes) }.map_err(call("attach to tcx"))?;
        let link = RawFd::try_from(link).unwrap_or(-1);
        // SAFETY: the kernel has just made this descriptor for us.
        self.links.insert((at.index, at.side), unsafe { OwnedFd::from_raw_fd(link) });
        Ok(())
    }

    /// Puts a hash map of the newest generation where the loader finds it.
    fn lend(&self, name: &str) -> Result<Lent, KernelError> {
        // Only this process uses names with its number, and pinning fails if there is such a file.
        let path = Path::new(BPF_FILES).join(format!("segd-{}-{name}", std::process::id()));
        self.hash(name)?.pin(&path).map_err(|error| KernelError::Call {
            operation: "hand connection state to the new policy",
            source: io::Error::other(chain(&error)),
        })?;
        Ok(Lent(path))
    }

    fn hash(&self, name: &str) -> Result<&MapData, KernelError> {
        match self.map(name)? {
            Map::HashMap(data) | Map::LruHashMap(data) => Ok(data),
            _ => Err(missing("hash map", name)),
        }
    }

    fn map(&self, name: &str) -> Result<&Map, KernelError> {
        let found = self.generations.last().and_then(|newest| newest.object.map(name));
        found.ok_or_else(|| missing("map", name))
    }
}

/// A map's place in the file system, which is gone when this is dropped.
struct Lent(PathBuf);

impl Drop for Lent {
    fn drop(&mut self) {
        // The map lives by its users; a name that stays makes the next swap fail, and nothing else.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn classifier<'g>(
    generation: Option<&'g mut Generation>,
    program: &str,
) -> Result<&'g mut SchedClassifier, KernelError> {
    let found = generation.and_then(|generation| generation.object.program_mut(program));
    let found = found.ok_or_else(|| missing("program", program))?;
    found.try_into().map_err(|_| missing("classifier program", program))
}

fn link(message: &LinkMessage) -> Option<Link> {
    let (mut name, mut is_veth, mut namespace) = (None, false, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(*id),
            LinkAttribute::LinkInfo(info) => {
                is_veth |= info.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    Some(Link {
        index: message.header.index,
        name: name?,
        link_type: u16::from(message.header.link_layer_type),
        leads_to: namespace.filter(|_| is_veth),
    })
}

/// The part of `union bpf_attr` for map elements, include/uapi/linux/bpf.h.
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    /// Without a value for a command that takes none.
    fn new(map: BorrowedFd, key: &[u8], value: Option<&[u8]>) -> Self {
        Self {
            map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
            padding: 0,
            key: key.as_ptr() as u64,
            value: value.map_or(0, |value| value.as_ptr() as u64),
            flags: 0,
        }
    }

    /// # Safety
    /// The command reads no more of key and value than there is, and writes nothing.
    unsafe fn call(mut self, command: libc::c_long) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { bpf(command, &mut self) }.map(drop)
    }
}

/// # Safety
/// `attributes` are those of the command, and what they point to is as large as the command reads or writes.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise; the attributes are as long as said.
    checked(unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, std::mem::size_of::<T>())
    })
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn missing(kind: &'static str, name: &str) -> KernelError {
    KernelError::Missing { kind, name: name.to_owned() }
}

fn call(operation: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Call { operation, source }
}

fn map_error(operation: &'static str, error: aya::maps::MapError) -> KernelError {
    let source = match error {
        aya::maps::MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(chain(&other)),
    };
    KernelError::Call { operation, source }
}

/// The kernel's own error, where there is one.
fn source(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(chain(&other)),
    }
}

/// An error with its causes on one line; aya leaves them out of its messages.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
}
