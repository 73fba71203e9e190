//! Packets in the order they come: 65,536 of them, so that neither caches nor branch predictor see one packet alone.

use super::{ICMP, Packet, WITH_PORTS};
use crate::random::Random;
use std::collections::BTreeSet;

/// Packets of a trace.
pub const PACKETS: usize = 1 << 16;
/// Flows of a Zipf trace.
pub const ZIPF_FLOWS: usize = 10_000;
/// Bytes of a packet in a trace, in both forms.
pub const ENTRY_BYTES: usize = 16;

/// How often which packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Every packet is a new one.
    Uniform,
    /// 10,000 flows, the n-th with a share of 1/n.
    Zipf,
    /// One flow.
    Single,
    /// [`Mode::Uniform`], and 4 MB of other memory are touched between two packets.
    Polluted,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Uniform, Self::Zipf, Self::Single, Self::Polluted];

    /// One word for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Single => "single",
            Self::Polluted => "polluted",
        }
    }
}

/// A trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Packets that differ, or are drawn one by one.
    pub flows: Vec<Packet>,
    /// Which of them come; [`PACKETS`] of them.
    pub order: Vec<u32>,
}

impl Trace {
    /// Draws a trace. No packet is the reverse of another, so that none is a reply.
    pub fn new(mode: Mode, seed: u64, mut packet: impl FnMut(&mut Random) -> Packet) -> Self {
        let mut random = Random::new(seed ^ 0x7ace);
        let n = match mode {
            Mode::Uniform | Mode::Polluted => PACKETS,
            Mode::Zipf => ZIPF_FLOWS,
            Mode::Single => 1,
        };
        let mut seen = BTreeSet::new();
        let mut flows = Vec::with_capacity(n);
        while flows.len() < n {
            let drawn = packet(&mut random);
            if !seen.contains(&reverse(&drawn)) {
                seen.insert(drawn);
                flows.push(drawn);
            }
        }
        let order = match mode {
            Mode::Uniform | Mode::Polluted => (0..n as u32).collect(),
            Mode::Zipf => zipf(n, &mut random),
            Mode::Single => vec![0; PACKETS],
        };
        Self { flows, order }
    }

    /// The packet at a place.
    pub fn packet(&self, at: usize) -> &Packet {
        &self.flows[self.order[at] as usize]
    }

    /// What a classifier must answer, as [`Answers`].
    pub fn answers(&self, allows: impl Fn(&Packet) -> bool) -> Answers {
        let verdicts: Vec<bool> = self.flows.iter().map(allows).collect();
        let mut answers = Answers::default();
        for (place, flow) in (0..).zip(&self.order) {
            answers.add(place, verdicts[*flow as usize]);
        }
        answers
    }

    /// Numbers in the machine's byte order: source, destination (4 bytes each), source port, port (2 each), protocol (1).
    pub fn numbers(&self) -> Vec<u8> {
        self.bytes(|p| {
            let mut entry = [0; ENTRY_BYTES];
            entry[0..4].copy_from_slice(&p.source.to_ne_bytes());
            entry[4..8].copy_from_slice(&p.destination.to_ne_bytes());
            entry[8..10].copy_from_slice(&p.source_port.to_ne_bytes());
            entry[10..12].copy_from_slice(&p.port.to_ne_bytes());
            entry[12] = p.protocol;
            entry
        })
    }

    /// As headers have them: both addresses as in IPv4, the first four bytes behind it, the protocol.
    pub fn headers(&self) -> Vec<u8> {
        self.bytes(|p| {
            let mut entry = [0; ENTRY_BYTES];
            entry[0..4].copy_from_slice(&p.source.to_be_bytes());
            entry[4..8].copy_from_slice(&p.destination.to_be_bytes());
            match p.protocol {
                ICMP => entry[8..10].copy_from_slice(&[p.port as u8, p.source_port as u8]),
                protocol if WITH_PORTS.contains(&protocol) => {
                    entry[8..10].copy_from_slice(&p.source_port.to_be_bytes());
                    entry[10..12].copy_from_slice(&p.port.to_be_bytes());
                }
                _ => {}
            }
            entry[12] = p.protocol;
            entry
        })
    }

    /// As [`Self::headers`], but that port and source port stand in their places whatever the protocol.
    pub fn flows(&self) -> Vec<u8> {
        self.bytes(|p| {
            let mut entry = [0; ENTRY_BYTES];
            entry[0..4].copy_from_slice(&p.source.to_be_bytes());
            entry[4..8].copy_from_slice(&p.destination.to_be_bytes());
            entry[8..10].copy_from_slice(&p.source_port.to_be_bytes());
            entry[10..12].copy_from_slice(&p.port.to_be_bytes());
            entry[12] = p.protocol;
            entry
        })
    }

    fn bytes(&self, entry: impl Fn(&Packet) -> [u8; ENTRY_BYTES]) -> Vec<u8> {
        self.order.iter().flat_map(|flow| entry(&self.flows[*flow as usize])).collect()
    }
}

fn reverse(packet: &Packet) -> Packet {
    let Packet { source, destination, source_port, port, protocol } = *packet;
    let (source_port, port) =
        if WITH_PORTS.contains(&protocol) { (port, source_port) } else { (source_port, port) };
    Packet { source: destination, destination: source, source_port, port, protocol }
}

fn zipf(n: usize, random: &mut Random) -> Vec<u32> {
    let mut sums = Vec::with_capacity(n);
    let mut sum = 0.0;
    for rank in 1..=n {
        sum += 1.0 / rank as f64;
        sums.push(sum);
    }
    let draw = |_| {
        let at = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        sums.partition_point(|bound| *bound <= at).min(n - 1) as u32
    };
    (0..PACKETS).map(draw).collect()
}

/// How many packets pass, and the sum of their places: an answer that is wrong at one place cannot hide behind another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Packets that pass.
    pub passed: u64,
    /// Sum of their places.
    pub places: u64,
}

/// Bits of the number of packets in the sum a program keeps; above them stand places.
pub const PASSED_BITS: u32 = 20;

impl Answers {
    /// Counts a packet.
    pub fn add(&mut self, place: u64, passes: bool) {
        if passes {
            self.passed += 1;
            self.places += place;
        }
    }

    /// From the sum a program keeps.
    pub fn of_sum(sum: u64) -> Self {
        Self { passed: sum & ((1 << PASSED_BITS) - 1), places: sum >> PASSED_BITS }
    }
}
