//! Hostile objects: what is damaged is refused, and what was sealed again after a change does no harm.
//!
//! A seal is no signature: whoever changes an object can seal it. So the reader, the loader and the kernel get such objects, too.

use aya::maps::loaded_maps;
use aya::programs::{SchedClassifier, TcAttachType};
use libtest_mimic::{Failed, Trial};
use object::elf::{FileHeader64, SectionHeader64};
use object::{Endianness, Object, ObjectSection};
use seg_artifact::maps::CONNTRACK;
use seg_artifact::object::{MANIFEST, OBJECT_BYTES_MAX, PROGRAM_SECTION, SEAL, open, seal};
use seg_compiler::decided::{Config, Shape};
use seg_compiler::pipeline::{self, Compiled};
use seg_lang::analyze::analyze;
use seg_tests::daemon::Daemon;
use seg_tests::fuzz::{object_reader_refuses, read_object};
use seg_tests::net::{self, Net};
use seg_tests::random::Random;
use seg_tests::tools::{binaries, copy_folder};
use seg_tests::{bpftool, harness};
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem::{offset_of, size_of};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

type Elf = FileHeader64<Endianness>;
type Header = SectionHeader64<Endianness>;
type Mutation = fn(Vec<u8>, &mut Random) -> Vec<u8>;

/// Of each kind, for each example.
const MUTANTS: u64 = 1_000;
/// What reading may allocate in all: so many times the bytes read, and [`ALLOCATED_PLUS`].
const ALLOCATED_TIMES: usize = 16;
/// Unit: bytes.
const ALLOCATED_PLUS: usize = 1 << 16;

const MUTATIONS: [(&str, Mutation); 4] = [
    ("truncated", truncate),
    ("bits_flipped", flip),
    ("ranges_zeroed_or_swapped", exchange),
    ("headers_changed", change_headers),
];

fn main() -> ExitCode {
    let mut trials = vec![
        Trial::test("manifests_that_contradict_are_refused", contradictory_manifests),
        Trial::test("absurd_sizes_are_refused", absurd_sizes),
        Trial::test("the_fuzz_target_holds_for_a_second", fuzz_for_a_second),
        Trial::test("segc_inspect_refuses_in_one_line", inspect_refuses_in_one_line),
        harness::kernel("segd_refuses_and_leaves_nothing", segd_refuses_and_leaves_nothing),
    ];
    for (name, folder) in examples() {
        let trial = |title: &str, run: fn(&Path) -> Result<(), Failed>| {
            let folder = folder.clone();
            Trial::test(format!("{name}/{title}"), move || run(&folder))
        };
        trials.push(trial("builds_to_the_same_bytes_anywhere", same_bytes));
        trials.push(trial("manifests_changed_and_sealed", changed_manifests));
        for (kind, mutation) in MUTATIONS {
            let folder = folder.clone();
            trials.push(Trial::test(format!("{name}/{kind}"), move || {
                mutants(&compile(&folder)?.object, mutation)
            }));
        }
        trials.push(harness::bpftool(&format!("{name}/loads_with_bpftool"), move || {
            loads_with_bpftool(&folder)
        }));
    }
    harness::main(trials).exit_code()
}

fn examples() -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(harness::root().join("examples")).into_iter().flatten();
    let named = entries.flatten().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()));
    let mut examples: Vec<_> = named.filter(|(_, path)| path.is_dir()).collect();
    examples.sort();
    assert!(examples.len() >= 3, "{examples:?}");
    examples
}

fn compile(package: &Path) -> Result<Compiled, Failed> {
    compile_as(package, Config::default())
}

fn compile_as(package: &Path, config: Config) -> Result<Compiled, Failed> {
    let package = segc::package::load(package).map_err(|error| error.0)?;
    let analysis = analyze(package.sources);
    let policy = analysis.policy.ok_or("the example does not check")?;
    Ok(pipeline::compile(&policy, &analysis.sources, &package.name, config)?)
}

/// The smallest of the examples.
fn starwars() -> Result<Vec<u8>, Failed> {
    Ok(compile(&harness::root().join("examples/starwars"))?.object)
}

