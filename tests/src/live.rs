//! UDP frames into a namespace, and what it costs to have them received, with whatever filters stand between.
//!
//! ```text
//!  Injector: BPF_PROG_TEST_RUN -- frames --> tcx, netfilter, UDP      nothing sends
//!  Sender:   AF_PACKET -- eth0 ==veth== veth1 --> tcx, netfilter, UDP  the whole way
//! ```
//!
//! Both run on the calling thread: what a frame causes runs as a soft interrupt on the processor that delivers it.

use crate::measure::thread_time;
use crate::net;
use crate::testrun::{
    Attributes, MAP_CREATE, MAP_UPDATE_ELEM, PROG_LOAD, PROG_SCHED_CLS, PROG_TEST_RUN, address,
};
use seg_compiler::bpf::{Alu, Cond, Insn, Reg, Size, Src, Width};
use std::ffi::c_long;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Unit: bytes of a frame.
pub const FRAME_BYTES: usize = 60;
/// Frames a contest picks from; a power of two.
pub const FRAMES: usize = 1 << 14;

/// Offsets in a frame of an IPv4 header without options, and UDP. Unit: bytes.
const CHECKSUM: usize = 24;
const SOURCE: usize = 26;
const PORT: usize = 36;
const TAG: usize = 42;

const ARRAY: u32 = 2;
const XDP: u32 = 6;
const LINK_CREATE: c_long = 28;
/// Of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames in flight of one test run. Unit: frames.
const BATCH: usize = 64;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
/// Of include/linux/socket.h and include/uapi/linux/if_packet.h.
const SOL_PACKET: libc::c_int = 263;
const QDISC_BYPASS: libc::c_int = 20;

/// Where frames go.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Hardware address of the receiver.
    pub hardware: [u8; 6],
    /// Its address.
    pub address: Ipv4Addr,
}

