//! A kernel that remembers what it was asked and fails when told to.

use super::{Count, Features, Hook, Kernel, KernelError, Link, Namespace};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) open: bool,
    pub(crate) loaded: BTreeSet<String>,
    pub(crate) filled: BTreeMap<(String, Vec<u8>), Vec<u8>>,
    pub(crate) attached: BTreeMap<Hook, String>,
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
}

impl Kernel for Fake {
    fn features(&mut self) -> Result<Features, KernelError> {
        Ok(Features { release: "6.18.44-test".to_owned(), tcx: true })
    }

    fn links(&mut self) -> Result<Vec<Link>, KernelError> {
        Ok(Vec::new())
    }

    fn namespace(&mut self, _: &str) -> Result<Namespace, KernelError> {
        Ok(Namespace::Missing)
    }

    fn open(&mut self, _: &[u8]) -> Result<(), KernelError> {
        self.step()?;
        self.open = true;
        Ok(())
    }

    fn close(&mut self) {
        assert!(self.attached.is_empty(), "closed under {:?}", self.attached);
        self.open = false;
        self.loaded.clear();
        self.filled.clear();
    }

    fn load(&mut self, program: &str) -> Result<(), KernelError> {
        self.step()?;
        assert!(self.open);
        self.loaded.insert(program.to_owned());
        Ok(())
    }

    fn fill(&mut self, map: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError> {
        self.step()?;
        assert!(self.open && self.attached.is_empty(), "filled after attaching");
        self.filled.insert((map.to_owned(), key.to_vec()), value.to_vec());
        Ok(())
    }

    fn attach(&mut self, program: &str, at: &Hook) -> Result<(), KernelError> {
        self.step()?;
        assert!(self.loaded.contains(program), "{program} is not loaded");
        self.attached.insert(at.clone(), program.to_owned());
        Ok(())
    }

    fn detach(&mut self, at: &Hook) {
        self.attached.remove(at);
    }

    fn counters(&mut self, n: u32) -> Result<Vec<Count>, KernelError> {
        Ok(vec![Count { packets: 1, bytes: 60 }; n as usize])
    }
}