/// Damaged, an object is refused; sealed again, it is refused or whole.
fn mutants(object: &[u8], mutation: Mutation) -> Result<(), Failed> {
    open(object)?;
    let (mut n_changed, mut n_accepted) = (0, 0);
    for seed in 1..=MUTANTS {
        let mutant = mutation(object.to_vec(), &mut Random::new(seed));
        if mutant == object {
            continue;
        }
        n_changed += 1;
        assert!(!read_within_bounds(&mutant, seed), "seed {seed} is accepted");
        if let Ok(sealed) = seal(mutant) {
            n_accepted += usize::from(read_within_bounds(&sealed, seed));
        }
    }
    eprintln!("{n_changed} mutants, {n_accepted} accepted once sealed");
    if n_changed < MUTANTS * 9 / 10 { Err("too few mutants".into()) } else { Ok(()) }
}

/// Whether the reader accepts the bytes; what it allocates, and the check of what it accepted, is in proportion to them.
fn read_within_bounds(bytes: &[u8], seed: u64) -> bool {
    let before = ALLOCATED.get();
    let accepted = read_object(bytes);
    let allocated = ALLOCATED.get() - before;
    let bound = ALLOCATED_TIMES * bytes.len() + ALLOCATED_PLUS;
    assert!(allocated <= bound, "seed {seed}: {allocated} bytes for {}", bytes.len());
    accepted
}

fn truncate(mut object: Vec<u8>, random: &mut Random) -> Vec<u8> {
    object.truncate(random.below(object.len()));
    object
}

fn flip(mut object: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(8) {
        let at = random.below(object.len());
        object[at] ^= 1 << random.below(8);
    }
    object
}

fn exchange(mut object: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let len = 1 + random.below(256);
    let [a, b] = [0; 2].map(|_: usize| random.below(object.len() - len));
    match random.below(3) {
        0 => object[a..a + len].fill(0),
        1 => object.copy_within(a..a + len, b),
        _ => (0..len).for_each(|n| object.swap(a + n, b + n)),
    }
    object
}

/// Sets fields of the ELF header and of section headers to numbers that are a limit somewhere.
fn change_headers(mut object: Vec<u8>, random: &mut Random) -> Vec<u8> {
    // Read before anything changes.
    let (table, n_sections) = section_table(&object);
    for _ in 0..=random.below(3) {
        let section = random.below(n_sections + 1).checked_sub(1);
        let header = section.map_or(0, |section| table + section * size_of::<Header>());
        let size = if section.is_some() { size_of::<Header>() } else { size_of::<Elf>() };
        let n_bytes = *random.pick(&[1, 2, 4, 8]);
        let at = header + random.below(size / n_bytes) * n_bytes;
        let (own, len) = (u64::from(object[at]), object.len() as u64);
        let near = [own + 1, own.wrapping_sub(1), 0, 1, 8, 32, len, len - 1, len / 2];
        let far = [1 << 11, 1 << 15, 1 << 31, 1 << 32, 1 << 63, u64::MAX];
        let value = random.pick(&[&near[..], &far].concat()).to_ne_bytes();
        object[at..at + n_bytes].copy_from_slice(&value[..n_bytes]);
    }
    object
}

/// Where the section headers begin, and how many there are.
fn section_table(object: &[u8]) -> (usize, usize) {
    let field = |at: usize, n: usize| {
        let mut number = [0; 8];
        number[..n].copy_from_slice(&object[at..at + n]);
        usize::from_le_bytes(number)
    };
    (field(offset_of!(Elf, e_shoff), 8), field(offset_of!(Elf, e_shnum), 2))
}

/// The bytes of a section.
fn section(object: &[u8], name: &str) -> Result<Range<usize>, Failed> {
    let file = object::File::parse(object)?;
    let section = file.section_by_name(name).ok_or_else(|| format!("no section {name}"))?;
    let (start, size) = section.file_range().ok_or("a section without bytes")?;
    Ok(start as usize..(start + size) as usize)
}

/// Points a section to other bytes of the file, not sealed.
fn moved(object: &[u8], name: &str, offset: u64, size: u64) -> Result<Vec<u8>, Failed> {
    let file = object::File::parse(object)?;
    let index = file.section_by_name(name).ok_or_else(|| format!("no section {name}"))?.index().0;
    let header = section_table(object).0 + index * size_of::<Header>();
    let mut object = object.to_vec();
    let fields = [(offset_of!(Header, sh_offset), offset), (offset_of!(Header, sh_size), size)];
    for (field, value) in fields {
        object[header + field..][..8].copy_from_slice(&value.to_ne_bytes());
    }
    Ok(object)
}

