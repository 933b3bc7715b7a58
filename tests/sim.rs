//! The simulated kernel itself: the records of real kernels, and what no record can show.
//!
//! The latter is: deaths and errors on purpose, time, plain files and locks; the answers of a monitor; the tracer,
//! which records nothing here;
//! what PVE's programs do (`qm`, `pvestatd`, LXC's groups: the lab has stand-ins for them as well);
//! `isolcpus=`, interrupts without remapping, KVM's thread and larger machines, none of which the lab
//! has; which of several CPUs an interrupt goes to (the kernel's choice follows its free vectors);
//! pages that compacting a node finds while a growing pool does not: the lab's kernels put all pieces
//! together while the pool grows, as recorded, however memory was filled before; and devices that are
//! removed and found again (case 38-rescan does it) or change their driver (39-bind).
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod common;

use std::io;
use std::time::Duration;

use common::sim::fate::Death;
use common::sim::replay::{replay, steps};
use common::sim::{Kernel, Machine, Sim, TaskSpec, VmSpec, cpus, diff};
use pin_hook::host::Host;

/// What real kernels answered.
const RECORDS: [(Kernel, &str); 3] = [
    (Kernel::V6_1, include_str!("records/6.1.rec")),
    (Kernel::V6_12, include_str!("records/6.12.rec")),
    (Kernel::V7_3, include_str!("records/7.3.rec")),
];

const SLICE: &str = "/sys/fs/cgroup/qemu.slice";
const SCOPE: &str = "/sys/fs/cgroup/qemu.slice/100.scope";
const DROP_IN: &str = "/run/systemd/system/100.scope.d/50-pin-hook.conf";

/// Makes systemd delegate cpuset to the scope of VM 100, then starts the VM.
fn delegated_vm(sim: &Sim) -> Host {
    sim.put(DROP_IN, "[Scope]\nDelegate=cpuset\n");
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
    ] {
        files.write(&file, text).unwrap();
    }
    // A child's, on newer kernels.
    sim.poke(&format!("{SCOPE}/vcpu/cpuset.cpus.partition"), "isolated")
        .unwrap();
    for (n, tid) in sim.vm(100).vcpus {
        files
            .write(&format!("{SCOPE}/vcpu/cgroup.threads"), &tid.to_string())
            .unwrap();
        host.sched
            .set_affinity(tid, &cpus(&(n + 2).to_string()))
            .unwrap();
    }
}

