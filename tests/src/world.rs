//! Two engines in one small network: packet programs as machine code, and the model. They must agree on every frame.

use crate::model::{Flow, Model, Verdict};
use crate::packet::{Extension, Packet, Transport};
use crate::random::Random;
use cranelift_codegen::ir::Function;
use seg_artifact::addresses::Nets;
use seg_artifact::classes::{self, GROUPS_MAX};
use seg_artifact::manifest::Net;
use seg_artifact::maps::{self, About};
use seg_compiler::native::Engine;
use seg_compiler::program::{self, Judge, Layout, Way};
use seg_compiler::tree::{Field, Leaf, Node, NodeId, Roots, Tree};
use std::net::IpAddr;

/// Label dimensions of the network.
const N_LABELS: u32 = 3;

/// Named ports of the network.
const N_PORTS: u32 = 2;

/// What its programs and records know.
pub const LAYOUT: Layout =
    Layout { n_labels: N_LABELS, n_ports: N_PORTS, n_nets: NETS.len() as u16 };

/// Nets told apart, of neither endpoints nor all strangers.
const NETS: [(&str, &str); 2] = [("192.0.2.0", "192.0.2.255"), ("224.0.0.0", "239.255.255.255")];

/// An endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its number, and the index of its interface.
    pub number: u32,
    /// Whether it is the machine itself.
    pub is_self: bool,
    /// Its addresses.
    pub addresses: [&'static str; 3],
    /// Its label values.
    pub labels: [u32; N_LABELS as usize],
    /// Protocol and number of its named ports.
    pub ports: [Option<(u8, u16)>; N_PORTS as usize],
}

/// Who is known. The first and the last are local.
pub const MEMBERS: [Member; 3] = [
    Member {
        number: 1,
        is_self: false,
        addresses: ["10.0.0.1", "fd00::1", "fe80::11"],
        labels: [1, 2, 0],
        ports: [Some((6, 80)), None],
    },
    Member {
        number: 2,
        is_self: false,
        addresses: ["10.0.0.2", "fd00::2", "fe80::12"],
        labels: [1, 3, 0],
        ports: [Some((6, 53)), Some((17, 53))],
    },
    Member {
        number: 3,
        is_self: true,
        addresses: ["10.0.0.3", "fd00::3", "fe80::13"],
        labels: [2, 2, 1],
        ports: [None, Some((6, 1000))],
    },
];

/// Addresses nobody has, or that mean something.
const STRANGERS: [&str; 10] = [
    "192.0.2.7",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "2001:db8::7",
    "::",
    "fe80::1",
    "ff02::1",
    "febf::1",
    "fec0::1",
];

/// Interfaces that have an endpoint behind them.
const LOCAL: [u32; 2] = [1, 3];

/// The local member that is not the machine itself, and so is known to send by its interface only.
const NODE_MEMBER: u32 = 1;

/// Both engines, with the same inventory, clock and trees.
pub struct World {
    trees: [Vec<Tree>; 2],
    engine: Engine,
    model: Model,
    /// Interface that packets came in by; 0 for none.
    pub ingress: u32,
}

impl World {
    /// A world whose packets are judged by these trees: from local endpoints, and to them.
    pub fn new(trees: [Vec<Tree>; 2]) -> Self {
        let functions = functions(&trees);
        let mut engine = Engine::new(&functions, LAYOUT, &[]).expect("this machine runs programs");
        let mut model = Model { now_ns: 1_000_000_000, ..Model::default() };
        engine.set_nets(nets()).expect("room for the nets");
        for known in inventory() {
            engine.set_ident(known.ident, &known.about);
            match known.who {
                Who::Has(address) => engine.set_address(address, known.ident).expect("room"),
                Who::Behind(ifindex, net) => engine.set_local(ifindex, net, known.ident),
            }
        }
        model.local.extend(LOCAL.map(|ifindex| (ifindex, ifindex)));
        for member in MEMBERS {
            for address in member.addresses {
                let address = address.parse().expect("an address");
                model.endpoints.insert(address, member.number);
                if member.number == NODE_MEMBER {
                    model.interfaces.insert(address, member.number);
                }
            }
        }
        Self { trees, engine, model, ingress: 0 }
    }

