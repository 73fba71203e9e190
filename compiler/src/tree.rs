//! The decision of one role as comparisons: a directed acyclic graph of `field <= bound` questions.
//!
//! INVARIANT: a comparison refers only to earlier nodes, so evaluation ends; no node is unreachable from the roots.

use seg_artifact::manifest::Label;
use seg_artifact::maps;
use std::collections::HashSet;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What a comparison reads. All values are unsigned; addresses and ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// 1 if the peer is the machine itself. Only below managed roots.
    PeerSelf,
    /// The peer's value in this dimension (index as in the manifest). Only below managed roots.
    PeerLabel(u32),
    /// The peer's role in the opposite direction (index as in the manifest). Only below managed roots.
    PeerRole,
    /// 1 if both ends have the same value in this dimension and it is not unset. Only below managed roots.
    Same(u32),
    /// 1 if protocol and port are those the peer has by this name (index as in the manifest). Only below managed roots.
    PeerPort(u32),
    /// 1 if protocol and port are those this end has by this name.
    LocalPort(u32),
    /// IPv4 address of the peer. Only below IPv4 roots, as the next.
    PeerAddress4,
    /// IPv4 address of this end.
    LocalAddress4,
    /// Upper 64 bits of the peer's IPv6 address. Only below IPv6 roots, as the next three.
    PeerAddress6High,
    /// Lower 64 bits of the peer's IPv6 address.
    PeerAddress6Low,
    /// Upper 64 bits of this end's IPv6 address.
    LocalAddress6High,
    /// Lower 64 bits of this end's IPv6 address.
    LocalAddress6Low,
    /// IANA protocol number.
    Protocol,
    /// Destination port; the type for ICMP and ICMPv6; 0 for other protocols.
    Port,
    /// Source port; the code for ICMP and ICMPv6; 0 for other protocols.
    SourcePort,
}

/// Index into [`Tree::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// One node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// Goes to `below` if `field <= bound`, else to `above`.
    Compare {
        /// What is compared.
        field: Field,
        /// With what.
        bound: u64,
        /// If at most `bound`.
        below: NodeId,
        /// If above `bound`.
        above: NodeId,
    },
    /// The end.
    Leaf(Leaf),
}

/// A verdict and the counter of who gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leaf {
    /// Whether the flow passes.
    pub allow: bool,
    /// Index in [`maps::COUNTERS`]: a rule's, or [`maps::Reason::Default`].
    pub counter: u32,
    /// Of the answers of several trees in sequence the one with the greatest rank counts. Equal answers have equal ranks.
    pub rank: u32,
}

/// The decision of one role in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Earlier nodes first.
    pub nodes: Vec<Node>,
    /// Where to begin.
    pub roots: Roots,
}

/// A root for each kind of peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roots {
    /// IPv4, peer not in the inventory.
    pub unmanaged4: NodeId,
    /// IPv4, peer in the inventory.
    pub managed4: NodeId,
    /// IPv6, peer not in the inventory.
    pub unmanaged6: NodeId,
    /// IPv6, peer in the inventory.
    pub managed6: NodeId,
}

/// What decides where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Whether the peer is in the inventory.
    pub managed: bool,
    /// Of both addresses.
    pub family: Family,
}

/// The address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Leaf {
    /// The rule, unless it is the default.
    pub fn rule(self) -> Option<u32> {
        self.counter.checked_sub(maps::RULE_COUNTERS)
    }
}

impl Tree {
    /// What the tree says of a packet with this answer to each field.
    pub fn eval(&self, kind: Kind, answer: &dyn Fn(Field) -> u64) -> Leaf {
        let mut at = self.roots.of(kind);
        loop {
            match self.nodes[at.0 as usize] {
                Node::Leaf(leaf) => return leaf,
                Node::Compare { field, bound, below, above } => {
                    at = if answer(field) <= bound { below } else { above };
                }
            }
        }
    }

    /// What trees in sequence say together.
    ///
    /// # Panics
    /// If there are none.
    pub fn eval_all(trees: &[Self], kind: Kind, answer: &dyn Fn(Field) -> u64) -> Leaf {
        let each = trees.iter().map(|tree| tree.eval(kind, answer));
        each.max_by_key(|leaf| leaf.rank).expect("a program has a tree")
    }

    /// Comparisons on the way from a root to an answer if either outcome of each is as likely. Unit: hundredths.
    pub fn levels(&self, root: NodeId) -> u64 {
        let mut levels: Vec<u64> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes[..=root.0 as usize] {
            levels.push(match node {
                Node::Compare { below, above, .. } => {
                    100 + (levels[below.0 as usize] + levels[above.0 as usize]) / 2
                }
                Node::Leaf(_) => 0,
            });
        }
        levels[root.0 as usize]
    }

    /// How many nodes compare.
    pub fn n_comparisons(&self) -> usize {
        self.nodes.iter().filter(|node| matches!(node, Node::Compare { .. })).count()
    }

