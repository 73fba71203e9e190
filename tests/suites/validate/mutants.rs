//! What a broken compiler would emit: each change is made to the bytes of real objects, or in a step that makes them, and sealed.
//!
//! Every change gives some packet another verdict, rule, counter or state, so each must be refused. Changes that need not,
//! such as a signed comparison of numbers that are small, are not made.

use super::{comparisons, compile, written};
use libtest_mimic::{Failed, Trial};
use object::{Object, ObjectSection, ObjectSymbol};
use seg_artifact::manifest::{Manifest, Roles, Target};
use seg_artifact::maps::{self, RULE_COUNTERS};
use seg_artifact::object::{PROGRAM_SECTION, open, seal};
use seg_compiler::bpf::{self, Alu, Cond, Insn, Reg, SLOT_BYTES, Size, Src, Width};
use seg_compiler::check::{CheckError, check};
use seg_compiler::decided::Decided;
use seg_compiler::ir::{Map, Stage, helper};
use seg_compiler::link::{Line, Sections, link, map_specs};
use seg_compiler::lower::lower;
use seg_compiler::pipeline::{self, Compiled};
use seg_compiler::program::{self, DROP, Judge, Layout, PASS, Way};
use seg_compiler::tree::{Field, Leaf, Node, Tree};
use seg_lang::source::Sources;
use seg_tests::generate;
use seg_tests::random::Random;
use std::sync::OnceLock;

/// Objects with more programs are left out: those before the changed one are read first.
const PROGRAMS_MAX: usize = 12;
/// Generated policies beside the written ones.
const GENERATED: usize = 6;
/// Changes of a kind to an object.
const OF_KIND: usize = 3;

/// What an instruction becomes, if a kind of change applies to it.
type Change = fn(&At) -> Option<Insn>;
/// Other objects that a broken step would make.
type Broken = fn(&Subject) -> Vec<Vec<u8>>;

