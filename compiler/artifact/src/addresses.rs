//! The trie from IPv4 addresses to idents, and the stores that bring [`maps::ADDRESSES4`] from one state to the next.
//!
//! INVARIANTS:
//! - Whoever looks an address up between two stores of a change finds its old ident or its new one: what a block holds is
//!   written before anything leads to it, and a block that something leads to changes by whole entries.
//! - Only a block that exactly one entry leads to is changed; of others a copy is.
//! - A block nothing leads to any more may still be in use by who looked it up just before; it serves again only after
//!   [`Addresses4::reclaim`].
//! - A change that fails changes nothing.

use crate::manifest::Net;
use crate::maps::{self, Store};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Which net of a manifest holds an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nets {
    /// By first address: the last one, and the ident.
    ranges: BTreeMap<IpAddr, (IpAddr, u16)>,
}

impl Nets {
    /// The nets of a verified manifest.
    pub fn new(nets: &[Net]) -> Self {
        let each =
            (1..).zip(nets).flat_map(|(ident, net)| net.ranges.iter().map(move |r| (r, ident)));
        Self { ranges: each.map(|(&(first, last), ident)| (first, (last, ident))).collect() }
    }

    /// The ident of the net that holds an address, or 0.
    pub fn ident(&self, address: IpAddr) -> u16 {
        let below = self.ranges.range(..=address).next_back();
        below.filter(|(_, (last, _))| *last >= address).map_or(0, |(_, &(_, ident))| ident)
    }

    /// How many nets there are.
    pub fn count(&self) -> u16 {
        self.ranges().map(|(.., ident)| ident).max().unwrap_or(0)
    }

    /// Some address that is in no net.
    pub fn outside(&self) -> Option<IpAddr> {
        // Behind some range, or where a family begins.
        let behind = self.ranges().filter_map(|(_, last, _)| match last {
            IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|n| Ipv4Addr::from(n).into()),
            IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|n| Ipv6Addr::from(n).into()),
        });
        let first = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        // A mapped address is one of IPv4.
        let mut outside = first.into_iter().chain(behind);
        outside.find(|address| self.ident(*address) == 0 && address.to_canonical() == *address)
    }

    /// All ranges, first and last address and ident.
    pub fn ranges(&self) -> impl Iterator<Item = (IpAddr, IpAddr, u16)> {
        self.ranges.iter().map(|(&first, &(last, ident))| (first, last, ident))
    }

    /// A trie of the IPv4 ranges, and the stores that make it.
    ///
    /// # Errors
    /// [`Full`] if they have too many borders.
    pub fn addresses4(&self) -> Result<(Addresses4, Vec<Store>), Full> {
        let (mut addresses, mut stores) = (Addresses4::default(), Vec::new());
        for (first, last, ident) in self.ranges() {
            if let (IpAddr::V4(first), IpAddr::V4(last)) = (first, last) {
                stores.extend(addresses.fill(first..=last, ident)?);
            }
        }
        Ok((addresses, stores))
    }
}

/// There is no block for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the addresses need more than the {} blocks of map `{}`", maps::BLOCKS4, maps::ADDRESSES4)]
pub struct Full;