/// The object with another manifest, sealed.
fn with_manifest(object: &[u8], manifest: &[u8]) -> Result<Vec<u8>, Failed> {
    let longer = [object, manifest].concat();
    Ok(seal(moved(&longer, MANIFEST, object.len() as u64, manifest.len() as u64)?)?)
}

fn manifest(object: &[u8]) -> Result<Value, Failed> {
    Ok(serde_json::from_slice(&object[section(object, MANIFEST)?])?)
}

/// Manifests that contradict themselves or the object, each with a part of the refusal.
fn contradictions(sound: &Value) -> Result<Vec<(Vec<u8>, &'static str)>, Failed> {
    let label = |label: u32| json!({ "label": label });
    let node = |field: Value, edges: Value| json!({ "field": field, "edges": edges });
    let role = |last: u32| json!({ "last": last, "to": { "role": 0 } });
    let to_node = |node: u32| json!([{ "last": u32::MAX, "to": { "node": node } }]);
    let outbound =
        |nodes: &[Value]| json!({ "root": { "node": 0 }, "nodes": nodes, "programs": ["from_0"] });
    let all = || json!([role(u32::MAX)]);
    let cases = [
        ("/format", json!(0), "manifest format 0, this build reads format"),
        ("/format", json!(u32::MAX), "manifest format 4294967295"),
        ("/format", json!(1_u64 << 32), "does not decode"),
        ("/format", json!(-1), "does not decode"),
        ("/format", json!("1"), "does not decode"),
        ("/rules", json!(null), "does not decode"),
        ("/rules/0/line", json!(1_u64 << 40), "does not decode"),
        ("/rules/0/text", json!("allow \u{1b}[31m"), "control"),
        ("/sources/0/path", json!("gp\u{202e}ges.exe"), "control"),
        ("/package", json!("a\nb"), "control"),
        ("/workloads/0/name", json!("web\u{1b}[2J"), "control"),
        ("/workloads/0/labels", json!({ "org": "\u{202e}" }), "control"),
        ("/workloads/0/labels", json!({ "colour": "red" }), "a label that does not exist"),
        ("/workloads/0/labels", json!({ "org": 1 }), "does not decode"),
        ("/workloads/0/addresses", json!(["10.30.0.2"]), "an address of two workloads"),
        ("/workloads/0/addresses", json!(["10.30.0.0/8"]), "does not decode"),
        ("/outbound/root", json!({ "role": 9_999 }), "outbound roles are inconsistent: a role"),
        ("/inbound/root", json!({ "role": u32::MAX }), "inbound roles are inconsistent: a role"),
        ("/inbound/root", json!({ "node": 9_999 }), "inbound roles are inconsistent: a node that"),
        ("/outbound/programs", json!([]), "a role without a program"),
        ("/outbound/programs/0", json!("from_9999"), "no program `from_9999`"),
        ("/outbound/programs/0", json!(""), "no program ``"),
        ("/outbound/programs/0", json!(CONNTRACK), "no program `conntrack`"),
        ("/outbound/programs/0", json!(PROGRAM_SECTION), "no program `classifier`"),
        ("/outbound/programs/0", json!("from\u{1b}[31m"), "control"),
        ("/outbound", outbound(&[]), "a node that does not exist"),
        ("/outbound", outbound(&[node(label(0), json!([]))]), "do not cover every answer"),
        ("/outbound", outbound(&[node(label(0), json!([role(7)]))]), "do not cover every answer"),
        ("/outbound", outbound(&[node(label(0), json!([role(7), role(3)]))]), "do not ascend"),
        ("/outbound", outbound(&[node(label(0), json!([role(7), role(7)]))]), "do not ascend"),
        ("/outbound", outbound(&[node(label(u32::MAX), all())]), "a label that does not exist"),
        ("/outbound", outbound(&[node(json!("colour"), all())]), "does not decode"),
        ("/outbound", outbound(&[node(json!("is_self"), to_node(0))]), "refers backwards"),
        ("/outbound", outbound(&[node(label(0), to_node(1))]), "a node that does not exist"),
        (
            "/outbound",
            outbound(&[node(label(0), to_node(1)), node(label(0), to_node(0))]),
            "refers backwards",
        ),
    ];
    let mut manifests = Vec::new();
    for (at, value, refusal) in cases {
        let mut changed = sound.clone();
        *changed.pointer_mut(at).ok_or_else(|| format!("no {at} in the manifest"))? = value;
        manifests.push((serde_json::to_vec(&changed)?, refusal));
    }
    Ok(manifests)
}

