//! What a decision costs per packet: the figures by which a shape is chosen.
//!
//! Comparisons and loads are measured by `cargo bench -p seg-tests --bench classify -- --calibrate`, what groups take is of the
//! same bench's decisions (tests/record, 2026-11-25). They are good for comparing shapes, not for predicting a machine. Whole
//! picoseconds, so that every machine chooses alike.

use crate::decided::Shape;
use crate::layout::{Layout, Pairs};
use crate::program::asks_who;
use crate::tree::{Roots, Tree};

/// A comparison whose outcome is new with each packet.
const COMPARISON_RANDOM_PS: u64 = 2_800;
/// A comparison that goes as for the packet before.
const COMPARISON_SAME_PS: u64 = 300;
/// Who the ends are.
const IDENTS_PS: u64 = 5_000;
/// The class of the service, and what comes of the ranks.
const TABLES_PS: u64 = 2_500;
/// Source ports.
const JOINT_PS: u64 = 5_000;
/// A group that is a matrix.
const MATRIX_PS: u64 = 1_500;
/// A group of rows.
const ROWS_PS: u64 = 7_000;
/// What lists say by default, in each group.
const DEFAULT_PS: u64 = 1_500;
/// What a load waits for longer where packets differ, in tables of up to so many bytes.
const FAR_PS: [(usize, u64); 6] = [
    (64 << 10, 300),
    (256 << 10, 1_500),
    (512 << 10, 3_000),
    (1 << 20, 5_500),
    (4 << 20, 12_000),
    (usize::MAX, 50_000),
];
/// Loads that wait for each other.
const LOADS: u64 = 4;

/// What deciding costs in one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The shape.
    pub shape: Shape,
    /// For packets that differ in all they can. Unit: picoseconds.
    pub random_ps: u64,
    /// For a packet like the one before. Unit: picoseconds.
    pub same_ps: u64,
    /// What it is computed from.
    pub size: Size,
}

/// How large a decision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Comparisons.
    Tree {
        /// Programs of both directions.
        programs: usize,
        /// Comparisons of the largest.
        comparisons: usize,
        /// Comparisons on the way to a verdict, on average over even branches, in hundredths.
        levels: u64,
    },
    /// Tables.
    Tables {
        /// Groups of rules.
        groups: usize,
        /// How many of them are rows.
        rows: usize,
        /// Of all tables.
        bytes: usize,
    },
}

impl Estimate {
    /// What is compared: packets that differ and packets that do not, in equal parts.
    pub fn mean_ps(&self) -> u64 {
        (self.random_ps + self.same_ps) / 2
    }
}

/// Of trees; each program's trees are decided in sequence.
pub fn of_trees<'a>(programs: impl Iterator<Item = &'a [Tree]>) -> Estimate {
    let (mut n, mut comparisons, mut levels, mut idents_ps) = (0, 0, 0, 0);
    for trees in programs {
        n += 1;
        if trees.iter().any(asks_who) {
            idents_ps = IDENTS_PS;
        }
        comparisons = comparisons.max(trees.iter().map(Tree::n_comparisons).sum());
        levels = levels.max(trees.iter().map(mean_levels).sum());
    }
    Estimate {
        shape: Shape::Tree,
        random_ps: idents_ps + levels * COMPARISON_RANDOM_PS / 100,
        same_ps: idents_ps + levels * COMPARISON_SAME_PS / 100,
        size: Size::Tree { programs: n, comparisons, levels },
    }
}

/// Of tables.
pub fn of_tables(layout: &Layout) -> Estimate {
    let rows = layout.groups.iter().filter(|of| matches!(of, Pairs::Rows { .. })).count();
    let (groups, bytes) = (layout.groups.len(), layout.bytes.len());
    let of_groups = (groups - rows) as u64 * MATRIX_PS + rows as u64 * ROWS_PS;
    let defaults = if layout.defaults { groups as u64 * DEFAULT_PS } else { 0 };
    let joint = layout.services.joint.map_or(0, |_| JOINT_PS);
    let same_ps = IDENTS_PS + TABLES_PS + joint + of_groups + defaults;
    let far = LOADS * FAR_PS.iter().find(|(most, _)| bytes <= *most).map_or(0, |(_, ps)| *ps);
    Estimate {
        shape: Shape::Tables,
        random_ps: same_ps + far,
        same_ps,
        size: Size::Tables { groups, rows, bytes },
    }
}

/// Unit: hundredths of a comparison. Of the root that takes longest.
fn mean_levels(tree: &Tree) -> u64 {
    let Roots { unmanaged4, managed4, unmanaged6, managed6 } = tree.roots;
    let roots = [unmanaged4, managed4, unmanaged6, managed6];
    roots.map(|root| tree.levels(root)).into_iter().max().unwrap_or(0)
}
