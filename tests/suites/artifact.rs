//! The format of objects: the manifest by a snapshot, the maps by what the loader reads. A change here is a change of `version::FORMAT`.
//!
//! `INSTA_UPDATE=always` rewrites the snapshot in `tests/suites/snapshots/`; read the difference before committing it.

use seg_artifact::classes::{Classes, Decision, Field, Net, Node, Sides, Target};
use seg_artifact::manifest::{Manifest, labels_text};
use seg_artifact::maps;
use seg_compiler::decided::Config;
use seg_compiler::pipeline;
use seg_lang::analyze::analyze;
use seg_lang::source::Sources;
use seg_tests::handmade;

#[test]
fn the_manifest_keeps_its_format() {
    let bytes = handmade::manifest().encode().expect("it encodes");
    let text = String::from_utf8(bytes.clone()).expect("it is UTF-8");
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("manifest", text);
    });
    assert_eq!(Manifest::decode(&bytes).expect("it decodes"), handmade::manifest());
}

/// Also what no rule mentions, sorted by name.
#[test]
fn the_object_carries_the_inventory() {
    let mut sources = Sources::default();
    let text = "label app\nlabel idle\nworkload b at { fd00::1, 10.0.0.2 } is app:x & idle:y\nworkload a at 10.0.0.1 is managed\n";
    sources.add("p.seg", text);
    let policy = analyze(sources.clone()).policy.expect("it checks");
    let object =
        pipeline::compile(&policy, &sources, "p", Config::default()).expect("it compiles").object;
    let workloads = seg_artifact::object::open(&object).expect("it opens").manifest.workloads;
    let text: Vec<String> = workloads
        .iter()
        .map(|w| format!("{} {:?} {}", w.name, w.addresses, labels_text(&w.labels)))
        .collect();
    assert_eq!(text, ["a [10.0.0.1] managed", "b [10.0.0.2, fd00::1] app:x & idle:y"]);
}

#[test]
fn the_maps_are_those_of_the_contract() {
    // linux/bpf.h: BPF_MAP_TYPE_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, and BPF_F_MMAPABLE.
    const HASH: u32 = 1;
    const ARRAY: u32 = 2;
    const PERCPU_ARRAY: u32 = 6;
    const LRU_HASH: u32 = 9;
    const MMAPABLE: u32 = 1 << 10;
    let mut sources = Sources::default();
    sources.add(
        "p.seg",
        "label app\nlabel env\nlabel role\npolicy p { allow app:a -> env:b; isolate role:c }\n",
    );
    let policy = analyze(sources.clone()).policy.expect("it checks");
    let object =
        pipeline::compile(&policy, &sources, "p", Config::default()).expect("it compiles").object;
    let object = aya_obj::Object::parse(&object).expect("aya reads it");
    let mut found: Vec<_> = object
        .maps
        .iter()
        .map(|(name, map)| {
            let sizes = [map.key_size(), map.value_size(), map.max_entries()];
            (name.as_str(), map.map_type(), map.map_flags(), sizes)
        })
        .collect();
    found.sort();
    let record = maps::record_bytes(3);
    let connection = [maps::CONNTRACK_KEY_BYTES, maps::CONNTRACK_VALUE_BYTES, maps::CONNTRACK_MAX];
    let address = [maps::ADDRESS_KEY_BYTES, 4, maps::IDENTS_MAX];
    let expected = [
        (maps::ADDRESSES4, ARRAY, MMAPABLE, [4, maps::ADDRESSES4_BYTES, 1]),
        (maps::ADDRESSES6, HASH, 0, address),
        (maps::CONNTRACK, LRU_HASH, 0, connection),
        (maps::COUNTERS, PERCPU_ARRAY, 0, [4, maps::COUNTER_BYTES, maps::rule_counter(2)]),
        (maps::IDENTS, ARRAY, MMAPABLE, [4, maps::IDENTS_BYTES, 1]),
        (maps::LOCAL, HASH, 0, [maps::LOCAL_KEY_BYTES, 4, maps::IDENTS_MAX]),
        (maps::RECORDS, ARRAY, MMAPABLE, [4, record, maps::RECORDS_MIN]),
    ];
    assert_eq!(found, expected);
}

fn classes() -> Classes {
    let ask = Node {
        field: Field::Label(1),
        edges: vec![(4, Target::Class(3)), (u128::MAX, Target::Class(0))],
    };
    let address = Node {
        field: Field::Address,
        edges: vec![(1 << 100, Target::Node(0)), (u128::MAX, Target::Class(7))],
    };
    let source = Decision { root: Target::Node(1), nodes: vec![ask, address] };
    let destination = Decision { root: Target::Class(2), nodes: vec![] };
    let net = Net { source: [1, 0, 0, 0, 0, 0, 0, 0], destination: [2; 8] };
    Classes { groups: vec![Sides { source, destination }], nets: vec![Net::default(), net] }
}

#[test]
fn what_is_written_is_read() {
    let classes = classes();
    assert_eq!(Classes::decode(&classes.encode(), 2, 1), Ok(classes));
}

#[test]
fn labels_and_address_give_the_classes() {
    let class = |labels: &[u32], address| {
        classes().of_endpoint(false, labels, address).expect("labels are there")
    };
    assert_eq!(class(&[0, 4], 5).source, [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(class(&[0, 5], 5).source, [0; 8]);
    assert_eq!(class(&[0, 4], u128::MAX).source, [7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(class(&[0, 4], 5).destination, [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(classes().of_endpoint(false, &[0], 5), None);
}

#[test]
fn no_damage_is_taken_for_classes_of_a_missing_label_or_node() {
    let bytes = classes().encode();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            if let Some(byte) = damaged.get_mut(at) {
                *byte ^= 1 << bit;
            }
            if let Ok(classes) = Classes::decode(&damaged, 2, 1) {
                assert!(classes.of_endpoint(false, &[9, 9], 1).is_some());
            }
        }
        assert!(Classes::decode(bytes.get(..at).unwrap_or_default(), 2, 1).is_err());
    }
}