/// Kinds of change to one instruction.
const CHANGES: [(&str, Change); 37] = [
    ("tree_branch_goes_the_other_way", |at| at.in_tree()?.cond(|b| b.cond.inverse())),
    ("tree_bound_is_one_more", |at| at.in_tree()?.immediate(1)),
    ("tree_bound_is_one_less", |at| at.in_tree()?.immediate(-1)),
    ("tree_bound_is_left_out", |at| {
        at.in_tree()?.cond(|b| match b.cond {
            Cond::Le => Some(Cond::Lt),
            Cond::Gt => Some(Cond::Ge),
            _ => None,
        })
    }),
    ("tree_compares_half_of_an_address", |at| {
        at.of_half()?.branch(|b| Some(Branch { width: Width::W32, ..b }))
    }),
    ("tree_compares_signed", |at| {
        at.of_half()?.cond(|b| match b.cond {
            Cond::Le => Some(Cond::Sle),
            Cond::Gt => Some(Cond::Sgt),
            _ => None,
        })
    }),
    ("tree_compares_another_register", |at| {
        let other = |reg: Reg| Reg::new((reg.number() + 1) % 10);
        // A label that is also compared with the other end's is in two registers.
        at.in_tree()?
            .branch(|b| Some(Branch { dst: other(b.dst)?, ..b }))
            .filter(|_| !at.asks_twice())
    }),
    ("tree_branch_goes_one_too_far", |at| {
        let further = |offset| Some(offset + at.beyond(offset)?);
        at.in_tree()?.branch(|b| Some(Branch { offset: further(b.offset)?, ..b }))
    }),
    ("tree_jump_goes_one_too_far", |at| match at.in_tree()?.insn {
        Insn::Jump { offset } => Some(Insn::Jump { offset: offset + at.beyond(offset)? }),
        _ => None,
    }),
    ("tree_instruction_is_dropped", |at| at.in_tree()?.dropped()),
    ("field_instruction_is_dropped", |at| at.of_fields()?.dropped().filter(|_| at.tells_all())),
    ("field_is_another_of_the_record", |at| {
        at.of_fields()?
            .load(|l| (l.base != Reg::FRAME).then_some(Load { offset: l.offset + 4, ..l }))
    }),
    ("field_is_another_of_the_packet", |at| {
        let next = |l: Load| Load { offset: l.offset + bytes(l.size), ..l };
        let of_packet = |l: Load| l.base == Reg::FRAME && !spilled(l.offset);
        at.of_fields()?.load(|l| (of_packet(l) && at.tells_all()).then_some(next(l)))
    }),
    ("field_is_read_in_part", |at| {
        let size = |size| match size {
            Size::B8 => Some(Size::B4),
            Size::B4 => Some(Size::B2),
            Size::B2 => Some(Size::B1),
            Size::B1 => None,
        };
        at.of_fields()?.load(|l| Some(Load { size: size(l.size)?, ..l })).filter(|_| !at.fills())
    }),
    ("spilled_field_is_another", |at| {
        at.decides()?.load(|l| at.fills().then_some(Load { offset: l.offset + 8, ..l }))
    }),
    ("byte_swap_is_lost", |at| match at.of_fields()?.insn {
        Insn::Swap { .. } => Some(NOTHING),
        _ => None,
    }),
    ("byte_swap_is_of_another_size", |at| match at.of_fields()?.insn {
        Insn::Swap { order, size: Size::B4, dst } => {
            Some(Insn::Swap { order, size: Size::B2, dst })
        }
        Insn::Swap { order, size: Size::B8, dst } => {
            Some(Insn::Swap { order, size: Size::B4, dst })
        }
        _ => None,
    }),
    ("flag_is_another_bit", |at| at.of_fields()?.alu(Alu::Rsh, |imm| (imm == 31).then_some(30))),
    ("address_is_in_another_block", |at| {
        let mask = maps::BLOCKS4 as i32 - 1;
        let cuts = |insn: &Insn| matches!(insn, Insn::Alu { op: Alu::And, src: Src::Imm(imm), .. } if *imm == mask);
        // The peer's address comes second, and is cut twice.
        let of_peer = at.program.insns[at.at..].iter().filter(|insn| cuts(insn)).count() <= 2;
        at.of(Stage::Identify)?
            .alu(Alu::And, |imm| (imm == mask && of_peer && at.tells_all()).then_some(mask >> 1))
    }),
    ("peer_has_the_local_ends_ident", |at| {
        let [own, peer] = [52, 60].map(|note| -KEYS_BYTES - NOTES_BYTES + note);
        at.of(Stage::Identify)?
            .load(|l| (l.offset == peer && at.tells_all()).then_some(Load { offset: own, ..l }))
    }),
    ("protocol_is_shifted_less", |at| {
        at.of_fields()?.alu(Alu::Lsh, |imm| (imm == 16).then_some(15))
    }),
    ("family_is_the_other", |at| {
        let four = |b| Branch { src: Src::Imm(4), ..b };
        at.of_fields()?.branch(|b| (b.src == Src::Imm(6) && at.tells_all()).then_some(four(b)))
    }),
    ("end_is_managed_if_it_is_not", |at| {
        let of_ident = |b: &Branch| b.src == Src::Imm(0) && b.width == Width::W64 && at.tells_all();
        at.of_fields()?.cond(|b| b.cond.inverse().filter(|_| of_ident(b)))
    }),
    ("equal_labels_are_unequal", |at| {
        let moves =
            |insn| matches!(insn, Some(Insn::Alu { op: Alu::Mov, src: Src::Imm(0 | 1), .. }));
        let chooses = moves(at.before(1)) && moves(at.program.insns.get(at.at + 1).copied());
        at.of_fields()?.cond(|b| (chooses && b.cond == Cond::Eq).then_some(Cond::Ne))
    }),
    ("counter_is_the_next_rules", |at| at.leaf(|counter| counter + 1)),
    ("counter_is_no_rules", |at| at.leaf(|counter| if counter == 0 { 5 } else { 0 })),
    ("peer_is_the_local_end", |at| {
        let other = |imm| match imm {
            -40 => Some(-24),
            -24 => Some(-40),
            _ => None,
        };
        at.alu(Alu::Add, other).filter(|_| at.at + 1 == at.peer_lookup() && at.tells_all())
    }),
    ("local_end_is_that_of_another_interface", |at| {
        let asked = at.asks(|field| matches!(field, Field::Same(_) | Field::LocalPort(_)));
        at.of(Stage::Identify)?
            .load(|l| (l.offset == 40 && asked).then_some(Load { offset: 36, ..l }))
    }),
    ("verdict_is_the_opposite", |at| {
        at.store(at.action(), |value| match value {
            PASS => Some(DROP),
            DROP => Some(PASS),
            _ => None,
        })
    }),
    ("kind_of_packet_is_another", |at| {
        at.of(Stage::Track)?.alu(Alu::And, |imm| match imm {
            2 => Some(4),
            4 => Some(2),
            8 => Some(1),
            _ => None,
        })
    }),
    ("connection_is_not_remembered", |at| match at.insn {
        Insn::Call { helper: helper::MAP_UPDATE_ELEM } => Some(NOTHING),
        _ => None,
    }),
    ("unknown_connection_is_known", |at| {
        let after_lookup = at.before(1)? == Insn::Call { helper: helper::MAP_LOOKUP_ELEM };
        at.of(Stage::Track)?.cond(|b| b.cond.inverse()).filter(|_| after_lookup)
    }),
    ("packet_counts_twice", |at| at.of(Stage::Count)?.alu(Alu::Add, |imm| (imm == 1).then_some(2))),
    ("bytes_are_not_counted", |at| match at.of(Stage::Count)?.insn {
        Insn::Store { offset: 8, base, .. } if base != Reg::FRAME => Some(NOTHING),
        _ => None,
    }),
    ("another_counter_moves", |at| {
        let key = i32::from(at.counter());
        at.of(Stage::Count)?.alu(Alu::Add, |imm| (imm == key).then_some(key - 4))
    }),
    ("what_is_returned_is_not_what_was_noted", |at| match at.insn {
        Insn::Load { dst, offset, .. } if offset == at.action() => {
            let pass = Src::Imm(PASS);
            Some(Insn::Alu { width: Width::W32, op: Alu::Mov, dst, src: pass })
        }
        _ => None,
    }),
    ("parser_goes_to_a_rule", |at| match at.of(Stage::Parse)?.insn {
        Insn::Jump { offset } if offset > 0 => {
            let distance = at.rule_leaf()? as i64 - at.at as i64 - 1;
            Some(Insn::Jump { offset: i16::try_from(distance).ok()? })
        }
        _ => None,
    }),
];

