//! Classifiers in the kernel, measured beside each other over one trace.
//!
//! A run of a program takes the next packet of a trace that lies in a map, decides it, and adds the answer to a sum in a map.
//! What the same program costs without the decision is measured in the same rounds and subtracted.
//!
//! INVARIANT: a contender whose sum is not the one the rules give is wrong, and is never measured.

pub mod linear;
pub mod pattern;
pub mod primitive;
pub mod table;
pub mod tree;
pub mod vector;
pub mod seg;

use crate::assembler::{Assembler, MapIndex, r};
use crate::bpf::{self, Cost, Loaded, Map};
use crate::measure::Spread;
use crate::workload::trace::{Answers, ENTRY_BYTES, Mode, PACKETS, PASSED_BITS, Trace};
use seg_artifact::maps::{
    CONNTRACK_DESTINATION, CONNTRACK_KEY_BYTES, CONNTRACK_SOURCE, CONNTRACK_SOURCE_PORT,
};
use seg_compiler::bpf::{Alu, Cond, Size};
use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// Helper numbers of `enum bpf_func_id`.
pub(crate) const MAP_LOOKUP_ELEM: u32 = 1;
const KTIME_GET_NS: u32 = 5;

/// Offsets in an entry of [`Trace::numbers`]; `r6` points to one when a decision begins.
pub mod entry {
    /// `u32`.
    pub const SOURCE: i16 = 0;
    /// `u32`.
    pub const DESTINATION: i16 = 4;
    /// `u16`.
    pub const SOURCE_PORT: i16 = 8;
    /// `u16`.
    pub const PORT: i16 = 10;
    /// `u8`.
    pub const PROTOCOL: i16 = 12;
}

/// How a decision gets its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// `r1` and `r6` point to an entry of [`Trace::numbers`].
    Memory,
    /// The packet of the run has its addresses, ports and protocol; `r1` is the context.
    Headers,
    /// `r1` points to a key of a connection, [`seg_artifact::maps::CONNTRACK_KEY_BYTES`], with a type of ICMP for the destination
    /// port and a code for the source port.
    Flow,
}

impl Form {
    const ALL: [Self; 3] = [Self::Memory, Self::Headers, Self::Flow];
}

/// A way to decide.
#[derive(Debug)]
pub struct Contender {
    /// What it is.
    pub name: String,
    /// What should be known about it, such as what it leaves out; may be empty.
    pub note: String,
    /// How it gets its packet.
    pub form: Form,
    /// The decision: it begins as [`Form`] says, may use all registers and the stack, and ends behind its last instruction with
    /// 1 in `r0` if the packet passes, else 0.
    pub body: Assembler,
    /// Its maps, by [`MapIndex`].
    pub maps: Vec<Map>,
    /// Maps its instructions name by descriptor; memory they take counts.
    pub linked: Vec<Map>,
}

impl Contender {
    /// One that decides on an entry in memory.
    pub fn new(name: &str, body: Assembler, maps: Vec<Map>) -> Self {
        let (name, note) = (name.to_owned(), String::new());
        Self { name, note, form: Form::Memory, body, maps, linked: Vec::new() }
    }

    /// What is subtracted: the entry is read and a bit of it is the answer.
    pub fn baseline(form: Form) -> Self {
        let mut body = Assembler::default();
        body.load(Size::B4, r(0), r(6), entry::SOURCE);
        body.alu32(Alu::And, r(0), 1_u32);
        Self { form, ..Self::new("empty", body, Vec::new()) }
    }

    fn memory(&self) -> u64 {
        self.maps.iter().chain(&self.linked).map(Map::memory).sum()
    }
}

/// Offsets in the map that a program counts in.
mod state {
    /// `u64`: runs so far.
    pub(super) const RUNS: i16 = 0;
    /// `u64`: sum of the answers.
    pub(super) const SUM: i16 = 8;
    /// `u64`: when the decision began.
    pub(super) const BEGAN: i16 = 16;
    /// `u64`: time of all decisions.
    pub(super) const TIME: i16 = 24;
    /// `u64`: an answer.
    pub(super) const ANSWER: i16 = 32;
    pub(super) const BYTES: usize = 40;
}

