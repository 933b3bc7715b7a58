//! Limits of frequencies: the kernel shows what it makes of them, and a moment later only.

use std::time::Duration;

use pin_hook::lifecycle::engine::account::Account;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, assert_says, done};
use crate::common::sim::VmSpec;

const BOTH: &str = "power = { min-frequency = \"9GHz\", max-frequency = \"9GHz\" }\n";

/// Policies of CPUs 2 to 7: 4 and 5 share one.
const POLICIES: [u32; 5] = [2, 3, 4, 6, 7];

fn of(cpu: u32, file: &str) -> String {
    format!("/sys/devices/system/cpu/cpufreq/policy{cpu}/{file}")
}

/// A node whose CPUs 2 to 7 have these limits, and a VM that owns them.
fn node(limits: [&str; 4], wishes: &str) -> World {
    let conf = CONF.replace("cores: 2", "cores: 6");
    let world = World::lab().vm(100, &conf, &format!("cpus = \"2-7\"\n{wishes}"));
    let names = ["cpuinfo_min", "scaling_min", "scaling_max", "cpuinfo_max"];
    for cpu in POLICIES {
        for (name, khz) in names.iter().zip(limits) {
            world
                .sim
                .put(&of(cpu, &format!("{name}_freq")), &format!("{khz}\n"));
        }
    }
    world
}

fn start(world: &World) {
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(6));
    done(world.phase(Phase::PostStart, 100));
    world.end_worker();
}

fn assert_silent(account: &Account) {
    let told = account.lines.iter();
    let told: Vec<_> = told.filter(|line| line.text.contains("_freq")).collect();
    assert!(told.is_empty(), "{told:#?}");
}

/// Ends the VM, and asserts that nobody was blamed and that what was asked for is asked for again.
fn assert_given_back(world: &World, before: &crate::common::sim::capture::Capture) {
    world.end_qemu(100);
    let account = done(world.phase(Phase::PostStop, 100));
    assert_silent(&account);
    world.reconcile_until_quiet().unwrap();
    world.assert_as(before);
}

/// The kernel takes its time, longer than all limits together are waited for.
#[test]
fn a_limit_that_the_kernel_applies_later_is_nobody_elses() {
    let world = node(["1200000", "1200000", "3400000", "3400000"], BOTH);
    let before = world.capture();
    world.sim.state().cpufreq.lag = Duration::from_millis(400);
    start(&world);
    world.sim.advance(Duration::from_secs(1));
    assert_silent(&done(world.reconcile()));
    assert_eq!(world.sim.get(&of(7, "scaling_min_freq")), "3400000\n");
    world.sim.state().cpufreq.lag = Duration::ZERO;
    assert_given_back(&world, &before);
}

/// Later than one is waited for, and rounded in a way that nobody tells.
#[test]
fn a_limit_that_is_applied_after_a_run_is_nobody_elses() {
    let world = node(["1200000", "1200000", "3400000", "3400000"], BOTH);
    let before = world.capture();
    world.sim.state().cpufreq.lag = Duration::from_secs(3);
    start(&world);
    world.sim.state().cpufreq.lag = Duration::ZERO;
    world.sim.advance(Duration::from_secs(4));
    assert_given_back(&world, &before);
}

/// What the hardware can changes with boost, and the kernel cuts to it what was asked for before.
#[test]
fn a_limit_follows_boost_and_is_nobody_elses() {
    let world = node(["1200000", "1200000", "3000000", "3400000"], BOTH);
    let before = world.capture();
    start(&world);
    for boosted in ["4400000\n", "3400000\n"] {
        POLICIES
            .into_iter()
            .for_each(|cpu| world.sim.put(&of(cpu, "cpuinfo_max_freq"), boosted));
        assert_silent(&done(world.reconcile()));
        assert_eq!(world.sim.get(&of(2, "scaling_max_freq")), boosted);
    }
    assert_given_back(&world, &before);
}

/// Where boost is switched the kernel forgets what was asked for, and allows what the hardware can.
#[test]
fn a_limit_that_boost_has_lifted_is_given_back() {
    let wish = "power.max-frequency = \"2GHz\"\n";
    let world = node(["1200000", "1200000", "3000000", "3400000"], wish);
    let mut before = world.capture();
    start(&world);
    for cpu in POLICIES {
        for file in ["cpuinfo_max_freq", "scaling_max_freq"] {
            world.sim.put(&of(cpu, file), "4400000\n");
        }
        let file = of(cpu, "cpuinfo_max_freq");
        before.insert(file, "4400000\n (0 644)".to_owned());
    }
    assert_given_back(&world, &before);
}

/// It reads as before, because the hardware can no more, but something else was asked for.
#[test]
fn a_limit_that_reads_as_before_is_given_back_as_well() {
    let world = node(
        ["1200000", "1200000", "3400000", "3400000"],
        "power.max-frequency = \"9GHz\"\n",
    );
    let before = world.capture();
    start(&world);
    assert_eq!(world.sim.get(&of(2, "scaling_max_freq")), "3400000\n");
    assert_given_back(&world, &before);
}

/// The highest frequency cuts the lowest one, so it comes first, both ways.
#[test]
fn the_lowest_frequency_is_written_after_the_highest_one() {
    for (limits, wishes) in [
        (
            ["800000", "1200000", "1500000", "4000000"],
            "min-frequency = \"3GHz\", max-frequency = \"3GHz\"",
        ),
        (
            ["800000", "3000000", "3400000", "4000000"],
            "min-frequency = \"1GHz\", max-frequency = \"2GHz\"",
        ),
    ] {
        let world = node(limits, &format!("power = {{ {wishes} }}\n"));
        let before = world.capture();
        world.sim.take_log();
        start(&world);
        world.sim.take_log();
        assert_given_back(&world, &before);
    }
}

/// A driver with steps takes the one below as the highest, the one above as the lowest frequency.
#[test]
fn a_frequency_between_two_steps_is_told_with_what_the_kernel_makes_of_it() {
    let wishes = "power = { min-frequency = \"2GHz\", max-frequency = \"3GHz\" }\n";
    let world = node(["1200000", "1200000", "3400000", "3400000"], wishes);
    for cpu in POLICIES {
        let steps = of(cpu, "scaling_available_frequencies");
        world.sim.put(&steps, "3400000 2200000 1200000 \n");
    }
    let before = world.capture();
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        "power.max-frequency: the kernel rounds 3GHz to 2200MHz: this host has 1200MHz, 2200MHz, 3400MHz",
    );
    world.launch(100, &VmSpec::with_vcpus(6));
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(
        &account,
        "scaling_max_freq: the kernel rounded 3000000 to 2200000",
    );
    world.end_worker();
    assert_given_back(&world, &before);
}

/// Somebody else's limit is still somebody else's.
#[test]
fn a_limit_that_somebody_writes_is_left_when_letting_go() {
    let world = node(
        ["800000", "1200000", "3400000", "4000000"],
        "power.max-frequency = \"3GHz\"\n",
    );
    start(&world);
    world
        .sim
        .poke(&of(2, "scaling_max_freq"), "2500000")
        .unwrap();
    world.end_qemu(100);
    let account = done(world.phase(Phase::PostStop, 100));
    assert_says(
        &account,
        "is \"2500000\", but pin-hook had set \"3000000\": left as it is",
    );
    assert_eq!(world.sim.get(&of(2, "scaling_max_freq")), "2500000\n");
    assert_eq!(world.sim.get(&of(3, "scaling_max_freq")), "3400000\n");
}
