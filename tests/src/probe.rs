//! Real flows between namespaces: what a probe observes is what a user would.
//!
//! Sockets stay in the namespace they were opened in, so one loop over `poll` serves every listener and drives every probe at once.
//! A probe is allowed if its first packet and an answer both arrive: a TCP connection that carries a byte each way, a datagram and its echo, an ICMP echo and its reply.
//! Silence is a drop; a refusal by anything but policy (no route, port unreachable) is an error.

use crate::net;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Read, Write};
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How long one turn of the loop waits for anything to happen.
const TURN: Duration = Duration::from_millis(20);
/// How many turns of silence make a drop: 360 ms. A round trip through two veth pairs takes well under 1 ms.
///
/// Turns that ran late are not counted, so that a busy machine is given more time instead of being called a firewall.
const TURNS: u32 = 18;
/// How long a batch may take before something is wrong with the harness itself.
const BATCH_MAX: Duration = Duration::from_secs(60);
/// Probes in flight at once; bounds descriptors and the time a turn takes.
const BATCH: usize = 256;
/// ICMP echo requests and replies (RFC 792, RFC 4443).
const ECHO_V4: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);

/// What a probe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// A TCP connection to a port.
    Tcp(u16),
    /// A datagram to a port.
    Udp(u16),
    /// An echo request, of ICMP or ICMPv6 as the address says.
    Echo,
}

/// One flow to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Namespace of the client.
    pub client: String,
    /// Address it sends from; without one the kernel chooses.
    pub from: Option<IpAddr>,
    /// Namespace of the server.
    pub server: String,
    /// Address of the server.
    pub to: IpAddr,
    /// What is tried.
    pub service: Service,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both directions passed.
    Allowed,
    /// Silence.
    Dropped,
    /// Neither: the network itself is wrong.
    Error(String),
}

/// Runs probes side by side against listeners made for them; outcomes in the order of the probes.
///
/// # Errors
/// If a listener cannot be made: then nothing was learnt.
pub fn run(probes: &[Probe]) -> io::Result<Vec<Outcome>> {
    let mut servers = BTreeMap::new();
    for probe in probes {
        let key = (probe.server.as_str(), probe.to, probe.service);
        if let Entry::Vacant(place) = servers.entry(key) {
            place.insert(net::in_ns(&probe.server, || serve(probe))??);
        }
    }
    let mut servers: Vec<Server> = servers.into_values().flatten().collect();
    let mut outcomes = Vec::with_capacity(probes.len());
    for (batch, probes) in probes.chunks(BATCH).enumerate() {
        let first = batch * BATCH;
        let mut clients = Vec::with_capacity(probes.len());
        for (n, probe) in probes.iter().enumerate() {
            let tag = u16::try_from((first + n) % usize::from(u16::MAX)).unwrap_or_default();
            clients.push(match net::in_ns(&probe.client, || Client::start(probe, tag))? {
                Ok(client) => client,
                Err(error) => Client::Done(Outcome::Error(error.to_string())),
            });
        }
        drive(&mut servers, &mut clients)?;
        outcomes.extend(clients.into_iter().map(|client| match client {
            Client::Done(outcome) => outcome,
            Client::Tcp { .. } | Client::Udp(_) | Client::Echo { .. } => Outcome::Dropped,
        }));
    }
    Ok(outcomes)
}

/// Turns the loop until every client is done or silence has lasted.
fn drive(servers: &mut Vec<Server>, clients: &mut [Client]) -> io::Result<()> {
    let (mut silent, begun) = (0, Instant::now());
    while silent < TURNS && clients.iter().any(|c| c.descriptor().is_some()) {
        let started = Instant::now();
        if started - begun > BATCH_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut polled: Vec<libc::pollfd> = Vec::new();
        let listening = servers.iter().map(|s| (s.descriptor(), libc::POLLIN));
        let waiting = clients.iter().filter_map(|c| Some((c.descriptor()?, c.events())));
        polled.extend(listening.chain(waiting).map(|(fd, events)| libc::pollfd {
            fd,
            events,
            revents: 0,
        }));
        let n_ready = poll(&mut polled, TURN)?;
        let mut ready = polled.iter().map(|p| p.revents != 0);
        let mut accepted = Vec::new();
        let ready_servers: Vec<bool> = ready.by_ref().take(servers.len()).collect();
        let mut keep = Vec::with_capacity(servers.len());
        for (server, ready) in mem::take(servers).into_iter().zip(ready_servers) {
            if ready { keep.extend(server.turn(&mut accepted)) } else { keep.push(server) }
        }
        *servers = keep;
        servers.append(&mut accepted);
        for client in clients.iter_mut().filter(|c| c.descriptor().is_some()) {
            if ready.next() == Some(true) {
                client.turn();
            }
        }
        match n_ready {
            0 if started.elapsed() < TURN * 2 => silent += 1,
            0 => {}
            _ => silent = 0,
        }
    }
    Ok(())
}