    /// Its programs: outbound, inbound.
    pub fn functions(&self) -> [Function; 2] {
        functions(&self.trees)
    }

    /// Lets time pass.
    pub fn wait(&mut self, ns: u64) {
        self.model.now_ns += ns;
        self.engine.set_now_ns(self.model.now_ns);
    }

    /// Forgets all connections.
    pub fn forget(&mut self) {
        self.engine.forget_connections();
        self.model.connections.clear();
    }

    /// What becomes of a frame of which the first `linear` bytes can be read at once.
    ///
    /// # Errors
    /// How the engines differ.
    pub fn judge(
        &mut self,
        way: Way,
        ifindex: u32,
        frame: &[u8],
        linear: usize,
    ) -> Result<Verdict, String> {
        let trees = &self.trees[way as usize];
        let says = |flow: &Flow| decide(trees, way, ifindex, flow);
        self.engine.set_ingress(self.ingress);
        self.model.ingress = self.ingress;
        let expected = self.model.judge(way == Way::Outbound, ifindex, frame, &says);
        let [packets, bytes] = self.engine.counter(expected.counter);
        let outcome = self.engine.run_split(way as usize, ifindex, frame, linear);
        if (outcome.action, outcome.counter) != (expected.action(), expected.counter) {
            return Err(format!("{way:?} on {ifindex}: {outcome:?}, the model says {expected:?}"));
        }
        let counted = self.engine.counter(expected.counter);
        let right = [packets + 1, bytes + frame.len() as u64];
        if counted != right {
            return Err(format!("counted {counted:?}, not {right:?}"));
        }
        Ok(expected)
    }
}

fn functions([outbound, inbound]: &[Vec<Tree>; 2]) -> [Function; 2] {
    [
        program::build("outbound", Way::Outbound, LAYOUT, Judge::Trees(outbound)),
        program::build("inbound", Way::Inbound, LAYOUT, Judge::Trees(inbound)),
    ]
}

/// The nets, as a manifest has them.
pub fn nets() -> Nets {
    let net = |(first, last): (&str, &str)| {
        let range = [first, last].map(|address| address.parse().expect("an address"));
        Net { ranges: vec![range.into()] }
    };
    Nets::new(&NETS.map(net))
}

/// An ident and what is known of it.
pub struct Known {
    /// The ident.
    pub ident: u16,
    /// What it stands for.
    pub who: Who,
    /// What programs read of it.
    pub about: About,
}

/// What an ident stands for.
pub enum Who {
    /// This address of an endpoint.
    Has(IpAddr),
    /// The endpoint behind this interface, under an address in this net, or in none of them (0).
    Behind(u32, u16),
}

/// All idents of endpoints.
pub fn inventory() -> Vec<Known> {
    let mut known = Vec::new();
    for member in &MEMBERS {
        let local = LOCAL.contains(&member.number);
        let has = member.addresses.map(|address| Who::Has(address.parse().expect("an address")));
        let behind = (0..=LAYOUT.n_nets).filter(|_| local);
        let all = has.into_iter().chain(behind.map(|net| Who::Behind(member.number, net)));
        for who in all {
            let interface = if local { member.number } else { 0 };
            let is_self = if member.is_self { maps::INTERFACE_SELF } else { 0 };
            let (interface, record) = (interface | is_self, Some(record(member)));
            let [source, destination] = roles(member).map(|role| {
                let mut classes = [0; GROUPS_MAX];
                classes[0] = role;
                classes
            });
            let classes = classes::Net { source, destination };
            let about = About { interface, record, classes };
            known.push(Known { ident: LAYOUT.n_nets + 1 + known.len() as u16, who, about });
        }
    }
    known
}