/// Kinds of broken steps.
const BROKEN: [(&str, Broken); 16] = [
    ("allow_and_deny_are_exchanged", |s| {
        s.with_trees(|tree| leaf(tree, |leaf| leaf.allow ^= leaf.rule().is_some()))
    }),
    ("tree_has_another_bound", |s| s.with_trees(|tree| compare(tree, |_, bound| *bound += 1))),
    ("tree_has_its_sides_exchanged", |s| {
        s.with_trees(|tree| {
            let found = tree.nodes.iter_mut().rev().find_map(|node| match node {
                Node::Compare { below, above, .. } => {
                    std::mem::swap(below, above);
                    Some(())
                }
                Node::Leaf(_) => None,
            });
            found.is_some()
        })
    }),
    ("port_is_the_source_port", |s| {
        s.with_trees(|tree| {
            fields(tree, |field| match field {
                Field::Port => Some(Field::SourcePort),
                _ => None,
            })
        })
    }),
    ("addresses_of_both_ends_are_exchanged", |s| {
        s.with_trees(|tree| {
            fields(tree, |field| match field {
                Field::PeerAddress4 => Some(Field::LocalAddress4),
                Field::PeerAddress6High => Some(Field::LocalAddress6High),
                Field::PeerAddress6Low => Some(Field::LocalAddress6Low),
                _ => None,
            })
        })
    }),
    ("label_is_that_of_another_dimension", |s| {
        let n_labels = s.compiled.decided.labels().0.len() as u32;
        s.with_trees(|tree| {
            fields(tree, |field| match field {
                Field::PeerLabel(label) if n_labels > 1 => {
                    Some(Field::PeerLabel((label + 1) % n_labels))
                }
                _ => None,
            })
        })
    }),
    ("named_port_is_the_local_ends", |s| {
        s.with_trees(|tree| {
            fields(tree, |field| match field {
                Field::PeerPort(port) => Some(Field::LocalPort(port)),
                _ => None,
            })
        })
    }),
    ("managed_and_unmanaged_are_exchanged", |s| {
        s.with_trees(|tree| {
            let roots = &mut tree.roots;
            std::mem::swap(&mut roots.unmanaged4, &mut roots.managed4);
            // A tree that asks for labels there would not be built.
            roots.unmanaged4 != roots.managed4 && tree.verify().is_ok()
        })
    }),
    ("record_has_another_layout", |s| s.with_layout()),
    ("direction_is_the_other", |s| s.with_ways_exchanged()),
    ("programs_of_two_roles_are_exchanged", |s| {
        s.with_roles(|roles| {
            let two = roles.programs.len() > 1;
            if two {
                roles.programs.swap(0, 1)
            }
            two
        })
    }),
    ("role_is_that_of_others", |s| {
        s.with_roles(|roles| {
            let n_roles = roles.programs.len() as u32;
            let edges = roles.nodes.iter_mut().flat_map(|node| &mut node.edges);
            let mut targets = edges.filter_map(|edge| match &mut edge.to {
                Target::Role(role) => Some(role),
                Target::Node(_) => None,
            });
            targets.next().map(|role| *role = (*role + 1) % n_roles).is_some()
        })
    }),
    ("role_has_another_bound", |s| {
        s.with_roles(|roles| {
            let node = roles.nodes.iter_mut().find(|node| node.edges[0].last == 0);
            node.map(|node| node.edges.remove(0)).is_some()
        })
    }),
    ("labels_are_in_another_order", |s| {
        s.with_manifest(|manifest| {
            let two = manifest.labels.len() > 1;
            if two {
                manifest.labels.swap(0, 1)
            }
            two
        })
    }),
    ("rules_are_others", |s| {
        s.with_manifest(|manifest| {
            manifest.digests.policy = manifest.digests.guard.clone();
            let digests = &s.compiled.decided.rules().digests();
            manifest.digests != *digests
        })
    }),
    ("map_is_another", |s| s.with_maps_exchanged()),
];