/// Whether a program tells the time of its decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    Outside,
    Inside,
}

/// The maps of a measurement: traces in both forms, and the sum.
#[derive(Debug)]
pub struct Arena {
    /// By [`Form`].
    traces: [Map; 3],
    /// The key of [`Form::Flow`].
    flow: Map,
    state: Map,
}

/// The frame of all runs, 40 bytes of IPv4 that say they are TCP with SYN set.
const FRAME: [u8; 54] = {
    let mut frame = [0; 54];
    (frame[0], frame[6], frame[12]) = (2, 2, 8);
    (frame[14], frame[17], frame[22], frame[23]) = (0x45, 40, 64, 6);
    (frame[46], frame[47]) = (0x50, 2);
    frame
};

impl Arena {
    /// Creates the maps.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        let trace = || Map::of_bytes(&vec![0; PACKETS * ENTRY_BYTES]);
        Ok(Self {
            traces: [trace()?, trace()?, trace()?],
            flow: Map::of_bytes(&[0; CONNTRACK_KEY_BYTES as usize])?,
            state: Map::of_bytes(&[0; state::BYTES])?,
        })
    }

    fn put(&self, trace: &Trace) -> io::Result<()> {
        for (form, map) in Form::ALL.into_iter().zip(&self.traces) {
            let bytes = match form {
                Form::Memory => trace.numbers(),
                Form::Headers => trace.headers(),
                Form::Flow => trace.flows(),
            };
            map.set(&[0; 4], &bytes)?;
        }
        Ok(())
    }

    /// Loads a contender, with and without a clock inside.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn load(&self, contender: Contender) -> Result<Ready, String> {
        let [plain, timed] = [Clock::Outside, Clock::Inside].map(|clock| {
            let (program, maps) = self.program(&contender, clock);
            bpf::load(&program.assemble(&maps)?)
        });
        let memory = contender.memory();
        Ok(Ready { plain: plain?, timed: timed?, memory, contender })
    }

    fn program(&self, contender: &Contender, clock: Clock) -> (Assembler, Vec<RawFd>) {
        const STATE: MapIndex = MapIndex(0);
        const TRACE: MapIndex = MapIndex(1);
        const FLOW: MapIndex = MapIndex(2);
        let trace = &self.traces[contender.form as usize];
        let mut maps = vec![self.state.fd(), trace.fd(), self.flow.fd()];
        maps.extend(contender.maps.iter().map(Map::fd));

        let mut a = Assembler::default();
        a.mov(r(9), r(1));
        a.value(r(1), STATE, 0);
        a.load(Size::B8, r(2), r(1), state::RUNS);
        a.mov(r(3), r(2));
        a.alu(Alu::Add, r(3), 1_u32);
        a.store(Size::B8, r(1), state::RUNS, r(3));
        a.alu(Alu::And, r(2), PACKETS as u32 - 1);
        a.alu(Alu::Mul, r(2), ENTRY_BYTES as u32);
        a.value(r(6), TRACE, 0);
        a.alu(Alu::Add, r(6), r(2));
        let out = a.label();
        match contender.form {
            Form::Memory => a.mov(r(7), r(6)),
            Form::Headers => {
                write_headers(&mut a, out);
                a.mov(r(7), r(9));
            }
            Form::Flow => {
                a.value(r(7), FLOW, 0);
                write_flow(&mut a);
            }
        }
        if clock == Clock::Inside {
            // The entry is not what is measured.
            a.load(Size::B8, r(0), r(6), 0);
            a.call(KTIME_GET_NS);
            a.value(r(1), STATE, 0);
            a.store(Size::B8, r(1), state::BEGAN, r(0));
        }
        a.mov(r(1), r(7));
        a.append(&contender.body, maps.len() - contender.maps.len());
        if clock == Clock::Inside {
            a.value(r(1), STATE, 0);
            a.store(Size::B8, r(1), state::ANSWER, r(0));
            a.call(KTIME_GET_NS);
            a.value(r(1), STATE, 0);
            a.load(Size::B8, r(2), r(1), state::BEGAN);
            a.alu(Alu::Sub, r(0), r(2));
            a.load(Size::B8, r(2), r(1), state::TIME);
            a.alu(Alu::Add, r(2), r(0));
            a.store(Size::B8, r(1), state::TIME, r(2));
            a.load(Size::B8, r(0), r(1), state::ANSWER);
        }
        // sum += answer * (place << PASSED_BITS | 1)
        a.value(r(1), STATE, 0);
        a.load(Size::B8, r(2), r(1), state::RUNS);
        a.alu(Alu::Sub, r(2), 1_u32);
        a.alu(Alu::And, r(2), PACKETS as u32 - 1);
        a.alu(Alu::Lsh, r(2), PASSED_BITS);
        a.alu(Alu::Or, r(2), 1_u32);
        a.alu(Alu::Mul, r(2), r(0));
        a.load(Size::B8, r(3), r(1), state::SUM);
        a.alu(Alu::Add, r(3), r(2));
        a.store(Size::B8, r(1), state::SUM, r(3));
        a.bind(out);
        a.mov(r(0), 0_u32);
        a.insn(seg_compiler::bpf::Insn::Exit);
        (a, maps)
    }

    fn reset(&self) -> io::Result<()> {
        self.state.set(&[0; 4], &[0; state::BYTES])
    }

    fn state(&self, offset: i16) -> io::Result<u64> {
        let bytes = self.state.bytes()?;
        let field = bytes[offset as usize..][..8].try_into().expect("eight bytes");
        Ok(u64::from_ne_bytes(field))
    }

    /// What a program answers on a whole trace; the packets stay there for measurements.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn answers(&self, ready: &Ready, trace: &Trace) -> io::Result<Answers> {
        self.put(trace)?;
        self.answers_again(&ready.plain)
    }

    fn answers_again(&self, loaded: &Loaded) -> io::Result<Answers> {
        self.reset()?;
        loaded.run(&FRAME, PACKETS as u32)?;
        Ok(Answers::of_sum(self.state(state::SUM)?))
    }

    /// Measures programs over a trace in turn: a baseline of each form, and the contenders. Unit: nanoseconds of one packet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn measure(
        &self,
        mode: Mode,
        trace: &Trace,
        right: Answers,
        contenders: &[Ready],
        n_rounds: usize,
    ) -> Result<Vec<Result<Spread, Answers>>, String> {
        let told = |e: io::Error| e.to_string();
        self.put(trace).map_err(told)?;
        let baselines: Vec<Ready> = Form::ALL
            .iter()
            .map(|form| self.load(Contender::baseline(*form)))
            .collect::<Result<_, _>>()?;
        let mut rows = Vec::new();
        for contender in contenders {
            let answers = self.answers_again(&contender.plain).map_err(told)?;
            rows.push(if answers == right { Ok(Vec::new()) } else { Err(answers) });
        }
        let mut below: [Vec<f64>; 3] = Default::default();
        let _alone = Alone::begin();
        let mut memory = vec![0_u8; if mode == Mode::Polluted { POLLUTION_BYTES } else { 0 }];
        for _ in 0..n_rounds {
            for (baseline, times) in baselines.iter().zip(&mut below) {
                times.push(self.round(mode, baseline, &mut memory).map_err(told)?);
            }
            for (contender, row) in contenders.iter().zip(&mut rows) {
                if let Ok(times) = row {
                    times.push(self.round(mode, contender, &mut memory).map_err(told)?);
                }
            }
        }
        let below = below.map(|times| Spread::of(&times));
        let rows = contenders.iter().zip(rows).map(|(contender, row)| {
            let below = below[contender.contender.form as usize];
            row.map(|times| above(Spread::of(&times), below))
        });
        Ok(rows.collect())
    }

    /// Time of one packet, the baseline included. Unit: nanoseconds.
    fn round(&self, mode: Mode, ready: &Ready, memory: &mut [u8]) -> io::Result<f64> {
        self.reset()?;
        if mode != Mode::Polluted {
            let time = ready.plain.run(&FRAME, PACKETS as u32)?;
            return Ok(time.as_secs_f64() * 1e9 / PACKETS as f64);
        }
        for _ in 0..POLLUTED_PACKETS {
            for line in memory.chunks_mut(LINE_BYTES) {
                line[0] = line[0].wrapping_add(1);
            }
            ready.timed.run(&FRAME, 1)?;
        }
        Ok(self.state(state::TIME)? as f64 / f64::from(POLLUTED_PACKETS))
    }
}

