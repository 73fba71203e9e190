//! Balanced trees of comparisons of one field, to learn what a comparison costs.

use super::{Contender, entry};
use crate::assembler::{Assembler, Label, r};
use seg_compiler::bpf::{Cond, Size};

/// A tree over these bounds, ascending: the answer is whether the source lies behind an odd number of them.
pub fn of_bounds(bounds: &[u32]) -> Contender {
    let mut a = Assembler::default();
    let end = a.label();
    a.load(Size::B4, r(1), r(6), entry::SOURCE);
    node(&mut a, bounds, 0, end);
    a.bind(end);
    Contender::new(&format!("tree of {} comparisons", bounds.len()), a, Vec::new())
}

/// `before` bounds lie below this part.
fn node(a: &mut Assembler, bounds: &[u32], before: usize, end: Label) {
    if bounds.is_empty() {
        a.mov(r(0), (before % 2) as u32);
        a.jump(end);
        return;
    }
    let middle = bounds.len() / 2;
    let behind = a.label();
    a.branch32(Cond::Ge, r(1), bounds[middle], behind);
    node(a, &bounds[..middle], before, end);
    a.bind(behind);
    node(a, &bounds[middle + 1..], before + middle + 1, end);
}

/// What the tree answers.
pub fn answer(bounds: &[u32], source: u32) -> bool {
    bounds.partition_point(|bound| *bound <= source) % 2 == 1
}
