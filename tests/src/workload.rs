//! What policies are measured with: rule sets, the policies they stand for, and packets.
//!
//! Everything is made from seeds: equal arguments give equal sets, on every machine.
//! Each set has a verdict of its own, a search through its rules, that shares no code with the language or the compiler.

pub mod classbench;
pub mod labels;
pub mod trace;

/// What a classifier may look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Source address, IPv4.
    pub source: u32,
    /// Destination address, IPv4.
    pub destination: u32,
    /// Source port; code of ICMP; 0 for protocols that have neither.
    pub source_port: u16,
    /// Destination port; type of ICMP; 0 for protocols that have neither.
    pub port: u16,
    /// IANA number.
    pub protocol: u8,
}

/// Protocols that have ports: TCP, UDP, SCTP.
pub const WITH_PORTS: [u8; 3] = [6, 17, 132];
/// ICMP; its type and code stand in the place of ports.
pub const ICMP: u8 = 1;
/// Echo request: the ICMP packets of all traces, as it is neither an error nor a reply.
pub const ECHO: u16 = 8;

/// A local endpoint without labels, by an address that no workload's packets have.
pub const BYSTANDER: &str =
    "[[endpoint]]\nname = \"bystander\"\naddresses = [\"fd00::1\"]\ninterface = \"lo\"\n";

/// Rules of a file: its text has a limit, and what one block means, several mean too.
const RULES_OF_FILE: usize = 20_000;

/// Rules as blocks of as many files as they need.
fn blocks<R>(head: &str, rules: &[R], text: impl Fn(&R) -> String) -> Vec<(String, String)> {
    let parts = rules.chunks(RULES_OF_FILE).enumerate();
    let files = parts.map(|(n, rules)| {
        let lines: String = rules.iter().map(|rule| format!("    {}\n", text(rule))).collect();
        (format!("rules-{n}.seg"), format!("{head}policy rules-{n} {{\n{lines}}}\n"))
    });
    files.collect()
}

/// So many of them, spread over all, in their order.
fn sample<R: Clone>(rules: &[R], n: usize) -> Vec<R> {
    let n = n.min(rules.len());
    (0..n).map(|at| rules[at * rules.len() / n].clone()).collect()
}
