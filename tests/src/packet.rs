//! Frames for tests: from a description to bytes.
//!
//! Checksums are zero; packet programs do not read them.

use std::net::IpAddr;

/// A frame with an IP packet, sound unless told otherwise.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Address it says it is from.
    pub source: IpAddr,
    /// Address it goes to, of the same family.
    pub destination: IpAddr,
    /// What the IP packet carries.
    pub transport: Transport,
    /// Ethernet types of VLAN tags, outermost first.
    pub tags: Vec<u16>,
    /// IPv4 options. Unit: words of 4 bytes, at most 10.
    pub option_words: u8,
    /// IPv4 fragment: offset (unit: 8 bytes), and whether more follow.
    pub fragment: (u16, bool),
    /// IPv6 extension headers in order.
    pub extensions: Vec<Extension>,
    /// Time to live or hop limit.
    pub hops: u8,
    /// Bytes after the transport header.
    pub payload_bytes: usize,
    /// Bytes missing at the end, as the length in the IP header says too.
    pub missing_bytes: usize,
}

/// What an IP packet carries.
#[derive(Clone, Debug)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Control bits: 2 is SYN, 16 is ACK.
        flags: u8,
    },
    /// UDP, and SCTP if so told.
    Ports {
        /// 17 or 132.
        protocol: u8,
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP over IPv4, ICMPv6 over IPv6.
    Icmp {
        /// Type and code.
        kind: (u8, u8),
        /// Identifier of an echo.
        identifier: u16,
        /// The packet an error quotes, from its IP header.
        quoted: Vec<u8>,
    },
    /// Another protocol, without a header.
    Other(u8),
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug)]
pub enum Extension {
    /// Hop-by-hop options (0), destination options (60): number, and length field.
    Options(u8, u8),
    /// Routing header with segments left.
    Routing(u8),
    /// Fragment header: offset (unit: 8 bytes), and whether more follow.
    Fragment(u16, bool),
    /// Authentication header, and length field.
    Authentication(u8),
}

impl Packet {
    /// A packet without anything special.
    pub fn new(source: IpAddr, destination: IpAddr, transport: Transport) -> Self {
        Self {
            source,
            destination,
            transport,
            tags: Vec::new(),
            option_words: 0,
            fragment: (0, false),
            extensions: Vec::new(),
            hops: 64,
            payload_bytes: 0,
            missing_bytes: 0,
        }
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.ip());
        frame
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let mut body = self.transport.bytes();
        body.extend(std::iter::repeat_n(0x5a, self.payload_bytes));
        body.truncate(body.len().saturating_sub(self.missing_bytes));
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = 5 + self.option_words;
                let total = usize::from(words) * 4 + body.len();
                let (offset, more) = self.fragment;
                let mut ip = vec![0x40 | words, 0];
                ip.extend((total as u16).to_be_bytes());
                ip.extend([0, 1]);
                ip.extend((offset | if more { 0x2000 } else { 0 }).to_be_bytes());
                ip.extend([self.hops, self.transport.protocol(true), 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(std::iter::repeat_n(1, usize::from(self.option_words) * 4));
                ip.extend(body);
                ip
            }
            (source, destination) => {
                let mut numbers: Vec<u8> = self.extensions.iter().map(|e| e.number()).collect();
                numbers.push(self.transport.protocol(false));
                let chain: Vec<u8> = (self.extensions.iter())
                    .zip(numbers.iter().skip(1))
                    .flat_map(|(extension, &next)| extension.bytes(next))
                    .collect();
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend(((chain.len() + body.len()) as u16).to_be_bytes());
                ip.extend([numbers[0], self.hops]);
                ip.extend(seg_artifact::maps::address_key(source));
                ip.extend(seg_artifact::maps::address_key(destination));
                ip.extend(chain);
                ip.extend(body);
                ip
            }
        }
    }
}

