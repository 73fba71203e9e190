//! The control socket: one line of JSON asks, one line answers.
//!
//! ```text
//!  {"version":1,"command":"status"}
//!  {"version":1,"status":{...}}    or    {"version":1,"error":"..."}
//! ```
//!
//! A client that stalls, floods or sends rubbish costs its own connection: each has a thread, a deadline and a bounded line,
//! and connections beyond a bound are turned away and counted.

use crate::status::{Status, VERSION};
use serde::{Deserialize, Serialize};
use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest request read. Unit: bytes.
const REQUEST_BYTES_MAX: usize = 4096;
/// Longest answer a client reads. Unit: bytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Clients served at a time.
const CLIENTS_MAX: usize = 16;
/// How long a connection may take for its request, and as long for its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The socket in the run directory.
const SOCKET: &str = "segd.sock";
/// Locked by the daemon for its life; never removed, so that two cannot each lock their own.
const LOCK: &str = "segd.lock";

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A file operation failed.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon lives here.
    #[error("another segd runs in {0}; stop it, or give another --run-dir")]
    Taken(PathBuf),
    /// No daemon lives here.
    #[error("no segd answers at {path}: {source}")]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An answer of another protocol.
    #[error("the answer at {path} is not one of segd: {what}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The daemon's own words.
    #[error("segd answers: {0}")]
    Refused(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    version: u32,
    command: Command,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    Status,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    version: u32,
    #[serde(flatten)]
    body: Body,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Status(Status),
    Error(String),
}

/// A daemon's hold on its run directory; the socket goes with it.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    socket: PathBuf,
    _lock: File,
    turned_away: Arc<AtomicU64>,
}

impl Control {
    /// Takes a run directory: makes it if need be, locks it, and replaces the socket of a daemon that died.
    ///
    /// # Errors
    /// [`ControlError::Taken`] if a living daemon holds it.
    pub fn take(run_dir: &Path) -> Result<Self, ControlError> {
        let failed = |operation, path: &Path| {
            let path = path.to_path_buf();
            move |source| ControlError::File { operation, path, source }
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(run_dir).map_err(failed("make", run_dir))?;
        let path = run_dir.join(LOCK);
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ControlError::Taken(run_dir.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        let socket = run_dir.join(SOCKET);
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &socket)(error));
            }
            // Under the lock, a socket that is there has no daemon.
            _ => {}
        }
        let listener = UnixListener::bind(&socket).map_err(failed("listen at", &socket))?;
        let permissions = Permissions::from_mode(0o600);
        std::fs::set_permissions(&socket, permissions).map_err(failed("protect", &socket))?;
        Ok(Self { listener, socket, _lock: lock, turned_away: Arc::default() })
    }

    /// How many connections were turned away.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Serves clients on threads of their own; `status` is called on them and may wait for the daemon's loop.
    ///
    /// # Errors
    /// If the listener cannot be shared with its thread.
    pub fn serve<F>(&self, status: F) -> Result<(), ControlError>
    where
        F: Fn() -> Result<Status, String> + Send + Sync + 'static,
    {
        let listener = self.listener.try_clone().map_err(|source| ControlError::File {
            operation: "listen at",
            path: self.socket.clone(),
            source,
        })?;
        let turned_away = Arc::clone(&self.turned_away);
        let status = Arc::new(status);
        let n_clients = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            loop {
                let Ok((stream, _)) = listener.accept() else {
                    // Out of descriptors: waiting is all that helps.
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                };
                let client = Client::enter(&n_clients);
                let status = Arc::clone(&status);
                let answering = client.map(|client| {
                    std::thread::Builder::new().spawn(move || {
                        let _client = client;
                        // A client that went away is no news to anybody.
                        let _ = answer(&stream, &*status);
                    })
                });
                if !matches!(answering, Some(Ok(_))) {
                    turned_away.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The next daemon replaces a socket that cannot be removed now.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// One of the places for clients, given back on drop.
struct Client(Arc<AtomicUsize>);

impl Client {
    fn enter(n_clients: &Arc<AtomicUsize>) -> Option<Self> {
        // Counted before it is judged, so that drop gives back exactly what was taken.
        let client = Self(Arc::clone(n_clients));
        (n_clients.fetch_add(1, Ordering::Relaxed) < CLIENTS_MAX).then_some(client)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn answer(stream: &UnixStream, status: &dyn Fn() -> Result<Status, String>) -> io::Result<()> {
    let body = match read_line(stream, REQUEST_BYTES_MAX) {
        Err(error) => Err(format!("no request: {error}")),
        Ok(line) => match serde_json::from_slice::<Request>(&line) {
            Err(error) => Err(format!("not a request: {error}")),
            Ok(Request { version, .. }) if version != VERSION => {
                Err(format!("version {version} is asked, this is version {VERSION}"))
            }
            Ok(Request { command: Command::Status, .. }) => status(),
        },
    };
    let body = body.map_or_else(Body::Error, Body::Status);
    write_line(stream, &Answer { version: VERSION, body })
}

/// Asks the daemon of a run directory for its status.
///
/// # Errors
/// [`ControlError`] if none answers as one should.
pub fn ask(run_dir: &Path) -> Result<Status, ControlError> {
    let path = run_dir.join(SOCKET);
    let none = |source| ControlError::NoDaemon { path: path.clone(), source };
    let stream = UnixStream::connect(&path).map_err(none)?;
    let request = Request { version: VERSION, command: Command::Status };
    write_line(&stream, &request).map_err(none)?;
    let line = read_line(&stream, ANSWER_BYTES_MAX).map_err(none)?;
    let wrong = |what| ControlError::Answer { path: path.clone(), what };
    let answer: Answer = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
    match answer.body {
        Body::Error(message) => Err(ControlError::Refused(message)),
        Body::Status(_) if answer.version != VERSION => {
            Err(wrong(format!("version {}, not {VERSION}", answer.version)))
        }
        Body::Status(status) => Ok(status),
    }
}

/// One line, without its end, within [`PATIENCE`] and the bound.
fn read_line(mut stream: &UnixStream, bytes_max: usize) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let (mut line, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        let n = stream.read(&mut chunk)?;
        let read = chunk.get(..n).unwrap_or_default();
        let end = read.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(read.get(..end.unwrap_or(n)).unwrap_or_default());
        if line.len() > bytes_max {
            return Err(io::Error::other(format!("a line of more than {bytes_max} bytes")));
        }
        match (end, n) {
            (Some(_), _) => return Ok(line),
            (None, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (None, _) => {}
        }
    }
}

/// One value as a line, within [`PATIENCE`].
fn write_line(mut stream: &UnixStream, value: &impl Serialize) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(remaining(deadline)?))?;
        let n = stream.write(rest)?;
        rest = rest.get(n..).unwrap_or_default();
    }
    Ok(())
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
