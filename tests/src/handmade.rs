//! A policy object assembled by hand, so that segd is tested without the compiler: programs with one verdict each.

use object::elf::R_BPF_64_64;
use object::write::{Object, Relocation, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
};
use seg_artifact::manifest::{
    Digests, Edge, Field, Label, Manifest, Node, Roles, Rule, Source, Target, Workload,
};
use seg_artifact::object::{MANIFEST, PROGRAM_SECTION, SEAL, SEAL_BYTES};
use seg_artifact::{maps, version};

/// Verdicts, include/uapi/linux/pkt_cls.h.
const TC_ACT_OK: i32 = 0;
const TC_ACT_SHOT: i32 = 2;
/// Map types, include/uapi/linux/bpf.h.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// A manifest of two dimensions: `app` open, `env` closed.
///
/// An endpoint of `env:prod` may send nothing (rule 1, `out_drop`); all else passes (rule 0, `out_pass` and `in_pass`).
pub fn manifest() -> Manifest {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let label = |name: &str, closed, values| Label { name: name.to_owned(), closed, values };
    let rule = |action: &str, line, text: &str| Rule {
        tier: "policy".to_owned(),
        block: "web".to_owned(),
        action: action.to_owned(),
        path: "web.seg".to_owned(),
        line,
        text: text.to_owned(),
        owner: None,
        ticket: None,
        template: None,
        staged: false,
        log: false,
        expires: None,
    };
    let edge = |last, role| Edge { last, to: Target::Role(role) };
    // `env`: 0 unset, 1 dev, 2 prod.
    let node =
        Node { field: Field::Label(1), edges: vec![edge(1, 0), edge(2, 1), edge(u32::MAX, 0)] };
    Manifest {
        format: version::FORMAT,
        edition: version::EDITION.to_owned(),
        compiler: "0".to_owned(),
        package: "handmade".to_owned(),
        kernel: version::KERNEL_MIN.to_owned(),
        labels: vec![
            label("app", false, words(&["shop", "web"])),
            label("env", true, words(&["dev", "prod"])),
        ],
        ports: words(&["admin", "metrics"]),
        outbound: Roles {
            root: Target::Node(0),
            nodes: vec![node],
            programs: words(&["out_pass", "out_drop"]),
        },
        inbound: Roles { root: Target::Role(0), nodes: Vec::new(), programs: words(&["in_pass"]) },
        workloads: vec![Workload {
            name: "back-dev".to_owned(),
            addresses: vec![[10, 9, 0, 4].into(), [0xfd09, 0, 0, 0, 0, 0, 0, 4].into()],
            labels: [("app", "web"), ("env", "dev")]
                .map(|(label, value)| (label.to_owned(), value.to_owned()))
                .into(),
            ports: [("metrics".to_owned(), "tcp/9100".to_owned())].into(),
        }],
        not_after: None,
        nets: Vec::new(),
        rules: vec![rule("allow", 2, "allow any -> any"), rule("deny", 3, "deny env:prod -> any")],
        sources: vec![Source { path: "web.seg".to_owned(), sha256: "0".repeat(64) }],
        digests: Digests {
            guard: "0".repeat(64),
            policy: "0".repeat(64),
            baseline: "0".repeat(64),
        },
    }
}

/// The sealed object of [`manifest`].
pub fn object() -> Vec<u8> {
    object_of(&manifest())
}

/// As [`object()`], with another manifest that names the same programs.
pub fn object_of(manifest: &Manifest) -> Vec<u8> {
    build(
        manifest,
        &[("out_pass", 0, TC_ACT_OK), ("out_drop", 1, TC_ACT_SHOT), ("in_pass", 0, TC_ACT_OK)],
    )
}

/// As [`object()`], but the verifier refuses `in_pass`.
pub fn refused_object() -> Vec<u8> {
    // A register that calls have cleared.
    let mut bytes = build(
        &manifest(),
        &[("out_pass", 0, TC_ACT_OK), ("out_drop", 1, TC_ACT_SHOT), ("in_pass", 0, i32::MAX)],
    );
    let wanted = insn(0xb7, 0, 0, 0, i32::MAX);
    let at = bytes.windows(8).position(|window| window == wanted).expect("the marked instruction");
    bytes[at..at + 8].copy_from_slice(&insn(0xbf, 0, 5, 0, 0));
    object_with_seal(bytes)
}

