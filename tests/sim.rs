//! The simulated kernel itself: one test per behaviour, and the records of real kernels.

#![allow(clippy::unwrap_used)]

mod common;

use common::sim::{Sim, cpus, diff};
use pin_hook::host::Host;

const SLICE: &str = "/sys/fs/cgroup/qemu.slice";
const SCOPE: &str = "/sys/fs/cgroup/qemu.slice/100.scope";

/// Makes systemd delegate cpuset to the scope of VM 100, then starts the VM.
fn delegated_vm(sim: &Sim) -> Host {
    sim.put(
        "/run/systemd/system/100.scope.d/50-pin-hook.conf",
        "[Scope]\nDelegate=cpuset\n",
    );
    sim.daemon_reload();
    sim.start_vm(100, 4);
    sim.host()
}

/// Gives VM 100 CPUs 2-5 as an isolated remote partition and pins its vCPUs.
fn isolate(sim: &Sim, host: &Host) {
    let files = &host.files;
    files.make_dir(&format!("{SCOPE}/vcpu"), 0o755).unwrap();
    for (file, text) in [
        (format!("{SCOPE}/vcpu/cgroup.type"), "threaded"),
        (format!("{SCOPE}/cgroup.subtree_control"), "+cpuset"),
        (format!("{SLICE}/cpuset.cpus.exclusive"), "2-5"),
        (format!("{SCOPE}/cpuset.cpus.exclusive"), "2-5"),
        (format!("{SCOPE}/vcpu/cpuset.cpus.exclusive"), "2-5"),
        (format!("{SCOPE}/vcpu/cpuset.cpus"), "2-5"),
        (format!("{SCOPE}/vcpu/cpuset.cpus.partition"), "isolated"),
    ] {
        files.write(&file, text).unwrap();
    }
    for (n, tid) in sim.vm(100).vcpus {
        files
            .write(&format!("{SCOPE}/vcpu/cgroup.threads"), &tid.to_string())
            .unwrap();
        host.sched
            .set_affinity(tid, &cpus(&(n + 2).to_string()))
            .unwrap();
    }
}

#[test]
fn a_partition_takes_its_cpus_from_everybody_else() {
    let sim = Sim::lab();
    let host = delegated_vm(&sim);
    isolate(&sim, &host);
    assert_eq!(
        sim.get(&format!("{SCOPE}/vcpu/cpuset.cpus.partition")),
        "isolated\n"
    );
    assert_eq!(sim.get("/sys/fs/cgroup/cpuset.cpus.effective"), "0-1,6-7\n");
    assert_eq!(sim.get("/sys/fs/cgroup/cpuset.cpus.isolated"), "2-5\n");
    assert_eq!(sim.get("/sys/devices/virtual/workqueue/cpumask"), "c3\n");
    assert_eq!(sim.find_task("pvedaemon").mask.to_string(), "0-1,6-7");
    assert_eq!(sim.find_task("call_rcu").mask.to_string(), "0-1,6-7");
    assert_eq!(sim.find_task("CPU 2/KVM").mask.to_string(), "4");
}

#[test]
fn the_end_of_a_vm_gives_its_cpus_back() {
    let sim = Sim::lab();
    let before = sim.capture(&[]);
    let host = delegated_vm(&sim);
    isolate(&sim, &host);
    sim.end_qemu(100);
    sim.state()
        .tree
        .remove_all("/run/systemd/system/100.scope.d");
    let after = diff(&before, &sim.capture(&[]));
    // Kernel threads of a node (kswapd) get every CPU: measured, the kernel forgets their mask.
    let changed = after
        .lines()
        .filter(|line| !line.contains("kswapd") && !line.contains("kcompactd"));
    assert_eq!(changed.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn a_death_stops_the_program_at_that_write() {
    let sim = Sim::lab();
    sim.put("/run/x", "");
    sim.die_at_write(2);
    let host = sim.host();
    let died = sim.run_until_death(|| {
        for text in ["a", "b", "c"] {
            host.files.append("/run/x", text).unwrap();
        }
    });
    assert_eq!(died.unwrap_err().0, "append /run/x b");
    assert_eq!(sim.get("/run/x"), "a");
}
