//! What the language knows by name: built-in sets, protocols and ICMP types.

use crate::policy::{Services, protocol};

/// A set that is there without being defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// Endpoints of the inventory.
    Managed,
    /// All other endpoints.
    Unmanaged,
    /// Every port or type of a protocol.
    Protocol(u8),
}

/// The built-in sets; nothing else may take these names.
pub(crate) const BUILTINS: &[(&str, Builtin)] = &[
    ("managed", Builtin::Managed),
    ("unmanaged", Builtin::Unmanaged),
    ("tcp", Builtin::Protocol(protocol::TCP)),
    ("udp", Builtin::Protocol(protocol::UDP)),
    ("sctp", Builtin::Protocol(protocol::SCTP)),
    ("icmp", Builtin::Protocol(protocol::ICMP)),
    ("icmp6", Builtin::Protocol(protocol::ICMP6)),
];

/// ICMP types by name.
///
/// Source: IANA, Internet Control Message Protocol Parameters; deprecated types only by number.
const ICMP_TYPES: &[(&str, u16)] = &[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("extended-echo-request", 42),
    ("extended-echo-reply", 43),
];

/// ICMPv6 types by name.
///
/// Source: IANA, Internet Control Message Protocol version 6 Parameters.
const ICMP6_TYPES: &[(&str, u16)] = &[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("multicast-listener-query", 130),
    ("multicast-listener-report", 131),
    ("multicast-listener-done", 132),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbor-solicitation", 135),
    ("neighbor-advertisement", 136),
    ("redirect", 137),
    ("multicast-listener-report-v2", 143),
    ("extended-echo-request", 160),
    ("extended-echo-reply", 161),
];

/// The built-in set of this name.
pub(crate) fn builtin(name: &str) -> Option<Builtin> {
    BUILTINS.iter().find(|(n, _)| *n == name).map(|(_, b)| *b)
}

/// The number of a protocol that has ports or types.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    match builtin(name)? {
        Builtin::Protocol(number) => Some(number),
        Builtin::Managed | Builtin::Unmanaged => None,
    }
}

/// The name of a protocol that has ports or types.
pub(crate) fn protocol_name(number: u8) -> Option<&'static str> {
    BUILTINS.iter().find(|(_, b)| *b == Builtin::Protocol(number)).map(|(n, _)| *n)
}

/// The named types of a protocol; empty for protocols that have none.
pub(crate) fn type_names(number: u8) -> &'static [(&'static str, u16)] {
    match number {
        protocol::ICMP => ICMP_TYPES,
        protocol::ICMP6 => ICMP6_TYPES,
        _ => &[],
    }
}

/// The largest port, or the largest type of ICMP and ICMPv6.
pub(crate) fn port_max(number: u8) -> u16 {
    match number {
        protocol::ICMP | protocol::ICMP6 => 255,
        _ => u16::MAX,
    }
}

/// Every port or type of a protocol.
pub(crate) fn whole(number: u8) -> Services {
    Services::Ports { protocol: number, first: 0, last: port_max(number) }
}

/// Reads one service of a flow: `tcp/80`, `icmp/echo-request`, `proto/47`.
///
/// Protocols that have neither ports nor types get port 0.
pub fn parse_service(text: &str) -> Option<(u8, u16)> {
    let (name, port) = text.split_once('/')?;
    let Some(number) = protocol_number(name) else {
        let number: u8 = port.parse().ok()?;
        return (name == "proto" && protocol_name(number).is_none()).then_some((number, 0));
    };
    let named = type_names(number).iter().find(|(word, _)| *word == port).map(|(_, n)| *n);
    let port = named.or_else(|| port.parse().ok())?;
    (port <= port_max(number)).then_some((number, port))
}