pub(super) fn trials() -> Vec<Trial> {
    let changes = CHANGES.map(|(kind, change)| {
        Trial::test(format!("mutants/{kind}"), move || {
            killed(|subject, random| subject.changed(change, random))
        })
    });
    let broken = BROKEN.map(|(kind, broken)| {
        Trial::test(format!("mutants/{kind}"), move || {
            killed(|subject, random| {
                let mut objects: Vec<_> =
                    broken(subject).into_iter().map(|o| (String::new(), o)).collect();
                random.shuffle(&mut objects);
                objects
            })
        })
    });
    let kinds = CHANGES.len() + BROKEN.len();
    assert!(kinds >= 30, "{kinds}");
    changes.into_iter().chain(broken).collect()
}

/// Makes the changes of one kind to every object; none may be accepted.
fn killed(make: impl Fn(&Subject, &mut Random) -> Vec<(String, Vec<u8>)>) -> Result<(), Failed> {
    let (mut applied, mut different, mut survivors) = (0, 0, Vec::new());
    for subject in subjects() {
        let mut random = Random::new(7);
        for (what, object) in make(subject, &mut random).into_iter().take(OF_KIND) {
            applied += 1;
            match check(&subject.compiled.decided, &object) {
                Ok(_) => survivors.push(format!("{}: {what}", subject.name)),
                Err(CheckError::Open(error)) => return Err(format!("{what}: {error}").into()),
                Err(CheckError::Differs { .. }) => different += 1,
                Err(_) => {}
            }
        }
    }
    let killed = applied - survivors.len();
    println!("{killed} of {applied} killed, {different} with the flows they decide otherwise");
    match survivors.is_empty() {
        true if applied > 0 => Ok(()),
        true => Err("nothing to change".into()),
        false => Err(survivors.join("\n").into()),
    }
}

/// A compiled policy to change.
struct Subject {
    name: String,
    compiled: Compiled,
    manifest: Manifest,
}

fn subjects() -> &'static [Subject] {
    static SUBJECTS: OnceLock<Vec<Subject>> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let named = |name: String, compiled: Compiled| {
            let manifest = open(&compiled.object).expect("an object").manifest;
            Subject { name, compiled, manifest }
        };
        let of_file = |path: std::path::PathBuf| {
            let compiled = compile(&path).expect("it compiles");
            compiled.map(|compiled| named(path.display().to_string(), compiled))
        };
        let seeded = (1..).map(|seed| {
            let compiled = pipeline::compile(
                &generate::policy(seed),
                &Sources::default(),
                "generated",
                comparisons(),
            );
            named(format!("seed {seed}"), compiled.expect("it compiles"))
        });
        let small = |subject: &Subject| subject.compiled.programs.len() <= PROGRAMS_MAX;
        let written = written().into_iter().filter_map(of_file).filter(small);
        written.chain(seeded.filter(small).take(GENERATED)).collect()
    })
}

