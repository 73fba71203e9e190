//! Packet programs as machine code of this machine: the engine behind `segc test`, and a second opinion on the kernel's verdict.
//!
//! The functions are those that become BPF; only names are bound to something else: helpers to Rust functions, maps to
//! tables of ours, and the context to a buffer below 4 GiB, since `__sk_buff` holds packet pointers as 32 bits.
//! All `unsafe` of the compiler is in this file.

use crate::ir::{self, Map, helper};
use crate::program::{Layout, skb};
use cranelift_codegen::ir::{Function, UserExternalName};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, ModuleError};
use seg_artifact::addresses::{Addresses4, Full, Nets};
use seg_artifact::maps::{self, About, Store};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ptr;
use thiserror::Error;

/// The longest frame an engine takes. Unit: bytes. An IPv6 packet without jumbogram option, and its Ethernet header with tags.
pub const FRAME_BYTES_MAX: usize = 128 * 1024;

/// Programs, their maps and their clock.
pub struct Engine {
    /// `Some` until dropped.
    module: Option<JITModule>,
    programs: Vec<*const u8>,
    /// By [`Map`]; owned, boxed since code holds their addresses. That of [`Map::Tables`] is empty.
    tables: [*mut Table; Map::ALL.len()],
    /// What [`Map::Tables`] holds; code holds its address.
    constants: Box<[u64]>,
    nets: Nets,
    /// Whose stores [`Map::Addresses4`] has had.
    addresses: Addresses4,
    /// The addresses with an ident of their own.
    known: BTreeSet<Ipv4Addr>,
    frame: Buffer,
    now_ns: u64,
    ingress: u32,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the program returned: [`crate::program::PASS`] or [`crate::program::DROP`].
    pub action: i32,
    /// Which counter moved: a reason's or a rule's, as in [`maps::COUNTERS`].
    pub counter: u32,
}

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum NativeError {
    /// Cranelift has no backend for this machine.
    #[error("this machine cannot run packet programs: {0}")]
    Machine(&'static str),
    /// Cranelift did not take a function.
    #[error("a packet program has no machine code")]
    Code(#[from] Box<ModuleError>),
    /// There is no memory below 4 GiB.
    #[error("no memory for frames below 4 GiB")]
    Memory(#[source] io::Error),
    /// The nets have too many borders.
    #[error(transparent)]
    Nets(#[from] Full),
}

impl Engine {
    /// Compiles the functions; [`Engine::run`] names them by index. Records and idents are laid out as given,
    /// [`Map::Tables`] is `tables`.
    ///
    /// # Errors
    /// [`NativeError`] if this machine cannot run them.
    pub fn new(
        functions: &[Function],
        records: Layout,
        tables: &[u8],
    ) -> Result<Self, NativeError> {
        let frame = Buffer::new()?;
        let record_bytes = maps::record_bytes(records.n_values());
        let constants = words(tables);
        let tables = Map::ALL.map(|map| {
            let (key_bytes, value_bytes, kind) = match map {
                Map::Addresses4 => (4, maps::ADDRESSES4_BYTES, Kind::Array(1)),
                Map::Addresses6 => (maps::ADDRESS_KEY_BYTES, 4, Kind::Hash),
                Map::Idents => (4, maps::IDENTS_BYTES, Kind::Array(1)),
                Map::Records => {
                    (4, record_bytes, Kind::Array(maps::RECORDS_MIN + u32::from(records.n_nets)))
                }
                Map::Local => (maps::LOCAL_KEY_BYTES, 4, Kind::Hash),
                Map::Conntrack => {
                    (maps::CONNTRACK_KEY_BYTES, maps::CONNTRACK_VALUE_BYTES, Kind::Hash)
                }
                Map::Counters => (4, maps::COUNTER_BYTES, Kind::Counters),
                Map::Tables => (0, 0, Kind::Hash),
            };
            Box::into_raw(Box::new(Table::new(key_bytes, value_bytes, kind)))
        });
        let mut engine = Self {
            module: None,
            programs: Vec::new(),
            tables,
            constants,
            nets: Nets::default(),
            addresses: Addresses4::default(),
            known: BTreeSet::new(),
            frame,
            now_ns: 1_000_000_000,
            ingress: 0,
        };
        engine.compile(functions)?;
        Ok(engine)
    }

    /// Makes the nets of a manifest known; once, before any address.
    ///
    /// # Errors
    /// [`Full`] if they have too many borders.
    pub fn set_nets(&mut self, nets: Nets) -> Result<(), Full> {
        let (addresses, stores) = nets.addresses4()?;
        (self.nets, self.addresses) = (nets, addresses);
        stores.iter().for_each(|store| self.store(store));
        Ok(())
    }

    /// Says what is known of an ident, which must be less than [`maps::RECORDS_MIN`] above the nets.
    ///
    /// # Panics
    /// If the record is of another size than [`maps::record_bytes`].
    pub fn set_ident(&mut self, ident: u16, about: &About) {
        about.stores(ident).iter().for_each(|store| self.store(store));
    }

    /// Gives an address of an endpoint its ident.
    ///
    /// # Errors
    /// [`Full`] if it is one of too many.
    pub fn set_address(&mut self, address: IpAddr, ident: u16) -> Result<(), Full> {
        match address {
            IpAddr::V4(v4) => {
                let stores = self.addresses.set(v4, ident)?;
                stores.iter().for_each(|store| self.store(store));
                self.known.insert(v4);
            }
            IpAddr::V6(_) => {
                let (key, ident) = (maps::address_key(address), u32::from(ident).to_ne_bytes());
                self.table(Map::Addresses6).set(&key, &ident);
            }
        }
        Ok(())
    }

    /// Says who is behind an interface under an address that no endpoint has, in a net or in none (0).
    pub fn set_local(&mut self, ifindex: u32, net: u16, ident: u16) {
        let ident = u32::from(ident).to_ne_bytes();
        self.table(Map::Local).set(&maps::local_key(ifindex, net), &ident);
    }

    fn store(&mut self, store: &Store) {
        let map = match store.map {
            maps::ADDRESSES4 => Map::Addresses4,
            maps::IDENTS => Map::Idents,
            maps::RECORDS => Map::Records,
            other => unreachable!("nothing is stored in map {other}"),
        };
        self.table(map).store(store.offset as usize, &store.bytes);
    }

    /// Sets the clock.
    pub fn set_now_ns(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Sets the interface that packets came in by; 0 for packets of the machine itself.
    pub fn set_ingress(&mut self, ifindex: u32) {
        self.ingress = ifindex;
    }

    /// Forgets everything but the nets and the counters: endpoints, interfaces, connections.
    pub fn forget(&mut self) {
        for map in [Map::Addresses6, Map::Local, Map::Conntrack] {
            self.table(map).entries.clear();
        }
        for address in std::mem::take(&mut self.known) {
            let net = self.nets.ident(address.into());
            let stores = self.addresses.set(address, net).expect("its blocks are its own");
            stores.iter().for_each(|store| self.store(store));
        }
        self.addresses.reclaim();
    }

    /// Forgets all connections.
    pub fn forget_connections(&mut self) {
        self.table(Map::Conntrack).entries.clear();
    }

    /// Packets and bytes a counter has counted.
    pub fn counter(&mut self, counter: u32) -> [u64; 2] {
        let counters = self.table(Map::Counters);
        match counters.entries.get(counter.to_ne_bytes().as_slice()).map(Vec::as_slice) {
            Some(&[packets, bytes]) => [packets, bytes],
            _ => [0, 0],
        }
    }

    /// Runs a program on a frame that came in on, or leaves by, an interface.
    ///
    /// # Panics
    /// If there is no such program, the frame is longer than [`FRAME_BYTES_MAX`], or the program breaks its contract
    /// to move exactly one counter by one.
    pub fn run(&mut self, program: usize, ifindex: u32, frame: &[u8]) -> Outcome {
        self.run_split(program, ifindex, frame, frame.len())
    }

    /// As [`Engine::run`], with only the first `linear` bytes readable until the program pulls more.
    ///
    /// # Panics
    /// As [`Engine::run`], and if `linear` is more than the frame has.
    pub fn run_split(
        &mut self,
        program: usize,
        ifindex: u32,
        frame: &[u8],
        linear: usize,
    ) -> Outcome {
        assert!(linear <= frame.len(), "more of the frame is readable than there is");
        let data = self.frame.fill(frame);
        let mut context = Context([0; 48]);
        context.set(skb::LEN, frame.len() as u32);
        context.set(skb::IFINDEX, ifindex);
        context.set(skb::INGRESS_IFINDEX, self.ingress);
        context.set(skb::DATA, data);
        context.set(skb::DATA_END, data + linear as u32);
        let before = std::mem::take(&mut self.table(Map::Counters).looked_up);
        debug_assert!(before.is_none());
        NOW_NS.set(self.now_ns);
        let code = self.programs[program];
        // SAFETY: `compile` put the address of a finished function `(pointer) -> i32` of the host's C convention there,
        // and its code lives as long as `module`. The function reads the context, the frame between `data` and
        // `data_end`, and through helpers the tables, all of which outlive the call. No reference to a table is held here.
        let action = unsafe {
            let code: extern "C" fn(*mut Context) -> i32 = std::mem::transmute(code);
            code(&raw mut context)
        };
        let counter = self.table(Map::Counters).looked_up.take();
        Outcome { action, counter: counter.expect("the program counted the packet") }
    }

    fn compile(&mut self, functions: &[Function]) -> Result<(), NativeError> {
        let mut flags = settings::builder();
        for (flag, value) in
            [("opt_level", "speed"), ("is_pic", "false"), ("use_colocated_libcalls", "false")]
        {
            flags.set(flag, value).expect("Cranelift knows its own flags");
        }
        let isa = cranelift_native::builder()
            .map_err(NativeError::Machine)?
            .finish(settings::Flags::new(flags))
            .map_err(|e| Box::new(ModuleError::Compilation(e)))?;
        let mut builder = JITBuilder::with_isa(isa, cranelift_module::default_libcall_names());
        for (number, code) in helpers() {
            builder.symbol(helper_symbol(number), code);
        }
        for map in Map::ALL {
            let address = match map {
                Map::Tables => self.constants.as_ptr().cast(),
                _ => self.tables[map as usize] as *const u8,
            };
            builder.symbol(map_symbol(map as u32), address);
        }
        let module = self.module.insert(JITModule::new(builder));
        let mut compiled = Vec::new();
        for (index, function) in functions.iter().enumerate() {
            let mut context = module.make_context();
            context.func = function.clone();
            bind(module, &mut context.func)?;
            let name = format!("program{index}");
            let id = module
                .declare_function(&name, Linkage::Local, &context.func.signature)
                .map_err(Box::new)?;
            module.define_function(id, &mut context).map_err(Box::new)?;
            compiled.push(id);
        }
        module.finalize_definitions().map_err(Box::new)?;
        self.programs = compiled.iter().map(|&id| module.get_finalized_function(id)).collect();
        Ok(())
    }

    fn table(&mut self, map: Map) -> &mut Table {
        // SAFETY: `new` made the table; it is freed only when `self` drops. Code and helpers reach it only inside
        // `run_split`, which holds no such reference while they run.
        unsafe { &mut *self.tables[map as usize] }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: the addresses of its functions are only in `self.programs`, which nobody calls any more.
            unsafe { module.free_memory() };
        }
        for table in self.tables {
            // SAFETY: `new` leaked a box there; code that knows the address is gone.
            drop(unsafe { Box::from_raw(table) });
        }
    }
}

/// Gives the names of helpers and maps the meaning they have in the module, and calls the host's convention.
fn bind(module: &mut JITModule, function: &mut Function) -> Result<(), Box<ModuleError>> {
    let convention = module.target_config().default_call_conv;
    function.signature.call_conv = convention;
    for signature in function.dfg.signatures.values_mut() {
        signature.call_conv = convention;
    }
    let mut signatures = HashMap::new();
    for called in function.dfg.ext_funcs.values() {
        if let cranelift_codegen::ir::ExternalName::User(name) = called.name {
            signatures.insert(name, function.dfg.signatures[called.signature].clone());
        }
    }
    let names: Vec<_> =
        function.params.user_named_funcs().iter().map(|(r, name)| (r, name.clone())).collect();
    for (reference, name) in names {
        let bound = match (name.namespace, signatures.get(&reference)) {
            (ir::HELPERS, Some(signature)) => {
                let symbol = helper_symbol(name.index);
                let id = module.declare_function(&symbol, Linkage::Import, signature)?;
                UserExternalName::new(0, id.as_u32())
            }
            _ => {
                let symbol = map_symbol(name.index);
                let id = module.declare_data(&symbol, Linkage::Import, true, false)?;
                UserExternalName::new(1, id.as_u32())
            }
        };
        function.params.reset_user_func_name(reference, bound);
    }
    Ok(())
}

fn helper_symbol(number: u32) -> String {
    format!("helper{number}")
}

fn map_symbol(index: u32) -> String {
    format!("map{index}")
}

/// How a map finds values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Keys to values.
    Hash,
    /// So many values by number.
    Array(u32),
    /// Values by number, made when first asked for, of which each packet asks for one.
    Counters,
}

/// A map: its values are in words, which stay where they are while programs run.
struct Table {
    key_bytes: usize,
    value_bytes: usize,
    kind: Kind,
    entries: HashMap<Vec<u8>, Vec<u64>>,
    /// The values of an array.
    array: Vec<u64>,
    /// The number last looked up among counters.
    looked_up: Option<u32>,
}

impl Table {
    fn new(key_bytes: u32, value_bytes: u32, kind: Kind) -> Self {
        let [key_bytes, value_bytes] = [key_bytes, value_bytes].map(|n| n as usize);
        let array = match kind {
            Kind::Array(n) => vec![0; n as usize * value_bytes.div_ceil(8)],
            Kind::Hash | Kind::Counters => Vec::new(),
        };
        Self { key_bytes, value_bytes, kind, entries: HashMap::new(), array, looked_up: None }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        assert_eq!(value.len(), self.value_bytes, "a value of another size than the map's");
        self.entries.insert(key.to_vec(), words(value).into_vec());
    }

    /// Writes into an array.
    fn store(&mut self, offset: usize, bytes: &[u8]) {
        for (at, &byte) in (offset..).zip(bytes) {
            let mut word = self.array[at / 8].to_ne_bytes();
            word[at % 8] = byte;
            self.array[at / 8] = u64::from_ne_bytes(word);
        }
    }

    fn get(&mut self, key: &[u8]) -> *mut u64 {
        let words = self.value_bytes.div_ceil(8);
        let number = <[u8; 4]>::try_from(key).map(u32::from_ne_bytes);
        match (self.kind, number) {
            (Kind::Array(n), Ok(number)) if number < n => {
                return self.array[number as usize * words..].as_mut_ptr();
            }
            (Kind::Counters, Ok(number)) => {
                assert!(
                    self.looked_up.replace(number).is_none(),
                    "a second counter for one packet"
                );
                self.entries.entry(key.to_vec()).or_insert_with(|| vec![0; words]);
            }
            (Kind::Hash | Kind::Array(_) | Kind::Counters, _) => {}
        }
        self.entries.get_mut(key).map_or(ptr::null_mut(), |value| value.as_mut_ptr())
    }
}

/// Bytes as words, the last one filled with zeros.
fn words(bytes: &[u8]) -> Box<[u64]> {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    });
    words.collect()
}

/// `struct __sk_buff`.
#[repr(C, align(8))]
struct Context([u32; 48]);

impl Context {
    fn get(&self, offset: i32) -> u32 {
        self.0[offset as usize / 4]
    }

    fn set(&mut self, offset: i32, value: u32) {
        self.0[offset as usize / 4] = value;
    }
}

thread_local! {
    /// What helper 160 returns: it has no argument to find an engine by.
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
}

/// The helpers by number.
fn helpers() -> [(u32, *const u8); 4] {
    [
        (helper::MAP_LOOKUP_ELEM, lookup as *const u8),
        (helper::MAP_UPDATE_ELEM, update as *const u8),
        (helper::SKB_PULL_DATA, pull as *const u8),
        (helper::KTIME_GET_COARSE_NS, now as *const u8),
    ]
}

/// # Safety
/// `table` is an engine's and not borrowed; `key` points to as many bytes as its keys have.
unsafe extern "C" fn lookup(table: *mut Table, key: *const u8) -> *mut u64 {
    // SAFETY: the caller's promise.
    let (table, key) =
        unsafe { (&mut *table, std::slice::from_raw_parts(key, (*table).key_bytes)) };
    table.get(key)
}

/// # Safety
/// As for [`lookup`]; `value` points to as many bytes as the table's values have.
unsafe extern "C" fn update(table: *mut Table, key: *const u8, value: *const u8, _: u64) -> i64 {
    // SAFETY: the caller's promise.
    let (table, key, value) = unsafe {
        let table = &mut *table;
        let (key_bytes, value_bytes) = (table.key_bytes, table.value_bytes);
        let key = std::slice::from_raw_parts(key, key_bytes);
        (table, key, std::slice::from_raw_parts(value, value_bytes))
    };
    table.set(key, value);
    0
}

/// # Safety
/// `context` is the one the program was called with.
unsafe extern "C" fn pull(context: *mut Context, bytes: u64) -> i64 {
    // SAFETY: the caller's promise.
    let context = unsafe { &mut *context };
    let Some(bytes) = u32::try_from(bytes).ok().filter(|&n| n <= context.get(skb::LEN)) else {
        return -i64::from(libc::ENOMEM);
    };
    let data_end = context.get(skb::DATA_END).max(context.get(skb::DATA) + bytes);
    context.set(skb::DATA_END, data_end);
    0
}

extern "C" fn now() -> u64 {
    NOW_NS.get()
}

/// Memory below 4 GiB that ends at a page nobody may read, so that a program that reads past a frame dies.
struct Buffer {
    base: *mut u8,
    /// Without the guard.
    bytes: usize,
}

/// At least a page on every machine Cranelift compiles for.
const GUARD_BYTES: usize = 64 * 1024;

impl Buffer {
    fn new() -> Result<Self, NativeError> {
        #[cfg(target_arch = "x86_64")]
        let (hint, below) = (ptr::null_mut(), libc::MAP_32BIT);
        #[cfg(not(target_arch = "x86_64"))]
        let (hint, below) = (ptr::without_provenance_mut(0x2000_0000), 0);
        let failed = || NativeError::Memory(io::Error::last_os_error());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | below;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let bytes = FRAME_BYTES_MAX + GUARD_BYTES;
        // SAFETY: a new anonymous mapping where the kernel likes touches no memory in use.
        let base = unsafe { libc::mmap(hint, bytes, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(failed());
        }
        let buffer = Self { base: base.cast(), bytes: FRAME_BYTES_MAX };
        // SAFETY: the guard is the end of the mapping just made.
        let guarded = unsafe {
            libc::mprotect(buffer.base.add(buffer.bytes).cast(), GUARD_BYTES, libc::PROT_NONE)
        };
        if guarded != 0 {
            return Err(failed());
        }
        if u32::try_from(base.addr() + bytes).is_err() {
            return Err(NativeError::Memory(io::ErrorKind::AddrNotAvailable.into()));
        }
        Ok(buffer)
    }

    /// Puts a frame right before the guard; the result is where it begins.
    fn fill(&mut self, frame: &[u8]) -> u32 {
        assert!(frame.len() <= self.bytes, "a frame of more than {} bytes", self.bytes);
        // SAFETY: the frame fits between base and guard, which nobody else has a reference to.
        let data = unsafe {
            let data = self.base.add(self.bytes - frame.len());
            ptr::copy_nonoverlapping(frame.as_ptr(), data, frame.len());
            data
        };
        // `new` made sure of 32 bits.
        data.expose_provenance() as u32
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped; nothing points there any more.
        unsafe { libc::munmap(self.base.cast(), self.bytes + GUARD_BYTES) };
    }
}
