//! Maps of a policy object: names, keys and values, as programs and `segd` both see them.
//!
//! Numbers are in the byte order of the machine, addresses and ports in that of the network.

use crate::classes::Net;
use std::net::IpAddr;

/// Array of one value: `u16 root[65536]`, then [`BLOCKS4`] blocks of `u16[256]`.
///
/// `root[a >> 16]` is a block, its entry `(a >> 8) & 255` another, and that one's entry `a & 255` the ident of IPv4 address
/// `a`. Block 0 holds zeros and serves both levels. See [`crate::addresses`].
pub const ADDRESSES4: &str = "addresses4";
/// Hash from [`address_key`] to the ident (`u32`) of an endpoint's IPv6 address.
pub const ADDRESSES6: &str = "addresses6";
/// Array of one value, what programs ask most about idents: see [`IDENT_SOURCES`] and what follows it.
pub const IDENTS: &str = "idents";
/// Array from ident to the record of its endpoint.
pub const RECORDS: &str = "records";
/// Hash from [`local_key`] to an ident (`u32`): who stands behind an interface under an address that no endpoint has.
pub const LOCAL: &str = "local";
/// LRU hash from connection key to connection state.
pub const CONNTRACK: &str = "conntrack";
/// Per-CPU array of counters, index from [`Reason`] or [`rule_counter`].
pub const COUNTERS: &str = "counters";

/// How many idents there are.
///
/// An ident is all that programs know of an address: 0 if no endpoint has it and no net that the policy tells apart holds it,
/// then one for each of the manifest's nets, then one for each address of a known endpoint.
/// Source: blocks of [`ADDRESSES4`] hold them in 16 bits.
pub const IDENTS_MAX: u32 = 65_536;
/// Most endpoint addresses a node can know: every ident but 0.
pub const ADDRESSES_MAX: u32 = IDENTS_MAX - 1;
/// Unit: entries. Interfaces bound on one node.
pub const LOCAL_MAX: u32 = 4_096;
/// Unit: entries. Connections remembered before the least recently used is forgotten.
pub const CONNTRACK_MAX: u32 = 131_072;
/// Fewest entries [`RECORDS`] is made with.
pub const RECORDS_MIN: u32 = 4_096;

/// Blocks of [`ADDRESSES4`]: a power of two.
///
/// Source: chosen; 8 MiB hold every address of 16,000 networks of 256 addresses.
pub const BLOCKS4: u32 = 32_768;
/// Unit: bytes of a block.
pub const BLOCK_BYTES: u32 = 512;
/// Where the blocks begin in the value of [`ADDRESSES4`]. Unit: bytes.
pub const ADDRESSES4_BLOCKS: u32 = 2 << 16;
/// Unit: bytes of the value of [`ADDRESSES4`].
pub const ADDRESSES4_BYTES: u32 = ADDRESSES4_BLOCKS + BLOCKS4 * BLOCK_BYTES;

/// Where `u64[IDENTS_MAX]` begins in the value of [`IDENTS`]: four `u16` classes of each ident as a source. Unit: bytes.
pub const IDENT_SOURCES: u32 = 0;
/// The same of each ident as a destination. Unit: bytes.
pub const IDENT_DESTINATIONS: u32 = 8 * IDENTS_MAX;
/// Where `u32[IDENTS_MAX]` begins: the interface by which packets of the ident reach this node's programs, 0 if it is
/// elsewhere, with [`INTERFACE_SELF`]. Unit: bytes.
pub const IDENT_INTERFACES: u32 = 16 * IDENTS_MAX;
/// Where `u64[IDENTS_MAX]` begins: four more classes of each ident as a source, for policies in so many groups. Unit: bytes.
pub const IDENT_SOURCES_MORE: u32 = 20 * IDENTS_MAX;
/// The same of each ident as a destination. Unit: bytes.
pub const IDENT_DESTINATIONS_MORE: u32 = 28 * IDENTS_MAX;
/// Unit: bytes of the value of [`IDENTS`].
pub const IDENTS_BYTES: u32 = 36 * IDENTS_MAX;
/// Set in an ident's interface if it is the machine itself.
pub const INTERFACE_SELF: u32 = 1 << 31;