/// Which addresses have which idents. Copies are cheap: blocks are shared until they change.
#[derive(Clone, Debug)]
pub struct Addresses4 {
    root: Vec<u16>,
    /// By number; the first holds zeros.
    blocks: Vec<Arc<Block>>,
    /// How many entries lead to each block, and one more for each of `uniform`.
    references: Vec<u32>,
    free: Vec<u16>,
    retired: Vec<u16>,
    /// Blocks of one value in every entry, for whole nets; they stay.
    uniform: BTreeMap<(Level, u16), u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// Entries are blocks.
    Middle,
    /// Entries are idents.
    Leaf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Block([u16; 256]);

impl Block {
    fn entry(&self, index: u8) -> u16 {
        self.0.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// This block with some entries changed.
    fn with(&self, indices: RangeInclusive<u8>, value: u16) -> Self {
        let mut block = self.clone();
        for index in indices {
            if let Some(entry) = block.0.get_mut(usize::from(index)) {
                *entry = value;
            }
        }
        block
    }

    /// The value of every entry, if there is one.
    fn value(&self) -> Option<u16> {
        let first = self.entry(0);
        self.0.iter().all(|entry| *entry == first).then_some(first)
    }
}

impl Default for Addresses4 {
    fn default() -> Self {
        Self {
            root: vec![0; 1 << 16],
            blocks: vec![Arc::new(Block([0; 256]))],
            references: vec![0],
            free: Vec::new(),
            retired: Vec::new(),
            uniform: BTreeMap::new(),
        }
    }
}

impl Addresses4 {
    /// The ident of an address.
    pub fn get(&self, address: Ipv4Addr) -> u16 {
        let (top, upper, lower) = split(address);
        self.block(self.block(self.top(top)).entry(upper)).entry(lower)
    }

    /// Gives an address an ident.
    ///
    /// Cost: a handful of stores, at most two of them blocks.
    ///
    /// # Errors
    /// [`Full`]; perhaps not after [`Self::reclaim`].
    pub fn set(&mut self, address: Ipv4Addr, ident: u16) -> Result<Vec<Store>, Full> {
        let (top, upper, lower) = split(address);
        let mut stores = Vec::new();
        self.put(top, upper, lower..=lower, ident, &mut stores)?;
        Ok(stores)
    }

    /// Gives all addresses of a range an ident; none of them may have one.
    fn fill(&mut self, range: RangeInclusive<Ipv4Addr>, ident: u16) -> Result<Vec<Store>, Full> {
        let (first, last) = (split(*range.start()), split(*range.end()));
        let (mut next, mut stores) = (self.clone(), Vec::new());
        for top in first.0..=last.0 {
            let from = if top == first.0 { first } else { (top, 0, 0) };
            let to = if top == last.0 { last } else { (top, 255, 255) };
            if (from.1, from.2, to.1, to.2) == (0, 0, 255, 255) {
                let leaf = next.uniform(Level::Leaf, ident, &mut stores)?;
                let middle = next.uniform(Level::Middle, leaf, &mut stores)?;
                next.lead_top(top, middle, &mut stores);
                continue;
            }
            for upper in from.1..=to.1 {
                let low = if upper == from.1 { from.2 } else { 0 };
                let high = if upper == to.1 { to.2 } else { 255 };
                if (low, high) == (0, 255) {
                    let leaf = next.uniform(Level::Leaf, ident, &mut stores)?;
                    next.room(1)?;
                    next.lead_middle(top, upper, leaf, &mut stores);
                } else {
                    next.put(top, upper, low..=high, ident, &mut stores)?;
                }
            }
        }
        *self = next;
        Ok(stores)
    }

    /// Lets blocks that nothing leads to serve again; whether there were any.
    ///
    /// Nobody may still use what they looked up before the last change.
    pub fn reclaim(&mut self) -> bool {
        let any = !self.retired.is_empty();
        self.free.append(&mut self.retired);
        any
    }

    fn put(
        &mut self,
        top: u16,
        upper: u8,
        lowers: RangeInclusive<u8>,
        ident: u16,
        stores: &mut Vec<Store>,
    ) -> Result<(), Full> {
        let middle = self.top(top);
        let leaf = self.block(middle).entry(upper);
        let content = self.block(leaf).with(lowers.clone(), ident);
        if content == *self.block(leaf) {
            return Ok(());
        }
        let owns_middle = self.is_owned(middle);
        let owns_leaf = owns_middle && self.is_owned(leaf);
        match self.known(Level::Leaf, &content) {
            None if owns_leaf => {
                stores.push(store(entry_offset(leaf, *lowers.start()), &content, lowers));
                self.replace(leaf, content);
            }
            known => {
                self.room(usize::from(known.is_none()) + usize::from(!owns_middle))?;
                let leaf = known.unwrap_or_else(|| self.make(content, stores));
                self.lead_middle(top, upper, leaf, stores);
            }
        }
        Ok(())
    }

