//! What can be done about those who take time from a guest: rows that say it once.

use serde::{Deserialize, Serialize};

use super::kind::Kind;

/// What can be done about somebody who takes time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remedy {
    /// This: a key, a command or a parameter of the kernel's command line.
    #[serde(rename = "do")]
    Do(String),
    /// Nothing, for this reason.
    #[serde(rename = "nothing")]
    Nothing(String),
    /// Nobody has found out yet.
    #[serde(rename = "unknown")]
    Unknown,
}

/// A row: whom it is about and what to do.
struct Row {
    kind: Kind,
    /// Beginnings of names, all of that kind where there are none.
    names: &'static [&'static str],
    what: What,
}

enum What {
    Do(&'static str),
    Nothing(&'static str),
}

impl Row {
    fn is_about(&self, kind: Kind, name: &str) -> bool {
        let is_named = self.names.iter().any(|start| name.starts_with(start));
        self.kind == kind && (self.names.is_empty() || is_named)
    }

    fn remedy(&self) -> Remedy {
        match self.what {
            What::Do(text) => Remedy::Do(text.to_owned()),
            What::Nothing(text) => Remedy::Nothing(text.to_owned()),
        }
    }
}

/// What a name alone does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Around {
    /// It is in the cgroup of the VM that is measured.
    pub is_in_vm: bool,
    /// The soft lockup watchdog runs on these CPUs.
    pub is_watched: bool,
}

/// Makes the row of those about whom this can be done.
const fn helps(kind: Kind, names: &'static [&'static str], this: &'static str) -> Row {
    let what = What::Do(this);
    Row { kind, names, what }
}

/// Makes the row of those who stay, for this reason.
const fn stays(kind: Kind, names: &'static [&'static str], why: &'static str) -> Row {
    let what = What::Nothing(why);
    Row { kind, names, what }
}

/// What ends the blinking of the console's cursor, at once and from the next boot on.
const STEADY_CURSOR: &str = "echo 0 > /sys/class/graphics/fbcon/cursor_blink, which holds until reboot; or boot with vt.global_cursor_default=0";
/// The timer of the soft lockup watchdog.
pub const WATCHDOG: &str = "watchdog_timer_fn";

/// Each time it expires it has this thread run (`softlockup_fn()` in kernel/watchdog.c).
const OF_WATCHDOG: Row = helps(
    Kind::KernelThread,
    &["migration/"],
    "isolate.watchdog = true in the table",
);
/// A vCPU has a row of its own.
const IN_VM: Row = helps(
    Kind::Program,
    &[],
    "give the vm cpus of its own; if it has them, pin.emulator and pin.iothreads in the table say where qemu's threads run, and other programs have to leave its cgroup",
);

