//! The programs of an object: code, what its relocations name, and where the ends of a packet are looked up.

use super::insn::{self, Insn, SLOT_BYTES};
use super::{CheckError, Refusal};
use crate::ir::Stage;
use object::{Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, elf};
use seg_artifact::object::{PROGRAM_SECTION, TABLES};
use std::collections::{BTreeMap, BTreeSet};

/// One program.
pub(super) struct Program {
    pub(super) insns: Vec<Insn>,
    /// Names of the maps that 64-bit immediates stand for, by slot.
    pub(super) maps: BTreeMap<usize, String>,
    /// The slots where 64-bit immediates stand for [`TABLES`].
    pub(super) tables: BTreeSet<usize>,
    /// Where [`Stage::Identify`] begins. A hint: what is before and behind is checked.
    pub(super) cut: usize,
}

/// Every program by name.
///
/// # Errors
/// [`CheckError`] if the object contradicts itself or holds something else than programs of the subset.
pub(super) fn programs(bytes: &[u8]) -> Result<BTreeMap<String, Program>, CheckError> {
    let broken = CheckError::Object;
    let file = object::File::parse(bytes).map_err(|_| broken("it is no ELF file"))?;
    let section = file.section_by_name(PROGRAM_SECTION).ok_or(broken("it has no programs"))?;
    let code = section.data().map_err(|_| broken("its programs cannot be read"))?;
    let maps = file.section_by_name(".maps").map(|maps| maps.index());
    let tables = file.section_by_name(TABLES).map(|tables| tables.index());
    // A name for a map, none for the tables.
    let mut named: BTreeMap<u64, Option<String>> = BTreeMap::new();
    for (offset, relocation) in section.relocations() {
        let RelocationTarget::Symbol(symbol) = relocation.target() else {
            return Err(broken("a relocation names no symbol"));
        };
        let symbol = file.symbol_by_index(symbol).map_err(|_| broken("a symbol is missing"))?;
        let plain = relocation.flags() == RelocationFlags::Elf { r_type: elf::R_BPF_64_64 };
        let of = symbol.section_index().filter(|_| plain);
        let name = if of.is_some() && of == maps {
            Some(symbol.name().map_err(|_| broken("a symbol has no name"))?.to_owned())
        } else if of.is_some() && of == tables && symbol.address() == 0 {
            None
        } else {
            return Err(broken("a relocation is not that of a map"));
        };
        if named.insert(offset, name).is_some() {
            return Err(broken("two relocations are of one place"));
        }
    }
    let cuts = identified(&file).ok_or(broken("its line information cannot be read"))?;
    let mut programs = BTreeMap::new();
    let mut symbols: Vec<_> =
        file.symbols().filter(|s| s.section_index() == Some(section.index())).collect();
    symbols.retain(|symbol| symbol.kind() == object::SymbolKind::Text);
    symbols.sort_by_key(|symbol| symbol.address());
    let mut end = 0;
    for symbol in symbols {
        let name = symbol.name().map_err(|_| broken("a symbol has no name"))?;
        let (start, len) = (symbol.address(), symbol.size());
        let range = start as usize..(start + len) as usize;
        if start != end || !start.is_multiple_of(SLOT_BYTES as u64) {
            return Err(broken("programs do not follow each other"));
        }
        end = start + len;
        let refused = |at, what| CheckError::refused(name, at, what);
        let code = code.get(range).ok_or(broken("a program lies outside its section"))?;
        let insns = insn::decode(code).map_err(|at| refused(at, Refusal::Instruction))?;
        let slot = |offset: u64| (offset - start) as usize / SLOT_BYTES;
        let of_program = named.range(start..end);
        let named: BTreeMap<_, _> = of_program.map(|(at, map)| (slot(*at), map)).collect();
        for (slot, bytes) in code.chunks(SLOT_BYTES).enumerate() {
            // `BPF_PSEUDO_MAP_FD` and `BPF_PSEUDO_MAP_VALUE`: the immediate is a map's, and nothing else, or a place in the tables.
            let pseudo = match (insns[slot], named.get(&slot)) {
                (Insn::Wide { value: 0, .. }, Some(Some(_))) => 1,
                (Insn::Wide { value: 0..=0xffff_ffff, .. }, Some(None)) => 2,
                (_, Some(_)) => return Err(refused(slot, Refusal::Instruction)),
                (Insn::Wide { .. }, None) => 0,
                (_, None) => continue,
            };
            if bytes[1] >> 4 != pseudo {
                return Err(refused(slot, Refusal::Instruction));
            }
        }
        let tables = named.iter().filter(|(_, name)| name.is_none()).map(|(at, _)| *at).collect();
        let maps = named.into_iter().filter_map(|(at, name)| Some((at, name.clone()?))).collect();
        let cut = cuts.range(start..end).next().ok_or(refused(0, Refusal::NoEnds))?;
        let program = Program { insns, maps, tables, cut: slot(*cut) };
        if programs.insert(name.to_owned(), program).is_some() {
            return Err(broken("two programs have one name"));
        }
    }
    if end != code.len() as u64 {
        return Err(broken("there is code of no program"));
    }
    Ok(programs)
}

/// What programs only read.
///
/// # Errors
/// [`CheckError`] if there is nothing.
pub(super) fn tables(bytes: &[u8]) -> Result<Vec<u8>, CheckError> {
    let file = object::File::parse(bytes).map_err(|_| CheckError::Object("it is no ELF file"))?;
    let section = file.section_by_name(TABLES).ok_or(CheckError::Object("it has no tables"))?;
    let data = section.data().map_err(|_| CheckError::Object("its tables cannot be read"))?;
    Ok(data.to_vec())
}

/// Offsets in the section of programs where [`Stage::Identify`] is said to begin.
fn identified(file: &object::File) -> Option<BTreeSet<u64>> {
    let section = |name| file.section_by_name(name)?.data().ok();
    let (types, lines) = (section(".BTF")?, section(".BTF.ext")?);
    // Source: Documentation/bpf/btf.rst of Linux, sections 2 and 4.
    let strings = types.get((word(types, 4)? + word(types, 16)?) as usize..)?;
    let text = |offset: u32| strings.get(offset as usize..)?.split(|byte| *byte == 0).next();
    let from = word(lines, 4)? as usize + word(lines, 16)? as usize;
    let lines = lines.get(from..from + word(lines, 20)? as usize)?;
    let record_bytes = word(lines, 0)?;
    let mut found = BTreeSet::new();
    let mut at = 4;
    while at < lines.len() {
        let of_programs = text(word(lines, at)?)? == PROGRAM_SECTION.as_bytes();
        let n = word(lines, at + 4)? as usize;
        at += 8;
        for _ in 0..n {
            let (offset, line) = (word(lines, at)?, word(lines, at + 8)?);
            if of_programs && text(line)? == Stage::Identify.text().as_bytes() {
                found.insert(u64::from(offset));
            }
            at += record_bytes as usize;
        }
    }
    Some(found)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
