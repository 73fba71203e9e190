//! Programs and maps to an ELF object that `segd`, libbpf, bpftool and aya load.
//!
//! Equal input gives equal bytes: everything stands in the order it is given.

use crate::bpf::{Program, SLOT_BYTES};
use crate::btf::{self, Btf, FunctionInfo, LineInfo, Member, TypeId};
use crate::ir::Map;
use object::write::{Object, Relocation, SectionId, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope, elf,
};
use seg_artifact::classes::CLASSES;
use seg_artifact::{maps, object as artifact};
use std::collections::BTreeMap;

/// Licence of every program; the helpers in use ask for none in particular.
pub const LICENSE: &str = "Apache-2.0";

/// The kind of a map, by its number in `enum bpf_map_type` of the kernel's uapi.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`, written through memory: `BPF_F_MMAPABLE`.
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash = 9,
}

impl MapKind {
    /// `map_flags` of `union bpf_attr`.
    pub fn flags(self) -> u32 {
        const MMAPABLE: u32 = 1 << 10;
        match self {
            Self::Array => MMAPABLE,
            Self::Hash | Self::PerCpuArray | Self::LruHash => 0,
        }
    }
}

/// A field of a key or value: a number, or an array of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Of one number. Unit: bytes; 1, 2, 4 or 8.
    pub bytes: u32,
    /// How many numbers; one makes no array.
    pub len: u32,
}

/// A key or value, for tools that show maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One `u32`.
    Number,
    /// A structure whose fields follow each other without gaps.
    Record {
        /// Its name.
        name: &'static str,
        /// Its fields.
        fields: Vec<Field>,
    },
}

impl Shape {
    /// Unit: bytes.
    pub fn bytes(&self) -> u32 {
        match self {
            Self::Number => 4,
            Self::Record { fields, .. } => fields.iter().map(|field| field.bytes * field.len).sum(),
        }
    }
}

/// A map of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// What programs call it.
    pub map: Map,
    /// Its symbol.
    pub name: &'static str,
    /// Its kind.
    pub kind: MapKind,
    /// Its key.
    pub key: Shape,
    /// Its value.
    pub value: Shape,
    /// Most entries.
    pub entries: u32,
}

/// The maps of a policy object with this many label dimensions and named ports together, and rules; [`Map::Tables`] is none
/// of them, but a section.
pub fn map_specs(n_values: u32, n_rules: u32) -> Vec<MapSpec> {
    Map::ALL.iter().filter_map(|&map| map_spec(map, n_values, n_rules)).collect()
}

/// A line of source, for the verifier's log and `bpftool prog dump`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// File, relative to the package.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// What stands there.
    pub text: String,
}

/// What an object holds beside programs and maps; what is empty has no section.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sections<'a> {
    /// What [`Map::Tables`] holds.
    pub tables: &'a [u8],
    /// See [`seg_artifact::classes`].
    pub classes: &'a [u8],
    /// The manifest.
    pub manifest: &'a [u8],
}

/// Links programs and maps into a sealed object.
///
/// `line_text` says what the bits of a source location mean.
///
/// # Panics
/// If a program fails [`Program::verify`] or names a map that is not in `maps`.
pub fn link(
    programs: &[Program],
    maps: &[MapSpec],
    sections: &Sections<'_>,
    line_text: &dyn Fn(u32) -> Line,
) -> Vec<u8> {
    let little = cfg!(target_endian = "little");
    let endian = if little { Endianness::Little } else { Endianness::Big };
    let mut linker = Linker {
        object: Object::new(BinaryFormat::Elf, Architecture::Bpf, endian),
        btf: Btf::default(),
    };
    linker.section("license", SectionKind::Data, format!("{LICENSE}\0").as_bytes());
    let mut symbols = linker.maps(maps);
    if !sections.tables.is_empty() {
        let kind = SectionKind::ReadOnlyData;
        let section = linker.section(artifact::TABLES, kind, sections.tables);
        symbols.insert(Map::Tables, linker.object.section_symbol(section));
    }
    let symbol_of = |map| *symbols.get(&map).expect("a program uses a map that the object lacks");

    let context = linker.btf.forward("__sk_buff");
    let context = linker.btf.pointer(context);
    let result = linker.btf.signed("int", 4);
    let section = linker.section(artifact::PROGRAM_SECTION, SectionKind::Text, &[]);
    let mut infos = Vec::new();
    for program in programs {
        let verified = program.verify();
        assert!(verified.is_ok(), "{verified:?} in\n{program}");
        let mut code = program.encode();
        for &(insn, map) in &program.relocations {
            // Loaders add what stands in the first slot to where the tables begin.
            if map == Map::Tables {
                let [first, second] = [insn, insn + 1].map(|slot| slot * SLOT_BYTES + 4);
                code.copy_within(second..second + 4, first);
                code[second..second + 4].fill(0);
            }
        }
        let start = linker.object.append_section_data(section, &code, SLOT_BYTES as u64);
        linker.symbol(&program.name, SymbolKind::Text, section, start, code.len() as u64);
        for &(insn, map) in &program.relocations {
            let relocation = Relocation {
                offset: start + (insn * SLOT_BYTES) as u64,
                symbol: symbol_of(map),
                addend: 0,
                flags: RelocationFlags::Elf { r_type: elf::R_BPF_64_64 },
            };
            linker.object.add_relocation(section, relocation).expect("a BPF relocation");
        }
        let function = linker.btf.function(&program.name, &[("ctx", context)], result);
        infos.push(FunctionInfo { start, function, lines: linker.lines(program, line_text) });
    }

    let name = linker.btf.string(artifact::PROGRAM_SECTION);
    let (types, ext) = (linker.btf.encode(), btf::encode_ext(name, &infos));
    linker.section(".BTF", SectionKind::Other, &types);
    linker.section(".BTF.ext", SectionKind::Other, &ext);
    linker.section(artifact::MANIFEST, SectionKind::Other, sections.manifest);
    if !sections.classes.is_empty() {
        linker.section(CLASSES, SectionKind::Other, sections.classes);
    }
    linker.section(artifact::SEAL, SectionKind::Other, &[0; artifact::SEAL_BYTES]);
    let bytes = linker.object.write().expect("an ELF object");
    artifact::seal(bytes).expect("an object with a seal")
}