    /// Has an entry of the second level lead to another leaf. Needs room for a block.
    fn lead_middle(&mut self, top: u16, upper: u8, leaf: u16, stores: &mut Vec<Store>) {
        let middle = self.top(top);
        let old = self.block(middle).entry(upper);
        let content = self.block(middle).with(upper..=upper, leaf);
        match self.known(Level::Middle, &content) {
            None if self.is_owned(middle) => {
                self.refer(leaf);
                stores.push(store(entry_offset(middle, upper), &content, upper..=upper));
                self.replace(middle, content);
                self.release(Level::Leaf, old);
            }
            Some(known) => self.lead_top(top, known, stores),
            None => {
                for entry in content.0 {
                    self.refer(entry);
                }
                let middle = self.make(content, stores);
                self.lead_top(top, middle, stores);
            }
        }
    }

    fn lead_top(&mut self, top: u16, middle: u16, stores: &mut Vec<Store>) {
        self.refer(middle);
        let Some(entry) = self.root.get_mut(usize::from(top)) else { return };
        let old = std::mem::replace(entry, middle);
        let offset = 2 * u32::from(top);
        let bytes = middle.to_ne_bytes().to_vec();
        stores.push(Store { map: maps::ADDRESSES4, offset, bytes });
        self.release(Level::Middle, old);
    }

    /// A block that holds one value in every entry, made if there is none yet.
    fn uniform(&mut self, level: Level, value: u16, stores: &mut Vec<Store>) -> Result<u16, Full> {
        let content = Block([value; 256]);
        if let Some(known) = self.known(level, &content) {
            return Ok(known);
        }
        self.room(1)?;
        if level == Level::Middle {
            (0..256).for_each(|_| self.refer(value));
        }
        let block = self.make(content, stores);
        self.refer(block);
        self.uniform.insert((level, value), block);
        Ok(block)
    }

    /// A block of this content that may be shared.
    fn known(&self, level: Level, content: &Block) -> Option<u16> {
        match content.value()? {
            0 => Some(0),
            value => self.uniform.get(&(level, value)).copied(),
        }
    }

    fn room(&self, needed: usize) -> Result<(), Full> {
        let unused = (maps::BLOCKS4 as usize).saturating_sub(self.blocks.len());
        if self.free.len() + unused >= needed { Ok(()) } else { Err(Full) }
    }

    /// A new block, to which nothing leads yet. There is room.
    fn make(&mut self, content: Block, stores: &mut Vec<Store>) -> u16 {
        let unused = u16::try_from(self.blocks.len()).unwrap_or(0);
        let block = self.free.pop().unwrap_or(unused);
        stores.push(store(entry_offset(block, 0), &content, 0..=255));
        if block == unused {
            self.blocks.push(Arc::new(content));
            self.references.push(0);
        } else {
            self.replace(block, content);
        }
        block
    }

    fn refer(&mut self, block: u16) {
        if let (true, Some(n)) = (block != 0, self.references.get_mut(usize::from(block))) {
            *n += 1;
        }
    }

    fn release(&mut self, level: Level, block: u16) {
        let Some(n) = self.references.get_mut(usize::from(block)).filter(|_| block != 0) else {
            return;
        };
        *n -= 1;
        if *n > 0 {
            return;
        }
        if level == Level::Middle {
            for entry in self.block(block).0 {
                self.release(Level::Leaf, entry);
            }
        }
        self.retired.push(block);
    }

    fn replace(&mut self, block: u16, content: Block) {
        if let Some(place) = self.blocks.get_mut(usize::from(block)) {
            *place = Arc::new(content);
        }
    }

    fn is_owned(&self, block: u16) -> bool {
        block != 0 && self.references.get(usize::from(block)) == Some(&1)
    }

