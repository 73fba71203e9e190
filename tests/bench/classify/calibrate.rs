//! What a comparison and a dependent load cost on this machine: the figures behind the compiler's cost model.

use super::report::{Report, round};
use seg_tests::contest::{Arena, Ready, primitive, tree};
use seg_tests::measure::Spread;
use seg_tests::random::Random;
use seg_tests::workload::Packet;
use seg_tests::workload::trace::{Mode, Trace};
use serde_json::{Value, json};

/// Comparisons of the trees.
const TREES: [usize; 6] = [100, 300, 600, 1_000, 2_000, 3_000];
/// Sizes of the tables. Unit: KB.
const TABLES_KB: [usize; 11] = [16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384];
/// Loads of a short chain, which the processor does beside other work, and of two that it has to wait for.
const LOADS: [usize; 3] = [4, 40, 80];
/// Predicted, skewed, random.
const MODES: [Mode; 3] = [Mode::Single, Mode::Zipf, Mode::Uniform];
const SEED: u64 = 0xca1;

/// Measures, prints and keeps both tables.
pub(crate) fn run(arena: &Arena, n_rounds: usize, report: &mut Report) -> Result<(), String> {
    let told = |e: std::io::Error| e.to_string();
    println!("ns per level of a balanced tree of comparisons: one flow, Zipf, uniform");
    let mut trees = Vec::new();
    for n in TREES {
        let bounds = primitive::keys(n);
        let levels = ((n + 1) as f64).log2();
        let ready = arena.load(tree::of_bounds(&bounds))?;
        let times = over_modes(arena, &ready, n_rounds, |p| tree::answer(&bounds, p.source))?;
        let each = times.map(|time| round(time.least / levels));
        println!("{n:6} comparisons, {levels:4.1} levels: {each:?}");
        let [single, zipf, uniform] = each;
        trees.push(json!({
            "comparisons": n,
            "levels": round(levels),
            "instructions": ready.cost().insns,
            "machine_code_bytes": ready.cost().jited,
            "single_ns": single,
            "zipf_ns": zipf,
            "uniform_ns": uniform,
        }));
    }
    println!(
        "ns per dependent load from a table: of four, then of those behind forty; one flow, Zipf, uniform"
    );
    let mut tables: Vec<Value> = Vec::new();
    for kilobytes in TABLES_KB {
        let over = |n_loads| {
            let (chain, words) = primitive::chain(kilobytes << 10, n_loads).map_err(told)?;
            let ready = arena.load(chain)?;
            let follow = |at: u32| words[at as usize & (words.len() - 1)];
            let answer = |p: &Packet| (0..n_loads).fold(p.source, |at, _| follow(at)) & 1 == 1;
            let times = over_modes(arena, &ready, n_rounds, answer)?;
            Ok::<_, String>(times.map(|time| time.least))
        };
        let [short, long, longer] = LOADS.map(over);
        let (short, long, longer) = (short?, long?, longer?);
        let n_behind = (LOADS[2] - LOADS[1]) as f64;
        let each = short.map(|time| round(time / LOADS[0] as f64));
        let behind = [0, 1, 2].map(|mode| round((longer[mode] - long[mode]) / n_behind));
        println!("{kilobytes:6} KB: {each:?}, {behind:?}");
        let of = |[single, zipf, uniform]: [f64; 3]| json!({ "single_ns": single, "zipf_ns": zipf, "uniform_ns": uniform });
        let (each, behind) = (of(each), of(behind));
        tables.push(json!({ "kilobytes": kilobytes, "of_four": each, "behind_forty": behind }));
    }
    report.keep(json!({ "title": "ns per level of a tree of comparisons", "rows": trees }));
    report.keep(json!({ "title": "ns per dependent load from a table", "rows": tables }));
    Ok(())
}

fn over_modes(
    arena: &Arena,
    ready: &Ready,
    n_rounds: usize,
    answer: impl Fn(&Packet) -> bool,
) -> Result<[Spread; 3], String> {
    let over = |mode| {
        let draw =
            |random: &mut Random| Packet { source: random.next_u64() as u32, ..Packet::default() };
        let trace = Trace::new(mode, SEED, draw);
        let ready = std::slice::from_ref(ready);
        let rows = arena.measure(mode, &trace, trace.answers(&answer), ready, n_rounds)?;
        let row = rows.into_iter().next().ok_or("no row")?;
        row.map_err(|given| format!("{} is WRONG: {given:?}", ready[0].contender.name))
    };
    let [single, zipf, uniform] = MODES.map(over);
    Ok([single?, zipf?, uniform?])
}
