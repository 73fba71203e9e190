//! What [`lsp_server::Message::read`] reads from, bounded.

use std::io::{self, BufRead, Read};

/// Largest message read.
///
/// Unit: bytes. Source: chosen; a few times the largest source file, escaped.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;

/// Longest header line read.
///
/// Unit: bytes. Source: chosen.
const HEADER_BYTES_MAX: u64 = 4 << 10;

/// A stream of messages without those that are too long.
///
/// `Message::read` allocates what the header says before it reads any of it, and a length of gigabytes would end the process.
/// It takes header lines with `read_line` and nothing else with it, so that is the place to look at them.
pub(super) struct Bounded<R>(pub(super) R);

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

impl<R: BufRead> BufRead for Bounded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }

    fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        let read = self.0.by_ref().take(HEADER_BYTES_MAX).read_line(line)?;
        // No other header is a number.
        let length = line.rsplit(' ').next().and_then(|word| word.trim_end().parse::<u64>().ok());
        let Some(length) = length.filter(|length| *length > MESSAGE_BYTES_MAX) else {
            return Ok(read);
        };
        // What is left of the header, then the body.
        while self.0.by_ref().take(HEADER_BYTES_MAX).read_line(&mut String::new())? > 2 {}
        io::copy(&mut self.0.by_ref().take(length), &mut io::sink())?;
        let why = format!("a message of {length} bytes is too long");
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}