/// The interface of the local endpoint that has an address.
pub fn local_interface(address: IpAddr) -> Option<u32> {
    let mut local = MEMBERS.iter().filter(|member| LOCAL.contains(&member.number));
    local.find(|m| m.addresses.iter().any(|a| a.parse() == Ok(address))).map(|m| m.number)
}

/// Its roles outbound and inbound. Whether they fit its labels does not matter to trees.
fn roles(member: &Member) -> [u16; 2] {
    [member.number as u16 % 2, 1 + member.number as u16]
}

fn record(member: &Member) -> Vec<u8> {
    let port = |port: Option<(u8, u16)>| port.map_or(0, |(p, n)| maps::port_value(p, n));
    let values = [member.labels.to_vec(), member.ports.map(port).to_vec()].concat();
    maps::record(member.number, member.is_self, 0, &values)
}

/// The greatest of what the trees say.
fn decide(trees: &[Tree], way: Way, ifindex: u32, flow: &Flow) -> Verdict {
    let each = trees.iter().map(|tree| walk(tree, way, ifindex, flow));
    let Leaf { allow, counter, .. } = each.max_by_key(|leaf| leaf.rank).expect("there is a tree");
    Verdict { allow, counter }
}

/// Walks a tree the slow way.
fn walk(tree: &Tree, way: Way, ifindex: u32, flow: &Flow) -> Leaf {
    let Flow { connection, port, source_port, .. } = flow;
    let (local_address, peer_address) = match way {
        Way::Outbound => (connection.source, connection.destination),
        Way::Inbound => (connection.destination, connection.source),
    };
    let has = |member: &&Member, address: IpAddr| {
        member.addresses.iter().any(|a| a.parse() == Ok(address))
    };
    let peer = MEMBERS.iter().find(|member| has(member, peer_address));
    let local = MEMBERS.iter().find(|member| member.number == ifindex);
    let mut node = match (peer_address.is_ipv4(), peer.is_some()) {
        (true, false) => tree.roots.unmanaged4,
        (true, true) => tree.roots.managed4,
        (false, false) => tree.roots.unmanaged6,
        (false, true) => tree.roots.managed6,
    };
    loop {
        let (field, bound, below, above) = match tree.nodes[node.0 as usize] {
            Node::Leaf(leaf) => return leaf,
            Node::Compare { field, bound, below, above } => (field, bound, below, above),
        };
        let calls = |member: Option<&Member>, n: u32| -> u64 {
            let carried = Some((connection.protocol, *port));
            member.is_some_and(|m| m.ports[n as usize] == carried).into()
        };
        let label = |member: Option<&Member>, d: u32| member.map_or(0, |m| m.labels[d as usize]);
        let value = match field {
            Field::PeerSelf => peer.is_some_and(|member| member.is_self).into(),
            Field::PeerLabel(d) => label(peer, d).into(),
            Field::PeerRole => {
                peer.map_or(0, |member| roles(member)[usize::from(way == Way::Outbound)]).into()
            }
            Field::Same(d) => (label(peer, d) != 0 && label(peer, d) == label(local, d)).into(),
            Field::PeerPort(n) => calls(peer, n),
            Field::LocalPort(n) => calls(local, n),
            Field::PeerAddress4 | Field::PeerAddress6Low => low(peer_address),
            Field::LocalAddress4 | Field::LocalAddress6Low => low(local_address),
            Field::PeerAddress6High => high(peer_address),
            Field::LocalAddress6High => high(local_address),
            Field::Protocol => connection.protocol.into(),
            Field::Port => (*port).into(),
            Field::SourcePort => (*source_port).into(),
        };
        node = if value <= bound { below } else { above };
    }
}

fn high(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

fn low(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits() as u64,
    }
}

