//! Speed and sleep of the owned CPUs, and settings of the host.

use std::time::Duration;

use pin_hook::lifecycle::show::status::status;
use pin_hook::lifecycle::start::phase::Phase;

use super::scenario::{Scenario, Then};
use super::world::{CONF, World, assert_says, done, id};
use crate::common::sim::{Machine, VmSpec};

const POLICY: &str = "/sys/devices/system/cpu/cpufreq/policy2";
const STAT_INTERVAL: &str = "/proc/sys/vm/stat_interval";
const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
const KSM: &str = "/sys/kernel/mm/ksm/run";
const HALT_POLL: &str = "/sys/module/kvm/parameters/halt_poll_ns";

const WISHES: &str = r#"
[power]
governor = "performance"
min-frequency = "2200MHz"
max-idle-latency = "2us"
[host]
sysctl = { "vm.stat_interval" = 120 }
ksm = "stop"
transparent-hugepages = "never"
halt-poll = "0us"
"#;

/// A node whose CPUs 2 to 5 change their frequency together, where energy is preferred by policy
/// and pages are merged.
fn node() -> World {
    let world = World::of(&Machine {
        shared_policy: "2-5".to_owned(),
        ..Machine::default()
    });
    for (path, text) in [
        (format!("{POLICY}/scaling_min_freq"), "1200000"),
        (
            format!("{POLICY}/energy_performance_preference"),
            "balance_power",
        ),
        (KSM.to_owned(), "1"),
        ("/sys/kernel/mm/ksm/pages_sharing".to_owned(), "1000"),
        (HALT_POLL.to_owned(), "200000"),
    ] {
        world.sim.put(&path, &format!("{text}\n"));
    }
    world
}

/// The same with another governor, which refuses preferences, and without boost.
fn with_host_governor(governor: &str) -> World {
    let world = node();
    let preference = format!("{POLICY}/energy_performance_preference");
    world.sim.put(&preference, "performance\n");
    world
        .sim
        .poke(&format!("{POLICY}/scaling_governor"), governor)
        .unwrap();
    world
        .sim
        .put("/sys/devices/system/cpu/cpufreq/boost", "0\n");
    world
}

fn table(cpus: &str, wishes: &str) -> String {
    format!("cpus = \"{cpus}\"\n{wishes}")
}

fn with_vm() -> World {
    node().vm(100, CONF, &table("2-3", WISHES))
}

/// VM 101 wishes for less of everything.
fn with_two_vms() -> World {
    let less = "[power]\ngovernor = \"powersave\"\n[host]\nsysctl = { \"vm.stat_interval\" = 10 }\n\
                transparent-hugepages = \"madvise\"\n";
    with_vm().vm(101, CONF, &table("4-5", less))
}

fn values(world: &World) -> String {
    let paths = [
        format!("{POLICY}/scaling_governor"),
        STAT_INTERVAL.to_owned(),
        THP.to_owned(),
    ];
    let values = paths
        .iter()
        .map(|path| world.sim.get(path).trim().to_owned());
    values.collect::<Vec<_>>().join(", ")
}

/// Taking merged pages apart takes its time, and so may whatever is written there meanwhile.
#[test]
fn pages_are_taken_apart_by_a_child() {
    let node = || {
        let world = node();
        world
            .sim
            .put("/proc/meminfo", "MemAvailable:    8000000 kB\n");
        world.vm(100, CONF, &table("2-3", "[host]\nksm = \"unmerge\"\n"))
    };
    Scenario::new("unmerge", node)
        .start(100)
        .check(|world| {
            assert_eq!(world.sim.get(KSM), "2\n");
            let state = world.sim.state();
            let job = state.systemd.jobs.last().unwrap();
            assert_eq!(job.unit, "pin-hook-write-mm-ksm-run.service");
        })
        .stop(100)
        .prove();
}

/// Under the governor of the host only one preference is accepted, and its boost is off.
#[test]
fn the_governor_comes_before_the_preference_and_boost_before_frequencies() {
    let wishes = "[power]\ngovernor = \"powersave\"\nenergy-preference = \"balance_power\"\n\
                  boost = true\nmin-frequency = \"2200MHz\"\n";
    let world = with_host_governor("performance").vm(100, CONF, &table("2-3", wishes));
    let before = world.capture();
    world.sim.take_log();
    world.start(100);
    let log = world.sim.take_log();
    let at = |part: &str| log.iter().position(|op| op.contains(part)).unwrap();
    assert!(at("scaling_governor powersave") < at("preference balance_power"));
    assert!(at("boost 1") < at("scaling_min_freq 2200000"));
    world.assert_owns(100);
    world.stop(100);
    world.assert_as(&before);
}