fn errno_of<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn the_simulation_answers_as_the_recorded_kernels() {
    let differences = RECORDS.into_iter().flat_map(|(kernel, record)| {
        let lines = replay(kernel, record).into_iter();
        lines.map(move |line| format!("{kernel:?}: {line}"))
    });
    let differences: Vec<String> = differences.collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_record_is_of_the_steps_as_they_are() {
    let all = include_str!("records/steps");
    let mark = all.find("# From here on also").expect("the mark");
    let of_every_kernel = &all[mark..];
    for (kernel, record) in RECORDS {
        let wanted = if kernel < Kernel(6, 7) {
            of_every_kernel
        } else {
            all
        };
        let same = steps(record) == steps(wanted);
        assert!(
            same,
            "{kernel:?}: recorded before the steps changed: tests/records/update"
        );
    }
}

#[test]
fn a_partition_takes_its_cpus_from_everybody_else() {
    let sim = Machine {
        containers: vec![101],
        ..Machine::default()
    }
    .build();
    let host = delegated_vm(&sim);
    isolate(&sim, &host);
    assert_eq!(
        sim.get(&format!("{SCOPE}/vcpu/cpuset.cpus.partition")),
        "isolated\n"
    );
    assert_eq!(sim.get("/sys/fs/cgroup/cpuset.cpus.effective"), "0-1,6-7\n");
    for comm in [
        "systemd",
        "pvedaemon",
        "bash",
        "init",
        "call_rcu",
        "kthreadd",
    ] {
        assert_eq!(sim.find_task(comm).mask.to_string(), "0-1,6-7", "{comm}");
    }
    assert_eq!(sim.find_task("CPU 2/KVM").mask.to_string(), "4");
    assert_eq!(sim.find_task("ksoftirqd/3").mask.to_string(), "3");
}

#[test]
fn the_end_of_a_vm_gives_its_cpus_back_but_not_the_masks_of_kernel_threads() {
    let sim = Sim::lab();
    sim.put(DROP_IN, "[Scope]\nDelegate=cpuset\n");
    let before = sim.capture(&[]);
    let host = delegated_vm(&sim);
    isolate(&sim, &host);
    sim.end_qemu(100);
    let after = diff(&before, &sim.capture(&[]));
    assert_eq!(after.lines().count(), 4, "{after}");
    for (comm, old) in [
        ("kswapd0", "0-3"),
        ("kswapd1", "4-7"),
        ("kcompactd0", "0-3"),
        ("kcompactd1", "4-7"),
    ] {
        let change = format!("\"mask {old}, requested nothing, group , class 0:0\" -> \"mask 0-7,");
        assert!(
            after
                .lines()
                .any(|line| line.contains(comm) && line.contains(&change)),
            "{after}"
        );
    }
}

#[test]
fn a_reused_number_is_another_task() {
    let sim = Sim::lab();
    let old = sim.task(sim.spawn(TaskSpec::named("old")));
    sim.kill(old.tid);
    assert_eq!(errno_of(sim.host().sched.affinity(old.tid)), libc::ESRCH);
    assert_eq!(
        errno_of(sim.host().sched.set_affinity(old.tid, &cpus("1"))),
        libc::ESRCH
    );
    let new = sim.task(sim.spawn(TaskSpec::named("new").with_tid(old.tid)));
    assert_eq!(new.tid, old.tid);
    assert_ne!(new.start, old.start);
}

#[test]
fn tasks_read_as_the_kernel_prints_them() {
    let sim = Sim::lab();
    let pid = sim.start_vm(100, 2);
    let (_, vcpu) = sim.vm(100).vcpus[0];
    let read = |file: &str| sim.get(&format!("/proc/{pid}/task/{vcpu}/{file}"));
    assert_eq!(read("comm"), "CPU 0/KVM\n");
    assert_eq!(read("cgroup"), "0::/qemu.slice/100.scope\n");
    let stat = read("stat");
    assert!(stat.starts_with(&format!("{vcpu} (CPU 0/KVM) S 1 ")));
    assert_eq!(
        stat.split_whitespace().count(),
        52 + 1,
        "the name holds a blank"
    );
    assert_eq!(
        stat.split_whitespace().nth(21 + 1).unwrap(),
        sim.task(vcpu).start.to_string()
    );
    assert!(read("status").contains("\nCpus_allowed_list:\t0-7\n"));
    let cmdline = sim.get(&format!("/proc/{pid}/cmdline"));
    assert!(cmdline.starts_with("/usr/bin/kvm\0-id\x00100\0"));
    assert!(cmdline.contains("\0-pidfile\0/var/run/qemu-server/100.pid\0"));
    assert!(
        sim.get("/proc/2/task/2/children")
            .split(' ')
            .all(|child| child != pid.to_string())
    );
    assert!(
        !sim.host()
            .files
            .list("/proc")
            .unwrap()
            .contains(&vcpu.to_string())
    );
}

#[test]
fn links_are_followed() {
    let sim = Sim::lab();
    let files = sim.host().files;
    sim.vm_conf(100, "cores: 4\n");
    assert_eq!(sim.get("/etc/pve/qemu-server/100.conf"), "cores: 4\n");
    assert_eq!(sim.get("/etc/pve/local/qemu-server/100.conf"), "cores: 4\n");
    assert_eq!(files.link("/var/run").unwrap(), "/run");
    assert_eq!(errno_of(files.link("/run")), libc::EINVAL);
    let pid = sim.start_vm(100, 1);
    assert_eq!(sim.get("/var/run/qemu-server/100.pid"), format!("{pid}\n"));
    assert_eq!(
        sim.get("/sys/devices/system/cpu/cpu3/cpufreq/scaling_governor"),
        "schedutil\n"
    );
}

#[test]
fn plain_files_behave_as_files() {
    let sim = Sim::lab();
    let files = sim.host().files;
    assert_eq!(
        errno_of(files.append("/run/pin-hook/journal", 0, "a")),
        libc::ENOENT
    );
    files.make_dir("/run/pin-hook", 0o700).unwrap();
    assert_eq!(
        errno_of(files.make_dir("/run/pin-hook", 0o700)),
        libc::EEXIST
    );
    files.reserve("/run/pin-hook/journal", 5).unwrap();
    files.append("/run/pin-hook/journal", 0, "abc").unwrap();
    files.write("/run/pin-hook/journal", "X").unwrap();
    assert_eq!(sim.get("/run/pin-hook/journal"), "Xbc\0\0");
    files.renew("/run/pin-hook/journal", "four").unwrap();
    assert_eq!(sim.get("/run/pin-hook/journal"), "four\0");
    assert_eq!(sim.get("/run/pin-hook/journal.spare"), "Xbc\0\0");
    files.remove("/run/pin-hook/journal.spare").unwrap();
    files
        .replace("/run/pin-hook/journal", "new", 0o600)
        .unwrap();
    assert_eq!(sim.get("/run/pin-hook/journal"), "new");
    assert_eq!(files.list("/run/pin-hook").unwrap(), ["journal"]);
    assert_eq!(errno_of(files.remove_dir("/run/pin-hook")), libc::ENOTEMPTY);
    files.remove("/run/pin-hook/journal").unwrap();
    files.remove_dir("/run/pin-hook").unwrap();
    assert!(!files.exists("/run/pin-hook"));
    sim.table(100, "cpus = \"2-5\"\n");
    sim.chown("/etc/pin-hook/100.toml", 1000, 0o664);
    let owner = files.owner("/etc/pin-hook/100.toml").unwrap();
    assert_eq!((owner.uid, owner.mode), (1000, 0o664));
}

#[test]
fn a_lock_excludes_until_it_is_dropped() {
    let sim = Sim::lab();
    let host = sim.host();
    let wait = Duration::from_secs(3);
    let held = host.files.lock("/run/lock-file", wait).unwrap();
    assert!(held.is_some());
    assert!(host.files.lock("/run/lock-file", wait).unwrap().is_none());
    drop(held);
    assert!(host.files.lock("/run/lock-file", wait).unwrap().is_some());
    sim.lock_by_other("/run/lock-file");
    let begin = host.clock.since_boot();
    assert!(host.files.lock("/run/lock-file", wait).unwrap().is_none());
    assert_eq!(
        host.clock.since_boot() - begin,
        wait,
        "waiting takes its time"
    );
    sim.unlock_by_other("/run/lock-file");
    assert!(host.files.lock("/run/lock-file", wait).unwrap().is_some());
}

/// Appends a, b and c, which ends at the death that is set.
fn three_appends(sim: &Sim) -> String {
    sim.put("/run/x", "");
    let host = sim.host();
    let life = sim.run_until_death(|| {
        let _held = host.files.lock("/run/lock-file", Duration::ZERO).unwrap();
        for (at, text) in [(0, "aa\n"), (3, "bb\n"), (6, "cc\n")] {
            host.files.append("/run/x", at, text).unwrap();
        }
    });
    assert_eq!(life.unwrap_err().0, "append /run/x bb");
    assert!(
        host.files
            .lock("/run/lock-file", Duration::ZERO)
            .unwrap()
            .is_some(),
        "the dead hold no lock"
    );
    sim.get("/run/x")
}

#[test]
fn a_death_comes_before_in_or_after_a_write() {
    for (death, left) in [
        (Death::Before, "aa\n"),
        (Death::Torn, "aa\nb"),
        (Death::After, "aa\nbb\n"),
    ] {
        let sim = Sim::lab();
        sim.die_at(2, death);
        assert_eq!(three_appends(&sim), left, "{death:?}");
    }
}

#[test]
fn a_torn_replacement_leaves_the_old_file() {
    let sim = Sim::lab();
    sim.put("/run/x", "old");
    sim.die_at(1, Death::Torn);
    let files = sim.host().files;
    sim.run_until_death(|| files.replace("/run/x", "newer", 0o600))
        .unwrap_err();
    assert_eq!(
        (sim.get("/run/x"), sim.get("/run/x.new")),
        ("old".to_owned(), "ne".to_owned())
    );
}

#[test]
fn the_dead_do_nothing_any_more() {
    struct Cleanup(Sim);
    impl Drop for Cleanup {
        fn drop(&mut self) {
            let _ = self.0.host().files.replace("/run/x", "cleaned up", 0o600);
        }
    }
    let sim = Sim::lab();
    sim.die_at_write(1);
    let life = sim.run_until_death(|| {
        let _cleanup = Cleanup(sim.clone());
        sim.host().files.replace("/run/x", "a", 0o600)
    });
    assert!(life.is_err());
    assert!(!sim.host().files.exists("/run/x"));
    assert_eq!(
        sim.run_until_death(|| sim.host().files.replace("/run/x", "b", 0o600).is_ok()),
        Ok(true)
    );
}

#[test]
fn an_injected_error_comes_as_often_as_wished() {
    let sim = Sim::lab();
    let files = sim.host().files;
    sim.fail("write *cpu3*pm_qos", libc::EBUSY, 1);
    let path =
        |cpu: u32| format!("/sys/devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us");
    files.write(&path(2), "2").unwrap();
    assert_eq!(errno_of(files.write(&path(3), "2")), libc::EBUSY);
    files.write(&path(3), "2").unwrap();
    sim.fail("run_state 100", libc::ETIMEDOUT, 1);
    sim.start_vm(100, 1);
    let vmid = "100".parse().unwrap();
    assert!(sim.host().qmp.run_state(vmid).is_err());
    assert_eq!(sim.host().qmp.run_state(vmid).unwrap(), "running");
}

#[test]
fn changes_are_logged_and_questions_are_not() {
    let sim = Sim::lab();
    let host = sim.host();
    host.files.read("/proc/cmdline").unwrap();
    host.sched.affinity(1).unwrap();
    assert_eq!(sim.writes(), 0);
    host.sched.set_affinity(1, &cpus("0-3")).unwrap();
    host.systemd.start("pin-hook-reconcile.timer").unwrap();
    host.systemd.reload().unwrap();
    assert!(sim.is_active("pin-hook-reconcile.timer"));
    assert_eq!(
        sim.take_log(),
        [
            "set_affinity 1 0-3",
            "start pin-hook-reconcile.timer",
            "reload"
        ]
    );
    assert_eq!(sim.writes(), 0);
}

#[test]
fn a_capture_shows_a_planted_change() {
    let sim = Sim::lab();
    let before = sim.capture(&[]);
    assert_eq!(diff(&before, &sim.capture(&[])), "");
    sim.poke("/proc/sys/vm/stat_interval", "120").unwrap();
    sim.state().set_affinity(1, &cpus("0-7")).unwrap();
    sim.put("/run/pin-hook/journal", "x");
    let after = diff(&before, &sim.capture(&["/run/pin-hook"]));
    assert_eq!(
        after,
        "/proc/sys/vm/stat_interval: \"1\\n (0 644)\" -> \"120\\n (0 644)\"\n\
         task 1 (systemd, started 3): \"mask 0-7, requested nothing, group /init.scope, class 0:0\" \
         -> \"mask 0-7, requested 0-7, group /init.scope, class 0:0\"\n"
    );
}

#[test]
fn the_monitor_answers_while_the_vm_runs() {
    let sim = Sim::lab();
    let qmp = sim.host().qmp;
    let vmid = "100".parse().unwrap();
    assert!(qmp.run_state(vmid).is_err());
    let spec = VmSpec::with_vcpus(2)
        .iothread("iothread-virtioscsi0")
        .run_state("prelaunch");
    sim.start_vm_as(100, &spec).unwrap();
    assert_eq!(qmp.run_state(vmid).unwrap(), "prelaunch");
    assert_eq!(qmp.vcpus(vmid).unwrap(), sim.vm(100).vcpus);
    let (name, tid) = qmp.iothreads(vmid).unwrap().remove(0);
    assert_eq!(name, "iothread-virtioscsi0");
    assert_eq!(sim.task(tid).comm, "kvm", "more than 15 characters");
    sim.end_qemu(100);
    assert!(qmp.run_state(vmid).is_err());
    assert!(!sim.host().files.exists("/run/qemu-server/100.pid"));
}

#[test]
fn a_thread_of_kvm_is_born_among_the_vcpus() {
    let sim = Machine {
        kernel: Kernel::V7_3,
        ..Machine::default()
    }
    .build();
    let host = delegated_vm(&sim);
    isolate(&sim, &host);
    let tid = sim.first_kvm_run(100).unwrap();
    let task = sim.task(tid);
    assert_eq!(
        (task.comm.as_str(), task.mask.to_string().as_str()),
        ("kvm-nx-lpage-re", "2")
    );
    assert_eq!(task.cgroup, "/qemu.slice/100.scope/vcpu");
    assert_eq!(Sim::lab().state().kernel, Kernel::V6_12);
}

#[test]
fn a_moved_interrupt_waits_for_the_next_one_without_remapping() {
    let sim = Sim::lab();
    sim.lazy_irqs();
    let files = sim.host().files;
    files
        .write("/proc/irq/30/smp_affinity_list", "6-7")
        .unwrap();
    assert_eq!(sim.get("/proc/irq/30/effective_affinity_list"), "0\n");
    sim.fire_irq(30);
    assert_eq!(sim.get("/proc/irq/30/effective_affinity_list"), "6\n");
    assert!(sim.get("/proc/interrupts").contains("eth0-TxRx-0\n"));
}

#[test]
fn masks_of_large_machines_are_printed_in_words() {
    let big = Machine {
        packages: 1,
        cores: 20,
        siblings_apart: true,
        nodes: 1,
        ..Machine::default()
    };
    let sim = big.build();
    assert_eq!(sim.get("/sys/devices/system/cpu/online"), "0-39\n");
    assert_eq!(
        sim.get("/sys/devices/system/cpu/cpu3/topology/core_cpus_list"),
        "3,23\n"
    );
    assert_eq!(sim.get("/proc/irq/default_smp_affinity"), "ff,ffffffff\n");
    sim.poke("/proc/irq/default_smp_affinity", "80,00000001")
        .unwrap();
    assert_eq!(sim.get("/proc/irq/default_smp_affinity"), "80,00000001\n");
}