/// A tree that denies everything but the protocol and ports given, by rules 0, 1, and so on.
pub fn allowing(services: &[(u8, u16)]) -> Tree {
    let mut nodes = vec![Node::Leaf(Leaf { allow: false, counter: 0, rank: 0 })];
    let mut root = NodeId(0);
    let mut add = |node| {
        nodes.push(node);
        NodeId(nodes.len() as u32 - 1)
    };
    for (rule, &(protocol, port)) in services.iter().enumerate() {
        let counter = maps::rule_counter(rule as u32);
        let mut inside = add(Node::Leaf(Leaf { allow: true, counter, rank: counter }));
        for (field, value) in [(Field::Port, port.into()), (Field::Protocol, protocol.into())] {
            inside = add(Node::Compare { field, bound: value, below: inside, above: root });
            if let Some(bound) = u64::checked_sub(value, 1) {
                inside = add(Node::Compare { field, bound, below: root, above: inside });
            }
        }
        root = inside;
    }
    let roots = Roots { unmanaged4: root, managed4: root, unmanaged6: root, managed6: root };
    Tree { nodes, roots }
}

/// A tree with `64 * 64` leaves below every root, neighbours different: the peer's label or address, then the port.
pub fn balanced_tree() -> Tree {
    let mut nodes = Vec::new();
    let mut root = |field: Field, stride: u64| {
        let mut rows = Vec::new();
        for row in 0..64 {
            let leaves = (0..64).map(|column| {
                let number = row * 64 + column;
                let counter = maps::rule_counter(number % 1_000);
                nodes.push(Node::Leaf(Leaf { allow: number % 2 == 0, counter, rank: counter }));
                NodeId(nodes.len() as u32 - 1)
            });
            let leaves = leaves.collect();
            rows.push(balance(&mut nodes, Field::Port, 1_000, leaves));
        }
        balance(&mut nodes, field, stride, rows)
    };
    let roots = Roots {
        unmanaged4: root(Field::PeerAddress4, 0x0123_4567),
        managed4: root(Field::PeerLabel(0), 1),
        unmanaged6: root(Field::PeerAddress6Low, 0x0123_4567_89ab_cdef >> 2),
        managed6: root(Field::Same(0), 0),
    };
    Tree { nodes, roots }
}

/// Halves `parts`, at multiples of `stride`, until one is left.
fn balance(nodes: &mut Vec<Node>, field: Field, stride: u64, mut parts: Vec<NodeId>) -> NodeId {
    let mut width = stride;
    let mut first = 0;
    while parts.len() > 1 {
        let pairs = parts.chunks(2).enumerate().map(|(i, pair)| {
            let bound = first + 2 * width * i as u64;
            nodes.push(Node::Compare { field, bound, below: pair[0], above: pair[1] });
            NodeId(nodes.len() as u32 - 1)
        });
        parts = pairs.collect();
        first += width;
        width *= 2;
    }
    parts[0]
}

const PORTS: [u16; 8] = [0, 8, 53, 80, 128, 1000, 40_000, 65_535];