/// Texts that are no manifest.
fn no_manifests(sound: &Value) -> Vec<Vec<u8>> {
    let sound = sound.to_string();
    let texts = [
        String::new(),
        "null".to_owned(),
        "{}".to_owned(),
        "[".repeat(100_000),
        format!("{sound}{{}}"),
        format!("{sound}\0"),
        sound[..sound.len() / 2].to_owned(),
        sound.replacen('{', "{\"more\":1,", 1),
        sound.replacen('{', "{\"mo\\u001bre\":1,", 1),
        sound.replacen('{', "{\"package\":\"other\",", 1),
        "{\"format\":2,\"package\":\"\u{fffd}\"}".to_owned(),
    ];
    // U+FFFD stands for a byte that is no UTF-8.
    let bytes = texts.map(|text| text.into_bytes());
    bytes.map(|bytes| bytes.into_iter().filter(|b| !matches!(b, 0xbf | 0xbd)).collect()).into()
}

fn hostile_manifests(object: &[u8]) -> Result<Vec<(Vec<u8>, &'static str)>, Failed> {
    let sound = manifest(object)?;
    let broken = no_manifests(&sound).into_iter().map(|bytes| (bytes, "does not decode"));
    Ok(contradictions(&sound)?.into_iter().chain(broken).collect())
}

fn contradictory_manifests() -> Result<(), Failed> {
    let object = starwars()?;
    let sound = serde_json::to_vec(&manifest(&object)?)?;
    assert!(open(&with_manifest(&object, &sound)?).is_ok(), "a sound manifest is refused");
    for (manifest, refusal) in hostile_manifests(&object)? {
        let hostile = with_manifest(&object, &manifest)?;
        let message = open(&hostile).err().map(|e| e.to_string()).unwrap_or_default();
        let text = String::from_utf8_lossy(&manifest[..manifest.len().min(200)]);
        assert!(message.contains(refusal), "wanted `{refusal}`, got `{message}` for {text}");
    }
    Ok(())
}

/// A thousand manifests with a few values exchanged, each refused or total.
fn changed_manifests(example: &Path) -> Result<(), Failed> {
    let object = compile(example)?.object;
    let sound = manifest(&object)?;
    let mut n_refused = 0;
    for seed in 1..=MUTANTS {
        let mut random = Random::new(seed);
        let mut changed = sound.clone();
        for _ in 0..=random.below(2) {
            change(&mut changed, &mut random);
        }
        let hostile = with_manifest(&object, &serde_json::to_vec(&changed)?)?;
        n_refused += u64::from(!read_within_bounds(&hostile, seed));
    }
    eprintln!("{n_refused} of {MUTANTS} changed manifests refused");
    // Some changes only word a rule differently.
    if n_refused < MUTANTS / 4 { Err(format!("only {n_refused} refused").into()) } else { Ok(()) }
}

/// Changes one value somewhere inside.
fn change(value: &mut Value, random: &mut Random) {
    let deeper = !random.chance(20);
    match value {
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = random.below(items.len());
            match random.below(12) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                2 => items.swap(at, 0),
                _ => change(&mut items[at], random),
            }
        }
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let at = random.below(fields.len());
            if let Some((_, field)) = fields.iter_mut().nth(at) {
                change(field, random);
            }
        }
        Value::Number(number) if deeper => {
            let number = number.as_u64().unwrap_or(0);
            let others =
                [0, number.saturating_add(1), number.saturating_sub(1), u32::MAX.into(), u64::MAX];
            *value = json!(random.pick(&others));
        }
        _ => {
            let others = [json!(null), json!(true), json!(0), json!(""), json!([]), json!({})];
            *value = random.pick(&others).clone();
        }
    }
}

