//! Seg's own programs as contenders.
//!
//! [`Plug`] is where a form of them comes in. [`WholeProgram`] is what `segd` attaches: headers are parsed, ends identified, the
//! flow decided, the connection remembered and a counter moved. [`Decision`] is the part of it that the policy makes: from a flow
//! to a verdict, who the ends are included. Objects are linked here and not by a loader, so that a program can be made part of
//! the harness; what its maps hold is what `segd` plans to fill them with.

use super::{Contender, Form};
use crate::assembler::{Assembler, r};
use crate::bpf::{Map, MapSpec, RDONLY_PROG};
use aya_obj::EbpfSectionKind;
use seg_artifact::maps;
use seg_artifact::object::{Artifact, TABLES, open};
use seg_compiler::bpf::{Alu, Insn, SLOT_BYTES};
use seg_compiler::decided::{Config, Shape, decide};
use seg_compiler::link::map_specs;
use seg_compiler::lower::lower;
use seg_compiler::pipeline;
use seg_lang::analyze::{Analysis, analyze};
use seg_lang::policy::Policy;
use seg_lang::source::Sources;
use seg_runtime::idents::Network;
use seg_runtime::kernel::Link;
use seg_runtime::plan::{Action, Plan, Seen, plan};
use seg_runtime::{endpoints, inventory};
use std::collections::{BTreeMap, HashSet};

/// A way for Seg to take part.
pub trait Plug {
    /// What decides as the compiled policy does.
    ///
    /// # Errors
    /// Why it cannot.
    fn contender(&self) -> Result<Contender, String>;
}

/// Compiles a policy, given as path and text of each file, to an object that decides in this way, or in the cheaper one.
///
/// # Errors
/// What the language or the compiler says.
pub fn compile(files: Vec<(String, String)>, shape: Option<Shape>) -> Result<Vec<u8>, String> {
    let analysis = analyzed(files);
    let config = Config { shape, ..Config::default() };
    let compiled = pipeline::compile(policy(&analysis)?, &analysis.sources, "policy", config);
    compiled.map(|compiled| compiled.object).map_err(|e| e.to_string())
}

fn analyzed(files: Vec<(String, String)>) -> Analysis {
    let mut sources = Sources::default();
    for (path, text) in files {
        sources.add(path, text);
    }
    analyze(sources)
}

fn policy(analysis: &Analysis) -> Result<&Policy, String> {
    let told = || analysis.diagnostics.first().map(|d| d.message.clone()).unwrap_or_default();
    analysis.policy.as_ref().ok_or_else(told)
}

/// The program for what the one local endpoint of an inventory receives.
#[derive(Debug)]
pub struct WholeProgram<'a> {
    /// The compiled policy.
    pub object: &'a [u8],
    /// The endpoints file; one endpoint is behind the interface `lo`, where test runs come in.
    pub inventory: &'a str,
    /// Whether packets go to addresses that no endpoint has.
    pub anyone: bool,
}

impl Plug for WholeProgram<'_> {
    fn contender(&self) -> Result<Contender, String> {
        let mut node = Node::new(self.object, self.inventory)?;
        let n_nets = node.artifact.manifest.nets.len();
        if self.anyone && node.n_behind < n_nets {
            return Err(format!(
                "with {n_nets} nets endpoints get what is sent to their addresses"
            ));
        }
        let linked = node.object.maps.clone();
        let linked = linked.iter().map(|(name, map)| (name.as_str(), node.maps[name].fd(), map));
        let sections: HashSet<usize> = node.object.functions.keys().map(|key| key.0).collect();
        node.object.relocate_maps(linked, &sections).map_err(|e| e.to_string())?;
        let program = node.object.programs.get(&node.inbound).ok_or("no such program")?;
        let function = node.object.functions.get(&program.function_key());
        let slots = function.ok_or("no such function")?.instructions.iter().map(slot);

        let mut body = Assembler::default();
        let end = body.label();
        body.program(&slots.collect::<Vec<_>>(), end)?;
        body.bind(end);
        // -1 passes, 2 drops.
        body.alu32(Alu::Rsh, r(0), 31_u32);
        Ok(node.contender("seg, whole program", Form::Headers, body))
    }
}

/// What decides about flows to the local endpoint of an inventory.
#[derive(Debug)]
pub struct Decision<'a> {
    /// The policy: path and text of each file.
    pub files: Vec<(String, String)>,
    /// The way [`Self::object`] was asked to decide in.
    pub shape: Option<Shape>,
    /// The compiled policy, for its maps.
    pub object: &'a [u8],
    /// As in [`WholeProgram`].
    pub inventory: &'a str,
    /// Whether it is asked about flows to anyone: one program must decide about all.
    pub anyone: bool,
}

