//! Directories with all above them.

use std::io;

use super::files::Files;

/// Makes a directory with all above it; `mode` is that of those that are new.
///
/// # Errors
/// The kernel's.
pub fn make_dirs(files: &dyn Files, path: &str, mode: u32) -> io::Result<()> {
    if files.exists(path) {
        return Ok(());
    }
    if let Some((parent, _)) = path.rsplit_once('/').filter(|(p, _)| !p.is_empty()) {
        make_dirs(files, parent, mode)?;
    }
    make_dir(files, path, mode)
}

/// Makes a directory whose parent is there; one that is there already is left as it is.
///
/// # Errors
/// The kernel's.
pub fn make_dir(files: &dyn Files, path: &str, mode: u32) -> io::Result<()> {
    match files.make_dir(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}