/// The first row that fits holds. Names of functions are those of Linux 6.1 to 7.3.
const ROWS: &[Row] = &[
    // Pressure accounting wakes up every 2 s on each CPU that had something to do (kernel/sched/psi.c).
    helps(Kind::Work, &["psi_avgs_work"], "boot with psi=0"),
    // Statistics of memory, once in vm.stat_interval seconds on every CPU (mm/vmstat.c).
    helps(
        Kind::Work,
        &["vmstat_update", "vmstat_shepherd"],
        "profile = \"low-latency\" in the table, or host.sysctl with \"vm.stat_interval\" = 120",
    ),
    // For whoever reads that file, on every CPU (`vmstat_refresh()` in mm/vmstat.c).
    helps(
        Kind::Work,
        &["refresh_vm_stats"],
        "a program reads /proc/sys/vm/stat_refresh: stop it",
    ),
    stays(Kind::Work, &["kvmclock_"], "kvm sets the guest's clock"),
    // A buffer of the tracer is made larger or smaller there (kernel/trace/ring_buffer.c).
    helps(
        Kind::Work,
        &["update_pages_handler"],
        "another tracer runs on these cpus: stop it",
    ),
    // Looks for machine checks that raise no interrupt (arch/x86/kernel/cpu/mce/core.c).
    helps(
        Kind::Timer,
        &["mce_timer_fn"],
        "echo 0 > /sys/devices/system/machinecheck/machinecheck0/check_interval",
    ),
    helps(
        Kind::Timer,
        &["clocksource_watchdog"],
        "boot with tsc=nowatchdog, if the tsc of this machine is known to be good",
    ),
    helps(
        Kind::Timer,
        &[WATCHDOG],
        "isolate.watchdog = true in the table",
    ),
    // The cursor of the console, drawn five times a second (drivers/video/fbdev/core/fbcon.c). No key of a table is
    // about it: what was set cannot be read (docs/mechanisms.md).
    helps(
        Kind::Work,
        &[
            "fb_flashcursor",
            "fbcon_cursor",
            "drm_fb_helper_damage_work",
        ],
        STEADY_CURSOR,
    ),
    helps(Kind::Timer, &["cursor_timer_handler"], STEADY_CURSOR),
    helps(
        Kind::Tick,
        &[],
        "boot with nohz_full= and the cpus of the vm, if each has one vcpu; else it stays",
    ),
    stays(
        Kind::Timer,
        &["kvm_", "apic_timer_fn", "hv_stimer", "pit_timer_fn"],
        "a timer that the guest itself has set",
    ),
    stays(
        Kind::Timer,
        &["hrtimer_wakeup", "it_real_fn"],
        "a timer of a thread that waits; it stays where it was set until it has run once",
    ),
    // An idle CPU leaves those to one that is not (kernel/time/timer_migration.c, Linux 6.9).
    stays(
        Kind::Timer,
        &["process_timeout", "delayed_work_timer_fn"],
        "a timer of a thread or of work that waits; from linux 6.9 on a cpu that is never idle runs those of idle cpus too",
    ),
    // Flushes of translations: a mapping that this CPU has was changed elsewhere (arch/x86/mm/tlb.c).
    stays(
        Kind::Call,
        &[
            "flush_tlb",
            "do_flush_tlb",
            "do_kernel_range_flush",
            "leave_mm",
        ],
        "memory that qemu or the kernel has mapped was changed elsewhere",
    ),
    // The frequency of another CPU is read there (arch/x86/kernel/cpu/aperfmperf.c, drivers/cpufreq).
    helps(
        Kind::Call,
        &[
            "aperfmperf",
            "__rdmsr_on_cpu",
            "__wrmsr_on_cpu",
            "rdmsr_safe",
            "cpufreq",
        ],
        "a program reads frequencies or registers of all cpus: stop it, or take these cpus out of what it reads",
    ),
    helps(
        Kind::Call,
        &["ipi_mb", "ipi_rseq", "ipi_sync"],
        "a program calls membarrier: stop it, or take its threads off these cpus",
    ),
    stays(
        Kind::Call,
        &["do_sync_core", "text_poke"],
        "the kernel has changed its own code: tracing, or a module that was loaded",
    ),
    helps(
        Kind::Call,
        &[],
        "stop who asks for it, or let it run at another time",
    ),
    stays(
        Kind::Vector,
        &["reschedule"],
        "a thread is woken here: the guest itself gets an interrupt that way",
    ),
    helps(
        Kind::Vector,
        &["thermal", "threshold", "deferred", "apic error"],
        "the hardware complains: see dmesg",
    ),
    helps(
        Kind::Nmi,
        &["perf_event_nmi_handler"],
        "profile = \"low-latency\" in the table, or host.sysctl with \"kernel.nmi_watchdog\" = 0",
    ),
    // Each CPU is to say what it does (lib/nmi_backtrace.c).
    helps(
        Kind::Nmi,
        &["nmi_cpu_backtrace_handler"],
        "a program asks for a backtrace of every cpu (sysrq l), or the kernel does after a stall: see dmesg",
    ),
    helps(
        Kind::Interrupt,
        &[],
        "isolate.irqs = true in the table; for an interrupt that the kernel manages itself, boot with irqaffinity= and isolcpus=managed_irq",
    ),
    stays(
        Kind::KernelThread,
        &["ksoftirqd/"],
        "it does the deferred work of interrupts on this cpu: move those",
    ),
    stays(
        Kind::KernelThread,
        &["migration/", "cpuhp/", "idle_inject/"],
        "a kernel thread bound to this cpu, woken by a change of affinities or cpus",
    ),
    helps(
        Kind::KernelThread,
        &["rcuc/"],
        "boot with rcu_nocbs= and the cpus of the vm",
    ),
    // The others can be moved: `rcu_preempt` and those of expedited grace periods, and `rcuog/` and `rcuop/`, which
    // are there because of `rcu_nocbs=` (`kernel/rcu/tree_nocb.h`).
    helps(
        Kind::KernelThread,
        &["rcu"],
        "isolate.kthreads = true in the table",
    ),
    helps(
        Kind::KernelThread,
        &["irq/"],
        "isolate.irqs = true in the table: it follows its interrupt",
    ),
    stays(
        Kind::KernelThread,
        &["kvm-pit/", "vhost-"],
        "it works for this vm; pin.vhost in the table says where",
    ),
    // Unbound ones, and rescuers.
    helps(
        Kind::KernelThread,
        &["kworker/u", "kworker/R-"],
        "isolate.workqueues = true in the table",
    ),
    stays(
        Kind::KernelThread,
        &["kworker/"],
        "a kernel thread bound to this cpu: what it is woken for is named as kernel work",
    ),
    helps(
        Kind::KernelThread,
        &[],
        "isolate.kthreads = true in the table",
    ),
    stays(
        Kind::Program,
        &["CPU "],
        "a vcpu of a vm at work: pin-hook measure <vmid> shows what is taken from it",
    ),
    helps(
        Kind::Program,
        &[],
        "give the vm cpus of its own, with a backend that keeps programs off (pin-hook check says what is missing)",
    ),
];