/// Reads a packet's description, as in tests/data/packet: `SOURCE > DESTINATION PROTOCOL … OPTION=VALUE …`.
///
/// Protocols: `tcp PORT PORT`, `udp PORT PORT`, `sctp PORT PORT`, `icmp TYPE`, `proto NUMBER`. A packet in brackets is quoted.
///
/// # Errors
/// The word that makes no sense.
pub fn parse(text: &str) -> Result<Packet, String> {
    let (text, quoted) = match text.split_once('[') {
        Some((text, quoted)) => (text, parse(quoted.trim_end_matches([' ', ']']))?.ip()),
        None => (text, Vec::new()),
    };
    let mut words = text.split_whitespace();
    let mut next = || words.next().ok_or_else(|| format!("`{text}` ends early"));
    let source = number(next()?)?;
    if next()? != ">" {
        return Err(format!("`{text}` has no `>` after the source"));
    }
    let destination = number(next()?)?;
    let transport = match next()? {
        "tcp" => {
            Transport::Tcp { source: number(next()?)?, destination: number(next()?)?, flags: 2 }
        }
        word @ ("udp" | "sctp") => Transport::Ports {
            protocol: if word == "udp" { 17 } else { 132 },
            source: number(next()?)?,
            destination: number(next()?)?,
        },
        "icmp" => Transport::Icmp { kind: (number(next()?)?, 0), identifier: 7, quoted },
        "proto" => Transport::Other(number(next()?)?),
        word => return Err(format!("`{word}` is no protocol")),
    };
    let mut packet = Packet::new(source, destination, transport);
    for word in words {
        let (option, value) = word.split_once('=').ok_or_else(|| format!("`{word}` has no `=`"))?;
        match (option, &mut packet.transport) {
            ("flags", Transport::Tcp { flags, .. }) => *flags = hex(value)?,
            ("code", Transport::Icmp { kind, .. }) => kind.1 = number(value)?,
            ("id", Transport::Icmp { identifier, .. }) => *identifier = number(value)?,
            ("tags", _) => packet.tags = value.split(',').map(hex).collect::<Result<_, _>>()?,
            ("words", _) => packet.option_words = number(value)?,
            ("fragment", _) => packet.fragment = fragment(value)?,
            ("hops", _) => packet.hops = number(value)?,
            ("payload", _) => packet.payload_bytes = number(value)?,
            ("missing", _) => packet.missing_bytes = number(value)?,
            ("extensions", _) => {
                packet.extensions = value.split(',').map(extension).collect::<Result<_, _>>()?;
            }
            _ => return Err(format!("`{option}` is no option here")),
        }
    }
    Ok(packet)
}

fn extension(text: &str) -> Result<Extension, String> {
    let (name, value) = text.split_once(':').unwrap_or((text, "0"));
    Ok(match name {
        "hop" => Extension::Options(0, number(value)?),
        "options" => Extension::Options(60, number(value)?),
        "routing" => Extension::Routing(number(value)?),
        "ah" => Extension::Authentication(number(value)?),
        "fragment" => {
            let (offset, more) = fragment(value)?;
            Extension::Fragment(offset, more)
        }
        _ => return Err(format!("`{name}` is no extension header")),
    })
}

/// `OFFSET`, or `OFFSET+` if more fragments follow.
fn fragment(text: &str) -> Result<(u16, bool), String> {
    Ok((number(text.trim_end_matches('+'))?, text.ends_with('+')))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is out of place"))
}

fn hex<T: TryFrom<u32>>(text: &str) -> Result<T, String> {
    let number = u32::from_str_radix(text, 16).ok().and_then(|n| n.try_into().ok());
    number.ok_or_else(|| format!("`{text}` is out of place"))
}

impl Transport {
    fn protocol(&self, ip4: bool) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Ports { protocol, .. } | Self::Other(protocol) => *protocol,
            Self::Icmp { .. } => {
                if ip4 {
                    1
                } else {
                    58
                }
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let ports = |source: u16, destination: u16| {
            [source.to_be_bytes(), destination.to_be_bytes()].concat()
        };
        match self {
            Self::Tcp { source, destination, flags } => {
                let mut bytes = ports(*source, *destination);
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes
            }
            Self::Ports { protocol, source, destination } => {
                let mut bytes = ports(*source, *destination);
                bytes.extend(vec![0; if *protocol == 132 { 8 } else { 4 }]);
                bytes
            }
            Self::Icmp { kind, identifier, quoted } => {
                let mut bytes = vec![kind.0, kind.1, 0, 0];
                bytes.extend(identifier.to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(quoted);
                bytes
            }
            Self::Other(_) => Vec::new(),
        }
    }
}

impl Extension {
    fn number(self) -> u8 {
        match self {
            Self::Options(number, _) => number,
            Self::Routing(_) => 43,
            Self::Fragment(..) => 44,
            Self::Authentication(_) => 51,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            Self::Options(_, length) => {
                let mut bytes = vec![0; (usize::from(length) + 1) * 8];
                bytes[0] = next;
                bytes[1] = length;
                bytes
            }
            Self::Routing(left) => vec![next, 0, 4, left, 0, 0, 0, 0],
            Self::Fragment(offset, more) => {
                let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
                vec![next, 0, high, low, 0, 0, 0, 9]
            }
            Self::Authentication(length) => {
                let mut bytes = vec![0; (usize::from(length) + 2) * 4];
                bytes[0] = next;
                bytes[1] = length;
                bytes
            }
        }
    }
}
