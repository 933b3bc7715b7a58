//! What can be done about a file that cannot be read or written.

use std::io::{self, ErrorKind};

use nix::libc::{EMFILE, ENFILE, EPERM};

use super::privilege::is_root;
use crate::domain::advice::Advised;

/// Returns the error of something that cannot be done with a file (`cannot("write", path)`), with
/// what can be done about it.
pub fn cannot(doing: &str, path: &str) -> impl FnOnce(io::Error) -> anyhow::Error {
    let fact = format!("cannot {doing} {path}");
    let path = path.to_owned();
    move |error| {
        let help = remedy(&path, &error, is_root());
        anyhow::Error::new(error).context(Advised::new(fact, help))
    }
}

fn remedy(path: &str, error: &io::Error, is_root: bool) -> String {
    let directory = match path.rsplit_once('/') {
        Some((directory, _)) if !directory.is_empty() => directory,
        _ => "/",
    };
    // A directory of our own may not be there.
    let place = match directory.split_once("/pin-hook") {
        Some((above, _)) => above,
        None => directory,
    };
    match error.kind() {
        ErrorKind::PermissionDenied if !is_root => "run it as root".to_owned(),
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
            "raise the limit of open files: ulimit -n of the caller, or fs.file-max".to_owned()
        }
        // Without a quorum it refuses every write, with one error or another.
        _ if path.starts_with("/etc/pve/") => {
            "pvecm status shows whether this node may change /etc/pve (quorum)".to_owned()
        }
        ErrorKind::IsADirectory => format!("{path} is a directory: move it away"),
        ErrorKind::FileTooLarge | ErrorKind::InvalidInput => {
            format!("ls -lL {path} shows what is there instead of a text file")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("free up space: df {place} shows what is full")
        }
        ErrorKind::ReadOnlyFilesystem => {
            format!("mount it for writing: findmnt --target {place} shows what it is")
        }
        _ if error.raw_os_error() == Some(EPERM) => {
            format!("lsattr -d {path} {directory} shows whether it is immutable (chattr -i)")
        }
        _ => format!("namei -l {path} shows what is there, and on the way to it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_depends_on_the_error_and_the_place() {
        let local = "/var/lib/pin-hook/saved/100.conf";
        for (path, number, is_root, expected) in [
            (local, libc::EACCES, false, "run it as root"),
            (local, libc::ENOSPC, true, "df /var/lib "),
            (local, libc::EROFS, true, "findmnt --target /var/lib "),
            (local, libc::EPERM, true, "chattr -i"),
            (
                local,
                libc::ENOTDIR,
                true,
                "namei -l /var/lib/pin-hook/saved/100.conf",
            ),
            (
                "/etc/pve/pin-hook/100.chain",
                libc::EACCES,
                true,
                "pvecm status",
            ),
            ("/lost", libc::EIO, true, "namei -l /lost"),
            ("/lost", libc::EFBIG, true, "ls -lL /lost"),
            ("/etc/pve/100.conf", libc::EMFILE, true, "ulimit -n"),
        ] {
            let error = cannot("write", path)(io::Error::from_raw_os_error(number));
            assert!(format!("{error:#}").starts_with(&format!("cannot write {path}: ")));
            let help = remedy(path, &io::Error::from_raw_os_error(number), is_root);
            assert!(help.contains(expected), "{path}, {number}: {help}");
        }
    }
}