fn map_spec(map: Map, n_values: u32, n_rules: u32) -> Option<MapSpec> {
    let field = |name, bytes, len| Field { name, bytes, len };
    let record = |name, fields: &[Field]| Shape::Record { name, fields: fields.to_vec() };
    let endpoint = || {
        // Labels, then named ports; the last may be padding.
        let labels = (maps::record_bytes(n_values) - maps::RECORD_LABELS) / 4;
        let mut fields = ["endpoint", "flags", "interface"].map(|name| field(name, 4, 1)).to_vec();
        fields.extend((labels > 0).then_some(field("labels", 4, labels)));
        Shape::Record { name: "endpoint", fields }
    };
    let (name, kind, key, value, entries) = match map {
        Map::Addresses4 => {
            let blocks = maps::BLOCKS4 * maps::BLOCK_BYTES / 2;
            let root = field("root", 2, maps::ADDRESSES4_BLOCKS / 2);
            let value = record("addresses4", &[root, field("blocks", 2, blocks)]);
            (maps::ADDRESSES4, MapKind::Array, Shape::Number, value, 1)
        }
        Map::Addresses6 => {
            let key = record("address", &[field("bytes", 1, maps::ADDRESS_KEY_BYTES)]);
            (maps::ADDRESSES6, MapKind::Hash, key, Shape::Number, maps::IDENTS_MAX)
        }
        Map::Idents => {
            let fields = [
                ("source", 8),
                ("destination", 8),
                ("interface", 4),
                ("source_more", 8),
                ("destination_more", 8),
            ]
            .map(|(name, bytes)| field(name, bytes, maps::IDENTS_MAX));
            (maps::IDENTS, MapKind::Array, Shape::Number, record("idents", &fields), 1)
        }
        // The loader makes it larger if the endpoints need it.
        Map::Records => {
            (maps::RECORDS, MapKind::Array, Shape::Number, endpoint(), maps::RECORDS_MIN)
        }
        Map::Local => {
            let key = record("behind", &[field("interface", 4, 1), field("net", 4, 1)]);
            (maps::LOCAL, MapKind::Hash, key, Shape::Number, maps::IDENTS_MAX)
        }
        Map::Conntrack => {
            let key = record(
                "connection",
                &[
                    field("source", 1, maps::ADDRESS_KEY_BYTES),
                    field("destination", 1, maps::ADDRESS_KEY_BYTES),
                    field("source_port", 2, 1),
                    field("destination_port", 2, 1),
                    field("protocol", 1, 1),
                    field("zero", 1, 3),
                ],
            );
            let fields = [field("seen", 8, 1), field("rule", 4, 1), field("zero", 4, 1)];
            let value = record("state", &fields);
            (maps::CONNTRACK, MapKind::LruHash, key, value, maps::CONNTRACK_MAX)
        }
        Map::Counters => {
            let value = record("counter", &[field("packets", 8, 1), field("bytes", 8, 1)]);
            let entries = maps::rule_counter(n_rules);
            (maps::COUNTERS, MapKind::PerCpuArray, Shape::Number, value, entries)
        }
        Map::Tables => return None,
    };
    Some(MapSpec { map, name, kind, key, value, entries })
}