/// Touched between two packets of [`Mode::Polluted`].
const POLLUTION_BYTES: usize = 4 << 20;
const LINE_BYTES: usize = 64;
/// Packets of a round of [`Mode::Polluted`].
const POLLUTED_PACKETS: u32 = 256;

/// Writes an entry of [`Trace::headers`] into the packet.
fn write_headers(a: &mut Assembler, out: crate::assembler::Label) {
    /// Offsets of `struct __sk_buff`, uapi/linux/bpf.h.
    const DATA: i16 = 76;
    const DATA_END: i16 = 80;
    a.load(Size::B4, r(7), r(9), DATA);
    a.load(Size::B4, r(8), r(9), DATA_END);
    a.mov(r(1), r(7));
    a.alu(Alu::Add, r(1), FRAME.len() as u32);
    let readable = a.label();
    a.branch(Cond::Le, r(1), r(8), readable);
    a.jump(out);
    a.bind(readable);
    a.load(Size::B8, r(1), r(6), 0);
    a.store(Size::B8, r(7), 26, r(1));
    a.load(Size::B4, r(1), r(6), 8);
    a.store(Size::B4, r(7), 34, r(1));
    a.load(Size::B1, r(1), r(6), 12);
    a.store(Size::B1, r(7), 23, r(1));
}

