//! A second opinion on packets: spec.md's packet table in plain Rust, sharing no code with the compiler.
//!
//! [`parse`] reads a frame; a [`Model`] judges a sequence of them, given what policy says about flows.

use crate::world::{World, allowing};
use seg_artifact::maps::{self, Reason};
use seg_compiler::program::Way;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// What policy judges a packet by, and what it means to connection state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who talks to whom, in the packet's direction.
    pub connection: Connection,
    /// Destination port or ICMP type.
    pub port: u16,
    /// Source port or ICMP code.
    pub source_port: u16,
    /// Whether it opens a connection if policy allows it.
    pub opens: bool,
    /// Whether it may be a reply.
    pub replies: bool,
    /// Whether it has the form of neighbour discovery.
    pub discovery: bool,
    /// Who talked to whom in the packet that an ICMP error quotes.
    pub quoted: Option<Connection>,
}

/// Both ends of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source and destination port; the identifier twice for an ICMP echo.
    pub ports: (u16, u16),
    /// IANA protocol number.
    pub protocol: u8,
}

impl Connection {
    /// As seen from the other end.
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ports: (self.ports.1, self.ports.0),
            protocol: self.protocol,
        }
    }
}

/// Reads a frame.
///
/// # Errors
/// The reason that decides without policy; it may be one that lets the packet pass.
pub fn parse(frame: &[u8]) -> Result<Flow, Reason> {
    let mut at = 12;
    let mut tags = 0;
    let packet = loop {
        let kind = be16(frame, at).ok_or(Reason::Malformed)?;
        at += 2;
        match kind {
            0x8100 | 0x88a8 if tags == 2 => return Err(Reason::NotIp),
            0x8100 | 0x88a8 => {
                tags += 1;
                at += 2;
            }
            0x0806 => return Err(Reason::Arp),
            0x0800 => break ip4(frame, at)?,
            0x86dd => break ip6(frame, at)?,
            _ => return Err(Reason::NotIp),
        }
    };
    transport(packet)
}

/// An IP packet whose headers are behind us.
struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    first_fragment: bool,
    /// What follows the headers, to the end of the packet.
    body: &'a [u8],
}

impl Ip<'_> {
    fn too_short(&self) -> Reason {
        if self.first_fragment { Reason::Fragment } else { Reason::Malformed }
    }
}

fn ip4(frame: &[u8], at: usize) -> Result<Ip<'_>, Reason> {
    let bad = Reason::Malformed;
    let present = frame.get(at..).ok_or(bad)?;
    let header = present.get(..20).ok_or(bad)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(be16(header, 2).ok_or(bad)?);
    if header[0] >> 4 != 4 || header_bytes < 20 || total < header_bytes {
        return Err(bad);
    }
    let packet = present.get(..total).ok_or(bad)?;
    let fragment = be16(header, 6).ok_or(bad)?;
    if fragment % 0x2000 != 0 {
        return Err(Reason::Fragment);
    }
    if header[9] == 58 {
        return Err(bad);
    }
    Ok(Ip {
        source: address4(header, 12).ok_or(bad)?,
        destination: address4(header, 16).ok_or(bad)?,
        protocol: header[9],
        hops: header[8],
        first_fragment: fragment / 0x2000 % 2 == 1,
        body: &packet[header_bytes..],
    })
}

fn ip6(frame: &[u8], at: usize) -> Result<Ip<'_>, Reason> {
    let bad = Reason::Malformed;
    let present = frame.get(at..).ok_or(bad)?;
    let header = present.get(..40).ok_or(bad)?;
    let packet_bytes = 40 + usize::from(be16(header, 4).ok_or(bad)?);
    if header[0] >> 4 != 6 {
        return Err(bad);
    }
    let packet = present.get(..packet_bytes).ok_or(bad)?;
    let [source, destination] = [8, 24].map(|at| address6(header, at));
    let (source, destination) = (source.ok_or(bad)?, destination.ok_or(bad)?);
    if [source, destination].iter().any(|a| a.to_ipv4_mapped().is_some()) {
        return Err(bad);
    }
    let mut ip = Ip {
        source: source.into(),
        destination: destination.into(),
        protocol: header[6],
        hops: header[7],
        first_fragment: false,
        body: &packet[40..],
    };
    let mut header_at = at + 40;
    let mut n_headers = 0;
    // `None` behind the end of the packet.
    let mut rest = Some(ip.body);
    while [0, 43, 44, 51, 60].contains(&ip.protocol) {
        if n_headers == 8 || header_at > 512 {
            return Err(Reason::Extension);
        }
        n_headers += 1;
        let extension = rest.and_then(|rest| rest.first_chunk::<8>());
        let &[next, length, high, low, ..] = extension.ok_or(ip.too_short())?;
        let length = usize::from(length);
        let bytes = match ip.protocol {
            43 if low != 0 => return Err(Reason::Extension),
            44 if high != 0 || low & 0xf8 != 0 => return Err(Reason::Fragment),
            44 => {
                ip.first_fragment = true;
                8
            }
            51 => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        ip.protocol = next;
        header_at += bytes;
        rest = rest.and_then(|rest| rest.get(bytes..));
    }
    if ip.protocol == 1 {
        return Err(bad);
    }
    if header_at > 512 {
        return Err(Reason::Extension);
    }
    ip.body = rest.ok_or(ip.too_short())?;
    Ok(ip)
}