    /// Checks the invariant of the module, that no two nodes are equal, and that every question has an answer
    /// below every root it is reached from.
    ///
    /// # Errors
    /// What is wrong, for people who debug the compiler.
    pub fn verify(&self) -> Result<(), String> {
        let mut reached = vec![false; self.nodes.len()];
        for kind in Kind::ALL {
            let mut seen = vec![false; self.nodes.len()];
            let root = self.roots.of(kind).0 as usize;
            *seen.get_mut(root).ok_or("a root that does not exist")? = true;
            for index in (0..self.nodes.len()).rev() {
                if !seen[index] {
                    continue;
                }
                reached[index] = true;
                let Node::Compare { field, below, above, .. } = self.nodes[index] else { continue };
                if below.0.max(above.0) as usize >= index {
                    return Err(format!("{index} refers forwards"));
                }
                if below == above {
                    return Err(format!("{index} compares for nothing"));
                }
                if !field.has_answer(kind) {
                    return Err(format!("{index} asks {field:?} where it has no answer"));
                }
                seen[below.0 as usize] = true;
                seen[above.0 as usize] = true;
            }
        }
        if let Some(index) = reached.iter().position(|reached| !reached) {
            return Err(format!("{index} is not reached"));
        }
        let distinct: HashSet<_> = self.nodes.iter().collect();
        if distinct.len() < self.nodes.len() {
            return Err("two nodes are equal".to_owned());
        }
        Ok(())
    }

    /// The tree as text, a line for each node; `labels` names the dimensions.
    pub fn text(&self, labels: &[Label]) -> String {
        let Roots { unmanaged4, managed4, unmanaged6, managed6 } = self.roots;
        let mut text = format!(
            "roots unmanaged4 {} managed4 {} unmanaged6 {} managed6 {}\n",
            unmanaged4.0, managed4.0, unmanaged6.0, managed6.0
        );
        for (index, node) in self.nodes.iter().enumerate() {
            let line = match node {
                Node::Leaf(leaf) => {
                    let verdict = if leaf.allow { "allow" } else { "deny" };
                    let by = leaf.rule().map_or("default".to_owned(), |rule| format!("#{rule}"));
                    format!("{verdict} {by}")
                }
                Node::Compare { field, bound, below, above } => {
                    let (field, bound) = (field.text(labels), field.bound_text(*bound));
                    format!("{field} <= {bound} ? {} : {}", below.0, above.0)
                }
            };
            writeln!(text, "{index}: {line}").expect("a string");
        }
        text
    }
}

impl Roots {
    /// The root for a kind of peer.
    pub fn of(&self, kind: Kind) -> NodeId {
        match (kind.managed, kind.family) {
            (false, Family::V4) => self.unmanaged4,
            (true, Family::V4) => self.managed4,
            (false, Family::V6) => self.unmanaged6,
            (true, Family::V6) => self.managed6,
        }
    }
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self { managed: false, family: Family::V4 },
        Self { managed: true, family: Family::V4 },
        Self { managed: false, family: Family::V6 },
        Self { managed: true, family: Family::V6 },
    ];
}

impl Field {
    fn has_answer(self, kind: Kind) -> bool {
        match self {
            Self::PeerSelf
            | Self::PeerLabel(_)
            | Self::PeerRole
            | Self::Same(_)
            | Self::PeerPort(_) => kind.managed,
            Self::PeerAddress4 | Self::LocalAddress4 => kind.family == Family::V4,
            Self::PeerAddress6High
            | Self::PeerAddress6Low
            | Self::LocalAddress6High
            | Self::LocalAddress6Low => kind.family == Family::V6,
            Self::LocalPort(_) | Self::Protocol | Self::Port | Self::SourcePort => true,
        }
    }

    fn text(self, labels: &[Label]) -> String {
        let name = |label: u32| &labels[label as usize].name;
        match self {
            Self::PeerSelf => "peer self".to_owned(),
            Self::PeerLabel(label) => format!("peer {}", name(label)),
            Self::PeerRole => "peer role".to_owned(),
            Self::Same(label) => format!("same {}", name(label)),
            Self::PeerAddress4 | Self::PeerAddress6High => "peer address".to_owned(),
            Self::LocalAddress4 | Self::LocalAddress6High => "local address".to_owned(),
            Self::PeerAddress6Low => "peer address low".to_owned(),
            Self::LocalAddress6Low => "local address low".to_owned(),
            Self::Protocol => "protocol".to_owned(),
            Self::PeerPort(port) => format!("peer port #{port}"),
            Self::LocalPort(port) => format!("local port #{port}"),
            Self::Port => "port".to_owned(),
            Self::SourcePort => "source port".to_owned(),
        }
    }

    fn bound_text(self, bound: u64) -> String {
        let upper = u128::from(bound) << 64;
        match self {
            Self::PeerAddress4 | Self::LocalAddress4 => match u32::try_from(bound) {
                Ok(bits) => Ipv4Addr::from_bits(bits).to_string(),
                Err(_) => bound.to_string(),
            },
            Self::PeerAddress6High | Self::LocalAddress6High => {
                format!("{}/64", Ipv6Addr::from_bits(upper))
            }
            Self::PeerAddress6Low | Self::LocalAddress6Low => {
                Ipv6Addr::from_bits(u128::from(bound)).to_string()
            }
            Self::PeerSelf
            | Self::PeerLabel(_)
            | Self::PeerRole
            | Self::Same(_)
            | Self::PeerPort(_)
            | Self::LocalPort(_)
            | Self::Protocol
            | Self::Port
            | Self::SourcePort => bound.to_string(),
        }
    }
}
