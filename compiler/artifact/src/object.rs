//! Sections of a policy object, its seal, and the defensive reader.

use crate::classes::{CLASSES, Classes, ClassesError};
use crate::manifest::{Manifest, ManifestError};
use object::{Architecture, Endianness, Object, ObjectSection, ObjectSymbol, SymbolKind};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Section of the manifest.
pub const MANIFEST: &str = ".seg.manifest";
/// Section of the seal: SHA-256 over the whole file with these 32 bytes zero.
pub const SEAL: &str = ".seg.seal";
/// Section of all programs; each is a function symbol in it. aya 0.14 and libbpf 1 both know this name, exactly.
pub const PROGRAM_SECTION: &str = "classifier";
/// Section of what programs only read, if they read anything; loaders make a map of it that nobody can change.
pub const TABLES: &str = ".rodata";
/// Unit: bytes of a [`SEAL`].
pub const SEAL_BYTES: usize = 32;
/// Largest object read. Unit: bytes.
pub const OBJECT_BYTES_MAX: usize = 64 << 20;

/// Why an object is refused.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Larger than [`OBJECT_BYTES_MAX`].
    #[error("the object has {bytes} bytes; at most {OBJECT_BYTES_MAX} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not an ELF file, or a damaged one.
    #[error("not a policy object: {0}")]
    Elf(#[from] object::Error),
    /// ELF of another machine or byte order.
    #[error("not a policy object: ELF for another machine than BPF of this byte order")]
    Machine,
    /// A section is missing.
    #[error("not a policy object: no section `{0}`")]
    Missing(&'static str),
    /// The seal does not match.
    #[error("the object is damaged: its SHA-256 seal does not match its bytes")]
    Seal,
    /// The manifest is refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The classes are refused.
    #[error(transparent)]
    Classes(#[from] ClassesError),
    /// A symbol that is not inside its section.
    #[error("the object is inconsistent: a symbol lies outside its section")]
    Symbol,
    /// A role's program is not in the object.
    #[error("the object is inconsistent: no program `{0}`")]
    Program(String),
}

/// An opened policy object: sealed, decoded and consistent.
#[derive(Debug)]
pub struct Artifact {
    /// What it says about itself.
    pub manifest: Manifest,
    /// What sorts ends into classes, if programs ask for them.
    pub classes: Option<Classes>,
    /// SHA-256 of the whole file in hexadecimal; names the object in reports.
    pub digest: String,
}

/// Opens an object, trusting nothing.
///
/// # Errors
/// [`OpenError`] for anything but a whole, unchanged object of this format.
pub fn open(bytes: &[u8]) -> Result<Artifact, OpenError> {
    if bytes.len() > OBJECT_BYTES_MAX {
        return Err(OpenError::TooLarge { bytes: bytes.len() });
    }
    let file = object::File::parse(bytes)?;
    let native = if cfg!(target_endian = "little") { Endianness::Little } else { Endianness::Big };
    if file.architecture() != Architecture::Bpf || file.endianness() != native {
        return Err(OpenError::Machine);
    }
    let (start, end) = seal_range(&file)?;
    let (Some(before), Some(found), Some(after)) =
        (bytes.get(..start), bytes.get(start..end), bytes.get(end..))
    else {
        return Err(OpenError::Missing(SEAL));
    };
    if seal_of(before, after) != found {
        return Err(OpenError::Seal);
    }
    let section = file.section_by_name(MANIFEST).ok_or(OpenError::Missing(MANIFEST))?;
    let manifest = Manifest::decode(section.data()?)?;
    let classes = match file.section_by_name(CLASSES) {
        Some(section) => {
            let (labels, nets) = (manifest.labels.len(), manifest.nets.len());
            Some(Classes::decode(section.data()?, labels, nets)?)
        }
        None => None,
    };
    let code = file.section_by_name(PROGRAM_SECTION).ok_or(OpenError::Missing(PROGRAM_SECTION))?;
    let mut functions = BTreeSet::new();
    for symbol in file.symbols() {
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index)?;
        let bytes = section.data()?.len() as u64;
        let end = symbol.address().checked_add(symbol.size());
        if section.address() != 0 || end.is_none_or(|end| end > bytes) {
            return Err(OpenError::Symbol);
        }
        if index == code.index() && symbol.kind() == SymbolKind::Text {
            functions.insert(symbol.name()?);
        }
    }
    let programs = manifest.outbound.programs.iter().chain(&manifest.inbound.programs);
    if let Some(missing) = programs.into_iter().find(|name| !functions.contains(name.as_str())) {
        return Err(OpenError::Program(missing.clone()));
    }
    Ok(Artifact { manifest, classes, digest: hex(&Sha256::digest(bytes)) })
}

/// Writes the seal into an object that has a zero [`SEAL`] section.
///
/// # Errors
/// [`OpenError`] if the bytes are no ELF file or have no such section.
pub fn seal(mut bytes: Vec<u8>) -> Result<Vec<u8>, OpenError> {
    let (start, end) = seal_range(&object::File::parse(bytes.as_slice())?)?;
    let before = bytes.get(..start).unwrap_or_default();
    let after = bytes.get(end..).unwrap_or_default();
    let seal = seal_of(before, after);
    if let Some(place) = bytes.get_mut(start..end) {
        place.copy_from_slice(&seal);
    }
    Ok(bytes)
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seal_range(file: &object::File) -> Result<(usize, usize), OpenError> {
    let range = file.section_by_name(SEAL).and_then(|section| section.file_range());
    match range {
        Some((start, size)) if size == SEAL_BYTES as u64 => {
            let start = usize::try_from(start).map_err(|_| OpenError::Missing(SEAL))?;
            Ok((start, start.saturating_add(SEAL_BYTES)))
        }
        _ => Err(OpenError::Missing(SEAL)),
    }
}

fn seal_of(before: &[u8], after: &[u8]) -> [u8; SEAL_BYTES] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update([0; SEAL_BYTES]);
    hash.update(after);
    hash.finalize().into()
}
