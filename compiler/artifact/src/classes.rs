//! Section `.seg.classes`: what `segd` needs to tell which classes an address has, where programs ask for them.
//!
//! Programs by comparisons know an endpoint by its role: there is one group then, whose classes are the roles, outbound of
//! sources and inbound of destinations.
//! A policy in tables numbers what it can tell apart: each group of rules has classes of sources and classes of destinations.
//! Those of an endpoint follow from its labels and its address; other addresses are in a net of the manifest or in none, and
//! the classes of each of these idents are listed (see [`crate::maps`]).
//!
//! Encoding: little-endian `u32`s, but bounds of addresses as 16 bytes; every list is preceded by its length.

/// The section.
pub const CLASSES: &str = ".seg.classes";
/// Groups of rules, at most: the map of idents holds so many classes of each side.
pub const GROUPS_MAX: usize = 8;

/// Classes of all groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// By group.
    pub groups: Vec<Sides>,
    /// The classes of each ident that is no endpoint's: 0, then those of the manifest's nets.
    pub nets: Vec<Net>,
}

/// How one group of rules sorts ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sides {
    /// As sources.
    pub source: Decision,
    /// As destinations.
    pub destination: Decision,
}

/// The classes of an end by group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    /// As a source; 0 beyond the groups there are.
    pub source: [u16; GROUPS_MAX],
    /// As a destination.
    pub destination: [u16; GROUPS_MAX],
}

/// A decision over an endpoint's labels and address that ends in a class.
///
/// INVARIANT: edges of a node ascend and end at `u128::MAX`; a node refers only to earlier nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where to begin.
    pub root: Target,
    /// The nodes.
    pub nodes: Vec<Node>,
}

/// One question about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What is asked.
    pub field: Field,
    /// Answers up to the number, and above those of the edge before, lead there.
    pub edges: Vec<(u128, Target)>,
}

/// What a [`Node`] asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// 1 if the endpoint is the machine itself, else 0.
    IsSelf,
    /// Its value in the dimension with this index.
    Label(u32),
    /// Its address as a number, IPv4 mapped into IPv6.
    Address,
}

/// Another question, or the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Index into [`Decision::nodes`].
    Node(u32),
    /// The class.
    Class(u16),
}

/// Why a section is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the classes of the object are inconsistent: {0}")]
pub struct ClassesError(pub &'static str);

impl Classes {
    /// The classes of an endpoint; `labels` holds one value for each dimension of the manifest.
    ///
    /// `None` if a decision asks a label that is not there.
    pub fn of_endpoint(&self, is_self: bool, labels: &[u32], address: u128) -> Option<Net> {
        let mut classes = Net::default();
        for (group, Sides { source, destination }) in self.groups.iter().enumerate() {
            *classes.source.get_mut(group)? = source.class(is_self, labels, address)?;
            *classes.destination.get_mut(group)? = destination.class(is_self, labels, address)?;
        }
        Some(classes)
    }

    /// The bytes of the section.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Vec::new();
        let number = |n: usize, to: &mut Vec<u8>| {
            // INVARIANT: the limits of the compiler bound every list.
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            to.extend(n.to_le_bytes());
        };
        number(self.groups.len(), &mut to);
        for decision in self.groups.iter().flat_map(|g| [&g.source, &g.destination]) {
            to.extend(decision.root.encode().to_le_bytes());
            number(decision.nodes.len(), &mut to);
            for Node { field, edges } in &decision.nodes {
                to.extend(field.encode().to_le_bytes());
                number(edges.len(), &mut to);
                for (last, target) in edges {
                    match field {
                        Field::Address => to.extend(last.to_le_bytes()),
                        // The last edge holds every greater number.
                        Field::IsSelf | Field::Label(_) => {
                            to.extend(u32::try_from(*last).unwrap_or(u32::MAX).to_le_bytes());
                        }
                    }
                    to.extend(target.encode().to_le_bytes());
                }
            }
        }
        number(self.nets.len(), &mut to);
        for Net { source, destination } in &self.nets {
            source.iter().chain(destination).for_each(|class| to.extend(class.to_le_bytes()));
        }
        to
    }

    /// Reads and verifies a section, trusting nothing; endpoints have `n_labels` labels, and there are `n_nets` nets.
    ///
    /// # Errors
    /// [`ClassesError`] if it breaks an invariant.
    pub fn decode(bytes: &[u8], n_labels: usize, n_nets: usize) -> Result<Self, ClassesError> {
        let mut from = Reader(bytes);
        let n_groups = from.count()?;
        if n_groups > GROUPS_MAX {
            return Err(ClassesError("too many groups"));
        }
        let mut groups = Vec::new();
        for _ in 0..n_groups {
            let source = from.decision(n_labels)?;
            let destination = from.decision(n_labels)?;
            groups.push(Sides { source, destination });
        }
        let mut nets = Vec::new();
        for _ in 0..from.count()? {
            let mut net = Net::default();
            for class in net.source.iter_mut().chain(&mut net.destination) {
                *class = u16::from_le_bytes(from.take()?);
            }
            nets.push(net);
        }
        if nets.len() != n_nets + 1 {
            return Err(ClassesError("other nets than the manifest has"));
        }
        match from.0 {
            [] => Ok(Self { groups, nets }),
            _ => Err(ClassesError("bytes behind its end")),
        }
    }
}

