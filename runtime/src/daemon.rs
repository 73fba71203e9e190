//! `segd run` from files to the last detached hook.
//!
//! Everything that can be refused is refused before the first change to the kernel.

use crate::apply::{self, ApplyError};
use crate::control::{Control, ControlError};
use crate::endpoints::{self, Place};
use crate::idents::Network;
use crate::inventory;
use crate::kernel::{Kernel, KernelError};
use crate::live;
use crate::plan::{self, Plan, Unsupported};
use crate::refusal::Refusal;
use crate::status::{self, Status};
use crate::workloads;
use jiff::Timestamp;
use seg_artifact::object::{self, Artifact, OpenError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

/// Events waiting for the loop; each client waits for its own, so that this bounds clients, not losses.
const EVENTS_MAX: usize = 16;
/// How long a client's thread waits for the loop.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The policy object.
    pub policy: PathBuf,
    /// The endpoints file.
    pub endpoints: PathBuf,
    /// The run directory.
    pub run_dir: PathBuf,
}

/// Why segd does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The policy object is refused.
    #[error("{path}: {source}")]
    Object {
        /// The file.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The object was made for days that are over; it would allow what has expired.
    #[error("{path}: {}", over(.not_after, .rules))]
    Over {
        /// The file.
        path: PathBuf,
        /// The last day it was made for.
        not_after: String,
        /// The rules that count no longer, as `path:line text`.
        rules: Vec<String>,
    },
    /// The endpoints file is refused; one line for each reason.
    #[error("{}", refused(.path, .refusals))]
    Endpoints {
        /// The file.
        path: PathBuf,
        /// The reasons.
        refusals: Vec<Refusal>,
    },
    /// The kernel cannot enforce the object.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The kernel does not answer.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The plan failed and is undone.
    #[error(transparent)]
    Apply(#[from] Box<ApplyError>),
    /// The control socket cannot be had.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
}

/// What the loop reacts to.
enum Event {
    /// A signal asks to end.
    Stop(i32),
    /// A client asks for the status.
    Status(SyncSender<Result<Status, String>>),
}

/// Refuses an object whose rules have expired: less is allowed now than it says.
fn refuse_what_is_over(config: &Config, artifact: &Artifact) -> Result<(), RunError> {
    let today = today();
    let manifest = &artifact.manifest;
    let Some(not_after) = manifest.not_after.as_ref().filter(|date| **date < today) else {
        return Ok(());
    };
    let expired =
        manifest.rules.iter().filter(|rule| rule.expires.as_ref().is_some_and(|d| *d < today));
    let rules = expired.map(|rule| format!("{}:{} {}", rule.path, rule.line, rule.text)).collect();
    Err(RunError::Over { path: config.policy.clone(), not_after: not_after.clone(), rules })
}

fn over(not_after: &str, rules: &[String]) -> String {
    let rules: String = rules.iter().map(|rule| format!("\n  {rule}")).collect();
    format!(
        "made for the days up to {not_after} (UTC); build it again with `segc build --as-of {}`:{rules}",
        today()
    )
}

/// The day in UTC, as `2026-12-31`.
fn today() -> String {
    Timestamp::now().strftime("%Y-%m-%d").to_string()
}

/// Binds a policy and serves until SIGTERM or SIGINT; reports on `out`, warns on `err`.
///
/// # Errors
/// [`RunError`]; nothing is attached then.
pub fn run(
    config: &Config,
    kernel: &mut dyn Kernel,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), RunError> {
    // Caught from here on: a signal during the binding waits, and then everything is detached.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(RunError::Signals)?;
    let object = read(&config.policy, object::OBJECT_BYTES_MAX as u64)?;
    let artifact = object::open(&object)
        .map_err(|source| RunError::Object { path: config.policy.clone(), source })?;
    refuse_what_is_over(config, &artifact)?;
    let plan = prepare(config, &artifact, kernel, err)?;
    let control = Control::take(&config.run_dir)?;
    apply::apply(kernel, &object, &plan.actions)?;
    drop(object);

    let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
    let stop = sender.clone();
    std::thread::spawn(move || {
        // A terminal that goes away must not end enforcement.
        for signal in signals.forever().filter(|signal| *signal != SIGHUP) {
            if stop.send(Event::Stop(signal)).is_err() {
                return;
            }
        }
    });
    let served = control.serve(move || {
        let (answer, answers) = mpsc::sync_channel(1);
        let busy = |_| "segd is busy or stopping".to_owned();
        sender.try_send(Event::Status(answer)).map_err(|_| busy(()))?;
        answers.recv_timeout(ANSWER_TIMEOUT).map_err(|_| busy(()))?
    });
    if let Err(error) = served {
        apply::undo(kernel, &plan.actions);
        return Err(error.into());
    }
    report(out, &bound(&plan, &artifact));
    for event in events {
        match event {
            Event::Status(answer) => {
                let counts = kernel.counters(status::n_counters(&artifact.manifest));
                let seen = counts.and_then(|counts| Ok((counts, kernel.links()?)));
                let status = seen.map_err(|error| error.to_string()).map(|(counts, links)| {
                    let turned_away = control.turned_away();
                    let (manifest, digest) = (&artifact.manifest, &artifact.digest);
                    status::status(manifest, digest, &plan, &links, &counts, turned_away)
                });
                // The client may be gone.
                let _ = answer.try_send(status);
            }
            Event::Stop(signal) => {
                apply::undo(kernel, &plan.actions);
                report(out, &unbound(&plan, signal));
                break;
            }
        }
    }
    Ok(())
}

/// Checks everything and plans; changes nothing.
fn prepare(
    config: &Config,
    artifact: &Artifact,
    kernel: &mut dyn Kernel,
    err: &mut dyn Write,
) -> Result<Plan, RunError> {
    let path = &config.endpoints;
    let refused = |refusals| RunError::Endpoints { path: path.clone(), refusals };
    let bytes = read(path, endpoints::FILE_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| RunError::Read {
        path: path.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    let endpoints = endpoints::read(&text).map_err(refused)?;
    let records = inventory::number(&endpoints, &artifact.manifest).map_err(refused)?;
    let differences = workloads::differences(&endpoints, &artifact.manifest.workloads);
    report(err, &workloads::warnings(&differences, path));
    plan::supported(&kernel.features()?, &artifact.manifest.kernel)?;
    let seen = live::look(kernel, &records)?;
    plan::plan(&records, Network::of(artifact), &seen).map_err(refused)
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| {
        // One more than allowed, so that what is too large shows.
        file.take(bytes_max + 1).read_to_end(&mut bytes)
    });
    let too_large = || io::Error::other(format!("more than {bytes_max} bytes"));
    let read = read.and_then(|n| if n as u64 > bytes_max { Err(too_large()) } else { Ok(()) });
    match read {
        Ok(()) => Ok(bytes),
        Err(source) => Err(RunError::Read { path: path.to_path_buf(), source }),
    }
}

fn bound(plan: &Plan, artifact: &Artifact) -> String {
    let mut out = String::new();
    for binding in &plan.bindings {
        let record = &binding.record;
        let addresses: Vec<String> = record.addresses.iter().map(ToString::to_string).collect();
        let place = match &record.place {
            Place::Namespace(name) => format!(" (netns {})", name.value),
            Place::Interface(_) | Place::Remote if record.is_self => " (self)".to_owned(),
            Place::Interface(_) | Place::Remote => String::new(),
        };
        out.push_str(&format!(
            "bound {}: {}{place}, outbound {} at {}, inbound {} at {}, {}\n",
            record.name,
            binding.outbound.interface,
            record.outbound,
            binding.outbound.side.name(),
            record.inbound,
            binding.inbound.side.name(),
            addresses.join(" "),
        ));
    }
    let n_addresses = plan.given.iter().map(|given| given.addresses.len()).sum();
    out.push_str(&format!(
        "ready: {} bound, {} known, package {}, object {}\n",
        counted(plan.bindings.len(), "endpoint", "endpoints"),
        counted(n_addresses, "address", "addresses"),
        artifact.manifest.package,
        artifact.digest,
    ));
    out
}

fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn unbound(plan: &Plan, signal: i32) -> String {
    let mut out = String::new();
    for binding in &plan.bindings {
        let interface = &binding.outbound.interface;
        out.push_str(&format!("detached {}: {interface}\n", binding.record.name));
    }
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
    out.push_str(&format!("stopped by {name}: nothing stays attached\n"));
    out
}

/// A reader that went away must not end enforcement, so failures to write are nobody's.
fn report(out: &mut dyn Write, text: &str) {
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn refused(path: &Path, refusals: &[Refusal]) -> String {
    let lines: Vec<String> =
        refusals.iter().map(|refusal| format!("{}:{refusal}", path.display())).collect();
    lines.join("\n")
}