impl Subject {
    /// Some of the objects in which one instruction is changed.
    fn changed(&self, change: Change, random: &mut Random) -> Vec<(String, Vec<u8>)> {
        let programs = &self.compiled.programs;
        let sites = programs.iter().zip(self.trees()).flat_map(|(program, (_, tree))| {
            (0..program.insns.len()).map(move |at| At::new(program, tree, at))
        });
        let mut found: Vec<_> = sites.filter_map(|at| Some((change(&at)?, at))).collect();
        random.shuffle(&mut found);
        found.truncate(OF_KIND);
        let object = |(insn, at): (Insn, At)| {
            let what = format!("{} {}: `{}` becomes `{insn}`", at.program.name, at.at, at.insn);
            let mut object = self.compiled.object.clone();
            let start = self.code(&at.program.name) + at.at * SLOT_BYTES;
            object[start..start + SLOT_BYTES].copy_from_slice(&insn.encode());
            (what, seal(object).expect("an object"))
        };
        found.into_iter().map(object).collect()
    }

    /// Where in the object the code of a program begins.
    fn code(&self, program: &str) -> usize {
        let file = object::File::parse(self.compiled.object.as_slice()).expect("an object");
        let section = file.section_by_name(PROGRAM_SECTION).expect("programs");
        let symbol = file.symbols().find(|s| s.name() == Ok(program)).expect("a symbol");
        (section.file_range().expect("bytes").0 + symbol.address()) as usize
    }

    /// The object of these programs and this manifest.
    fn link(&self, programs: &[bpf::Program], manifest: &Manifest) -> Vec<u8> {
        let n_values = self.compiled.decided.labels().n_values();
        let n_rules = self.manifest.rules.len() as u32;
        let line = |location| {
            let stages = [Stage::Parse, Stage::Identify, Stage::Decide, Stage::Track, Stage::Count];
            let stage = stages.into_iter().find(|stage| *stage as u32 == location);
            let text = stage.unwrap_or(Stage::Decide).text().to_owned();
            Line { file: "seg".to_owned(), line: 0, column: 0, text }
        };
        let manifest = manifest.encode().expect("JSON");
        link(
            programs,
            &map_specs(n_values, n_rules),
            &Sections { tables: &[], classes: &[], manifest: &manifest },
            &line,
        )
    }

    /// Every object in which the tree of one program is changed; `change` says whether it did.
    fn with_trees(&self, change: impl Fn(&mut Tree) -> bool) -> Vec<Vec<u8>> {
        let broken = |(index, (way, tree)): (usize, (Way, &Tree))| {
            let mut changed = tree.clone();
            if !change(&mut changed) || changed == *tree {
                return None;
            }
            self.with_program(index, way, self.layout(), &changed)
        };
        self.trees().into_iter().enumerate().filter_map(broken).collect()
    }

    fn layout(&self) -> Layout {
        let labels = self.compiled.decided.labels();
        let (n_labels, n_ports) = (labels.0.len() as u32, labels.ports().len() as u32);
        Layout { n_labels, n_ports, n_nets: self.manifest.nets.len() as u16 }
    }

    /// In the order of the programs.
    fn trees(&self) -> Vec<(Way, &Tree)> {
        let Decided::Trees(trees) = &self.compiled.decided else { unreachable!("asked for") };
        // Small policies are in one part.
        let outbound = trees.outbound.trees.iter().map(|trees| (Way::Outbound, &trees[0]));
        outbound.chain(trees.inbound.trees.iter().map(|trees| (Way::Inbound, &trees[0]))).collect()
    }