impl Decision {
    fn class(&self, is_self: bool, labels: &[u32], address: u128) -> Option<u16> {
        let mut target = self.root;
        // A verified node refers only to earlier ones, so this ends.
        loop {
            let node = match target {
                Target::Class(class) => return Some(class),
                Target::Node(index) => self.nodes.get(index as usize)?,
            };
            let answer = match node.field {
                Field::IsSelf => u128::from(is_self),
                Field::Label(index) => u128::from(*labels.get(index as usize)?),
                Field::Address => address,
            };
            let edge = node.edges.partition_point(|(last, _)| *last < answer);
            target = node.edges.get(edge)?.1;
        }
    }
}

/// A target that is a class.
const CLASS: u32 = 1 << 31;
const IS_SELF: u32 = u32::MAX;
const ADDRESS: u32 = u32::MAX - 1;

impl Target {
    fn encode(self) -> u32 {
        match self {
            Self::Node(node) => node,
            Self::Class(class) => CLASS | u32::from(class),
        }
    }
}

impl Field {
    fn encode(self) -> u32 {
        match self {
            Self::IsSelf => IS_SELF,
            Self::Address => ADDRESS,
            Self::Label(label) => label,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ClassesError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(ClassesError("it is cut off"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u32, ClassesError> {
        self.take().map(u32::from_le_bytes)
    }

    /// The length of a list; what follows is read piece by piece, so that a false one costs nothing.
    fn count(&mut self) -> Result<usize, ClassesError> {
        usize::try_from(self.number()?).map_err(|_| ClassesError("a list that is too long"))
    }

    fn target(&mut self, n_nodes: usize) -> Result<Target, ClassesError> {
        match self.number()? {
            class if class & CLASS != 0 => u16::try_from(class & !CLASS)
                .map(Target::Class)
                .map_err(|_| ClassesError("a class beyond 16 bits")),
            node if (node as usize) < n_nodes => Ok(Target::Node(node)),
            _ => Err(ClassesError("a node that refers forwards")),
        }
    }

    fn decision(&mut self, n_labels: usize) -> Result<Decision, ClassesError> {
        let root = self.number()?;
        let mut nodes: Vec<Node> = Vec::new();
        for _ in 0..self.count()? {
            let field = match self.number()? {
                IS_SELF => Field::IsSelf,
                ADDRESS => Field::Address,
                label if (label as usize) < n_labels => Field::Label(label),
                _ => return Err(ClassesError("a label that does not exist")),
            };
            let mut edges: Vec<(u128, Target)> = Vec::new();
            for _ in 0..self.count()? {
                let last = match field {
                    Field::Address => u128::from_le_bytes(self.take()?),
                    Field::IsSelf | Field::Label(_) => match self.number()? {
                        u32::MAX => u128::MAX,
                        last => u128::from(last),
                    },
                };
                if edges.last().is_some_and(|(before, _)| *before >= last) {
                    return Err(ClassesError("edges that do not ascend"));
                }
                edges.push((last, self.target(nodes.len())?));
            }
            if edges.last().map(|(last, _)| *last) != Some(u128::MAX) {
                return Err(ClassesError("edges that do not cover every answer"));
            }
            nodes.push(Node { field, edges });
        }
        let root = Reader(&root.to_le_bytes()).target(nodes.len())?;
        Ok(Decision { root, nodes })
    }
}