/// Returns what can be done about somebody.
pub fn remedy(kind: Kind, name: &str, around: Around) -> Remedy {
    if around.is_watched && OF_WATCHDOG.is_about(kind, name) {
        return OF_WATCHDOG.remedy();
    }
    let row = ROWS.iter().find(|row| row.is_about(kind, name));
    match row {
        Some(Row { names: [], .. }) if around.is_in_vm && IN_VM.is_about(kind, name) => {
            IN_VM.remedy()
        }
        row => row.map_or(Remedy::Unknown, Row::remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_can_be_reached() {
        for (n, row) in ROWS.iter().enumerate() {
            let names: &[&str] = match row.names {
                [] => &["something"],
                names => names,
            };
            for name in names {
                let first = ROWS.iter().position(|other| other.is_about(row.kind, name));
                assert_eq!(first, Some(n), "{name} is behind another row");
            }
        }
    }

    #[test]
    fn known_disturbers_have_their_remedy() {
        let done = |kind, name| match remedy(kind, name, Around::default()) {
            Remedy::Do(text) => text,
            other => panic!("{name}: {other:?}"),
        };
        assert!(done(Kind::Work, "psi_avgs_work").contains("psi=0"));
        assert!(done(Kind::Tick, "the kernel's tick").contains("nohz_full="));
        assert!(done(Kind::Interrupt, "irq 41 (nvme0q1)").contains("managed_irq"));
        let cursor = done(Kind::Work, "fb_flashcursor");
        assert!(cursor.starts_with("echo 0 > /sys/class/graphics/fbcon/cursor_blink,"));
        assert!(done(Kind::Work, "refresh_vm_stats").contains("stat_refresh"));
        assert!(done(Kind::Nmi, "nmi_cpu_backtrace_handler").contains("dmesg"));
        assert!(done(Kind::KernelThread, "kworker/u17:2").contains("isolate.workqueues"));
        assert!(done(Kind::KernelThread, "ksmd").contains("isolate.kthreads"));
        let unknown = remedy(Kind::Softirq, "NET_RX", Around::default());
        assert_eq!(unknown, Remedy::Unknown);
    }

    #[test]
    fn who_is_bound_to_a_cpu_stays() {
        for (kind, name, expected) in [
            (Kind::Program, "CPU 0/KVM", "pin-hook measure"),
            (Kind::KernelThread, "migration/5", "affinities"),
            (Kind::KernelThread, "kworker/5:1", "bound"),
            (Kind::KernelThread, "kworker/5:1H-kblockd", "bound"),
            (Kind::Timer, "hrtimer_wakeup", "run once"),
            (Kind::Timer, "process_timeout", "idle cpus"),
        ] {
            match remedy(kind, name, Around::default()) {
                Remedy::Nothing(text) => assert!(text.contains(expected), "{name}: {text}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_around_decides_as_well() {
        let watched = Around {
            is_watched: true,
            ..Around::default()
        };
        let in_vm = Around {
            is_in_vm: true,
            ..Around::default()
        };
        for (kind, name, around, expected) in [
            (
                Kind::KernelThread,
                "migration/5",
                watched,
                "isolate.watchdog",
            ),
            (Kind::Program, "kvm (100.scope)", in_vm, "pin.emulator"),
        ] {
            match remedy(kind, name, around) {
                Remedy::Do(text) => assert!(text.contains(expected), "{name}: {text}"),
                other => panic!("{name}: {other:?}"),
            }
            assert_ne!(
                remedy(kind, name, around),
                remedy(kind, name, Around::default())
            );
        }
        // Another vCPU of the same VM is no stranger there.
        let vcpu = "CPU 1/KVM (100.scope)";
        let plain = remedy(Kind::Program, vcpu, Around::default());
        assert_eq!(remedy(Kind::Program, vcpu, in_vm), plain);
    }
}
