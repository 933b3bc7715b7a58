//! Numbers and names of things in sentences.

/// Returns a number of things, such as `1 thread` or `3 threads`.
pub fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}

/// Returns the path of a sysctl below `/proc/sys`: dots separate, and a slash stands for a dot
/// that belongs to a name, as in sysctl(8). The same the other way round gives the name of a path.
pub fn path_of_sysctl(name: &str) -> String {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    });
    swapped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sysctls_are_paths() {
        assert_eq!(path_of_sysctl("vm.stat_interval"), "vm/stat_interval");
        assert_eq!(
            path_of_sysctl("net.ipv4.conf.eno1/100.rp_filter"),
            "net/ipv4/conf/eno1.100/rp_filter"
        );
    }
}