fn transport(ip: Ip<'_>) -> Result<Flow, Reason> {
    let needed = match ip.protocol {
        6 => 20,
        132 => 12,
        1 | 17 | 58 => 8,
        _ => 0,
    };
    let Some(header) = ip.body.get(..needed) else { return Err(ip.too_short()) };
    let mut connection = Connection {
        source: ip.source,
        destination: ip.destination,
        ports: (0, 0),
        protocol: ip.protocol,
    };
    let flow = |connection: Connection, port, opens, replies| Flow {
        // An echo has its identifier in the place of ports; it has a code all the same.
        source_port: match connection.protocol {
            1 | 58 => header[1].into(),
            _ => connection.ports.0,
        },
        connection,
        port,
        opens,
        replies,
        discovery: false,
        quoted: None,
    };
    let (first, second) = (be16(header, 0).unwrap_or(0), be16(header, 2).unwrap_or(0));
    match ip.protocol {
        1 | 58 => {
            let (kind, code) = (header[0], header[1]);
            let discovery = (133..=137).contains(&kind) && code == 0 && ip.hops == 255;
            if ip.protocol == 58 && discovery && !ip.first_fragment {
                return Ok(Flow { discovery, ..flow(connection, kind.into(), false, false) });
            }
            let (request, reply, errors): (u8, u8, &[u8]) =
                if ip.protocol == 1 { (8, 0, &[3, 11, 12]) } else { (128, 129, &[1, 2, 3, 4]) };
            if kind == request || kind == reply {
                let identifier = be16(header, 4).unwrap_or(0);
                connection.ports = (identifier, identifier);
            }
            let mut flow = flow(connection, kind.into(), kind == request, kind == reply);
            if errors.contains(&kind) {
                flow.quoted = quoted(&ip.body[8..], ip.protocol == 1);
            }
            Ok(flow)
        }
        6 | 17 | 132 => {
            if ip.protocol == 6 && header[12] / 16 < 5 {
                return Err(Reason::Malformed);
            }
            connection.ports = (first, second);
            let opening = ip.protocol == 6 && header[13] & 0b1_0010 == 0b0_0010;
            Ok(flow(connection, second, true, !opening))
        }
        _ => Ok(flow(connection, 0, true, true)),
    }
}

/// The connection of a quoted packet, if it is one that can be tracked.
fn quoted(packet: &[u8], ip4: bool) -> Option<Connection> {
    let (source, destination, protocol, header_bytes) = if ip4 {
        let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
        if packet.first()? >> 4 != 4 || header_bytes < 20 || be16(packet, 6)? % 0x2000 != 0 {
            return None;
        }
        (address4(packet, 12)?, address4(packet, 16)?, *packet.get(9)?, header_bytes)
    } else {
        if packet.first()? >> 4 != 6 {
            return None;
        }
        let (source, destination) = (address6(packet, 8)?, address6(packet, 24)?);
        (source.into(), destination.into(), *packet.get(6)?, 40)
    };
    let header = packet.get(header_bytes..)?.get(..8)?;
    let ports = match (protocol, header[0]) {
        (6 | 17 | 132, _) => (be16(header, 0)?, be16(header, 2)?),
        (1, 0 | 8) | (58, 128 | 129) => (be16(header, 4)?, be16(header, 4)?),
        _ => return None,
    };
    Some(Connection { source, destination, ports, protocol })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn address4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn address6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

/// Connection state and inventory of one node.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Which endpoint has an address.
    pub endpoints: HashMap<IpAddr, u32>,
    /// By which interface packets from an address come, where that is known.
    pub interfaces: HashMap<IpAddr, u32>,
    /// By which interface the packet came, or 0.
    pub ingress: u32,
    /// Which endpoint is behind an interface.
    pub local: HashMap<u32, u32>,
    /// When a connection was last seen.
    pub connections: HashMap<Connection, u64>,
    /// The clock.
    pub now_ns: u64,
}

