//! What the scheduler counts: how busy CPUs were, and how long threads have waited for one.

use std::collections::BTreeMap;

use super::files::Files;
use crate::domain::cpuset::CpuId;

/// Returns the time that each CPU was idle and that it was there, in the unit of `/proc/stat`.
pub fn idle_times(files: &dyn Files) -> BTreeMap<CpuId, (u64, u64)> {
    let text = files.read("/proc/stat").unwrap_or_default();
    let times = text.lines().filter_map(|line| {
        let (number, rest) = line.strip_prefix("cpu")?.split_once(' ')?;
        let times = rest.split_whitespace().map_while(|word| word.parse().ok());
        // User, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in the first two.
        let times: Vec<u64> = times.take(8).collect();
        let idle = times.get(3..5)?.iter().sum();
        Some((CpuId(number.parse().ok()?), (idle, times.iter().sum())))
    });
    times.collect()
}

/// Returns how long a thread has been ready without a CPU, in nanoseconds (`/proc/<tid>/schedstat`).
pub fn waited(files: &dyn Files, tid: i32) -> Option<u64> {
    let text = files.read(&format!("/proc/{tid}/schedstat")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dirs::make_dirs;
    use crate::host::files::RootFiles;

    #[test]
    fn idle_is_what_idle_and_iowait_say() {
        let root = tempfile::tempdir().unwrap();
        let files = RootFiles::new(root.path());
        make_dirs(&files, "/proc/7", 0o755).unwrap();
        let stat = "cpu  9 9 9 9\ncpu0 1 2 3 40 5 6 7 8 1 1\ncpu12 1 0 0 1\nintr 1\n";
        for (path, text) in [("/proc/stat", stat), ("/proc/7/schedstat", "100 25 3\n")] {
            files.replace(path, text, 0o644).unwrap();
        }
        assert_eq!(idle_times(&files), BTreeMap::from([(CpuId(0), (45, 72))]));
        assert_eq!(waited(&files, 7), Some(25));
        assert_eq!(waited(&files, 8), None);
    }
}
