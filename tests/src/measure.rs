//! Times of repeated runs, and a processor to take them on.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The middle of several runs and both ends, in whatever unit they have.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The least.
    pub least: f64,
    /// The middle one.
    pub median: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of at least one run.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(runs: &[f64]) -> Self {
        let mut runs = runs.to_vec();
        runs.sort_by(f64::total_cmp);
        let most = *runs.last().expect("a run");
        Self { least: runs[0], median: runs[runs.len() / 2], most }
    }

    /// As an object of three numbers.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "least": self.least, "median": self.median, "most": self.most })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let digits = if self.median < 10.0 { 2 } else { 0 };
        let text =
            format!("{:.digits$} ({:.digits$}..{:.digits$})", self.median, self.least, self.most);
        f.pad(&text)
    }
}

/// The processor that measures: the last, since interrupts and other work prefer the first.
pub fn processor() -> usize {
    std::thread::available_parallelism().map_or(0, |n| n.get() - 1)
}

/// Keeps the calling thread on a processor and, where that is permitted, others off it.
///
/// # Errors
/// If there is no such processor.
pub fn pin(processor: usize) -> io::Result<()> {
    // SAFETY: a set of processors is plain bits, all of which may be zero.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the macro sets a bit of the set, and checks that it has it.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the set outlives the call and has the size that is said; 0 is the calling thread.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let parameters = libc::sched_param { sched_priority: 10 };
    // SAFETY: the parameters outlive the call. Without the right the thread stays as it is, and spreads are wider.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    Ok(())
}

/// What the calling thread has had of a processor, soft interrupts that ran on top of it included.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM only make [`interrupted`] fail, so that what was made is removed on the way out.
pub fn catch_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let handler: extern "C" fn(libc::c_int) = interrupt;
        // SAFETY: the handler stores into an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// # Errors
/// If a signal has asked to end.
pub fn interrupted() -> Result<(), String> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) }
}

/// Lets this process have as many descriptors as it may.
pub fn raise_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit that lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above; if it fails the limit is what it was.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}