fn absurd_sizes() -> Result<(), Failed> {
    let object = starwars()?;
    let end = object.len() as u64;
    let ranges = [(0, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX), (end, 1), (end - 1, 2)];
    for section in [MANIFEST, PROGRAM_SECTION, SEAL, ".symtab", ".strtab", ".shstrtab", ".maps"] {
        for (offset, size) in ranges {
            let hostile = moved(&object, section, offset, size)?;
            // Without its names, or with that size, an object has no place for a seal.
            if let Ok(sealed) = seal(hostile) {
                assert!(!read_within_bounds(&sealed, 0), "{section} at {offset}, {size} bytes");
            }
        }
    }
    let before = ALLOCATED.get();
    let huge = vec![0; OBJECT_BYTES_MAX + 1];
    let message = open(&huge).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("at most 67108864 are read"), "{message}");
    assert!(ALLOCATED.get() - before < 2 * huge.len());
    Ok(())
}

/// What `tests/fuzz` runs for hours: any mixture of the mutations.
fn fuzz_for_a_second() -> Result<(), Failed> {
    let object = starwars()?;
    let started = Instant::now();
    for seed in 1.. {
        let mut random = Random::new(seed);
        let mut mutant = object.clone();
        for _ in 0..=random.below(3) {
            // What is cut or has lost its headers breaks the other mutations.
            let (_, mutation) = MUTATIONS[1 + random.below(2)];
            mutant = mutation(mutant, &mut random);
        }
        object_reader_refuses(&mutant);
        if started.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    Ok(())
}

/// A few dozen objects that the reader refuses.
fn refused_objects(object: &[u8]) -> Result<Vec<Vec<u8>>, Failed> {
    let mut refused = Vec::new();
    for (_, mutation) in MUTATIONS {
        for seed in 1..=8 {
            let mutant = mutation(object.to_vec(), &mut Random::new(seed));
            if mutant != object {
                refused.push(mutant);
            }
        }
    }
    for (manifest, _) in hostile_manifests(object)? {
        refused.push(with_manifest(object, &manifest)?);
    }
    Ok(refused)
}

fn inspect_refuses_in_one_line() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("hostile.o");
    let inspect = || Command::new(binaries().join("segc")).arg("inspect").arg(&path).output();
    let object = starwars()?;
    std::fs::write(&path, &object)?;
    assert!(inspect()?.status.success());
    for hostile in refused_objects(&object)? {
        std::fs::write(&path, hostile)?;
        let output = inspect()?;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
        assert!(output.stdout.is_empty());
    }
    Ok(())
}

/// The object with another name for its connection map, as long as the first, and that name.
///
/// The kernel lists the map as long as a program that uses it is loaded, and every program does.
fn marked(object: &[u8]) -> Result<(Vec<u8>, String), Failed> {
    let mark = format!("t{:08x}", std::process::id());
    assert_eq!(mark.len(), CONNTRACK.len());
    let mut object = object.to_vec();
    let name = format!("{CONNTRACK}\0").into_bytes();
    for at in 0..object.len() - name.len() {
        if object[at..].starts_with(&name) {
            object[at..at + mark.len()].copy_from_slice(mark.as_bytes());
        }
    }
    Ok((seal(object)?, mark))
}

/// Objects that the reader accepts and segd cannot enforce, each with a part of the refusal.
fn unloadable_objects(object: &[u8]) -> Result<Vec<(Vec<u8>, &'static str)>, Failed> {
    let [btf, code, names] = [".BTF", PROGRAM_SECTION, ".strtab"].map(|n| section(object, n));
    let (btf, code, names) = (btf?, code?.start, names?);
    let with = |at: usize, bytes: &[u8]| {
        let mut object = object.to_vec();
        object[at..at + bytes.len()].copy_from_slice(bytes);
        seal(object)
    };
    let idents = object[names.clone()].windows(7).position(|name| name == b"\0idents");
    Ok(vec![
        // `r0 = *(u64 *)(r5 + 0)` where no program has set r5 yet, and a jump to itself.
        (with(code, &[0x79, 0x50, 0, 0, 0, 0, 0, 0])?, "R5 !read_ok"),
        (with(code, &[0x05, 0, 0xff, 0xff, 0, 0, 0, 0])?, "cannot load program"),
        // The length of the BTF's types, far outside the section.
        (with(btf.start + 12, &0x4000_0000_u32.to_ne_bytes())?, "cannot create the maps"),
        (with(btf.start, &[0; 24])?, "cannot create the maps"),
        (with(names.start + 1 + idents.ok_or("no name")?, b"x")?, "cannot create the maps"),
        (seal(moved(object, ".BTF", btf.start as u64, 0)?)?, "cannot create the maps"),
    ])
}