    fn top(&self, top: u16) -> u16 {
        self.root.get(usize::from(top)).copied().unwrap_or(0)
    }

    fn block(&self, block: u16) -> Arc<Block> {
        // INVARIANT: entries lead to blocks that are there.
        let found = self.blocks.get(usize::from(block)).or(self.blocks.first());
        found.cloned().unwrap_or_else(|| Arc::new(Block([0; 256])))
    }
}

/// The index into each level.
fn split(address: Ipv4Addr) -> (u16, u8, u8) {
    let [a, b, c, d] = address.octets();
    (u16::from_be_bytes([a, b]), c, d)
}

/// Where an entry of a block is.
fn entry_offset(block: u16, entry: u8) -> u32 {
    maps::ADDRESSES4_BLOCKS + maps::BLOCK_BYTES * u32::from(block) + 2 * u32::from(entry)
}

/// Writes some entries of a block.
fn store(offset: u32, block: &Block, entries: RangeInclusive<u8>) -> Store {
    let bytes = entries.flat_map(|entry| block.entry(entry).to_ne_bytes()).collect();
    Store { map: maps::ADDRESSES4, offset, bytes }
}

#[cfg(test)]
#[expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    /// What a map holds after stores, and how programs read it.
    struct Map(Vec<u8>);

    impl Map {
        fn new() -> Self {
            Self(vec![0; maps::ADDRESSES4_BYTES as usize])
        }

        fn apply(&mut self, store: &Store) {
            let at = store.offset as usize;
            self.0[at..at + store.bytes.len()].copy_from_slice(&store.bytes);
        }

        fn entry(&self, at: u32) -> u16 {
            u16::from_ne_bytes([self.0[at as usize], self.0[at as usize + 1]])
        }

        fn get(&self, address: Ipv4Addr) -> u16 {
            let (top, upper, lower) = split(address);
            let middle = self.entry(2 * u32::from(top));
            self.entry(entry_offset(self.entry(entry_offset(middle, upper)), lower))
        }
    }

    /// Numbers that look random, the same in every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % n
        }

