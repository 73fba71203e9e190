//! The shortest Ethernet frame that opens a flow, for engines that judge frames rather than flows.
//!
//! Checksums are left zero: neither the programs nor `BPF_PROG_TEST_RUN` look at them.

use seg_artifact::maps;
use seg_lang::eval::Flow;
use seg_lang::policy::protocol;
use std::net::IpAddr;

/// IPv6 next-header numbers that announce an extension header (RFC 8200, section 4; RFC 4302), never a flow's protocol.
const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];

const ECHO_IDENTIFIER: u16 = 1;

/// The first frame of a flow; a TCP flow begins with a SYN.
///
/// `None` if no frame opens such a flow: its ends are of two families, or its protocol is an IPv6 extension header.
pub fn first(flow: &Flow) -> Option<Vec<u8>> {
    let transport = transport(flow);
    let length = u16::try_from(transport.len()).ok()?;
    // Locally administered addresses (IEEE 802, bit 1 of the first byte).
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match (flow.source.address, flow.destination.address) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, flow.protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            if EXTENSIONS.contains(&flow.protocol) {
                return None;
            }
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            // Hop limit 64: only 255 makes a message neighbour discovery, which is outside policy.
            frame.extend([flow.protocol, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    frame.extend(transport);
    Some(frame)
}

/// Key of the connection that [`first`]'s frame may open, as in [`maps::CONNTRACK`].
pub fn connection(flow: &Flow) -> Vec<u8> {
    let ports = match flow.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => [flow.source_port, flow.port],
        protocol::ICMP | protocol::ICMP6 => [ECHO_IDENTIFIER; 2],
        _ => [0; 2],
    };
    let ends = [flow.source.address, flow.destination.address].map(maps::address_key).concat();
    [ends, ports.map(u16::to_be_bytes).concat(), vec![flow.protocol, 0, 0, 0]].concat()
}

/// A transport header.
fn transport(flow: &Flow) -> Vec<u8> {
    let mut bytes = [flow.source_port, flow.port].map(u16::to_be_bytes).concat();
    match flow.protocol {
        protocol::TCP => {
            bytes.extend([0; 8]);
            bytes.extend([5 << 4, 0x02]);
            bytes.resize(20, 0);
        }
        protocol::UDP => bytes.extend([0, 8, 0, 0]),
        protocol::SCTP => bytes.resize(12, 0),
        protocol::ICMP | protocol::ICMP6 => {
            let [kind, code] = [flow.port, flow.source_port].map(|n| n as u8);
            bytes = vec![kind, code, 0, 0, 0, ECHO_IDENTIFIER as u8, 0, 1]
        }
        _ => bytes = vec![0; 8],
    }
    bytes
}