    /// The object in which one program is that of another tree; `None` if it is no other program.
    fn with_program(&self, index: usize, way: Way, layout: Layout, tree: &Tree) -> Option<Vec<u8>> {
        let mut programs = self.compiled.programs.clone();
        let name = programs[index].name.clone();
        let program = lower(
            &program::build(&name, way, layout, Judge::Trees(std::slice::from_ref(tree))),
            &name,
        )
        .expect("BPF");
        let same = std::mem::replace(&mut programs[index], program.clone()) == program;
        (!same).then(|| self.link(&programs, &self.manifest))
    }

    /// One label more before the named ports.
    fn with_layout(&self) -> Vec<Vec<u8>> {
        let layout = self.layout();
        let layout = Layout { n_labels: layout.n_labels + 1, ..layout };
        let each = self.trees().into_iter().enumerate();
        each.filter_map(|(index, (way, tree))| self.with_program(index, way, layout, tree))
            .collect()
    }

    fn with_ways_exchanged(&self) -> Vec<Vec<u8>> {
        let other = |way| if way == Way::Outbound { Way::Inbound } else { Way::Outbound };
        let each = self.trees().into_iter().enumerate();
        // What does not depend on the peer is decided alike.
        let depends = |tree: &Tree| {
            fields(&mut tree.clone(), |field| match field {
                Field::PeerLabel(_) | Field::PeerAddress4 => Some(field),
                _ => None,
            })
        };
        each.filter(|(_, (_, tree))| depends(tree))
            .filter_map(|(index, (way, tree))| {
                self.with_program(index, other(way), self.layout(), tree)
            })
            .collect()
    }

    fn with_manifest(&self, change: impl Fn(&mut Manifest) -> bool) -> Vec<Vec<u8>> {
        let mut manifest = self.manifest.clone();
        let changed = change(&mut manifest);
        changed.then(|| self.link(&self.compiled.programs, &manifest)).into_iter().collect()
    }

    fn with_roles(&self, change: impl Fn(&mut Roles) -> bool) -> Vec<Vec<u8>> {
        let ways: [fn(&mut Manifest) -> &mut Roles; 2] = [|m| &mut m.outbound, |m| &mut m.inbound];
        let objects = ways.map(|way| {
            self.with_manifest(|manifest| {
                let roles = way(manifest);
                let before = roles.clone();
                change(roles) && *roles != before
            })
        });
        objects.concat()
    }

    /// Addresses are looked up among idents.
    fn with_maps_exchanged(&self) -> Vec<Vec<u8>> {
        let object = |index: usize| {
            let mut programs = self.compiled.programs.clone();
            let found = programs[index].relocations.iter_mut();
            let mut found = found.filter(|(_, map)| *map == Map::Addresses4);
            found.next().expect("a look-up of addresses").1 = Map::Idents;
            self.link(&programs, &self.manifest)
        };
        let tells = self.trees().into_iter().map(|(_, tree)| tells_all(tree));
        tells.enumerate().filter(|of| of.1).map(|(index, _)| object(index)).collect()
    }
}

/// Whether a tree decides otherwise for each kind of packet.
fn tells_all(tree: &Tree) -> bool {
    let roots = tree.roots;
    let all = [roots.unmanaged4, roots.managed4, roots.unmanaged6, roots.managed6];
    (0..4).all(|i| (0..i).all(|j| all[i] != all[j]))
}

/// Changes the first leaf of a rule.
fn leaf(tree: &mut Tree, change: impl Fn(&mut Leaf)) -> bool {
    let mut leaves = tree.nodes.iter_mut().filter_map(|node| match node {
        Node::Leaf(leaf) if leaf.rule().is_some() => Some(leaf),
        _ => None,
    });
    leaves.next().map(change).is_some()
}

/// Changes a comparison of ports.
fn compare(tree: &mut Tree, change: impl Fn(Field, &mut u64)) -> bool {
    let mut compares = tree.nodes.iter_mut().filter_map(|node| match node {
        Node::Compare { field: field @ (Field::Port | Field::Protocol), bound, .. } => {
            Some((*field, bound))
        }
        _ => None,
    });
    compares.next().map(|(field, bound)| change(field, bound)).is_some()
}

/// Asks for other fields.
fn fields(tree: &mut Tree, other: impl Fn(Field) -> Option<Field>) -> bool {
    let mut changed = false;
    for node in &mut tree.nodes {
        if let Node::Compare { field, .. } = node
            && let Some(other) = other(*field)
        {
            *field = other;
            changed = true;
        }
    }
    changed
}