struct Linker {
    object: Object<'static>,
    btf: Btf,
}

impl Linker {
    fn section(&mut self, name: &str, kind: SectionKind, bytes: &[u8]) -> SectionId {
        let section = self.object.add_section(Vec::new(), name.as_bytes().to_vec(), kind);
        self.object.append_section_data(section, bytes, SLOT_BYTES as u64);
        section
    }

    fn symbol(
        &mut self,
        name: &str,
        kind: SymbolKind,
        section: SectionId,
        offset: u64,
        bytes: u64,
    ) -> object::write::SymbolId {
        self.object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: offset,
            size: bytes,
            kind,
            // Anything less than visible everywhere makes libbpf treat a function as a subprogram.
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        })
    }

    /// Section `.maps`: a structure of pointers for each map, whose types say what the map is.
    fn maps(&mut self, maps: &[MapSpec]) -> BTreeMap<Map, object::write::SymbolId> {
        const POINTER_BYTES: u32 = 8;
        let int = self.btf.unsigned("__u32", 4);
        let mut variables = Vec::new();
        let mut at = 0;
        for spec in maps {
            let key = self.shape(&spec.key, int);
            let value = self.shape(&spec.value, int);
            let kind = self.btf.array(int, int, spec.kind as u32);
            let entries = self.btf.array(int, int, spec.entries);
            let mut parts =
                vec![("type", kind), ("key", key), ("value", value), ("max_entries", entries)];
            if spec.kind.flags() != 0 {
                parts.push(("map_flags", self.btf.array(int, int, spec.kind.flags())));
            }
            let members: Vec<Member> = parts
                .into_iter()
                .zip((0..).step_by(POINTER_BYTES as usize))
                .map(|((name, ty), offset)| {
                    let ty = self.btf.pointer(ty);
                    Member { name: name.to_owned(), ty, offset }
                })
                .collect();
            let bytes = POINTER_BYTES * members.len() as u32;
            let definition = self.btf.structure("", bytes, &members);
            variables.push((self.btf.variable(spec.name, definition), at, bytes));
            at += bytes;
        }
        let section = self.section(".maps", SectionKind::Data, &vec![0; at as usize]);
        self.btf.section(".maps", at, &variables);
        let places = maps.iter().zip(&variables);
        places
            .map(|(spec, &(_, offset, bytes))| {
                let (offset, bytes) = (offset.into(), bytes.into());
                (spec.map, self.symbol(spec.name, SymbolKind::Data, section, offset, bytes))
            })
            .collect()
    }

    fn shape(&mut self, shape: &Shape, number: TypeId) -> TypeId {
        let Shape::Record { name, fields } = shape else { return number };
        let mut members = Vec::new();
        let mut offset = 0;
        for field in fields {
            let mut ty = match field.bytes {
                1 => self.btf.unsigned("__u8", 1),
                2 => self.btf.unsigned("__u16", 2),
                4 => number,
                _ => self.btf.unsigned("__u64", 8),
            };
            if field.len != 1 {
                ty = self.btf.array(ty, number, field.len);
            }
            members.push(Member { name: field.name.to_owned(), ty, offset });
            offset += field.bytes * field.len;
        }
        self.btf.structure(name, shape.bytes(), &members)
    }

    fn lines(&mut self, program: &Program, line_text: &dyn Fn(u32) -> Line) -> Vec<LineInfo> {
        let lines = program.lines.iter();
        lines
            .map(|&(insn, bits)| {
                let Line { file, line, column, text } = line_text(bits);
                let (file, text) = (self.btf.string(&file), self.btf.string(&text));
                LineInfo { insn, file, text, line, column }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_as_long_as_the_contract_says() {
        for n_values in 0..5 {
            let sizes: Vec<_> = map_specs(n_values, 7)
                .into_iter()
                .map(|s| (s.map, s.key.bytes(), s.value.bytes()))
                .collect();
            let expected = [
                (Map::Addresses4, 4, maps::ADDRESSES4_BYTES),
                (Map::Addresses6, maps::ADDRESS_KEY_BYTES, 4),
                (Map::Idents, 4, maps::IDENTS_BYTES),
                (Map::Records, 4, maps::record_bytes(n_values)),
                (Map::Local, maps::LOCAL_KEY_BYTES, 4),
                (Map::Conntrack, maps::CONNTRACK_KEY_BYTES, maps::CONNTRACK_VALUE_BYTES),
                (Map::Counters, 4, maps::COUNTER_BYTES),
            ];
            assert_eq!(sizes, expected);
        }
    }
}
