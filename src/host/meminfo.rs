//! `meminfo`: memory of the host (`/proc/meminfo`, proc_meminfo(5)) or of a node, whose lines begin with its number.

use super::files::Files;

/// Returns the memory of the host that can be had without swapping, in KiB.
pub fn available(files: &dyn Files) -> Option<u64> {
    kib(&files.read("/proc/meminfo").ok()?, "MemAvailable")
}

/// Returns a value in KiB by its name.
pub fn kib(text: &str, name: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    let mut of_name = values.filter(|(key, _)| key.rsplit(' ').next() == Some(name));
    let (_, value) = of_name.next()?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_host_and_of_nodes_are_understood() {
        let host =
            "MemTotal:        4010584 kB\nMemFree:         100 kB\nHugePages_Total:       3\n";
        assert_eq!(kib(host, "MemTotal"), Some(4_010_584));
        assert_eq!(kib(host, "HugePages_Total"), None);
        let node = "Node 0 MemTotal:       65536 kB\nNode 0 MemFree:        1 kB\n";
        assert_eq!(kib(node, "MemTotal"), Some(65_536));
        assert_eq!(kib("", "MemTotal"), None);
    }
}
