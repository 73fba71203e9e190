//! What the language knows by name: built-in sets, protocols and ICMP types.

use crate::eval::Request;
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

/// Codes of ICMP types by name: type, name, code.
///
/// Source: IANA, Internet Control Message Protocol Parameters, Code Fields; the names are short forms of the descriptions there.
const ICMP_CODES: &[(u16, &[(&str, u16)])] = &[
    (
        3,
        &[
            ("net-unreachable", 0),
            ("host-unreachable", 1),
            ("protocol-unreachable", 2),
            ("port-unreachable", 3),
            ("fragmentation-needed", 4),
            ("source-route-failed", 5),
            ("net-unknown", 6),
            ("host-unknown", 7),
            ("source-host-isolated", 8),
            ("net-prohibited", 9),
            ("host-prohibited", 10),
            ("net-unreachable-for-tos", 11),
            ("host-unreachable-for-tos", 12),
            ("communication-prohibited", 13),
            ("host-precedence-violation", 14),
            ("precedence-cutoff", 15),
        ],
    ),
    (5, &[("network", 0), ("host", 1), ("tos-and-network", 2), ("tos-and-host", 3)]),
    (9, &[("normal", 0), ("no-common-traffic", 16)]),
    (11, &[("ttl-exceeded", 0), ("reassembly-time-exceeded", 1)]),
    (12, &[("pointer", 0), ("missing-option", 1), ("bad-length", 2)]),
    (43, EXTENDED_ECHO_CODES),
];

/// Codes of ICMPv6 types by name.
///
/// Source: IANA, Internet Control Message Protocol version 6 Parameters, Code Fields.
const ICMP6_CODES: &[(u16, &[(&str, u16)])] = &[
    (
        1,
        &[
            ("no-route", 0),
            ("communication-prohibited", 1),
            ("beyond-scope", 2),
            ("address-unreachable", 3),
            ("port-unreachable", 4),
            ("source-policy", 5),
            ("reject-route", 6),
            ("source-routing-header", 7),
            ("headers-too-long", 8),
        ],
    ),
    (3, &[("hop-limit-exceeded", 0), ("reassembly-time-exceeded", 1)]),
    (
        4,
        &[
            ("erroneous-header", 0),
            ("unknown-next-header", 1),
            ("unknown-option", 2),
            ("incomplete-header-chain", 3),
        ],
    ),
    (161, EXTENDED_ECHO_CODES),
];

/// RFC 8335, section 3.
const EXTENDED_ECHO_CODES: &[(&str, u16)] = &[
    ("no-error", 0),
    ("malformed-query", 1),
    ("no-such-interface", 2),
    ("no-such-table-entry", 3),
    ("multiple-interfaces", 4),
];

/// The protocols that have ports.
pub(crate) const PORT_PROTOCOLS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::SCTP];

/// The source port of a flow that is given without one: the first of the dynamic ports (RFC 6335, section 6).
pub const SOURCE_PORT: u16 = 49_152;

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
pub fn protocol_name(number: u8) -> Option<&'static str> {
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

/// The named codes of a type; empty for types that have none.
pub(crate) fn code_names(protocol: u8, of: u16) -> &'static [(&'static str, u16)] {
    let types = match protocol {
        protocol::ICMP => ICMP_CODES,
        protocol::ICMP6 => ICMP6_CODES,
        _ => &[],
    };
    types.iter().find(|(number, _)| *number == of).map_or(&[], |(_, names)| names)
}

/// The largest source port, or the largest code of ICMP and ICMPv6; 0 for protocols that have neither.
pub fn source_port_max(number: u8) -> u16 {
    match number {
        protocol::TCP | protocol::UDP | protocol::SCTP => u16::MAX,
        protocol::ICMP | protocol::ICMP6 => 255,
        _ => 0,
    }
}

/// Every port or type of a protocol.
pub(crate) fn whole(number: u8) -> Services {
    Services::Ports { protocol: number, first: 0, last: port_max(number) }
}

/// Splits `tcp/80&http(GET /v1/orders)` into the service and the request; without one it is all service.
pub fn parse_request(text: &str) -> (&str, Option<Request>) {
    let call = text.strip_suffix(')').and_then(|text| text.rsplit_once("&http("));
    match call.and_then(|(service, request)| Some((service, request.split_once(' ')?))) {
        Some((service, (method, path))) => {
            let (method, path) = (method.to_owned(), path.trim().to_owned());
            (service.trim_end(), Some(Request { method, path }))
        }
        None => (text, None),
    }
}

/// Reads one service of a flow: protocol, port or type, and source port or code.
///
/// `tcp/80`, `udp/68&sport(67)`, `icmp/echo-request`, `icmp/3/4`, `proto/47`.
/// Without a source port it is [`SOURCE_PORT`], without a code 0. Protocols that have neither ports nor types get 0 for both.
pub fn parse_service(text: &str) -> Option<(u8, u16, u16)> {
    let (service, source) = match text.split_once('&') {
        Some((service, call)) => {
            let source = call.trim().strip_prefix("sport(")?.strip_suffix(')')?;
            (service.trim_end(), Some(source.parse::<u16>().ok()?))
        }
        None => (text, None),
    };
    let (name, rest) = service.split_once('/')?;
    let Some(number) = protocol_number(name) else {
        let number: u8 = rest.parse().ok()?;
        let plain = name == "proto" && protocol_name(number).is_none() && source.is_none();
        return plain.then_some((number, 0, 0));
    };
    let (port, code) = match rest.split_once('/') {
        Some((of, code)) => (of, Some(code)),
        None => (rest, None),
    };
    let known = |names: &[(&str, u16)], text: &str| {
        let named = names.iter().find(|(word, _)| *word == text).map(|(_, n)| *n);
        named.or_else(|| text.parse().ok())
    };
    let port = known(type_names(number), port)?;
    let source = match (number, source, code) {
        (protocol::ICMP | protocol::ICMP6, None, None) => 0,
        (protocol::ICMP | protocol::ICMP6, None, Some(code)) => {
            known(code_names(number, port), code)?
        }
        (protocol::ICMP | protocol::ICMP6, Some(_), _) | (_, _, Some(_)) => return None,
        (_, source, None) => source.unwrap_or(SOURCE_PORT),
    };
    (port <= port_max(number) && source <= source_port_max(number))
        .then_some((number, port, source))
}