/// Does nothing.
const NOTHING: Insn = Insn::Jump { offset: 0 };

/// An instruction that may be changed.
#[derive(Clone, Copy)]
struct At<'a> {
    program: &'a bpf::Program,
    /// What it was made of.
    tree: &'a Tree,
    at: usize,
    insn: Insn,
}

#[derive(Clone, Copy)]
struct Branch {
    width: Width,
    cond: Cond,
    dst: Reg,
    src: Src,
    offset: i16,
}

#[derive(Clone, Copy)]
struct Load {
    size: Size,
    dst: Reg,
    base: Reg,
    offset: i16,
}

/// Size of the frame's explicit slots that come first: two connection keys and the notes.
const KEYS_BYTES: i16 = 2 * maps::CONNTRACK_KEY_BYTES as i16;
const NOTES_BYTES: i16 = 72;

/// Whether an offset is that of a slot of the register allocator.
fn spilled(offset: i16) -> bool {
    offset < -KEYS_BYTES - NOTES_BYTES - maps::CONNTRACK_VALUE_BYTES as i16
}

fn bytes(size: Size) -> i16 {
    size.bits() as i16 / 8
}

impl<'a> At<'a> {
    fn new(program: &'a bpf::Program, tree: &'a Tree, at: usize) -> Self {
        Self { program, tree, at, insn: program.insns[at] }
    }

    fn asks(&self, which: impl Fn(Field) -> bool) -> bool {
        self.tree.nodes.iter().any(|node| match node {
            Node::Compare { field, .. } => which(*field),
            Node::Leaf(_) => false,
        })
    }

    fn asks_twice(&self) -> bool {
        self.asks(|field| matches!(field, Field::Same(_) | Field::PeerPort(_)))
    }

    /// Whether each kind of packet is decided in its own way.
    fn tells_all(&self) -> bool {
        tells_all(self.tree)
    }

    /// What its source line says: a [`Stage`] or a rule's counter.
    fn line(&self, at: usize) -> u32 {
        let lines = &self.program.lines;
        lines[lines.partition_point(|line| line.0 <= at) - 1].1
    }

    fn of(self, stage: Stage) -> Option<Self> {
        (self.line(self.at) == stage as u32).then_some(self)
    }

    /// A comparison, a leaf, or between them.
    fn in_tree(self) -> Option<Self> {
        let line = self.line(self.at);
        (line == Stage::Decide as u32 || line >= RULE_COUNTERS).then_some(self)
    }

    /// Where fields are read: behind the last look at the family before the tree.
    fn of_fields(self) -> Option<Self> {
        let family = -KEYS_BYTES - NOTES_BYTES + 9;
        let of_family = |at: &usize| {
            let load = self.program.insns[*at];
            self.line(*at) == Stage::Identify as u32
                && matches!(load, Insn::Load { base: Reg::FRAME, offset, .. } if offset == family)
        };
        let from = (0..self.program.insns.len()).filter(of_family).max()?;
        (self.at >= from).then_some(self)?.of(Stage::Identify)
    }

    fn decides(self) -> Option<Self> {
        self.in_tree().or(self.of_fields())
    }

    /// A comparison with a number that takes more than 32 bits.
    fn of_half(self) -> Option<Self> {
        match (self.before(1)?, self.insn) {
            (Insn::High(high), Insn::Branch { .. }) if high != 0 => self.in_tree(),
            _ => None,
        }
    }

    fn before(&self, n: usize) -> Option<Insn> {
        self.program.insns.get(self.at.checked_sub(n)?).copied()
    }

    /// The look-up of the peer's IPv6 address: the last with an address as the key.
    fn peer_lookup(&self) -> usize {
        let insns = &self.program.insns;
        let is_key = |imm| matches!(imm, Src::Imm(-40 | -24));
        let calls = (1..insns.len()).filter(|&at| {
            matches!(insns[at], Insn::Call { .. })
                && matches!(insns[at - 1], Insn::Alu { op: Alu::Add, src, .. } if is_key(src))
                && self.line(at) == Stage::Identify as u32
        });
        calls.max().expect("the peer is looked up")
    }

