//! The format of objects: the manifest by a snapshot, the maps by what the loader reads. A change here is a change of `version::FORMAT`.
//!
//! `INSTA_UPDATE=always` rewrites the snapshot in `tests/suites/snapshots/`; read the difference before committing it.

use seg_artifact::manifest::{Manifest, labels_text};
use seg_artifact::maps;
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
    let object = pipeline::compile(&policy, &sources, "p").expect("it compiles").object;
    let workloads = seg_artifact::object::open(&object).expect("it opens").manifest.workloads;
    let text: Vec<String> = workloads
        .iter()
        .map(|w| format!("{} {:?} {}", w.name, w.addresses, labels_text(&w.labels)))
        .collect();
    assert_eq!(text, ["a [10.0.0.1] managed", "b [10.0.0.2, fd00::1] app:x & idle:y"]);
}

#[test]
fn the_maps_are_those_of_the_contract() {
    // linux/bpf.h: BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_LRU_HASH.
    const HASH: u32 = 1;
    const PERCPU_ARRAY: u32 = 6;
    const LRU_HASH: u32 = 9;
    let mut sources = Sources::default();
    sources.add(
        "p.seg",
        "label app\nlabel env\nlabel role\npolicy p { allow app:a -> env:b; isolate role:c }\n",
    );
    let policy = analyze(sources.clone()).policy.expect("it checks");
    let object = pipeline::compile(&policy, &sources, "p").expect("it compiles").object;
    let object = aya_obj::Object::parse(&object).expect("aya reads it");
    let mut found: Vec<_> = object
        .maps
        .iter()
        .map(|(name, map)| {
            let sizes = [map.key_size(), map.value_size(), map.max_entries()];
            (name.as_str(), map.map_type(), sizes)
        })
        .collect();
    found.sort();
    let record = maps::record_bytes(3);
    let connection = [maps::CONNTRACK_KEY_BYTES, maps::CONNTRACK_VALUE_BYTES, maps::CONNTRACK_MAX];
    let expected = [
        (maps::CONNTRACK, LRU_HASH, connection),
        (maps::COUNTERS, PERCPU_ARRAY, [4, maps::COUNTER_BYTES, maps::rule_counter(2)]),
        (maps::ENDPOINTS, HASH, [maps::ADDRESS_KEY_BYTES, record, maps::ENDPOINTS_MAX]),
        (maps::LOCAL, HASH, [4, record, maps::LOCAL_MAX]),
    ];
    assert_eq!(found, expected);
}