/// Writes an entry of [`Trace::flows`] where `r7` points to, in whole words: the processor makes a load wait that wants bytes of
/// several stores.
fn write_flow(a: &mut Assembler) {
    a.alu32(Alu::Mov, r(2), MAPPED);
    for (from, to) in [(0, CONNTRACK_SOURCE), (4, CONNTRACK_DESTINATION)] {
        a.load(Size::B4, r(1), r(6), from);
        a.alu(Alu::Lsh, r(1), 32_u32);
        a.alu(Alu::Or, r(1), r(2));
        a.store(Size::B8, r(7), to as i16 + 8, r(1));
    }
    a.load(Size::B8, r(1), r(6), 8);
    a.store(Size::B8, r(7), CONNTRACK_SOURCE_PORT as i16, r(1));
}

/// What stands before a mapped IPv4 address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// A contender in the kernel.
#[derive(Debug)]
pub struct Ready {
    /// What was loaded.
    pub contender: Contender,
    plain: Loaded,
    timed: Loaded,
    /// Memory of its maps. Unit: bytes.
    pub memory: u64,
}

impl Ready {
    /// What loading it took; the harness is part of it.
    pub fn cost(&self) -> Cost {
        self.plain.cost
    }
}

/// What is above a baseline: the least above its least, the others above its median.
fn above(times: Spread, below: Spread) -> Spread {
    Spread {
        least: times.least - below.least,
        median: times.median - below.median,
        most: times.most - below.median,
    }
}

/// One processor for this thread, before all others, until dropped.
struct Alone {
    before: libc::cpu_set_t,
}

impl Alone {
    fn begin() -> Self {
        // SAFETY: both calls get a set of this size; a set of zeros is an empty one; thread 0 is the caller.
        let before = unsafe {
            let mut before: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut before);
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            let last = (0..libc::CPU_SETSIZE as usize).rfind(|cpu| libc::CPU_ISSET(*cpu, &before));
            libc::CPU_SET(last.unwrap_or(0), &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
            before
        };
        schedule(libc::SCHED_FIFO, 1);
        Self { before }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        schedule(libc::SCHED_OTHER, 0);
        // SAFETY: the set is the one the kernel gave.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.before) };
    }
}

/// What fails here only makes measurements noisier.
fn schedule(policy: i32, priority: i32) {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters live through the call; thread 0 is the caller.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
}

/// How long something takes, once.
pub fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = run();
    (result, start.elapsed())
}