/// A tree of about `size` nodes over all fields, with constants of the network and their neighbours, and shared nodes.
pub fn random_tree(random: &mut Random, size: usize) -> Tree {
    // What a node needs below which root: bit 0 a managed peer, bit 1 IPv4, bit 2 IPv6.
    let mut needs = Vec::new();
    let mut nodes = Vec::new();
    for counter in [0, 16, 17, 18, 19, 20, 21] {
        nodes.push(Node::Leaf(Leaf { allow: counter >= 18, counter, rank: counter }));
        needs.push(0);
    }
    while nodes.len() < size {
        let (field, need) = *random.pick(&[
            (Field::PeerSelf, 1),
            (Field::PeerLabel(0), 1),
            (Field::PeerLabel(1), 1),
            (Field::PeerLabel(2), 1),
            (Field::PeerRole, 1),
            (Field::Same(0), 1),
            (Field::Same(1), 1),
            (Field::Same(2), 1),
            (Field::PeerPort(0), 1),
            (Field::PeerPort(1), 1),
            (Field::LocalPort(0), 0),
            (Field::LocalPort(1), 0),
            (Field::PeerAddress4, 2),
            (Field::LocalAddress4, 2),
            (Field::PeerAddress6High, 4),
            (Field::PeerAddress6Low, 4),
            (Field::LocalAddress6High, 4),
            (Field::LocalAddress6Low, 4),
            (Field::Protocol, 0),
            (Field::Port, 0),
            (Field::SourcePort, 0),
        ]);
        let address = |random: &mut Random| -> IpAddr {
            let of_members = MEMBERS.iter().flat_map(|member| member.addresses);
            let all: Vec<&str> = of_members.chain(STRANGERS).collect();
            random.pick(&all).parse().expect("an address")
        };
        let (around, last) = match field {
            Field::PeerSelf | Field::Same(_) | Field::PeerPort(_) | Field::LocalPort(_) => (0, 1),
            Field::PeerLabel(_) => (random.below(4) as u64, u32::MAX.into()),
            Field::PeerRole => (random.below(5) as u64, u16::MAX.into()),
            Field::PeerAddress4 | Field::LocalAddress4 => {
                (low(address(random)) & 0xffff_ffff, u32::MAX.into())
            }
            Field::PeerAddress6High | Field::LocalAddress6High => (high(address(random)), u64::MAX),
            Field::PeerAddress6Low | Field::LocalAddress6Low => (low(address(random)), u64::MAX),
            Field::Protocol => (*random.pick(&[1, 6, 17, 47, 58, 132]), u8::MAX.into()),
            Field::Port => ((*random.pick(&PORTS)).into(), u16::MAX.into()),
            Field::SourcePort => ((*random.pick(&[0u16, 1, 2, 53, 1000])).into(), u16::MAX.into()),
        };
        let bound = if random.below(2) == 0 { around } else { around.saturating_sub(1) }.min(last);
        let children = [random.below(nodes.len()), random.below(nodes.len())];
        let need = need | needs[children[0]] | needs[children[1]];
        if need & 6 == 6 {
            continue;
        }
        let [below, above] = children.map(|id| NodeId(id as u32));
        nodes.push(Node::Compare { field, bound, below, above });
        needs.push(need);
    }
    let mut root = |has: u8| {
        let fitting = |id: &usize| needs[*id] & !has == 0;
        let ids: Vec<usize> = (0..nodes.len()).rev().filter(fitting).take(4).collect();
        NodeId(*random.pick(&ids) as u32)
    };
    let (unmanaged4, managed4, unmanaged6, managed6) = (root(2), root(3), root(4), root(5));
    let roots = Roots { unmanaged4, managed4, unmanaged6, managed6 };
    Tree { nodes, roots }
}

/// A packet with a taste for what makes a difference.
pub fn random_packet(random: &mut Random) -> Packet {
    let of_family: Vec<&str> = {
        let ip6 = random.below(2);
        let members = MEMBERS.iter().flat_map(|m| [m.addresses[ip6]; 4]);
        let strangers = STRANGERS.into_iter().filter(|a| a.contains(':') == (ip6 == 1));
        members.chain(strangers).collect()
    };
    let mut address = || random.pick(&of_family).parse().expect("an address");
    let (source, destination) = (address(), address());
    let (from, to) = (*random.pick(&PORTS), *random.pick(&PORTS));
    let transport = match random.below(9) {
        0..3 => {
            let flags = *random.pick(&[0x02, 0x10, 0x12, 0x04, 0x18, 0x00]);
            Transport::Tcp { source: from, destination: to, flags }
        }
        3 | 4 => Transport::Ports { protocol: 17, source: from, destination: to },
        5 => Transport::Ports { protocol: 132, source: from, destination: to },
        6 | 7 => icmp(random, Vec::new()),
        _ => Transport::Other(*random.pick(&[47, 50, 59, 1, 58, 4, 41, 255])),
    };
    let mut packet = Packet::new(source, destination, transport);
    if random.below(4) == 0 {
        let n = random.below(4);
        packet.tags = (0..n).map(|_| *random.pick(&[0x8100, 0x88a8])).collect();
    }
    if random.below(3) == 0 {
        packet.option_words = random.below(11) as u8;
    }
    if random.below(8) == 0 {
        packet.fragment = (*random.pick(&[0, 0, 1, 185, 0x1fff]), random.below(2) == 0);
    }
    if random.below(3) == 0 {
        let n = if random.below(6) == 0 { 7 + random.below(3) } else { random.below(4) };
        packet.extensions = (0..n).map(|_| extension(random)).collect();
    }
    packet.hops = *random.pick(&[64, 255, 1]);
    packet.payload_bytes = *random.pick(&[0, 1, 8, 40, 100]);
    if random.below(8) == 0 {
        packet.payload_bytes = 0;
        packet.missing_bytes = random.below(16);
    }
    packet
}

