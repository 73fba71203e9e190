//! Addresses to numbers by three dependent loads and no branch: a table in the value of an array.
//!
//! The upper 16 bits of an address find a block, the next 8 another, the last 8 a number of 32 bits. Equal blocks are one.

use crate::assembler::{Assembler, MapIndex, r};
use seg_compiler::bpf::{Alu, Reg, Size};
use std::collections::BTreeMap;

const ROOT: usize = 1 << 16;
const BLOCK: usize = 256;

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    root: Vec<u32>,
    blocks: Vec<u32>,
}

impl Table {
    /// From the first addresses of ranges, ascending and from 0, and their numbers.
    ///
    /// # Panics
    /// If the first range does not begin at 0.
    pub fn new(ranges: &[(u32, u32)]) -> Self {
        assert!(ranges.first().is_some_and(|first| first.0 == 0), "ranges cover every address");
        let mut known: BTreeMap<Vec<u32>, u32> = BTreeMap::new();
        let mut blocks = Vec::new();
        let mut block = |entries: Vec<u32>| {
            let next = known.len() as u32;
            *known.entry(entries).or_insert_with_key(|entries| {
                blocks.extend(entries);
                next
            })
        };
        let mut at = 0;
        // The number at an address, and whether it holds for so many addresses from there.
        let mut look = |address: u32, n: u32| {
            while ranges.get(at + 1).is_some_and(|next| next.0 <= address) {
                at += 1;
            }
            let whole = ranges.get(at + 1).is_none_or(|next| next.0 - address >= n);
            (ranges[at].1, whole)
        };
        let root = (0..ROOT as u32).map(|high| {
            let (number, whole) = look(high << 16, 1 << 16);
            if whole {
                let leaf = block(vec![number; BLOCK]);
                return block(vec![leaf; BLOCK]);
            }
            let middle = (0..BLOCK as u32).map(|middle| {
                let start = high << 16 | middle << 8;
                let (number, whole) = look(start, BLOCK as u32);
                if whole {
                    return block(vec![number; BLOCK]);
                }
                block((start..=start | 255).map(|address| look(address, 1).0).collect())
            });
            let middle = middle.collect();
            block(middle)
        });
        let root = root.collect();
        let n_blocks = (blocks.len() / BLOCK).next_power_of_two();
        blocks.resize(n_blocks * BLOCK, 0);
        Self { root, blocks }
    }

    /// The value of its map.
    pub fn bytes(&self) -> Vec<u8> {
        self.root.iter().chain(&self.blocks).flat_map(|n| n.to_ne_bytes()).collect()
    }

    /// `dst` = number of the address in `dst`; `base` and `work` are changed.
    pub fn emit(&self, a: &mut Assembler, map: MapIndex, dst: Reg, base: Reg, work: Reg) {
        let mask = (self.blocks.len() / BLOCK - 1) as u32;
        a.value(base, map, 0);
        a.mov(work, dst);
        a.alu(Alu::Rsh, work, 16_u32);
        a.alu(Alu::And, work, 0xffff_u32);
        a.alu(Alu::Lsh, work, 2_u32);
        a.alu(Alu::Add, base, work);
        a.load(Size::B4, base, base, 0);
        for shift in [8_u32, 0] {
            a.alu(Alu::And, base, mask);
            a.alu(Alu::Lsh, base, 8_u32);
            a.mov(work, dst);
            a.alu(Alu::Rsh, work, shift);
            a.alu(Alu::And, work, 255_u32);
            a.alu(Alu::Or, base, work);
            a.alu(Alu::Lsh, base, 2_u32);
            a.value(work, map, ROOT as u32 * 4);
            a.alu(Alu::Add, work, base);
            a.load(Size::B4, base, work, 0);
        }
        a.mov(dst, base);
    }

    /// The number of an address, as the program finds it.
    pub fn get(&self, address: u32) -> u32 {
        let [high, middle, low] = [address >> 16, address >> 8 & 255, address & 255];
        let block = |n: u32, at: u32| self.blocks[n as usize * BLOCK + at as usize];
        block(block(self.root[high as usize], middle), low)
    }
}

/// The registers that [`Table::emit`] changes besides its result, for most.
pub const SCRATCH: (Reg, Reg) = (r(1), r(2));