/// Unit: bytes of an [`ADDRESSES6`] key.
pub const ADDRESS_KEY_BYTES: u32 = 16;
/// Unit: bytes of a [`LOCAL`] key.
pub const LOCAL_KEY_BYTES: u32 = 8;

/// Key of an address: IPv6 as it is, IPv4 mapped into `::ffff:0:0/96` (RFC 4291, section 2.5.5.2).
pub fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Key of the endpoint behind an interface, under an address in a net of the manifest, or 0 for none of them.
pub fn local_key(interface: u32, net: u16) -> Vec<u8> {
    [interface, net.into()].iter().flat_map(|n| n.to_ne_bytes()).collect()
}

/// Bytes to write into an array map: into its only value, or into [`RECORDS`] as if its values were one.
///
/// INVARIANT: offset and length are even, so that 16 bits are always written at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The map.
    pub map: &'static str,
    /// Where the bytes go. Unit: bytes.
    pub offset: u32,
    /// What is written.
    pub bytes: Vec<u8>,
}

/// What is known of an ident.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// What classes it has.
    pub classes: Net,
    /// See [`IDENT_INTERFACES`].
    pub interface: u32,
    /// As [`record()`] makes it; none for a net.
    pub record: Option<Vec<u8>>,
}

impl About {
    /// What makes the ident known: to be written before it is the ident of any address.
    pub fn stores(&self, ident: u16) -> Vec<Store> {
        let at = u32::from(ident);
        let idents = |offset, bytes: &[u8]| Store { map: IDENTS, offset, bytes: bytes.to_vec() };
        let mut stores = vec![idents(IDENT_INTERFACES + 4 * at, &self.interface.to_ne_bytes())];
        let Net { source, destination } = &self.classes;
        for (classes, offsets) in [
            (source, [IDENT_SOURCES, IDENT_SOURCES_MORE]),
            (destination, [IDENT_DESTINATIONS, IDENT_DESTINATIONS_MORE]),
        ] {
            for (four, offset) in classes.chunks(4).zip(offsets) {
                let bytes: Vec<u8> = four.iter().flat_map(|class| class.to_ne_bytes()).collect();
                stores.push(idents(offset + 8 * at, &bytes));
            }
        }
        stores.extend(self.record.as_ref().map(|record| {
            // INVARIANT: a record has some 2 KiB at most, so that all of them end below 4 GiB.
            let offset = at * u32::try_from(record.len()).unwrap_or(u32::MAX);
            Store { map: RECORDS, offset, bytes: record.clone() }
        }));
        stores
    }
}

/// Offset of the endpoint number (`u32`, from 1) in a record. Unit: bytes.
pub const RECORD_ENDPOINT: u32 = 0;
/// Offset of the flags (`u32`) in a record. Unit: bytes.
pub const RECORD_FLAGS: u32 = 4;
/// Flag: the endpoint is the machine itself.
pub const FLAG_SELF: u32 = 1;
/// Offset of the interface index (`u32`) by which its packets reach this node's programs; 0 for endpoints elsewhere and the
/// machine itself. Unit: bytes.
pub const RECORD_INTERFACE: u32 = 8;
/// Offset of the first label value (`u32` each, in the order of the manifest's labels). Unit: bytes.
pub const RECORD_LABELS: u32 = 12;

/// Size of an endpoint record that holds so many label values and named ports. Unit: bytes; a multiple of 8.
pub const fn record_bytes(n_values: u32) -> u32 {
    (RECORD_LABELS + 4 * n_values).next_multiple_of(8)
}