fn icmp(random: &mut Random, quoted: Vec<u8>) -> Transport {
    let errors = [1, 2, 3, 4, 5, 11, 12];
    let others = [8, 0, 128, 129, 8, 0, 128, 129, 133, 135, 136, 137, 138, 13];
    let kind = if quoted.is_empty() { *random.pick(&others) } else { *random.pick(&errors) };
    let code = if random.below(5) == 0 { 1 } else { 0 };
    Transport::Icmp { kind: (kind, code), identifier: *random.pick(&PORTS), quoted }
}

fn extension(random: &mut Random) -> Extension {
    match random.below(8) {
        0 => Extension::Routing(if random.below(3) == 0 { 1 } else { 0 }),
        1 => Extension::Fragment(if random.below(3) == 0 { 3 } else { 0 }, random.below(2) == 0),
        2 => Extension::Authentication(*random.pick(&[0, 1, 4, 4])),
        n => Extension::Options(
            if n % 2 == 0 { 0 } else { 60 },
            *random.pick(&[0, 0, 1, 2, 8, 30, 50, 57, 58, 59, 60]),
        ),
    }
}

/// A packet that answers another, or an ICMP error about it.
pub fn random_answer(random: &mut Random, to: &Packet) -> Packet {
    let mut answer = to.clone();
    (answer.source, answer.destination) = (to.destination, to.source);
    if random.below(3) == 0 {
        let mut about = if random.below(3) == 0 { answer.clone() } else { to.clone() };
        if random.below(8) == 0 {
            about.fragment.0 = 1;
        }
        let mut quoted = about.ip();
        quoted.truncate(*random.pick(&[28, 48, 56, 68, 100, 600, 600, 600]));
        answer = Packet::new(answer.source, answer.destination, icmp(random, quoted));
        if random.below(4) == 0 {
            answer.source = random_packet(random).source;
        }
        if answer.source.is_ipv4() != answer.destination.is_ipv4() {
            answer.source = to.destination;
        }
        return answer;
    }
    match &mut answer.transport {
        Transport::Tcp { source, destination, flags } => {
            (*source, *destination) = (*destination, *source);
            *flags = *random.pick(&[0x12, 0x10, 0x02]);
        }
        Transport::Ports { source, destination, .. } => {
            (*source, *destination) = (*destination, *source);
        }
        Transport::Icmp { kind, .. } => {
            kind.0 = match kind.0 {
                8 => 0,
                128 => 129,
                other => other,
            }
        }
        Transport::Other(_) => {}
    }
    answer
}

/// Breaks a frame now and then.
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let n = frame.len().min(100);
        match random.below(5) {
            _ if n < 14 => {}
            4 => frame[13] = *random.pick(&[0x00, 0x06, 0xdd]),
            0 => frame.truncate(random.below(frame.len() + 1)),
            1 => frame.extend(std::iter::repeat_n(0, random.below(20))),
            2 => frame[random.below(n)] = random.next_u64() as u8,
            _ => frame[random.below(n)] ^= 1 << random.below(8),
        }
    }
}