fn is_loaded(map: &str) -> bool {
    // Others come and go meanwhile, which shows as errors.
    loaded_maps().flatten().any(|info| info.name_as_str() == Some(map))
}

fn segd_refuses_and_leaves_nothing() -> Result<(), Failed> {
    let mut net = Net::new()?;
    let interface = net.attach("a", &["10.20.0.1".parse()?])?.node_interface.clone();
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let endpoints = format!(
        "[[endpoint]]\nname = \"a\"\naddresses = [\"10.20.0.1\"]\ninterface = \"{interface}\"\n"
    );
    std::fs::write(path("endpoints.toml"), endpoints)?;
    let start = |object: &[u8]| -> Result<Result<Daemon, String>, Failed> {
        std::fs::write(path("policy.bpf.o"), object)?;
        let node = Some(&*net.node().name);
        Ok(Daemon::start(node, &path("policy.bpf.o"), &path("endpoints.toml"), &path("run")))
    };
    let n_attached = || -> Result<usize, Failed> {
        let query = |side| SchedClassifier::query_tcx(&interface, side);
        let sides = [TcAttachType::Ingress, TcAttachType::Egress];
        let found = net::in_ns(&net.node().name, || sides.map(query))?;
        found.into_iter().try_fold(0, |sum, programs| Ok(sum + programs?.1.len()))
    };
    let (object, mark) = marked(&starwars()?)?;
    let nothing_stays = || -> Result<(), Failed> {
        assert_eq!(n_attached()?, 0);
        // The kernel frees what a process held some time after its end.
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_loaded(&mark) {
            assert!(Instant::now() < deadline, "a map stays behind");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    };

    // What must not stay is found while the object is enforced.
    let daemon = start(&object)??;
    assert!(is_loaded(&mark));
    assert_eq!(n_attached()?, 2);
    drop(daemon);
    nothing_stays()?;

    let refused = refused_objects(&object)?.into_iter().map(|object| (object, "policy.bpf.o: "));
    for (object, refusal) in refused.chain(unloadable_objects(&object)?) {
        let said = start(&object)?.err().ok_or_else(|| format!("not refused: {refusal}"))?;
        assert!(said.contains(refusal) && said.ends_with("exit status: 1"), "{refusal}: {said}");
        nothing_stays()?;
    }
    Ok(())
}

fn same_bytes(example: &Path) -> Result<(), Failed> {
    let object = compile(example)?.object;
    assert!(compile(example)?.object == object, "compiled twice");
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("copy");
    copy_folder(example, &copy)?;
    for (work, package) in [(folder.path(), example), (&copy, Path::new("."))] {
        let mut build = Command::new(binaries().join("segc"));
        build.arg("build").arg(package).args(["-o", "out.o"]).current_dir(work);
        let output = build.output()?;
        assert!(output.status.success(), "{output:?}");
        assert!(std::fs::read(work.join("out.o"))? == object, "{build:?}");
    }
    Ok(())
}

fn loads_with_bpftool(example: &Path) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("policy.bpf.o");
    let dump = |compiled: &Compiled| {
        std::fs::write(&path, &compiled.object)?;
        let names = compiled.programs.iter().take(8).map(|program| program.name.as_str());
        bpftool::load_and_dump(&path, &names.collect::<Vec<_>>())
    };
    dump(&compile(example)?)?;
    // Where comparisons decide, each verdict is that of a line.
    let compiled = compile_as(example, Config { shape: Some(Shape::Tree), ..Config::default() })?;
    let dump = dump(&compiled)?;
    let rules = open(&compiled.object)?.manifest.rules;
    let shown = rules.iter().any(|rule| {
        let place = format!("line_num:{}", rule.line);
        dump.lines().any(|l| l.contains(&rule.text) && l.contains(&rule.path) && l.contains(&place))
    });
    let start = || dump.lines().take(40).collect::<Vec<_>>().join("\n");
    if shown { Ok(()) } else { Err(format!("no line of the policy in\n{}", start()).into()) }
}

thread_local! {
    /// Bytes this thread has asked for, in all.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with a count.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is handed on unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get().wrapping_add(layout.size()));
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}
