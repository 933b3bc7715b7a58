//! On which CPUs threads that never sleep may be tried, and for how long.

use std::time::Duration;

use super::tally::in_units;
use crate::domain::advice::Advised;
use crate::domain::claim::Claims;
use crate::domain::cpuset::CpuSet;

/// Longest time for real-time threads: they keep everything else off their CPUs, kernel threads too.
const LONGEST_REALTIME: Duration = Duration::from_secs(60);

/// Checks that a thread on each of these CPUs takes nothing from a VM, and leaves the host a CPU; `online` are all.
///
/// # Errors
/// A VM owns one of them, or nothing would be left.
pub fn check_cpus(cpus: &CpuSet, online: &CpuSet, claims: &Claims) -> Result<(), Advised> {
    let mut left = online.difference(cpus);
    for claim in claims.values().filter(|claim| claim.owns()) {
        let (vmid, theirs) = (claim.vmid, claim.wishes.cpus.intersection(cpus));
        if !theirs.is_empty() {
            let belong = if theirs.len() == 1 {
                "belongs"
            } else {
                "belong"
            };
            let fact = format!("{} {belong} to vm {vmid}", theirs.in_words());
            let help = format!("pin-hook measure {vmid} measures them while it runs");
            return Err(Advised::new(fact, help));
        }
        left = left.difference(&claim.wishes.cpus);
    }
    if left.is_empty() {
        let fact = format!(
            "{} {} all that the host has",
            cpus.in_words(),
            cpus.is_or_are()
        );
        return Err(Advised::new(fact, "leave at least one cpu to the host"));
    }
    Ok(())
}

/// Checks that real-time threads end, and that the host gets on meanwhile; `is_limited` says whether the kernel
/// limits their time.
///
/// # Errors
/// They would run for too long, or nothing would stop them.
pub fn check_realtime(duration: Duration, is_limited: bool) -> Result<(), Advised> {
    if duration > LONGEST_REALTIME {
        let longest = in_units(60_000_000_000);
        let fact = format!("real-time threads may spin for {longest} at most");
        return Err(Advised::new(
            fact,
            "--duration 60s, or leave --realtime out",
        ));
    }
    if !is_limited {
        return Err(Advised::new(
            "real-time threads could stop the host: kernel.sched_rt_runtime_us is -1",
            "set it back (sysctl kernel.sched_rt_runtime_us=950000), or leave --realtime out",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claim::{Claim, ClaimState, Standby, Wishes};
    use crate::domain::vm::TaskId;

    fn claim(vmid: u32, state: ClaimState, cpus: &str) -> Claim {
        let wishes = Wishes {
            cpus: cpus.parse().unwrap(),
            ..Wishes::none()
        };
        Claim::new(vmid.to_string().parse().unwrap(), state, wishes, None)
    }

    #[test]
    fn cpus_of_a_vm_and_all_cpus_are_refused() {
        let qemu = TaskId { tid: 5, start: 50 };
        let running = claim(100, ClaimState::Running { qemu }, "4-7");
        let reason = String::new();
        let failed = claim(101, ClaimState::Failed { qemu, reason }, "2-3");
        let standby = Claim {
            standby: Some(Standby::default()),
            ..claim(102, ClaimState::Waiting { qemu }, "2-3")
        };
        let claims = [running, failed, standby].map(|claim| (claim.vmid, claim));
        let (claims, none) = (Claims::from(claims), Claims::new());
        for (cpus, claims, expected) in [
            ("3-5", &claims, "cpus 4-5 belong to vm 100"),
            ("7", &claims, "cpu 7 belongs to vm 100"),
            ("0-3", &claims, "cpus 0-3 are all that the host has"),
            ("0-7", &none, "cpus 0-7 are all that the host has"),
            ("1-3", &claims, ""),
            ("1-7", &none, ""),
        ] {
            let online = "0-7".parse().unwrap();
            let checked = check_cpus(&cpus.parse().unwrap(), &online, claims);
            let fact = checked.map_or_else(|refused| refused.fact, |()| String::new());
            assert_eq!(fact, expected, "{cpus}");
        }
    }

    #[test]
    fn realtime_threads_end_and_leave_some_time() {
        let minute = Duration::from_secs(60);
        assert_eq!(check_realtime(minute, true), Ok(()));
        let refused = |duration, is_limited| check_realtime(duration, is_limited).unwrap_err().fact;
        let longer = minute + Duration::from_micros(1);
        assert!(refused(longer, true).ends_with("60 s at most"));
        assert!(refused(minute, false).contains("kernel.sched_rt_runtime_us is -1"));
    }
}
