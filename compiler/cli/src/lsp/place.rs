//! Which file a URI means, and which package a file belongs to.

use crate::package::MANIFEST;
use gen_lsp_types::Uri;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

/// Scheme of the modules of the standard library, which are no files.
pub(crate) const SCHEME: &str = "seg";

/// What is analysed together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Root {
    /// A directory with a manifest.
    Package(PathBuf),
    /// One document, by its URI.
    Single(String),
}

impl Root {
    /// Where a document belongs, and its path there.
    pub(crate) fn of(uri: &Uri) -> (Self, String) {
        let Some(path) = path_of(uri) else {
            let name = uri.0.rsplit(['/', ':']).next().unwrap_or_default();
            let name = if name.is_empty() { "untitled" } else { name };
            return (Self::Single(uri.0.clone()), module_file(name));
        };
        let home = path.ancestors().skip(1).find(|folder| folder.join(MANIFEST).is_file());
        if let Some(home) = home
            && let Ok(inside) = path.strip_prefix(home)
            && inside.extension().is_some_and(|ending| ending == "seg")
            && !inside.components().any(|part| is_skipped(&part))
        {
            let name = inside.to_string_lossy().replace('\\', "/");
            return (Self::Package(home.to_path_buf()), name);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (Self::Single(uri.0.clone()), module_file(&name))
    }

    /// The URI of a file of it, by its path there.
    pub(crate) fn uri(&self, path: &str) -> Uri {
        let given = matches!(self, Self::Package(home) if home.join(path).is_file());
        if path.starts_with("std/") && !given {
            return Uri(format!("{SCHEME}:/{path}"));
        }
        match self {
            Self::Package(home) => uri_of(&home.join(path)),
            Self::Single(uri) => {
                let uri = Uri(uri.clone());
                if Self::of(&uri).1 == path {
                    return uri;
                }
                let folder = path_of(&uri).and_then(|p| Some(p.parent()?.join(path)));
                folder.map_or(uri, |path| uri_of(&path))
            }
        }
    }
}

/// Directories that hold no sources, as when a package is read.
fn is_skipped(part: &Component<'_>) -> bool {
    let name = part.as_os_str().to_string_lossy();
    name.starts_with('.') || name == "target"
}

fn module_file(name: &str) -> String {
    if name.ends_with(".seg") { name.to_owned() } else { format!("{name}.seg") }
}

/// The path a `file:` URI means.
pub(crate) fn path_of(uri: &Uri) -> Option<PathBuf> {
    let path = uri.0.strip_prefix("file://")?;
    // An authority before the path, such as `localhost`, is of no use here.
    let path = &path[path.find('/')?..];
    let bytes = path.as_bytes();
    let mut plain = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let code = path.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 3;
            }
            (byte, _) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    let plain = String::from_utf8(plain).ok().filter(|path| !path.contains('\0'))?;
    let path = PathBuf::from(plain);
    // `..` would let one file have two names.
    let is_plain = path.components().all(|part| part != Component::ParentDir);
    is_plain.then_some(path)
}

/// The `file:` URI of a path.
pub(crate) fn uri_of(path: &Path) -> Uri {
    let mut uri = "file://".to_owned();
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                uri.push(char::from(byte));
            }
            // Writing to a `String` cannot fail.
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    Uri(uri)
}