impl Plug for Decision<'_> {
    fn contender(&self) -> Result<Contender, String> {
        let node = Node::new(self.object, self.inventory)?;
        let n_programs = node.artifact.manifest.inbound.programs.len();
        if self.anyone && n_programs > 1 {
            return Err(format!("endpoints have {n_programs} programs, none decides about all"));
        }
        let analysis = analyzed(self.files.clone());
        let config = Config { shape: self.shape, ..Config::default() };
        let choice = decide(policy(&analysis)?, config).map_err(|e| e.to_string())?;
        let decisions = choice.decided.decisions();
        let (name, function) =
            decisions.iter().find(|(name, _)| *name == node.inbound).ok_or("no such decision")?;
        let mut program = lower(function, name).map_err(|e| e.to_string())?;
        let specs = map_specs(0, 0);
        for &(at, map) in &program.relocations {
            let spec = specs.iter().find(|spec| spec.map == map);
            let map = spec.map_or(TABLES, |spec| spec.name);
            let map = node.maps.get(map).ok_or_else(|| format!("no map {map}"))?;
            if let Insn::MapFd { fd, .. } | Insn::MapValue { fd, .. } = &mut program.insns[at] {
                *fd = map.fd();
            }
        }
        let slots: Vec<[u8; SLOT_BYTES]> = program.insns.iter().map(|i| i.encode()).collect();

        let mut body = Assembler::default();
        let end = body.label();
        body.program(&slots, end)?;
        body.bind(end);
        body.alu(Alu::And, r(0), 1_u32);
        Ok(node.contender("seg, decision alone", Form::Flow, body))
    }
}

/// An object with its maps as they are on a node.
struct Node {
    artifact: Artifact,
    object: aya_obj::Object,
    maps: BTreeMap<String, Map>,
    /// The inbound program of the local endpoint.
    inbound: String,
    /// Under how many nets it is known beside its addresses.
    n_behind: usize,
}

impl Node {
    fn new(bytes: &[u8], inventory: &str) -> Result<Self, String> {
        let told = |refused: Vec<seg_runtime::refusal::Refusal>| format!("{:?}", refused.first());
        let artifact = open(bytes).map_err(|e| e.to_string())?;
        let endpoints = endpoints::read(inventory).map_err(told)?;
        let records = inventory::number(&endpoints, &artifact.manifest).map_err(told)?;
        let loopback = Link {
            index: crate::testrun::IFINDEX,
            name: "lo".to_owned(),
            // As an endpoint's veth has; its own would be refused.
            link_type: 1,
            leads_to: None,
        };
        let seen = Seen { links: vec![loopback], ..Seen::default() };
        let plan = plan(&records, Network::of(&artifact), &seen).map_err(told)?;
        let object = aya_obj::Object::parse(bytes).map_err(|e| e.to_string())?;
        let maps = create(&object, &plan)?;
        fill(&maps, &plan)?;
        let binding = plan.bindings.first().ok_or("no local endpoint")?;
        let inbound = binding.record.inbound.clone();
        let n_behind = plan.given.iter().map(|given| given.behind.len()).sum();
        Ok(Self { artifact, object, maps, inbound, n_behind })
    }

    fn contender(self, name: &str, form: Form, body: Assembler) -> Contender {
        let shape = if self.artifact.classes.is_some() { "tables" } else { "comparisons" };
        let note = format!("{shape}, {} instructions of its own", body.len());
        let linked = self.maps.into_values().collect();
        Contender { form, note, linked, ..Contender::new(name, body, Vec::new()) }
    }
}

/// The maps of an object, as a loader makes them for a plan.
fn create(object: &aya_obj::Object, plan: &Plan) -> Result<BTreeMap<String, Map>, String> {
    let n_records = plan.actions.iter().find_map(|action| {
        let Action::Open { n_records } = action else { return None };
        Some(*n_records)
    });
    let make = |(name, map): (&String, &aya_obj::Map)| {
        let is_data = map.section_kind() == EbpfSectionKind::Rodata;
        let asked = n_records.filter(|_| name == maps::RECORDS);
        let made = Map::new(MapSpec {
            kind: map.map_type(),
            key: map.key_size(),
            value: map.value_size(),
            entries: asked.unwrap_or(map.max_entries()),
            flags: map.map_flags() | if is_data { RDONLY_PROG } else { 0 },
        });
        let made = made.map_err(|e| format!("map {name}: {e}"))?;
        if is_data {
            let filled = made.set(&[0; 4], map.data()).and_then(|()| made.freeze());
            filled.map_err(|e| format!("map {name}: {e}"))?;
        }
        Ok((name.clone(), made))
    };
    object.maps.iter().map(make).collect()
}

/// Fills maps as `segd` does, what goes into arrays at last and all at once.
fn fill(maps: &BTreeMap<String, Map>, plan: &Plan) -> Result<(), String> {
    let mut arrays: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for action in &plan.actions {
        match action {
            Action::Fill { map, key, value, .. } => {
                let target = maps.get(*map).ok_or_else(|| format!("no map {map}"))?;
                target.set(key, value).map_err(|e| format!("map {map}: {e}"))?;
            }
            Action::Store(store) => {
                let target = maps.get(store.map).ok_or_else(|| format!("no map {}", store.map))?;
                let image = arrays.entry(store.map).or_insert_with(|| vec![0; target.image()]);
                image[store.offset as usize..][..store.bytes.len()].copy_from_slice(&store.bytes);
            }
            Action::Open { .. }
            | Action::Load { .. }
            | Action::Attach { .. }
            | Action::Remove { .. }
            | Action::Replace { .. } => {}
        }
    }
    for (name, image) in arrays {
        maps[name].set_all(&image).map_err(|e| format!("map {name}: {e}"))?;
    }
    Ok(())
}

fn slot(insn: &aya_obj::generated::bpf_insn) -> [u8; SLOT_BYTES] {
    let (dst, src) = (insn.dst_reg(), insn.src_reg());
    let regs = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    let ([o0, o1], [i0, i1, i2, i3]) = (insn.off.to_ne_bytes(), insn.imm.to_ne_bytes());
    [insn.code, regs, o0, o1, i0, i1, i2, i3]
}