/// A named port as records hold it behind the labels (`u32` each, in the order of the manifest's ports); 0 for none.
pub const fn port_value(protocol: u8, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

/// An endpoint record as [`RECORDS`] holds it; `values` are those of the labels, then of the named ports.
pub fn record(endpoint: u32, is_self: bool, interface: u32, values: &[u32]) -> Vec<u8> {
    let flags = if is_self { FLAG_SELF } else { 0 };
    let mut bytes: Vec<u8> =
        [endpoint, flags, interface].iter().chain(values).flat_map(|n| n.to_ne_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Connection key: source (16 bytes, [`address_key`]), destination (16), source port (2, network order),
/// destination port (2, network order), protocol (1), three zero bytes. ICMP echo puts its identifier in both ports.
pub const CONNTRACK_KEY_BYTES: u32 = 40;
/// Offset of the source address. Unit: bytes.
pub const CONNTRACK_SOURCE: u32 = 0;
/// Offset of the destination address. Unit: bytes.
pub const CONNTRACK_DESTINATION: u32 = 16;
/// Offset of the source port. Unit: bytes.
pub const CONNTRACK_SOURCE_PORT: u32 = 32;
/// Offset of the destination port. Unit: bytes.
pub const CONNTRACK_DESTINATION_PORT: u32 = 34;
/// Offset of the protocol. Unit: bytes.
pub const CONNTRACK_PROTOCOL: u32 = 36;

/// Connection state: last packet seen (`u64`, nanoseconds of the coarse boot-independent monotonic clock),
/// then the rule that allowed it (`u32`), then four zero bytes.
pub const CONNTRACK_VALUE_BYTES: u32 = 16;
/// Offset of the time. Unit: bytes.
pub const CONNTRACK_SEEN: u32 = 0;
/// Offset of the rule. Unit: bytes.
pub const CONNTRACK_RULE: u32 = 8;

/// How long a silent TCP connection is remembered. Unit: seconds.
/// One keepalive interval of RFC 9293, section 3.8.4 (two hours), and some.
pub const TCP_IDLE_S: u64 = 3 * 3600;
/// How long a silent exchange of any other protocol is remembered. Unit: seconds. RFC 4787, REQ-5, asks for at least 120.
pub const OTHER_IDLE_S: u64 = 180;
/// A connection's time is refreshed at most this often. Unit: seconds.
pub const REFRESH_S: u64 = 1;

/// Value of a counter: packets (`u64`), then bytes of frames (`u64`).
pub const COUNTER_BYTES: u32 = 16;

/// Why a packet passed or was dropped when no rule decided; also its index in [`COUNTERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Dropped: no tier says anything.
    Default = 0,
    /// Passed: ARP.
    Arp = 1,
    /// Passed: IPv6 neighbour discovery.
    NeighbourDiscovery = 2,
    /// Passed: reply of an allowed connection.
    Reply = 3,
    /// Passed: ICMP error about an allowed connection.
    Related = 4,
    /// Dropped: neither ARP nor IP, or more than two VLAN tags.
    NotIp = 5,
    /// Dropped: truncated, or lengths and versions that contradict each other.
    Malformed = 6,
    /// Dropped: a fragment that does not hold the transport header.
    Fragment = 7,
    /// Dropped: extension headers beyond the bound, or that send the packet elsewhere.
    Extension = 8,
    /// Dropped: sent from an address that is not the endpoint's, delivered to another's, or come by another way than its source's.
    Spoofed = 9,
}

impl Reason {
    /// All reasons by number.
    pub const ALL: [Self; 10] = [
        Self::Default,
        Self::Arp,
        Self::NeighbourDiscovery,
        Self::Reply,
        Self::Related,
        Self::NotIp,
        Self::Malformed,
        Self::Fragment,
        Self::Extension,
        Self::Spoofed,
    ];

    /// The index in [`COUNTERS`].
    pub const fn counter(self) -> u32 {
        self as u32
    }

    /// One word for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Arp => "arp",
            Self::NeighbourDiscovery => "neighbour-discovery",
            Self::Reply => "reply",
            Self::Related => "related",
            Self::NotIp => "not-ip",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::Extension => "extension",
            Self::Spoofed => "spoofed",
        }
    }

    /// Whether packets with this reason pass.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Arp | Self::NeighbourDiscovery | Self::Reply | Self::Related)
    }
}

/// First counter of a rule; below stand the [`Reason`]s.
pub const RULE_COUNTERS: u32 = 16;

/// The index in [`COUNTERS`] of a rule.
pub const fn rule_counter(rule: u32) -> u32 {
    RULE_COUNTERS + rule
}