/// The kernel applies limits later, so they are waited for, but not each for its own time.
#[test]
fn frequencies_beyond_the_hardware_do_not_use_up_the_phase() {
    let wishes = "power = { min-frequency = \"9GHz\", max-frequency = \"9GHz\" }\n";
    let conf = CONF.replace("cores: 2", "cores: 6");
    let world = World::lab().vm(100, &conf, &table("2-7", wishes));
    for cpu in 2..8 {
        let policy = format!("/sys/devices/system/cpu/cpufreq/policy{cpu}");
        for (file, text) in [
            ("cpuinfo_min_freq", "1200000\n"),
            ("cpuinfo_max_freq", "4000000\n"),
            ("scaling_max_freq", "3000000\n"),
            ("scaling_min_freq", "1200000\n"),
        ] {
            world.sim.put(&format!("{policy}/{file}"), text);
        }
    }
    let before = world.capture();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(6));
    world.allow(Duration::from_secs(4));
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(&account, "the kernel rounded 9000000 to 4000000");
    assert!(
        !account
            .lines
            .iter()
            .any(|line| line.text.contains("not everything was done"))
    );
    world.end_worker();
    world.stop(100);
    world.assert_as(&before);
}

#[test]
fn settings_last_as_long_as_the_vm() {
    Scenario::new("settings", with_vm)
        .pre_start(100)
        .outside(|world| world.launch(100, &VmSpec::with_vcpus(2)))
        .call("post-start 100", Then::Owned, |world| {
            done(world.phase(Phase::PostStart, 100))
        })
        .outside(World::end_worker)
        .owns(100)
        .check(|world| {
            for (path, text) in [
                (format!("{POLICY}/scaling_governor"), "performance"),
                (format!("{POLICY}/scaling_min_freq"), "2200000"),
                (
                    format!("{POLICY}/energy_performance_preference"),
                    "performance",
                ),
                (
                    "/sys/devices/system/cpu/cpu3/power/pm_qos_resume_latency_us".to_owned(),
                    "2",
                ),
                (
                    "/sys/devices/system/cpu/cpu4/power/pm_qos_resume_latency_us".to_owned(),
                    "0",
                ),
                (STAT_INTERVAL.to_owned(), "120"),
                (THP.to_owned(), "always madvise [never]"),
                (KSM.to_owned(), "0"),
                (HALT_POLL.to_owned(), "0"),
            ] {
                assert_eq!(world.sim.get(&path).trim(), text, "{path}");
            }
        })
        .stop(100)
        .prove();
}

#[test]
fn of_two_wishes_the_same_one_holds_whoever_comes_or_goes_first() {
    for order in [[100, 101], [101, 100]] {
        for last in order {
            let world = with_two_vms();
            let before = world.capture();
            order.iter().for_each(|vmid| world.start(*vmid));
            let pages = match order[0] {
                100 => "always madvise [never]",
                _ => "always [madvise] never",
            };
            assert_eq!(values(&world), format!("performance, 120, {pages}"));
            world.stop(if last == 100 { 101 } else { 100 });
            let alone = match last {
                100 => "performance, 120, always madvise [never]",
                _ => "powersave, 10, always [madvise] never",
            };
            assert_eq!(values(&world), alone, "{order:?}, {last} is left");
            world.stop(last);
            world.assert_as(&before);
        }
    }
}

#[test]
fn status_tells_who_wishes_for_what_and_who_decides() {
    let world = with_two_vms();
    world.start(100);
    world.start(101);
    let status = status(&world.host, Some(id(101))).unwrap();
    assert!(status.ok, "{status:#?}");
    let mut settings = status.settings.iter();
    let interval = settings
        .find(|setting| setting.target == STAT_INTERVAL)
        .unwrap();
    assert_eq!(
        interval.key.as_deref(),
        Some("host.sysctl vm.stat_interval")
    );
    assert_eq!(
        (interval.before.as_str(), interval.wanted.as_str()),
        ("1", "120")
    );
    let wishes = interval.wishes.iter();
    let wishes: Vec<String> = wishes
        .map(|wish| format!("{} {}", wish.vmid, wish.value))
        .collect();
    assert_eq!(wishes, ["100 120", "101 10"]);
    assert_eq!(interval.rule, Some("the highest value wins"));
    // What only VM 100 wishes for is not shown for VM 101.
    assert!(status.settings.iter().all(|setting| setting.target != KSM));
}