/// A UDP frame with 18 bytes of payload, of which the first four are `tag`.
pub fn frame(to: &Target, source: Ipv4Addr, port: u16, tag: u32) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &to.hardware);
    put(6, &[2, 0, 0, 0, 0, 1, 8, 0, 0x45]);
    put(16, &46_u16.to_be_bytes());
    put(22, &[64, 17]);
    put(SOURCE, &source.octets());
    put(30, &to.address.octets());
    put(34, &40_000_u16.to_be_bytes());
    put(PORT, &port.to_be_bytes());
    put(38, &26_u16.to_be_bytes());
    put(TAG, &tag.to_be_bytes());
    // RFC 1071, over the header; the UDP checksum stays 0, which is none.
    let sum: u32 = frame[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn load(kind: u32, insns: &[Insn]) -> io::Result<OwnedFd> {
    let code: Vec<u8> = insns.iter().flat_map(|insn| insn.encode()).collect();
    let head = [kind, insns.len() as u32].map(u32::to_ne_bytes).concat();
    let (code, license) = (address(&code), address(b"Apache-2.0\0"));
    Attributes::new(&[(0, &head), (8, &code), (16, &license)]).create(PROG_LOAD)
}

/// A program with one verdict. Loaded only, or attached first at an interface's tcx ingress or XDP hook until it is dropped.
fn attach(program: &OwnedFd, interface: &str, kind: u32) -> io::Result<OwnedFd> {
    let index = net::index(interface)?;
    let program = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let fields = [program, index, kind, 0].map(u32::to_ne_bytes).concat();
    Attributes::new(&[(0, &fields)]).create(LINK_CREATE)
}

fn constant(verdict: i32) -> [Insn; 2] {
    let dst = register(0);
    [Insn::Alu { width: Width::W64, op: Alu::Mov, dst, src: Src::Imm(verdict) }, Insn::Exit]
}

/// Attaches a program that always says `verdict` (`TC_ACT_…`) at tcx ingress, in the calling thread's namespace.
///
/// # Errors
/// What the kernel says.
pub fn attach_tcx(interface: &str, verdict: i32) -> io::Result<OwnedFd> {
    attach(&load(PROG_SCHED_CLS, &constant(verdict))?, interface, ATTACH_TCX_INGRESS)
}

/// Attaches an XDP program that passes everything: test runs deliver live frames only on an interface that has one.
///
/// # Errors
/// What the kernel says.
pub fn attach_xdp(interface: &str) -> io::Result<OwnedFd> {
    attach(&load(XDP, &constant(XDP_PASS))?, interface, ATTACH_XDP)
}

/// Delivers frames of a list in random order as if an interface had received them.
#[derive(Debug)]
pub struct Injector {
    program: OwnedFd,
    template: [u8; FRAME_BYTES],
}

impl Injector {
    /// Of [`FRAMES`] frames that differ in source and port.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(frames: &[[u8; FRAME_BYTES]]) -> io::Result<Self> {
        let template = *frames.first().ok_or(io::ErrorKind::InvalidInput)?;
        let fields = [ARRAY, 4, 8, FRAMES as u32].map(u32::to_ne_bytes).concat();
        let map = Attributes::new(&[(0, &fields)]).create(MAP_CREATE)?;
        for (index, frame) in frames.iter().cycle().take(FRAMES).enumerate() {
            let key = (index as u32).to_ne_bytes();
            let value =
                [&frame[SOURCE..SOURCE + 4], &frame[PORT..PORT + 2], &frame[CHECKSUM..SOURCE]];
            let value = value.concat();
            let map = map.as_raw_fd().to_ne_bytes();
            Attributes::new(&[(0, &map), (8, &address(&key)), (16, &address(&value))])
                .call(MAP_UPDATE_ELEM)?;
        }
        Ok(Self { program: load(XDP, &inject(map.as_raw_fd()))?, template })
    }

    /// Delivers `n` frames at an interface of the calling thread's namespace; the time each took the kernel, in nanoseconds.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&self, interface: &str, n: usize) -> io::Result<f64> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, FRAME_BYTES as u32, 0, net::index(interface)?, 0, 0];
        let context = context.map(u32::to_ne_bytes).concat();
        let mut attributes = Attributes::new(&[
            (0, &self.program.as_raw_fd().to_ne_bytes()),
            (8, &(FRAME_BYTES as u32).to_ne_bytes()),
            (16, &address(&self.template)),
            (32, &u32::try_from(n).map_err(io::Error::other)?.to_ne_bytes()),
            (40, &(context.len() as u32).to_ne_bytes()),
            (48, &address(&context)),
            (64, &LIVE_FRAMES.to_ne_bytes()),
            (72, &(BATCH as u32).to_ne_bytes()),
        ]);
        attributes.call(PROG_TEST_RUN)?;
        let mut duration = [0; 4];
        duration.copy_from_slice(&attributes.0[36..40]);
        Ok(f64::from(u32::from_ne_bytes(duration)))
    }
}

const fn register(number: u8) -> Reg {
    match Reg::new(number) {
        Some(register) => register,
        None => Reg::FRAME,
    }
}

/// Writes source, port and checksum of a random entry of the map into the frame.
fn inject(map: i32) -> Vec<Insn> {
    let [r0, r1, r2, r3, r4, r6] = [0, 1, 2, 3, 4, 6].map(register);
    let alu = |op, dst, src| Insn::Alu { width: Width::W64, op, dst, src };
    let load = |size, dst, base, offset| Insn::Load { size, dst, base, offset };
    let store = |size, base, offset, src| Insn::Store { size, base, offset, src };
    let copy =
        |size, from, to| [load(size, r4, r0, from), store(size, r1, to as i16, Src::Reg(r4))];
    let branch =
        |cond, dst, src, offset| Insn::Branch { width: Width::W64, cond, dst, src, offset };
    let mut insns = vec![
        alu(Alu::Mov, r6, Src::Reg(r1)),
        // bpf_get_prandom_u32
        Insn::Call { helper: 7 },
        alu(Alu::And, r0, Src::Imm(FRAMES as i32 - 1)),
        store(Size::B4, Reg::FRAME, -4, Src::Reg(r0)),
        Insn::MapFd { dst: r1, fd: map },
        Insn::High(0),
        alu(Alu::Mov, r2, Src::Reg(Reg::FRAME)),
        alu(Alu::Add, r2, Src::Imm(-4)),
        // bpf_map_lookup_elem
        Insn::Call { helper: 1 },
        branch(Cond::Eq, r0, Src::Imm(0), 13),
        load(Size::B4, r1, r6, 0),
        load(Size::B4, r2, r6, 4),
        alu(Alu::Mov, r3, Src::Reg(r1)),
        alu(Alu::Add, r3, Src::Imm(FRAME_BYTES as i32)),
        branch(Cond::Gt, r3, Src::Reg(r2), 8),
    ];
    insns.extend(copy(Size::B4, 0, SOURCE));
    insns.extend(copy(Size::B2, 4, PORT));
    insns.extend(copy(Size::B2, 6, CHECKSUM));
    insns.extend(constant(XDP_PASS));
    insns.extend(constant(XDP_DROP));
    insns
}

