//! Objects as the world's loaders see them.

use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use cranelift_codegen::ir::{Function, SourceLoc};
use libtest_mimic::{Failed, Trial};
use seg_artifact::manifest::{Digests, Manifest, Roles, Target};
use seg_artifact::{object, version};
use seg_compiler::link::{Line, Sections, link, map_specs};
use seg_compiler::lower::lower;
use seg_compiler::native::Engine;
use seg_compiler::program::Layout;
use seg_tests::testrun::Kernel;
use seg_tests::{bpftool, harness};

/// The trials; those that ask a kernel are skipped where there is none, or no bpftool.
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("an_object_opens_and_is_the_same_when_linked_again", opens),
        harness::kernel("an_object_loads_with_aya", loads_with_aya),
        harness::bpftool("an_object_loads_with_bpftool", loads_with_bpftool),
        harness::kernel("programs_loaded_by_aya_read_tables", aya_reads_tables),
        harness::bpftool("programs_loaded_by_bpftool_read_tables", bpftool_reads_tables),
        Trial::test("machine_code_reads_tables", machine_code_reads_tables),
    ]
}

const STATEMENT: &str = "policy web: allow from app.web to app.db on tcp/5432";

/// Cases of `tests/data/clif`: maps, helpers and stack; a packet; a table.
const CASES: [&str; 3] =
    ["maps_helpers_and_stack", "packet_load_behind_its_bounds_check", "table_of_constants"];

fn functions(case: &str) -> Result<Vec<Function>, Failed> {
    let path = harness::root().join(format!("tests/data/clif/{case}.clif"));
    Ok(cranelift_reader::parse_functions(&std::fs::read_to_string(path)?)?)
}

/// What the third program returns for a frame, which is the counter it moves, too: by the last two bits of its length.
const TABLE: [u32; 4] = [7, 1, 5, 2];

fn table() -> Vec<u8> {
    TABLE.iter().flat_map(|entry| entry.to_ne_bytes()).collect()
}

/// Frames that every loader takes, and what becomes of them.
fn frames() -> impl Iterator<Item = (Vec<u8>, u32)> {
    (60..64).map(|n| (vec![0; n], TABLE[n % 4]))
}

/// Three programs.
fn object() -> Result<Vec<u8>, Failed> {
    let mut programs = Vec::new();
    for case in CASES {
        for mut func in functions(case)? {
            locate(&mut func);
            programs.push(lower(&func, func.name.to_string().trim_start_matches('%'))?);
        }
    }
    let roles = |program: &str| Roles {
        root: Target::Role(0),
        nodes: Vec::new(),
        programs: vec![program.to_owned()],
    };
    let manifest = Manifest {
        ports: Vec::new(),
        format: version::FORMAT,
        edition: version::EDITION.to_owned(),
        compiler: "test".to_owned(),
        package: "test".to_owned(),
        kernel: version::KERNEL_MIN.to_owned(),
        labels: Vec::new(),
        outbound: roles(&programs[0].name),
        inbound: roles(&programs[1].name),
        workloads: Vec::new(),
        not_after: None,
        nets: Vec::new(),
        rules: Vec::new(),
        sources: Vec::new(),
        digests: Digests { guard: String::new(), policy: String::new(), baseline: String::new() },
    };
    let line = |bits: u32| Line {
        file: "shop/web.seg".to_owned(),
        line: 10 + bits,
        column: 5,
        text: if bits == 1 { STATEMENT.to_owned() } else { format!("rule {bits}") },
    };
    let (tables, manifest) = (table(), manifest.encode()?);
    let sections = Sections { tables: &tables, classes: &[], manifest: &manifest };
    Ok(link(&programs, &map_specs(2, 5), &sections, &line))
}

/// Every block is a source line of its own; the first instructions have none.
fn locate(func: &mut Function) {
    let blocks: Vec<_> = func.layout.blocks().collect();
    for (block, line) in blocks.into_iter().zip(1..) {
        let insts: Vec<_> = func.layout.block_insts(block).collect();
        for inst in insts.into_iter().skip(1) {
            func.set_srcloc(inst, SourceLoc::new(line));
        }
    }
}

fn opens() -> Result<(), Failed> {
    let bytes = object()?;
    if object()? != bytes {
        return Err("two links gave two objects".into());
    }
    object::open(&bytes)?;
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    if object::open(&damaged).is_ok() {
        return Err("a damaged object opens".into());
    }
    Ok(())
}

fn loads_with_aya() -> Result<(), Failed> {
    let mut ebpf = EbpfLoader::new().load(&object()?)?;
    for name in ["lookup", "packet"] {
        let program: &mut SchedClassifier =
            ebpf.program_mut(name).ok_or("no program")?.try_into()?;
        program.load()?;
    }
    for spec in map_specs(2, 5) {
        let found = ebpf.map(spec.name).ok_or("no map")?;
        let data = match found {
            aya::maps::Map::HashMap(data)
            | aya::maps::Map::Array(data)
            | aya::maps::Map::LruHashMap(data)
            | aya::maps::Map::PerCpuArray(data) => data,
            other => return Err(format!("{other:?}").into()),
        };
        let info = data.info()?;
        let sizes = (info.key_size(), info.value_size(), info.max_entries());
        if sizes != (spec.key.bytes(), spec.value.bytes(), spec.entries) {
            return Err(format!("{}: {sizes:?}", spec.name).into());
        }
    }
    Ok(())
}

fn aya_reads_tables() -> Result<(), Failed> {
    let kernel = Kernel::of_object(&object()?, &["table".to_owned()])?;
    for (frame, wanted) in frames() {
        assert_eq!(kernel.run(0, &frame)?.cast_unsigned(), wanted);
    }
    // The same bytes without an object around the program.
    let program = lower(&functions(CASES[2])?[0], "table")?;
    let kernel = Kernel::new(&[program], 2, &table())?;
    for (frame, wanted) in frames() {
        assert_eq!(kernel.run(0, &frame)?.cast_unsigned(), wanted);
    }
    Ok(())
}

fn bpftool_reads_tables() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("policy.bpf.o");
    std::fs::write(&path, object()?)?;
    for (frame, wanted) in frames() {
        assert_eq!(bpftool::load_and_run(&path, "table", &frame)?, wanted);
    }
    Ok(())
}

fn machine_code_reads_tables() -> Result<(), Failed> {
    let mut engine = Engine::new(
        &functions(CASES[2])?,
        Layout { n_labels: 2, n_ports: 0, n_nets: 0 },
        &table(),
    )?;
    for (frame, wanted) in frames() {
        let outcome = engine.run(0, 1, &frame);
        assert_eq!((outcome.action.cast_unsigned(), outcome.counter), (wanted, wanted));
    }
    Ok(())
}

fn loads_with_bpftool() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("policy.bpf.o");
    std::fs::write(&path, object()?)?;
    let dump = bpftool::load_and_dump(&path, &["lookup"])?;
    for wanted in [STATEMENT, "web.seg", "line_num:11", "rule 3"] {
        if !dump.contains(wanted) {
            return Err(format!("no `{wanted}` in\n{dump}").into());
        }
    }
    Ok(())
}