/// A listener, or a connection it accepted.
enum Server {
    Tcp(TcpListener),
    Connection(TcpStream),
    Udp(UdpSocket),
}

/// The server a probe needs; echo is answered by the kernel.
fn serve(probe: &Probe) -> io::Result<Option<Server>> {
    Ok(match probe.service {
        Service::Tcp(port) => {
            let listener = TcpListener::bind((probe.to, port))?;
            listener.set_nonblocking(true)?;
            Some(Server::Tcp(listener))
        }
        Service::Udp(port) => {
            let socket = UdpSocket::bind((probe.to, port))?;
            socket.set_nonblocking(true)?;
            Some(Server::Udp(socket))
        }
        Service::Echo => None,
    })
}

impl Server {
    fn descriptor(&self) -> RawFd {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Connection(stream) => stream.as_raw_fd(),
            Self::Udp(socket) => socket.as_raw_fd(),
        }
    }

    /// Does what it is ready for; `None` when it has served.
    fn turn(self, accepted: &mut Vec<Self>) -> Option<Self> {
        let mut byte = [0];
        match self {
            Self::Tcp(listener) => {
                while let Ok((stream, _)) = listener.accept() {
                    if stream.set_nonblocking(true).is_ok() {
                        accepted.push(Self::Connection(stream));
                    }
                }
                Some(Self::Tcp(listener))
            }
            Self::Connection(mut stream) => match stream.read(&mut byte) {
                Ok(0) => None,
                // The connection stays until the client ends it; a lost answer shows there.
                Ok(_) => stream.write(&byte).ok().map(|_| Self::Connection(stream)),
                Err(error) => would_block(&error).then_some(Self::Connection(stream)),
            },
            Self::Udp(socket) => {
                while let Ok((n, from)) = socket.recv_from(&mut byte) {
                    let _ = socket.send_to(byte.get(..n).unwrap_or_default(), from);
                }
                Some(Self::Udp(socket))
            }
        }
    }
}

/// A probe under way.
enum Client {
    Tcp { stream: TcpStream, sent: bool },
    Udp(UdpSocket),
    Echo { socket: UdpSocket, to: IpAddr, tag: u16 },
    Done(Outcome),
}

impl Client {
    /// Sends the first packet from the calling thread's namespace.
    fn start(probe: &Probe, tag: u16) -> io::Result<Self> {
        let any: IpAddr = match probe.to {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        };
        let from = SocketAddr::new(probe.from.unwrap_or(any), 0);
        Ok(match probe.service {
            Service::Tcp(port) => {
                let stream = TcpStream::from(socket(probe.to, libc::SOCK_STREAM, 0)?);
                bind(&stream, from)?;
                connect(&stream, SocketAddr::new(probe.to, port))?;
                Self::Tcp { stream, sent: false }
            }
            Service::Udp(port) => {
                let socket = UdpSocket::bind(from)?;
                socket.set_nonblocking(true)?;
                socket.connect((probe.to, port))?;
                socket.send(&[1])?;
                Self::Udp(socket)
            }
            Service::Echo => {
                let protocol =
                    if probe.to.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
                // A raw socket has the calls of a datagram socket; its port means nothing.
                let socket = UdpSocket::from(socket(probe.to, libc::SOCK_RAW, protocol)?);
                bind(&socket, from)?;
                socket.send_to(&echo(probe.to, tag), (probe.to, 0))?;
                Self::Echo { socket, to: probe.to, tag }
            }
        })
    }

    fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Tcp { stream, .. } => Some(stream.as_raw_fd()),
            Self::Udp(socket) | Self::Echo { socket, .. } => Some(socket.as_raw_fd()),
            Self::Done(_) => None,
        }
    }

    /// A connection becomes writable when it is made, and readable when its byte has come back.
    fn events(&self) -> libc::c_short {
        match self {
            Self::Tcp { sent: false, .. } => libc::POLLOUT,
            Self::Tcp { .. } | Self::Udp(_) | Self::Echo { .. } | Self::Done(_) => libc::POLLIN,
        }
    }

    fn turn(&mut self) {
        match self.step() {
            Ok(false) => {}
            Ok(true) => *self = Self::Done(Outcome::Allowed),
            Err(error) if would_block(&error) => {}
            Err(error) => *self = Self::Done(Outcome::Error(error.to_string())),
        }
    }

    /// Whether the answer has come.
    fn step(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 256];
        match self {
            Self::Done(_) => Ok(false),
            Self::Tcp { stream, sent } => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                if !*sent {
                    *sent = stream.write(&[1])? == 1;
                    return Ok(false);
                }
                match stream.read(&mut buffer)? {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => Ok(true),
                }
            }
            Self::Udp(socket) => socket.recv(&mut buffer).map(|n| n > 0),
            Self::Echo { socket, to, tag } => loop {
                let (n, from) = socket.recv_from(&mut buffer)?;
                let packet = buffer.get(..n).unwrap_or_default();
                if from.ip() == *to && is_reply(*to, *tag, packet) {
                    return Ok(true);
                }
            },
        }
    }
}

/// An echo request with the tag as identifier; ICMPv6 checksums are the kernel's work (RFC 3542, section 3.1).
fn echo(to: IpAddr, tag: u16) -> [u8; 8] {
    let [high, low] = tag.to_be_bytes();
    let request = if to.is_ipv4() { ECHO_V4.0 } else { ECHO_V6.0 };
    let mut packet = [request, 0, 0, 0, high, low, 0, 1];
    if to.is_ipv4() {
        // RFC 1071; the sum of four words needs one fold.
        let sum = u32::from(request) * 256 + u32::from(tag) + 1;
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
        let [high, low] = (!folded).to_be_bytes();
        packet = [request, 0, high, low, packet[4], packet[5], 0, 1];
    }
    packet
}

/// Whether a packet from a raw socket, with its header if IPv4, answers the tag.
fn is_reply(to: IpAddr, tag: u16, packet: &[u8]) -> bool {
    let (header, reply) = match to {
        IpAddr::V4(_) => (packet.first().map_or(0, |b| usize::from(b & 15) * 4), ECHO_V4.1),
        IpAddr::V6(_) => (0, ECHO_V6.1),
    };
    let [high, low] = tag.to_be_bytes();
    matches!(packet.get(header..), Some([kind, _, _, _, h, l, ..])
        if *kind == reply && [*h, *l] == [high, low])
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// A nonblocking socket of the address's family.
fn socket(of: IpAddr, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let family = if of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes three numbers and touches no memory.
    let fd = unsafe { libc::socket(family, kind | flags, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, open and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind(socket: &impl AsRawFd, from: SocketAddr) -> io::Result<()> {
    // SAFETY: `with_address` passes a valid address and its length for the duration of the call.
    with_address(from, |address, length| unsafe { libc::bind(socket.as_raw_fd(), address, length) })
}

/// Begins to connect; being under way is success.
fn connect(socket: &impl AsRawFd, to: SocketAddr) -> io::Result<()> {
    let started = with_address(to, |address, length| {
        // SAFETY: as in `bind`.
        unsafe { libc::connect(socket.as_raw_fd(), address, length) }
    });
    match started {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}

fn with_address(
    address: SocketAddr,
    call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> libc::c_int,
) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            call((&raw const raw).cast(), mem::size_of_val(&raw) as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            call((&raw const raw).cast(), mem::size_of_val(&raw) as libc::socklen_t)
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn poll(polled: &mut [libc::pollfd], timeout: Duration) -> io::Result<usize> {
    let timeout_ms = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer and length are those of one live, exclusive slice.
    let ready =
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
    usize::try_from(ready).map_err(|_| io::Error::last_os_error())
}
