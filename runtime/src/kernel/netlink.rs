//! One request and its answers over `NETLINK_ROUTE`, in the network namespace of the calling thread.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::io;

/// How often a dump that the kernel changed under our hands is asked again.
const DUMPS_MAX: u32 = 16;

/// A socket to the routing subsystem.
pub struct Route {
    socket: Socket,
    sequence: u32,
}

impl Route {
    /// Opens a socket in the thread's namespace; it stays there if the thread moves.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request, such as a new link; `flags` beside `NLM_F_REQUEST` and `NLM_F_ACK`.
    ///
    /// # Errors
    /// What the kernel answers, or `InvalidData` for an answer that does not parse.
    pub fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        Ok(self.exchange(message, flags | NLM_F_ACK)?.0)
    }

    /// Lists every object of a kind, consistently.
    ///
    /// # Errors
    /// What the kernel answers; `Interrupted` if the list never stood still.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMPS_MAX {
            let (answers, consistent) = self.exchange(message.clone(), NLM_F_DUMP)?;
            if consistent {
                return Ok(answers);
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// The answers, and whether nothing changed while they were given.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let (mut answers, mut consistent) = (Vec::new(), true);
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                // Messages are padded to four bytes (RFC 3549, section 2.3.2.2).
                let length = (answer.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => return Ok((answers, consistent)),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) => return Ok((answers, consistent)),
                    _ => {}
                }
            }
        }
    }
}