#[test]
fn two_vms_that_share_settings_survive_a_death_at_every_write() {
    Scenario::new("shared settings", with_two_vms)
        .start(100)
        .known()
        .start(101)
        .stop(100)
        .stop(101)
        .prove();
}

#[test]
fn a_setting_that_this_host_does_not_have_is_left_out_and_named() {
    let wishes = "[power]\nboost = true\nenergy-preference = \"power\"\n[host]\nhalt-poll = \"1us\"\n\
                  sysctl = { \"kernel.none\" = 1 }\n";
    let world = World::lab().vm(100, CONF, &table("2-3", wishes));
    let before = world.capture();
    let account = done(world.phase(Phase::PreStart, 100));
    for text in [
        "power.boost is skipped: this host has no switch for it",
        "power.energy-preference is skipped: this host has no /sys/devices/system/cpu/cpufreq",
        "host.halt-poll is skipped: this host has no /sys/module/kvm/parameters/halt_poll_ns",
        "host.sysctl kernel.none is skipped: this host has no /proc/sys/kernel/none",
    ] {
        assert_says(&account, text);
    }
    world.launch(100, &VmSpec::with_vcpus(2));
    let account = done(world.phase(Phase::PostStart, 100));
    let told = account
        .lines
        .iter()
        .any(|line| line.text.contains("is skipped"));
    assert!(!told, "said before already: {account:#?}");
    world.end_worker();
    world.stop(100);
    world.assert_as(&before);
}

#[test]
fn a_setting_that_nobody_can_read_is_left_out_and_named() {
    let world = with_vm();
    let before = world.capture();
    world
        .sim
        .fail(&format!("=read {STAT_INTERVAL}"), libc::EIO, u32::MAX);
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        &format!(
            "host.sysctl vm.stat_interval is skipped: {STAT_INTERVAL} cannot be read: Input/output"
        ),
    );
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    world.end_worker();
    world.sim.fail_no_more();
    world.stop(100);
    world.assert_as(&before);
}

#[test]
fn a_setting_that_somebody_changes_is_set_again_and_left_when_letting_go() {
    let world = with_vm();
    world.start(100);
    world.sim.poke(STAT_INTERVAL, "7").unwrap();
    assert_says(
        &done(world.reconcile()),
        "is \"7\", but pin-hook had set \"120\": set again",
    );
    assert_eq!(world.sim.get(STAT_INTERVAL), "120\n");
    world.sim.poke(STAT_INTERVAL, "8").unwrap();
    world.end_qemu(100);
    let account = done(world.phase(Phase::PostStop, 100));
    assert_says(
        &account,
        "is \"8\", but pin-hook had set \"120\": left as it is",
    );
    assert_eq!(world.sim.get(STAT_INTERVAL), "8\n");
}

#[test]
fn a_wish_that_the_kernel_does_not_take_is_a_failure_of_status() {
    let world = with_vm();
    let before = world.capture();
    let write = format!("write {STAT_INTERVAL}");
    world.sim.fail(&write, libc::EINVAL, u32::MAX);
    world.start(100);
    world.reconcile_until_quiet().unwrap();
    let status = status(&world.host, Some(id(100))).unwrap();
    assert!(!status.ok);
    let [refused] = status.refused.as_slice() else {
        panic!("{:?}", status.refused)
    };
    // Nobody promises what the kernel refuses.
    assert_eq!(status.pending, 0);
    assert_eq!(refused.wanted, "120");
    assert_eq!(refused.actual.as_deref(), Some("1"));
    let as_wished = status.settings.iter();
    assert!(as_wished.clone().all(|one| one.target != refused.target));
    world.sim.fail_no_more();
    world.stop(100);
    world.assert_as(&before);
}

/// The kernel lets nobody read the files of a policy without an online CPU.
#[test]
fn a_policy_without_a_cpu_keeps_nothing_else_from_being_given_back() {
    let world = World::lab().vm(
        100,
        CONF,
        &table("2-3", "power.governor = \"performance\"\n"),
    );
    world.start(100);
    world.sim.set_online(3, false).unwrap();
    assert_says(
        &done(world.reconcile()),
        "policy3/scaling_governor: reading it failed",
    );
    done(world.reconcile());
    world.stop(100);
    assert_eq!(world.claim_state(100), "none");
    assert_eq!(
        world.sim.get(&format!("{POLICY}/scaling_governor")),
        "schedutil\n"
    );
    for _ in 0..5 {
        let account = done(world.reconcile());
        assert!(account.lines.is_empty(), "{account:#?}");
    }
    world.sim.set_online(3, true).unwrap();
    world.reconcile_until_quiet().unwrap();
    let governor = "/sys/devices/system/cpu/cpufreq/policy3/scaling_governor";
    assert_eq!(world.sim.get(governor), "schedutil\n");
    world.assert_at_rest();
}

