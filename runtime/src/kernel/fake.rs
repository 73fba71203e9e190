//! A kernel that remembers what it was asked and fails when told to.

use super::{Count, Features, Hook, Kernel, KernelError, Link, Namespace};
use seg_artifact::maps::{self, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem;
use std::net::Ipv4Addr;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fake {
    pub(crate) open: bool,
    pub(crate) loaded: BTreeSet<String>,
    pub(crate) filled: BTreeMap<(String, Vec<u8>), Vec<u8>>,
    /// What array maps hold that is not zero, by offset.
    pub(crate) stored: BTreeMap<&'static str, BTreeMap<usize, u8>>,
    pub(crate) attached: BTreeMap<Hook, String>,
    /// Number of the generation whose program that is.
    pub(crate) generations: BTreeMap<Hook, usize>,
    /// What is open beside the newest generation, the oldest first.
    pub(crate) older: Vec<Self>,
    pub(crate) links: Vec<Link>,
    pub(crate) n_settled: usize,
    /// Which call that changes something fails, counted from 0.
    pub(crate) fail_at: Option<usize>,
    pub(crate) n_calls: usize,
}

impl Fake {
    fn step(&mut self) -> Result<(), KernelError> {
        let call = self.n_calls;
        self.n_calls += 1;
        if self.fail_at == Some(call) {
            let source = io::ErrorKind::OutOfMemory.into();
            return Err(KernelError::Call { operation: "obey", source });
        }
        Ok(())
    }

    fn decides(&self, generation: usize) -> bool {
        self.generations.values().any(|number| *number == generation)
    }

    fn read(&self, map: &str, offset: u32, len: usize) -> Vec<u8> {
        let byte = |at| self.stored.get(map).and_then(|map| map.get(&at)).copied().unwrap_or(0);
        (offset as usize..).take(len).map(byte).collect()
    }

    /// As a program looks it up.
    pub(crate) fn ident(&self, address: Ipv4Addr) -> u16 {
        let [a, b, c, d] = address.octets().map(u32::from);
        let entry = |at| {
            let bytes = self.read(maps::ADDRESSES4, at, 2);
            bytes.try_into().map_or(0, |bytes| u32::from(u16::from_ne_bytes(bytes)))
        };
        let below = |block, at| entry(maps::ADDRESSES4_BLOCKS + maps::BLOCK_BYTES * block + 2 * at);
        below(below(entry(2 * (a << 8 | b)), c), d) as u16
    }

    pub(crate) fn record(&self, ident: u16, len: usize) -> Vec<u8> {
        self.read(maps::RECORDS, u32::from(ident) * len as u32, len)
    }

    pub(crate) fn interface(&self, ident: u16) -> u32 {
        let bytes = self.read(maps::IDENTS, maps::IDENT_INTERFACES + 4 * u32::from(ident), 4);
        bytes.try_into().map_or(0, u32::from_ne_bytes)
    }
}

impl Kernel for Fake {
    fn features(&mut self) -> Result<Features, KernelError> {
        Ok(Features { release: "6.18.44-test".to_owned(), tcx: true })
    }

    fn links(&mut self) -> Result<Vec<Link>, KernelError> {
        Ok(self.links.clone())
    }

    fn namespace(&mut self, _: &str) -> Result<Namespace, KernelError> {
        Ok(Namespace::Missing)
    }

    fn open(&mut self, _: &[u8], _: u32) -> Result<(), KernelError> {
        self.step()?;
        if self.open {
            let (loaded, filled) = (mem::take(&mut self.loaded), mem::take(&mut self.filled));
            let stored = mem::take(&mut self.stored);
            self.older.push(Self { loaded, filled, stored, ..Self::default() });
        }
        self.open = true;
        Ok(())
    }

    fn close(&mut self) {
        assert!(!self.decides(self.older.len()), "closed under {:?}", self.attached);
        let before = self.older.pop();
        self.open = before.is_some();
        let before = before.unwrap_or_default();
        (self.loaded, self.filled, self.stored) = (before.loaded, before.filled, before.stored);
    }

    fn retire(&mut self) {
        assert!(
            (0..self.older.len()).all(|n| !self.decides(n)),
            "closed under {:?}",
            self.attached
        );
        self.older.clear();
        self.generations.values_mut().for_each(|number| *number = 0);
    }

    fn load(&mut self, program: &str) -> Result<(), KernelError> {
        self.step()?;
        assert!(self.open);
        self.loaded.insert(program.to_owned());
        Ok(())
    }

    fn fill(&mut self, map: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError> {
        self.step()?;
        assert!(self.open);
        self.filled.insert((map.to_owned(), key.to_vec()), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, map: &str, key: &[u8]) -> Result<(), KernelError> {
        self.step()?;
        let entry = self.filled.remove(&(map.to_owned(), key.to_vec()));
        assert!(entry.is_some(), "{map} has no such key");
        Ok(())
    }

    fn store(&mut self, store: &Store) -> Result<(), KernelError> {
        // After the first into a map it cannot fail.
        if !self.stored.contains_key(store.map) {
            self.step()?;
        }
        let map = self.stored.entry(store.map).or_default();
        map.extend((store.offset as usize..).zip(store.bytes.iter().copied()));
        Ok(())
    }

    fn settle(&mut self) -> Result<(), KernelError> {
        self.step()?;
        self.n_settled += 1;
        Ok(())
    }

    fn attach(&mut self, program: &str, at: &Hook) -> Result<(), KernelError> {
        self.step()?;
        assert!(self.loaded.contains(program), "{program} is not loaded");
        self.detach(at);
        self.attached.insert(at.clone(), program.to_owned());
        self.generations.insert(at.clone(), self.older.len());
        Ok(())
    }

    fn detach(&mut self, at: &Hook) {
        // An interface may get another name.
        let stays = |hook: &Hook| (hook.index, hook.side) != (at.index, at.side);
        self.attached.retain(|hook, _| stays(hook));
        self.generations.retain(|hook, _| stays(hook));
    }

    fn restore(&mut self, program: &str, at: &Hook) -> Result<(), KernelError> {
        let before = self.older.last().is_some_and(|before| before.loaded.contains(program));
        assert!(before, "{program} is not loaded");
        self.attached.insert(at.clone(), program.to_owned());
        self.generations.insert(at.clone(), self.older.len() - 1);
        Ok(())
    }

    fn counters(&mut self, n: u32) -> Result<Vec<Count>, KernelError> {
        Ok(vec![Count { packets: 1, bytes: 60 }; n as usize])
    }
}