    /// How much further is the next instruction behind a target; `None` if that is half of a pair, or does the same.
    fn beyond(&self, offset: i16) -> Option<i16> {
        let target = (self.at as i64 + 1 + i64::from(offset)) as usize;
        let insns = &self.program.insns;
        let pair =
            matches!(insns[target], Insn::Wide { .. } | Insn::MapFd { .. } | Insn::Jump { .. });
        let tree = At::new(self.program, self.tree, target).in_tree().is_some();
        (!pair && tree).then_some(1)
    }

    /// Whether it loads what the register allocator put aside.
    fn fills(&self) -> bool {
        matches!(self.insn, Insn::Load { base: Reg::FRAME, offset, .. } if spilled(offset))
    }

    fn branch(self, other: impl FnOnce(Branch) -> Option<Branch>) -> Option<Insn> {
        let Insn::Branch { width, cond, dst, src, offset } = self.insn else { return None };
        let Branch { width, cond, dst, src, offset } =
            other(Branch { width, cond, dst, src, offset })?;
        Some(Insn::Branch { width, cond, dst, src, offset })
    }

    fn cond(self, other: impl FnOnce(&Branch) -> Option<Cond>) -> Option<Insn> {
        self.branch(|b| Some(Branch { cond: other(&b)?, ..b }))
    }

    fn load(self, other: impl FnOnce(Load) -> Option<Load>) -> Option<Insn> {
        let Insn::Load { size, dst, base, offset } = self.insn else { return None };
        let Load { size, dst, base, offset } = other(Load { size, dst, base, offset })?;
        Some(Insn::Load { size, dst, base, offset })
    }

    fn alu(self, op: Alu, other: impl Fn(i32) -> Option<i32>) -> Option<Insn> {
        match self.insn {
            Insn::Alu { width, op: found, dst, src: Src::Imm(imm) } if found == op => {
                Some(Insn::Alu { width, op, dst, src: Src::Imm(other(imm)?) })
            }
            _ => None,
        }
    }

    /// Another number in a comparison, or in the register that the next one compares with.
    fn immediate(self, by: i32) -> Option<Insn> {
        match self.insn {
            Insn::Branch { width, cond, dst, src: Src::Imm(imm), offset } => {
                Some(Insn::Branch { width, cond, dst, src: Src::Imm(imm.checked_add(by)?), offset })
            }
            Insn::Alu { width, op: Alu::Mov, dst, src: Src::Imm(imm) } => {
                Some(Insn::Alu { width, op: Alu::Mov, dst, src: Src::Imm(imm.checked_add(by)?) })
            }
            Insn::Wide { dst, low } if low > 0 && low < u32::MAX => {
                Some(Insn::Wide { dst, low: low.wrapping_add_signed(by) })
            }
            _ => None,
        }
    }

    fn dropped(self) -> Option<Insn> {
        match self.insn {
            // Half of a pair is refused for less, of no interest.
            Insn::Wide { .. } | Insn::MapFd { .. } | Insn::High(_) => None,
            // What comes next may decide alike for what gets here.
            Insn::Jump { .. } => None,
            // What is copied may be there already.
            Insn::Alu { op: Alu::Mov, src: Src::Reg(_), .. } => None,
            _ => Some(NOTHING),
        }
    }

    fn store(self, to: i16, other: impl Fn(i32) -> Option<i32>) -> Option<Insn> {
        match self.insn {
            Insn::Store { size, base: Reg::FRAME, offset, src: Src::Imm(imm) } if offset == to => {
                Some(Insn::Store { size, base: Reg::FRAME, offset, src: Src::Imm(other(imm)?) })
            }
            _ => None,
        }
    }

    /// Another counter where a rule or the default decides.
    fn leaf(self, other: impl Fn(i32) -> i32) -> Option<Insn> {
        self.in_tree()?.store(self.counter(), |imm| Some(other(imm)))
    }

    /// Where the counter is noted.
    fn counter(&self) -> i16 {
        -KEYS_BYTES - NOTES_BYTES + 20
    }

    /// Where the verdict is noted.
    fn action(&self) -> i16 {
        -KEYS_BYTES - NOTES_BYTES + 28
    }

    /// Where some rule decides.
    fn rule_leaf(&self) -> Option<usize> {
        (0..self.program.insns.len()).find(|&at| self.line(at) >= RULE_COUNTERS)
    }
}
