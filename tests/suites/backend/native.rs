//! The same CLIF by Cranelift's own backend, as the second opinion.

use cranelift_codegen::Context;
use cranelift_codegen::ir::{ExternalName, Function, UserExternalName};
use cranelift_codegen::isa::{OwnedTargetIsa, TargetFrontendConfig};
use cranelift_codegen::settings::{self, Configurable, Flags};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, default_libcall_names};
use libtest_mimic::Failed;
use seg_compiler::ir::HELPERS;

/// Longest frame. Unit: bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 4096;

/// What a function that builds CLIF for this machine needs to know.
pub(crate) fn frontend() -> TargetFrontendConfig {
    isa().expect("a native target").frontend_config()
}

fn isa() -> Result<OwnedTargetIsa, Failed> {
    let mut flags = settings::builder();
    flags.set("opt_level", "none")?;
    let builder = cranelift_native::builder()?;
    Ok(builder.finish(Flags::new(flags))?)
}

/// `bpf_map_lookup_elem` on `map`, which holds entries and words of each, then the words.
extern "C" fn lookup(map: *const u64, key: *const u32) -> *const u64 {
    // SAFETY: compiled functions pass the map they were given and a key in their own frame; `map` begins with two words
    // that say how many follow.
    unsafe {
        let (n_entries, n_words, key) = (*map, *map.add(1), u64::from(*key));
        if key < n_entries { map.add(2 + (key * n_words) as usize) } else { std::ptr::null() }
    }
}

/// A compiled function and the memory it works on.
pub(crate) struct Native {
    module: Option<JITModule>,
    entry: extern "C" fn(*mut u32) -> u32,
    frame: *mut u8,
    /// Entries, words of each, and the words.
    map: Box<[u64]>,
}

impl Native {
    pub(crate) fn new(func: &Function, n_entries: usize, n_words: usize) -> Result<Self, Failed> {
        let mut map = vec![0u64; 2 + n_entries * n_words].into_boxed_slice();
        map[0] = n_entries as u64;
        map[1] = n_words as u64;
        let mut builder = JITBuilder::with_isa(isa()?, default_libcall_names());
        builder.symbol("lookup", lookup as *const u8);
        builder.symbol("map", map.as_mut_ptr().cast::<u8>());
        let mut module = JITModule::new(builder);
        let mut context = Context::for_function(func.clone());
        bind(&mut module, &mut context.func)?;
        let id = module.declare_anonymous_function(&context.func.signature)?;
        module.define_function(id, &mut context)?;
        module.finalize_definitions()?;
        let entry = module.get_finalized_function(id);
        // SAFETY: the function was compiled with the signature (i64) -> i32 in the host's convention.
        let entry =
            unsafe { std::mem::transmute::<*const u8, extern "C" fn(*mut u32) -> u32>(entry) };
        // SAFETY: a fresh private mapping, below 4 GiB because the context has pointers of 32 bits.
        let frame = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                FRAME_BYTES_MAX,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        if frame == libc::MAP_FAILED {
            return Err("no memory below 4 GiB".into());
        }
        Ok(Self { module: Some(module), entry, frame: frame.cast(), map })
    }

    /// The words of the map.
    pub(crate) fn map(&mut self) -> &mut [u64] {
        &mut self.map[2..]
    }

    /// What it returns for a frame.
    pub(crate) fn run(&self, frame: &[u8]) -> u32 {
        assert!(frame.len() <= FRAME_BYTES_MAX);
        // SAFETY: `self.frame` is a mapping of FRAME_BYTES_MAX bytes that only this thread uses.
        unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), self.frame, frame.len()) };
        // `struct __sk_buff`: data at 76, data_end at 80.
        let mut context = [0u32; 48];
        let start = self.frame as usize as u32;
        context[19] = start;
        context[20] = start + frame.len() as u32;
        (self.entry)(context.as_mut_ptr())
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: `entry` is private and not called any more.
            unsafe { module.free_memory() };
        }
        // SAFETY: mapped by `new` with this size.
        unsafe { libc::munmap(self.frame.cast(), FRAME_BYTES_MAX) };
    }
}

/// Gives the names of helper and map their meaning in the module.
fn bind(module: &mut JITModule, func: &mut Function) -> Result<(), Failed> {
    let mut callees = Vec::new();
    for callee in func.dfg.ext_funcs.values() {
        if let ExternalName::User(name) = callee.name {
            callees.push((name, func.dfg.signatures[callee.signature].clone()));
        }
    }
    let names: Vec<_> =
        func.params.user_named_funcs().iter().map(|(r, n)| (r, n.clone())).collect();
    for (reference, name) in names {
        let signature = callees.iter().find(|(r, _)| *r == reference);
        let bound = match signature {
            Some((_, signature)) if name.namespace == HELPERS => {
                let id = module.declare_function("lookup", Linkage::Import, signature)?;
                UserExternalName::new(0, id.as_u32())
            }
            _ => {
                let id = module.declare_data("map", Linkage::Import, true, false)?;
                UserExternalName::new(1, id.as_u32())
            }
        };
        func.params.reset_user_func_name(reference, bound);
    }
    Ok(())
}
