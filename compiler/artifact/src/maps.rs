//! Maps of a policy object: names, keys and values, as programs and `segd` both see them.
//!
//! Numbers are in the byte order of the machine, addresses and ports in that of the network.

use std::net::IpAddr;

/// Hash from [`address_key`] to an endpoint record: every known endpoint, local or not.
pub const ENDPOINTS: &str = "endpoints";
/// Hash from interface index (`u32`) to the record of the local endpoint behind it.
pub const LOCAL: &str = "local";
/// LRU hash from connection key to connection state.
pub const CONNTRACK: &str = "conntrack";
/// Per-CPU array of counters, index from [`Reason`] or [`rule_counter`].
pub const COUNTERS: &str = "counters";

/// Unit: entries. Every endpoint address of the network a node can know.
pub const ENDPOINTS_MAX: u32 = 65_536;
/// Unit: entries. Interfaces bound on one node.
pub const LOCAL_MAX: u32 = 4_096;
/// Unit: entries. Connections remembered before the least recently used is forgotten.
pub const CONNTRACK_MAX: u32 = 131_072;

/// Unit: bytes of an [`ENDPOINTS`] key.
pub const ADDRESS_KEY_BYTES: u32 = 16;

/// Key of an address: IPv6 as it is, IPv4 mapped into `::ffff:0:0/96` (RFC 4291, section 2.5.5.2).
pub fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
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

/// An endpoint record as [`ENDPOINTS`] and [`LOCAL`] hold it; `values` are those of the labels, then of the named ports.
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