/// Sends frames from an interface.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
}

/// What sending took.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Unit: frames that left.
    pub frames: usize,
    /// Time on the processor, receiving included.
    pub busy: Duration,
}

impl Sender {
    /// From an interface of the calling thread's namespace; may be used from any.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(interface: &str) -> io::Result<Self> {
        // SAFETY: socket takes three numbers and touches no memory. Protocol 0 receives nothing.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, open and ours alone.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let at = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: net::index(interface)? as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the address is of the type and size that this family takes, and outlives the call.
        let bound = unsafe { libc::bind(fd, (&raw const at).cast(), size_of_val(&at) as u32) };
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an int that outlives the call.
        let bypass =
            unsafe { libc::setsockopt(fd, SOL_PACKET, QDISC_BYPASS, (&raw const on).cast(), 4) };
        if bound == 0 && bypass == 0 {
            Ok(Self { socket })
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Sends `n` of the frames, from the first on and around.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&self, frames: &[[u8; FRAME_BYTES]], n: usize) -> io::Result<Sent> {
        let mut parts: Vec<libc::iovec> = frames
            .iter()
            .map(|f| libc::iovec { iov_base: f.as_ptr().cast_mut().cast(), iov_len: f.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: a message header is integers and pointers, all of which may be zero.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let (begun, mut sent) = (thread_time(), 0);
        while sent < n {
            let from = sent % messages.len();
            let batch = BATCH.min(n - sent).min(messages.len() - from);
            // SAFETY: the headers, parts and frames they point to live through the call, and the kernel only reads frames.
            let result = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    messages[from..].as_mut_ptr(),
                    batch as libc::c_uint,
                    0,
                )
            };
            sent += usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        }
        Ok(Sent { frames: sent, busy: thread_time() - begun })
    }
}

/// Sockets that frames are delivered to.
#[derive(Debug)]
pub struct Receiver {
    sockets: Vec<UdpSocket>,
}

impl Receiver {
    /// A socket on each port, in the calling thread's namespace. It holds a few datagrams and drops the rest.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(ports: impl Iterator<Item = u16>) -> io::Result<Self> {
        let open = |port| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_nonblocking(true)?;
            let least: libc::c_int = 0;
            // SAFETY: the option's value is an int that outlives the call.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUF,
                    (&raw const least).cast(),
                    4,
                )
            };
            if set == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
        };
        Ok(Self { sockets: ports.map(open).collect::<io::Result<_>>()? })
    }

    /// The tags of what has arrived since it was asked last.
    pub fn tags(&self) -> Vec<u32> {
        let (mut tags, mut payload) = (Vec::new(), [0; 4]);
        for socket in &self.sockets {
            while socket.recv(&mut payload).is_ok() {
                tags.push(u32::from_be_bytes(payload));
            }
        }
        tags
    }
}

/// Frames that an interface of the calling thread's namespace has received.
///
/// # Errors
/// If it is not there.
pub fn received(interface: &str) -> io::Result<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let row = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    // Bytes, then packets.
    let packets = row.and_then(|row| row.split_whitespace().nth(1)?.parse().ok());
    packets.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The hardware address of an interface of the calling thread's namespace.
///
/// # Errors
/// If it is not there.
pub fn hardware_address(interface: &str) -> io::Result<[u8; 6]> {
    // SAFETY: a request is a name and a union of plain data, all of which may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
        *to = from as libc::c_char;
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the request lives through the call and is what this ioctl reads and writes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the ioctl has filled this member of the union.
    let found = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|i| found[i] as u8))
}
