//! `/proc/kallsyms`: names of the kernel's functions.

use std::collections::{BTreeMap, BTreeSet};

use super::files::Files;

/// Size up to which the file is read, in bytes: 10 MB with the modules of a desktop.
const LARGEST: usize = 256 << 20;

/// Returns the names of the functions that begin at these addresses; without `CAP_SYSLOG` the kernel tells none
/// (`kptr_restrict`).
pub fn functions(files: &dyn Files, addresses: &BTreeSet<u64>) -> BTreeMap<u64, String> {
    let text = files.read_within("/proc/kallsyms", LARGEST);
    let text = text.unwrap_or_default();
    let known = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let name = addresses.contains(&address).then(|| words.nth(1))??;
        // What the compiler has appended to a copy of its own: ".isra.0", ".constprop.0".
        let name = name.split_once('.').map_or(name, |(name, _)| name);
        Some((address, name.to_owned()))
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dirs::make_dirs;
    use crate::host::files::RootFiles;

    #[test]
    fn functions_have_names_at_their_addresses() {
        let root = tempfile::tempdir().unwrap();
        let files = RootFiles::new(root.path());
        make_dirs(&files, "/proc", 0o755).unwrap();
        let text = "ffffffff81000000 T _stext\nffffffff81234560 t psi_avgs_work.isra.0\n\
            nonsense\nffffffffc0000010 t nvme_irq\t[nvme]\n";
        files.replace("/proc/kallsyms", text, 0o644).unwrap();
        let wanted = [0xffff_ffff_8123_4560, 0xffff_ffff_c000_0010, 0x10];
        let found = functions(&files, &BTreeSet::from(wanted));
        let names: Vec<&str> = found.values().map(String::as_str).collect();
        assert_eq!(names, ["psi_avgs_work", "nvme_irq"]);
    }
}