/// Boost has a switch for each policy (amd-pstate), or one for the host that says the opposite (intel_pstate).
#[test]
fn boost_is_switched_where_the_driver_has_its_switch() {
    let of_policy = "/sys/devices/system/cpu/cpufreq/policy2/boost";
    let no_turbo = "/sys/devices/system/cpu/intel_pstate/no_turbo";
    for (switch, off, on) in [(of_policy, "0\n", "1\n"), (no_turbo, "1\n", "0\n")] {
        let world = World::lab().vm(100, CONF, &table("2-3", "power.boost = true\n"));
        let cpus = (0..8).map(|cpu| switch.replace("policy2", &format!("policy{cpu}")));
        let others = cpus.filter(|path| world.host.files.exists(path.rsplit_once('/').unwrap().0));
        others.for_each(|path| world.sim.put(&path, off));
        world.sim.put(switch, off);
        let before = world.capture();
        world.start(100);
        assert_eq!(world.sim.get(switch), on, "{switch}");
        world.stop(100);
        world.assert_as(&before);
    }
}

/// Zero means "no constraint" to the kernel; "n/a" means none at all (`drivers/base/power/sysfs.c`).
#[test]
fn no_idle_latency_at_all_is_asked_for_in_the_words_of_the_kernel() {
    let wish = "power.max-idle-latency = \"0us\"\n";
    let world = World::lab().vm(100, CONF, &table("2-3", wish));
    let before = world.capture();
    world.start(100);
    let latency = "/sys/devices/system/cpu/cpu3/power/pm_qos_resume_latency_us";
    assert_eq!(world.sim.get(latency), "n/a\n");
    world.stop(100);
    world.assert_as(&before);
}

/// The kernel does not refuse what there is no memory for: it kills.
#[test]
fn merged_pages_stay_merged_where_memory_is_too_short_to_take_them_apart() {
    let world = node().vm(100, CONF, &table("2-3", "[host]\nksm = \"unmerge\"\n"));
    // 1000 pages of 4 kB, and half as much again.
    world
        .sim
        .put("/proc/meminfo", "MemAvailable:       6000 kB\n");
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        "too little memory to unmerge pages, they stay merged",
    );
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(world.sim.get(KSM), "0\n");
}

#[test]
fn a_frequency_that_the_hardware_does_not_have_is_told_before_a_start() {
    let warnings = |line: &str| {
        let world = World::lab().vm(100, CONF, &format!("cpus = \"2-3\"\n[power]\n{line}\n"));
        for (name, khz) in [("min", "800000\n"), ("max", "3400000\n")] {
            let dir = "/sys/devices/system/cpu/cpufreq/policy2";
            world.sim.put(&format!("{dir}/cpuinfo_{name}_freq"), khz);
            world.sim.put(&format!("{dir}/scaling_{name}_freq"), khz);
        }
        world.plan(100).warnings.join("\n")
    };
    let text = warnings("max-frequency = \"9GHz\"");
    assert!(
        text.contains("power.max-frequency: 9GHz is beyond the hardware"),
        "{text}"
    );
    let text = warnings("min-frequency = \"1MHz\"");
    assert!(
        text.contains("power.min-frequency: 1MHz is below the hardware"),
        "{text}"
    );
    // Boost adds to what the hardware can, and takes nothing away.
    let text = warnings("min-frequency = \"1MHz\"\nboost = true");
    assert!(text.contains("1MHz is below the hardware"), "{text}");
    let text = warnings("max-frequency = \"9GHz\"\nboost = true");
    assert!(text.contains("9GHz is beyond the hardware"), "{text}");
    let text = warnings("max-frequency = \"2GHz\"");
    assert!(!text.contains("beyond the hardware"), "{text}");
}

/// A profile asks for it on every host, and nobody could do anything about the warning.
#[test]
fn a_preference_that_the_governor_gives_anyway_is_not_missed() {
    for (wishes, is_told) in [
        ("profile = \"low-latency\"\n", false),
        ("[power]\nenergy-preference = \"performance\"\n", true),
    ] {
        let world = World::lab().vm(100, CONF, &table("2-3", wishes));
        let account = done(world.phase(Phase::PreStart, 100));
        let mut lines = account.lines.iter();
        let told = lines.any(|line| line.text.contains("energy-preference is skipped"));
        assert_eq!(told, is_told, "{account:#?}");
    }
}
