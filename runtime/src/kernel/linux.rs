//! The running Linux kernel, through aya and netlink.

use super::netlink::Route;
use super::{Count, Features, Hook, Kernel, KernelError, Link, Namespace, Side};
use aya::maps::{Map, PerCpuArray};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use seg_artifact::maps;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// Where `ip netns` and container runtimes name namespaces.
const NAMESPACES: &str = "/run/netns";
/// How much of the verifier's log is kept: its end says what was refused. Unit: lines.
const LOG_LINES: usize = 16;
/// `BPF_MAP_UPDATE_ELEM` of `enum bpf_cmd`, include/uapi/linux/bpf.h.
const MAP_UPDATE_ELEM: libc::c_long = 2;

/// The kernel this process runs on.
#[derive(Default)]
pub struct Linux {
    object: Option<Ebpf>,
    links: BTreeMap<Hook, SchedClassifierLink>,
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

    fn open(&mut self, object: &[u8]) -> Result<(), KernelError> {
        // A seal tells that nothing changed, not who made it, and aya's reader of BTF indexes by what it reads.
        let opened = std::panic::catch_unwind(|| EbpfLoader::new().load(object))
            .map_err(|_| KernelError::Object("its BTF breaks the loader".to_owned()))?;
        self.object = Some(opened.map_err(|error| KernelError::Object(chain(&error)))?);
        Ok(())
    }

    fn close(&mut self) {
        self.links.clear();
        self.object = None;
    }

    fn load(&mut self, program: &str) -> Result<(), KernelError> {
        self.classifier(program)?.load().map_err(|error| match error {
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
        let data = match self.map(name)? {
            Map::HashMap(data) | Map::LruHashMap(data) => data,
            _ => return Err(missing("hash map", name)),
        };
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
        update(data.fd().as_fd(), key, value).map_err(call("fill a map"))
    }

    fn attach(&mut self, program: &str, at: &Hook) -> Result<(), KernelError> {
        let side = match at.side {
            Side::Ingress => TcAttachType::Ingress,
            Side::Egress => TcAttachType::Egress,
        };
        // First, because a program before ours could accept what ours would drop.
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let refused =
            |error| KernelError::Call { operation: "attach to tcx", source: source(error) };
        let classifier = self.classifier(program)?;
        let id = classifier.attach_with_options(&at.interface, side, options).map_err(refused)?;
        let link = classifier.take_link(id).map_err(refused)?;
        // aya attaches by name; the plan, and the map of local endpoints, mean the index.
        if index(&at.interface) != Some(at.index) {
            return Err(KernelError::Replaced(at.interface.clone()));
        }
        self.links.insert(at.clone(), link);
        Ok(())
    }

    fn detach(&mut self, at: &Hook) {
        self.links.remove(at);
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
    fn classifier(&mut self, program: &str) -> Result<&mut SchedClassifier, KernelError> {
        let found = self.object.as_mut().and_then(|object| object.program_mut(program));
        let found = found.ok_or_else(|| missing("program", program))?;
        found.try_into().map_err(|_| missing("classifier program", program))
    }

    fn map(&self, name: &str) -> Result<&Map, KernelError> {
        let found = self.object.as_ref().and_then(|object| object.map(name));
        found.ok_or_else(|| missing("map", name))
    }
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

/// Stores a value in a map; `key` and `value` must have the map's sizes.
fn update(map: BorrowedFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    /// The part of `union bpf_attr` for map elements, include/uapi/linux/bpf.h.
    #[repr(C)]
    struct Element {
        map_fd: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let element = Element {
        map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
        padding: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads `size_of::<Element>()` bytes of `element` and, through it, as many bytes of `key` and
    // `value` as the map's sizes say, which the caller compared with the slices. All outlive the call; nothing is written.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_UPDATE_ELEM,
            &raw const element,
            std::mem::size_of::<Element>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn index(interface: &str) -> Option<u32> {
    let name = CString::new(interface).ok()?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
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
