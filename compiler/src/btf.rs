//! BTF: the types of maps and programs, and the source lines of programs, as the kernel and the loaders read them.
//!
//! Strings and types are numbered in the order in which they are first asked for, so equal input gives equal bytes.
//! Source: Documentation/bpf/btf.rst in the kernel's tree; numbers are in the byte order of this machine.

use crate::bpf::SLOT_BYTES;
use std::collections::BTreeMap;

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
const HEADER_BYTES: u32 = 24;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_FWD: u32 = 7;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;

const INT_SIGNED: u32 = 1 << 24;
const LINKAGE_GLOBAL: u32 = 1;

/// The number of a type; 0 is `void`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeId(u32);

/// A field of a structure.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: TypeId,
    /// Unit: bytes from the start of the structure.
    pub offset: u32,
}

/// The types and strings of an object, growing.
#[derive(Debug)]
pub struct Btf {
    types: Vec<u8>,
    n_types: u32,
    strings: Vec<u8>,
    known: BTreeMap<String, u32>,
}

impl Default for Btf {
    fn default() -> Self {
        // Offset 0 is the empty string.
        let known = BTreeMap::from([(String::new(), 0)]);
        Self { types: Vec::new(), n_types: 0, strings: vec![0], known }
    }
}

impl Btf {
    /// The offset of a string; it ends at its first NUL.
    pub fn string(&mut self, text: &str) -> u32 {
        let text = text.split('\0').next().unwrap_or_default();
        if let Some(&offset) = self.known.get(text) {
            return offset;
        }
        let offset = length(&self.strings);
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        self.known.insert(text.to_owned(), offset);
        offset
    }

    /// An unsigned integer.
    pub fn unsigned(&mut self, name: &str, bytes: u32) -> TypeId {
        self.add(name, KIND_INT, 0, bytes, &[bytes * 8])
    }

    /// A signed integer.
    pub fn signed(&mut self, name: &str, bytes: u32) -> TypeId {
        self.add(name, KIND_INT, 0, bytes, &[INT_SIGNED | (bytes * 8)])
    }

    /// A pointer.
    pub fn pointer(&mut self, to: TypeId) -> TypeId {
        self.add("", KIND_PTR, 0, to.0, &[])
    }

    /// An array; `index` is the type of its index.
    pub fn array(&mut self, of: TypeId, index: TypeId, len: u32) -> TypeId {
        self.add("", KIND_ARRAY, 0, 0, &[of.0, index.0, len])
    }

    /// A structure.
    pub fn structure(&mut self, name: &str, bytes: u32, members: &[Member]) -> TypeId {
        let mut words = Vec::new();
        for member in members {
            words.extend([self.string(&member.name), member.ty.0, member.offset * 8]);
        }
        self.add(name, KIND_STRUCT, count(members), bytes, &words)
    }

    /// A structure defined elsewhere.
    pub fn forward(&mut self, name: &str) -> TypeId {
        self.add(name, KIND_FWD, 0, 0, &[])
    }

    /// A global function of named parameters.
    pub fn function(&mut self, name: &str, params: &[(&str, TypeId)], result: TypeId) -> TypeId {
        let mut words = Vec::new();
        for (name, ty) in params {
            words.extend([self.string(name), ty.0]);
        }
        let proto = self.add("", KIND_FUNC_PROTO, count(params), result.0, &words);
        // A function keeps its linkage where other kinds keep the number of what follows.
        self.add(name, KIND_FUNC, LINKAGE_GLOBAL, proto.0, &[])
    }

    /// A global variable.
    pub fn variable(&mut self, name: &str, ty: TypeId) -> TypeId {
        self.add(name, KIND_VAR, 0, ty.0, &[LINKAGE_GLOBAL])
    }

    /// What lies in a section: variables with offset and size in bytes.
    pub fn section(&mut self, name: &str, bytes: u32, variables: &[(TypeId, u32, u32)]) -> TypeId {
        let words: Vec<u32> =
            variables.iter().flat_map(|&(ty, offset, bytes)| [ty.0, offset, bytes]).collect();
        self.add(name, KIND_DATASEC, count(variables), bytes, &words)
    }

    fn add(
        &mut self,
        name: &str,
        kind: u32,
        info: u32,
        size_or_type: u32,
        words: &[u32],
    ) -> TypeId {
        let name = self.string(name);
        put(&mut self.types, &[name, kind << 24 | info, size_or_type]);
        put(&mut self.types, words);
        self.n_types += 1;
        TypeId(self.n_types)
    }

    /// The contents of `.BTF`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = header();
        let (types, strings) = (length(&self.types), length(&self.strings));
        put(&mut bytes, &[HEADER_BYTES, 0, types, types, strings]);
        bytes.extend_from_slice(&self.types);
        bytes.extend_from_slice(&self.strings);
        bytes
    }
}

/// Where an instruction comes from.
#[derive(Clone, Copy, Debug)]
pub struct LineInfo {
    /// Index of the instruction in its program.
    pub insn: usize,
    /// [`Btf::string`] of the file's name.
    pub file: u32,
    /// [`Btf::string`] of the line's text.
    pub text: u32,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}

/// What `.BTF.ext` says about one program.
#[derive(Clone, Debug)]
pub struct FunctionInfo {
    /// Where it begins in its section. Unit: bytes.
    pub start: u64,
    /// [`Btf::function`].
    pub function: TypeId,
    /// Its lines by ascending instruction.
    pub lines: Vec<LineInfo>,
}

/// The contents of `.BTF.ext` for the programs of one section, by ascending start; `section` is its name's
/// [`Btf::string`].
pub fn encode_ext(section: u32, infos: &[FunctionInfo]) -> Vec<u8> {
    const LINE_BITS: u32 = 22;
    const COLUMN_BITS: u32 = 10;
    let mut functions = Vec::new();
    let mut lines = Vec::new();
    // INVARIANT: an object has at most 64 MiB, so offsets fit.
    let offset = |start: u64, insn: usize| start as u32 + (insn * SLOT_BYTES) as u32;
    for info in infos {
        put(&mut functions, &[offset(info.start, 0), info.function.0]);
        for line in &info.lines {
            let (row, column) = (line.line, line.column.min((1 << COLUMN_BITS) - 1));
            let place = (row.min((1 << LINE_BITS) - 1) << COLUMN_BITS) | column;
            put(&mut lines, &[offset(info.start, line.insn), line.file, line.text, place]);
        }
    }
    let functions = records(section, 8, &functions);
    let lines = records(section, 16, &lines);
    let mut bytes = header();
    let (n_functions, n_lines) = (length(&functions), length(&lines));
    put(&mut bytes, &[HEADER_BYTES, 0, n_functions, n_functions, n_lines]);
    bytes.extend(functions);
    bytes.extend(lines);
    bytes
}

/// Record size, then the records of the one section, if any.
fn records(section: u32, bytes_each: u32, records: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, &[bytes_each]);
    if !records.is_empty() {
        put(&mut bytes, &[section, length(records) / bytes_each]);
        bytes.extend_from_slice(records);
    }
    bytes
}

/// Magic, version and flags, which both sections begin with.
fn header() -> Vec<u8> {
    let mut bytes = MAGIC.to_ne_bytes().to_vec();
    bytes.extend([VERSION, 0]);
    bytes
}

fn put(bytes: &mut Vec<u8>, words: &[u32]) {
    bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("type information beyond 4 GiB")
}

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("more than 2^32 items")
}
