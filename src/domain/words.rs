//! Numbers and names of things in sentences.

use std::time::Duration;

/// Returns a number of things, such as `1 thread` or `3 threads`.
pub fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}

/// Returns how long something took, as precisely as people read it: `82 ms`, `4.6 s`, `31 s`.
pub fn in_words(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms @ 1000..9950 => format!("{}.{} s", (ms + 50) / 1000, (ms + 50) % 1000 / 100),
        ms => format!("{} s", (ms + 500) / 1000),
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
    fn times_are_told_as_people_read_them() {
        for (ms, words) in [
            (82, "82 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (4558, "4.6 s"),
            (9949, "9.9 s"),
            (9950, "10 s"),
            (30_643, "31 s"),
        ] {
            assert_eq!(in_words(Duration::from_millis(ms)), words);
        }
    }

    #[test]
    fn names_of_sysctls_are_paths() {
        assert_eq!(path_of_sysctl("vm.stat_interval"), "vm/stat_interval");
        assert_eq!(
            path_of_sysctl("net.ipv4.conf.eno1/100.rp_filter"),
            "net/ipv4/conf/eno1.100/rp_filter"
        );
    }
}
