//! The built segd as a process of its own, in a namespace of choice.

use crate::net;
use crate::tools::binaries;
use seg_runtime::control::{self, ControlError};
use seg_runtime::status::Status;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// Start of the line segd prints when it enforces.
const READY: &str = "ready:";

/// A `segd` command line, ready to run in a namespace.
///
/// # Errors
/// If there is no such namespace.
pub fn segd(
    namespace: Option<&str>,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> io::Result<Command> {
    let mut command = Command::new(binaries().join("segd"));
    command.args(arguments).stdin(Stdio::null());
    if let Some(namespace) = namespace {
        let namespace = File::open(net::path(namespace))?;
        // SAFETY: between fork and exec only `net::enter` runs, which is one system call on a descriptor opened before.
        unsafe { command.pre_exec(move || net::enter(&namespace)) };
    }
    Ok(command)
}

/// A running segd; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    stdout: BufReader<ChildStdout>,
    run_dir: PathBuf,
    /// What it printed up to its ready line.
    pub started: String,
}

impl Daemon {
    /// Starts `segd run` in a namespace and waits until it is ready.
    ///
    /// # Errors
    /// What it printed on stderr and its exit status if it ended instead, or why it could not start.
    pub fn start(
        namespace: Option<&str>,
        policy: &Path,
        endpoints: &Path,
        run_dir: &Path,
    ) -> Result<Self, String> {
        let arguments: [&OsStr; 7] = [
            "run".as_ref(),
            "--policy".as_ref(),
            policy.as_ref(),
            "--endpoints".as_ref(),
            endpoints.as_ref(),
            "--run-dir".as_ref(),
            run_dir.as_ref(),
        ];
        let command = segd(namespace, arguments);
        let child = command
            .and_then(|mut c| c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())
            .map_err(|error| format!("cannot start segd: {error}"))?;
        Self::wait_ready(child, run_dir).map_err(|error| error.to_string())
    }

    fn wait_ready(mut child: Child, run_dir: &Path) -> io::Result<Self> {
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (mut stdout, mut started) = (BufReader::new(stdout), String::new());
        loop {
            let begin = started.len();
            if stdout.read_line(&mut started)? == 0 {
                let Output { stderr, status, .. } = child.wait_with_output()?;
                let said = String::from_utf8_lossy(&stderr);
                return Err(io::Error::other(format!("{said}{status}")));
            }
            if started[begin..].starts_with(READY) {
                return Ok(Self { child, stdout, run_dir: run_dir.to_owned(), started });
            }
        }
    }

    /// Its status, by the control socket.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn status(&self) -> Result<Status, ControlError> {
        control::ask(&self.run_dir)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        let pid = libc::pid_t::try_from(self.child.id()).map_err(io::Error::other)?;
        // SAFETY: kill takes two numbers; the child is not reaped yet, so that its number is its own.
        match unsafe { libc::kill(pid, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Ends it with a signal; its exit code and what it printed since it was ready.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn stop(mut self, signal: libc::c_int) -> io::Result<(Option<i32>, String)> {
        self.signal(signal)?;
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        Ok((self.child.wait()?.code(), rest))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only for a child that has ended and is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