        /// Few networks, so that blocks are shared, left and used again.
        fn address(&mut self) -> Ipv4Addr {
            let mut part = |choices: &[u8]| choices[self.below(choices.len() as u64) as usize];
            let (a, b) = (part(&[10, 11, 192]), part(&[0, 7, 255]));
            Ipv4Addr::new(a, b, part(&[0, 1, 255]), part(&[0, 1, 2, 254, 255]))
        }
    }

    const NETS: [([u8; 4], [u8; 4]); 4] = [
        ([10, 0, 0, 0], [10, 7, 255, 255]),
        ([11, 0, 1, 0], [11, 0, 255, 255]),
        ([11, 7, 0, 2], [11, 255, 1, 254]),
        ([255, 255, 255, 255], [255, 255, 255, 255]),
    ];

    fn net(address: Ipv4Addr) -> u16 {
        let holds = |&(first, last): &([u8; 4], [u8; 4])| {
            (Ipv4Addr::from(first)..=Ipv4Addr::from(last)).contains(&address)
        };
        NETS.iter().position(holds).map_or(0, |net| net as u16 + 1)
    }

    fn nets(ranges: &[([u8; 4], [u8; 4])]) -> Nets {
        let net =
            |&(first, last): &([u8; 4], [u8; 4])| Net { ranges: vec![(first.into(), last.into())] };
        Nets::new(&ranges.iter().map(net).collect::<Vec<_>>())
    }

    #[test]
    fn random_changes_agree_with_a_list_at_every_store() {
        for seed in 0..20 {
            let nets = nets(&NETS);
            let (mut addresses, stores) = nets.addresses4().expect("room");
            let mut map = Map::new();
            stores.iter().for_each(|store| map.apply(store));
            let mut model: BTreeMap<Ipv4Addr, u16> = BTreeMap::new();
            let mut dice = Dice(seed);
            let n_blocks = addresses.blocks.len();
            for step in 0..2_000 {
                let address = dice.address();
                assert_eq!(nets.ident(address.into()), net(address));
                let ident = match dice.below(2) {
                    0 => net(address),
                    _ => 5 + dice.below(1_000) as u16,
                };
                let stores = addresses.set(address, ident).expect("room");
                assert!(stores.len() <= 4, "{stores:?}");
                let (before, other) = (map.get(address), dice.address());
                for store in &stores {
                    map.apply(store);
                    assert!([before, ident].contains(&map.get(address)), "step {step}");
                    if other != address {
                        let known = model.get(&other).copied().unwrap_or(net(other));
                        assert_eq!(map.get(other), known, "{other} at step {step}");
                    }
                }
                model.insert(address, ident);
                assert_eq!((map.get(address), addresses.get(address)), (ident, ident));
                if dice.below(50) == 0 {
                    addresses.reclaim();
                }
            }
            for (address, ident) in &model {
                assert_eq!(map.get(*address), *ident);
                let stores = addresses.set(*address, net(*address)).expect("room");
                stores.iter().for_each(|store| map.apply(store));
            }
            for _ in 0..1_000 {
                let address = Ipv4Addr::from(dice.below(1 << 31) as u32 * 2 + 1);
                assert_eq!(map.get(address), net(address), "{address}");
            }
            // Without endpoints, only blocks that began as parts of nets are left, or lie ready.
            addresses.reclaim();
            assert!(addresses.blocks.len() - addresses.free.len() <= n_blocks + 9);
        }
    }

    #[test]
    fn what_is_in_no_net_has_an_address() {
        assert_eq!(nets(&NETS).outside(), Some([0; 4].into()));
        let four = ([0; 4].into(), [255; 4].into());
        let beyond = |last: u128| {
            let six = (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(last).into());
            Nets::new(&[Net { ranges: vec![four, six] }]).outside()
        };
        assert_eq!(beyond(5), Some(Ipv6Addr::from(6).into()));
        assert_eq!(beyond(u128::MAX), None);
    }

    #[test]
    fn a_net_takes_two_blocks_however_large() {
        let (mut addresses, stores) = nets(&[([0; 4], [255; 4])]).addresses4().expect("room");
        assert_eq!((stores.len(), addresses.blocks.len()), (2 + 65_536, 3));
        assert_eq!(addresses.get([203, 0, 113, 9].into()), 1);
        // An endpoint in it copies both, and gives them back.
        let stores = addresses.set([203, 0, 113, 9].into(), 8).expect("room");
        assert_eq!((stores.len(), addresses.get([203, 0, 113, 9].into())), (3, 8));
        assert_eq!(addresses.get([203, 0, 113, 8].into()), 1);
        addresses.set([203, 0, 113, 9].into(), 1).expect("room");
        assert_eq!((addresses.retired.len(), addresses.get([203, 0, 113, 9].into())), (2, 1));
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut addresses = Addresses4::default();
        // Each takes a block of its own; the first of 256 one more.
        let nth = |n: u32| Ipv4Addr::from((n << 8) | 1);
        let mut n = 0;
        while addresses.set(nth(n), 9).is_ok() {
            n += 1;
        }
        assert_eq!(addresses.blocks.len(), maps::BLOCKS4 as usize);
        assert_eq!(addresses.get(nth(n)), 0);
        assert!((0..n).all(|n| addresses.get(nth(n)) == 9));
        // Neighbours need no block; a block left is free only once nobody can be in it.
        addresses.set(Ipv4Addr::from(2), 10).expect("room");
        addresses.set(nth(5), 0).expect("room");
        assert_eq!(addresses.set(nth(n), 9), Err(Full));
        assert!(addresses.reclaim());
        assert_eq!(addresses.set(nth(n), 9).is_ok(), n % 256 != 0);
        assert!(!addresses.reclaim());
    }
}