/// What policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the flow passes.
    pub allow: bool,
    /// Whose counter moves.
    pub counter: u32,
}

impl Verdict {
    /// What a program returns: `TC_ACT_UNSPEC` or `TC_ACT_SHOT`.
    pub fn action(self) -> i32 {
        if self.allow { -1 } else { 2 }
    }
}

impl Model {
    /// Judges a packet from the endpoint behind `ifindex`, if `outbound`, or to it.
    ///
    /// The result says whether the packet passes, and which counter moves.
    pub fn judge(
        &mut self,
        outbound: bool,
        ifindex: u32,
        frame: &[u8],
        decide: &dyn Fn(&Flow) -> Verdict,
    ) -> Verdict {
        let because =
            |reason: Reason| Verdict { allow: reason.passes(), counter: reason.counter() };
        let flow = match parse(frame) {
            Ok(flow) => flow,
            Err(reason) => return because(reason),
        };
        if flow.discovery && !outbound {
            return because(Reason::NeighbourDiscovery);
        }
        let local = self.local.get(&ifindex);
        let Connection { source, destination, .. } = flow.connection;
        let own = self.endpoints.get(if outbound { &source } else { &destination });
        let nobody = !outbound
            || source.is_unspecified()
            || matches!(source, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if local.is_none() || own != local && !(own.is_none() && nobody) {
            return because(Reason::Spoofed);
        }
        if let (true, IpAddr::V6(source), IpAddr::V6(to)) = (flow.discovery, source, destination) {
            let one_subnet = source.segments()[..4] == to.segments()[..4];
            let link_local = [source, to].iter().any(Ipv6Addr::is_unicast_link_local);
            if one_subnet || to.is_multicast() || link_local {
                return because(Reason::NeighbourDiscovery);
            }
        }
        let verdict = decide(&flow);
        if verdict.allow {
            let elsewhere = self.interfaces.get(&source).is_some_and(|way| *way != self.ingress);
            let noted = self.connections.contains_key(&flow.connection);
            if !outbound && flow.opens && elsewhere && !noted {
                return because(Reason::Spoofed);
            }
            if flow.opens {
                self.connections.entry(flow.connection.clone()).or_insert(self.now_ns);
                self.refresh(&flow.connection);
            }
            return verdict;
        }
        if flow.replies && self.alive(&flow.connection.reversed()) {
            self.refresh(&flow.connection.reversed());
            return because(Reason::Reply);
        }
        if let Some(quoted) = &flow.quoted {
            let to_its_sender = quoted.source == flow.connection.destination;
            if to_its_sender && (self.alive(quoted) || self.alive(&quoted.reversed())) {
                return because(Reason::Related);
            }
        }
        verdict
    }

    fn alive(&self, connection: &Connection) -> bool {
        let idle_s = if connection.protocol == 6 { maps::TCP_IDLE_S } else { maps::OTHER_IDLE_S };
        (self.connections.get(connection))
            .is_some_and(|&seen| self.now_ns - seen <= idle_s * 1_000_000_000)
    }

    fn refresh(&mut self, connection: &Connection) {
        if let Some(seen) = self.connections.get_mut(connection)
            && self.now_ns - *seen > maps::REFRESH_S * 1_000_000_000
        {
            *seen = self.now_ns;
        }
    }
}

/// Whether the packet program and the model say the same about a frame, whole and in parts: the check of a fuzz target.
///
/// # Panics
/// If they differ.
pub fn packet_parser_agrees(data: &[u8]) {
    thread_local! {
        static WORLD: RefCell<World> = RefCell::new(World::new([vec![allowing(&[(6, 80), (17, 53)])], vec![allowing(&[(1, 8)])]]));
    }
    let Some((&split, frame)) = data.split_first() else { return };
    WORLD.with_borrow_mut(|world| {
        world.forget();
        for way in [Way::Outbound, Way::Inbound] {
            for linear in [frame.len(), frame.len().min(split.into())] {
                if let Err(difference) = world.judge(way, 1, frame, linear) {
                    panic!("{difference}\n{linear} bytes of {frame:02x?}");
                }
            }
        }
    });
}