/// An object with a manifest and programs: name, rule counted, verdict.
pub fn build(manifest: &Manifest, programs: &[(&str, u32, i32)]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = |object: &mut Object, name: &str, kind, data: &[u8]| {
        let id = object.add_section(Vec::new(), name.as_bytes().to_vec(), kind);
        object.append_section_data(id, data, 8);
        id
    };
    section(&mut object, "license", SectionKind::Data, b"GPL\0");
    section(&mut object, MANIFEST, SectionKind::Other, &manifest.encode().expect("encodes"));
    section(&mut object, SEAL, SectionKind::Other, &[0; SEAL_BYTES]);

    let record = maps::record_bytes(
        u32::try_from(manifest.labels.len() + manifest.ports.len()).expect("few"),
    );
    let n_counters = maps::rule_counter(u32::try_from(manifest.rules.len()).expect("few"));
    let definitions = [
        (maps::ADDRESSES4, ARRAY, 4, maps::ADDRESSES4_BYTES, 1),
        (maps::ADDRESSES6, HASH, maps::ADDRESS_KEY_BYTES, 4, maps::IDENTS_MAX),
        (maps::IDENTS, ARRAY, 4, maps::IDENTS_BYTES, 1),
        (maps::RECORDS, ARRAY, 4, record, maps::RECORDS_MIN),
        (maps::LOCAL, HASH, maps::LOCAL_KEY_BYTES, 4, maps::IDENTS_MAX),
        (maps::CONNTRACK, LRU_HASH, maps::CONNTRACK_KEY_BYTES, maps::CONNTRACK_VALUE_BYTES, 64),
        (maps::COUNTERS, PERCPU_ARRAY, 4, maps::COUNTER_BYTES, n_counters),
    ];
    // The legacy form: type, key, value, entries, flags. aya reads it without BTF.
    let maps_section = object.add_section(Vec::new(), b"maps".to_vec(), SectionKind::Data);
    let mut counters = None;
    for (name, kind, key, value, entries) in definitions {
        let data: Vec<u8> = [kind, key, value, entries, if kind == ARRAY { MMAPABLE } else { 0 }]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        let offset = object.append_section_data(maps_section, &data, 4);
        let symbol = symbol(&mut object, name, maps_section, offset, data.len(), SymbolKind::Data);
        if name == maps::COUNTERS {
            counters = Some(symbol);
        }
    }
    let section = section(&mut object, PROGRAM_SECTION, SectionKind::Text, &[]);
    for (name, rule, verdict) in programs {
        let code: Vec<u8> = program(maps::rule_counter(*rule), *verdict).concat();
        let at = object.append_section_data(section, &code, 8);
        symbol(&mut object, name, section, at, code.len(), SymbolKind::Text);
        let relocation = Relocation {
            offset: at + 8 * LOAD_MAP,
            symbol: counters.expect("the counters map"),
            addend: 0,
            flags: RelocationFlags::Elf { r_type: R_BPF_64_64 },
        };
        object.add_relocation(section, relocation).expect("a relocation of BPF");
    }
    object_with_seal(object.write().expect("an object"))
}

fn object_with_seal(bytes: Vec<u8>) -> Vec<u8> {
    seg_artifact::object::seal(bytes).expect("an object with a place for its seal")
}

fn symbol(
    object: &mut Object,
    name: &str,
    section: object::write::SectionId,
    value: u64,
    size: usize,
    kind: SymbolKind,
) -> object::write::SymbolId {
    object.add_symbol(Symbol {
        name: name.as_bytes().to_vec(),
        value,
        size: size as u64,
        kind,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    })
}

/// Index of the instruction that loads the counters map.
const LOAD_MAP: u64 = 4;

/// Counts a packet and its bytes, then decides.
fn program(counter: u32, verdict: i32) -> [[u8; 8]; 17] {
    let counter = i32::try_from(counter).expect("few counters");
    [
        insn(0xbf, 6, 1, 0, 0),         // r6 = context
        insn(0x62, 10, 0, -4, counter), // *(u32 *)(r10 - 4) = counter
        insn(0xbf, 2, 10, 0, 0),        // r2 = r10
        insn(0x07, 2, 0, 0, -4),        // r2 -= 4
        insn(0x18, 1, 0, 0, 0),         // r1 = counters, by relocation
        insn(0, 0, 0, 0, 0),
        insn(0x85, 0, 0, 0, 1), // r0 = map_lookup_elem(r1, r2)
        insn(0x15, 0, 0, 7, 0), // if r0 == 0, decide
        insn(0x79, 1, 0, 0, 0), // packets += 1
        insn(0x07, 1, 0, 0, 1),
        insn(0x7b, 0, 1, 0, 0),
        insn(0x79, 1, 0, 8, 0), // bytes += skb->len
        insn(0x61, 2, 6, 0, 0),
        insn(0x0f, 1, 2, 0, 0),
        insn(0x7b, 0, 1, 8, 0),
        insn(0xb7, 0, 0, 0, verdict), // r0 = verdict
        insn(0x95, 0, 0, 0, 0),       // exit
    ]
}

/// An instruction, RFC 9669 section 3.
fn insn(opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let [o0, o1] = offset.to_le_bytes();
    let [i0, i1, i2, i3] = immediate.to_le_bytes();
    [opcode, to | from << 4, o0, o1, i0, i1, i2, i3]
}
