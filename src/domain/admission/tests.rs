//! Tests of what a VM may have.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::claim::{Claim, ClaimState, Standby, Wishes};
use crate::domain::cpuset::CpuId;
use crate::domain::topology::tests::grid;
use crate::domain::vm::TaskId;

const BACKENDS: [Backend; 4] = [
    Backend::Isolated,
    Backend::Root,
    Backend::Slices,
    Backend::Affinity,
];

fn set(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn id(vmid: u32) -> Vmid {
    vmid.to_string().parse().unwrap()
}

fn running() -> ClaimState {
    let qemu = TaskId { tid: 5, start: 50 };
    ClaimState::Running { qemu }
}

fn wishes(cpus: &str, backend: Backend) -> Wishes {
    Wishes {
        cpus: set(cpus),
        backend,
        ..Wishes::none()
    }
}

/// The same with emulator threads on CPUs of their own.
fn with_emulator(cpus: &str, backend: Backend, emulator: &str) -> Wishes {
    Wishes {
        emulator: Some(set(emulator)),
        ..wishes(cpus, backend)
    }
}

fn claim(vmid: u32, wishes: Wishes) -> Claim {
    Claim::new(id(vmid), running(), wishes, None)
}

fn claims(claims: impl IntoIterator<Item = Claim>) -> Claims {
    let claims = claims.into_iter().map(|claim| (claim.vmid, claim));
    claims.collect()
}

/// Returns what VM 100 is told on a host with 8 CPUs, each a core, of which two stay with the host.
fn told(wishes: &Wishes, claims: &Claims, around: &Surroundings) -> Result<Vec<String>, String> {
    let share = wishes.share(id(100));
    check(&share, claims, &grid(1, 1, 8, 1), around).map_err(|refusal| refusal.to_string())
}

fn alone(wishes: &Wishes, around: &Surroundings) -> Result<Vec<String>, String> {
    told(wishes, &Claims::new(), around)
}

fn beside(one: Bystander) -> Surroundings {
    Surroundings {
        bystanders: vec![one],
        ..Surroundings::default()
    }
}

fn unit(name: &str, cpus: &str) -> Surroundings {
    beside(Bystander::unit(name, set(cpus)))
}

fn refused(text: &str) -> Result<Vec<String>, String> {
    Err(text.to_owned())
}

fn warned(text: &str) -> Result<Vec<String>, String> {
    Ok(vec![text.to_owned()])
}

const NOTHING: Result<Vec<String>, String> = Ok(Vec::new());

/// Two VMs on one CPU would take it from each other, whatever keeps everyone else off it.
#[test]
fn no_vm_gets_a_cpu_that_another_one_owns() {
    let (starter, qemu) = (TaskId { tid: 4, start: 40 }, TaskId { tid: 5, start: 50 });
    let (deadline, reason) = (Duration::ZERO, String::new());
    let claimed = refused("cpu 3 is claimed by vm 101");
    for (state, expected) in [
        (
            ClaimState::Reserved { starter, deadline },
            refused("cpu 3 is reserved for a start of vm 101"),
        ),
        (ClaimState::Waiting { qemu }, claimed.clone()),
        (ClaimState::Running { qemu }, claimed),
        // Nothing of it is in force: to refuse others for it would waste the CPUs.
        (ClaimState::Failed { qemu, reason }, NOTHING),
    ] {
        let wish = |backend| wishes("3-4", backend);
        let other = Claim::new(id(101), state, wishes("2-3", Backend::Root), None);
        let standby = Claim {
            standby: Some(Standby::default()),
            ..other.clone()
        };
        let (other, standby) = (claims([other]), claims([standby]));
        let around = Surroundings::default();
        for backend in BACKENDS {
            assert_eq!(told(&wish(backend), &other, &around), expected, "{backend}");
            assert_eq!(told(&wish(backend), &standby, &around), NOTHING);
            let apart = wishes("4-5", backend);
            assert_eq!(told(&apart, &other, &around), NOTHING, "{backend}");
        }
    }
}

/// Otherwise no edited table could be applied to a VM that runs.
#[test]
fn a_vm_is_never_in_its_own_way() {
    let before = claims([claim(100, with_emulator("2-3", Backend::Root, "4"))]);
    let wish = wishes("2-4", Backend::Root);
    // Its emulator threads leave the CPU that becomes a vcpu's.
    assert_eq!(told(&wish, &before, &Surroundings::default()), NOTHING);
    // PVE's affinity and the list of the scope are of the vm itself.
    let pinned = Bystander::pinned("vm 100".to_owned(), String::new(), set("2-3"));
    for around in [beside(pinned), unit("100.scope", "2-4")] {
        assert_eq!(alone(&wish, &around), NOTHING, "{around:?}");
    }
}

/// An admin who stops the other VM would find that the start is refused all the same.
#[test]
fn what_no_other_vm_could_change_is_told_first() {
    let other = claims([claim(101, wishes("2-3", Backend::Root))]);
    let found = told(
        &wishes("1-7", Backend::Root),
        &other,
        &Surroundings::default(),
    );
    let text = "2 cores with all their smt siblings must stay with the host, 1 would be left \
                (housekeeping cpus 0)";
    assert_eq!(found, refused(text));
    let own = claims([claim(100, wishes("2-3", Backend::Root))]);
    let found = told(
        &wishes("1-7", Backend::Root),
        &own,
        &Surroundings::default(),
    );
    assert_eq!(found, refused(text));
    // Where another VM could change it, it is named.
    let found = told(
        &wishes("4-7", Backend::Root),
        &claims([claim(101, wishes("1-3", Backend::Root))]),
        &Surroundings::default(),
    );
    assert_eq!(found, refused(&format!("{text}, vm 101 owns cpus 1-3")));
}

/// The kernel answers EINVAL to exclusive CPUs that overlap, and names nobody.
#[test]
fn exclusive_cpus_of_other_cgroups_are_left_alone() {
    let foreign = |is_partition| Surroundings {
        partitions: vec![Exclusive {
            group: "ci.slice".to_owned(),
            cpus: set("3-4"),
            is_partition,
        }],
        ..Surroundings::default()
    };
    let (list, partition) = (
        refused("cpu 3 is in cpuset.cpus.exclusive of cgroup ci.slice"),
        refused("cpu 3 is in the cpuset partition of cgroup ci.slice"),
    );
    for backend in BACKENDS {
        let wish = wishes("2-3", backend);
        assert_eq!(alone(&wish, &foreign(true)), partition, "{backend}");
        // A list keeps nobody from being pinned there.
        let expected = match backend {
            Backend::Affinity => &NOTHING,
            _ => &list,
        };
        assert_eq!(alone(&wish, &foreign(false)), *expected, "{backend}");
        assert_eq!(alone(&wishes("5", backend), &foreign(true)), NOTHING);
    }
}

/// A service without a CPU dies, or silently runs on those of the group above.
#[test]
fn nobody_is_left_without_a_cpu() {
    let starved = |who: &str| {
        let text = format!("{who} is limited to cpus 2-3, and would have no cpu left");
        Err(text)
    };
    let pinned = Bystander::pinned("vm 107".to_owned(), String::new(), set("2-3"));
    let group = Bystander::group("lxc", set("2-3"));
    for (backend, around, expected) in [
        (
            Backend::Root,
            unit("cron.service", "2-3"),
            starved("unit cron.service"),
        ),
        (
            Backend::Isolated,
            beside(group.clone()),
            starved("cgroup lxc"),
        ),
        (Backend::Slices, beside(pinned.clone()), starved("vm 107")),
        // Backend slices gives such a list other CPUs, but not that of all VMs.
        (
            Backend::Slices,
            unit("cron.service", "2-3"),
            warned(
                "unit cron.service is configured for cpus 2-3 and will have cpus 0-1,4-7 instead",
            ),
        ),
        (
            Backend::Slices,
            unit("qemu.slice", "2-3"),
            starved("unit qemu.slice"),
        ),
        // With affinity everyone keeps its CPUs.
        (Backend::Affinity, beside(pinned), NOTHING),
        (
            Backend::Root,
            unit("cron.service", "1-2"),
            warned("unit cron.service is configured for cpus 1-2 and will have only cpu 1 of them"),
        ),
        // A list of all CPUs limits nobody, so there is nothing to tell.
        (Backend::Root, unit("system.slice", "0-7"), NOTHING),
        (Backend::Root, unit("cron.service", "5-6"), NOTHING),
    ] {
        let found = alone(&wishes("2-3", backend), &around);
        assert_eq!(found, expected, "{backend}: {around:?}");
    }
}

/// A VM that runs would lose its disk threads to the start of another one.
#[test]
fn threads_of_other_vms_keep_a_cpu() {
    let other = claims([claim(101, with_emulator("4-5", Backend::Root, "2"))]);
    assert_eq!(
        told(
            &wishes("2-3", Backend::Root),
            &other,
            &Surroundings::default()
        ),
        refused("pin.emulator of vm 101 is limited to cpu 2, and would have no cpu left")
    );
    assert_eq!(
        alone(
            &with_emulator("2-3", Backend::Root, "1-2"),
            &Surroundings::default()
        ),
        warned(
            "pin.emulator of vm 100 is configured for cpus 1-2 and will have only cpu 1 of them"
        )
    );
}

/// Other CPUs for a VM that owns none of those in question would change nothing.
#[test]
fn the_way_out_is_one_that_helps() {
    let [other, own] = [101, 100].map(|vmid| claims([claim(vmid, wishes("2-3", Backend::Root))]));
    let around = unit("cron.service", "2-3");
    let table = "give vm 100 other cpus in its table";
    for (claims, cpus, stops, tables) in [
        (&other, "4-5", true, false),
        (&Claims::new(), "2-3", false, true),
        // Nor is a VM to be stopped for itself.
        (&own, "2-3", false, true),
    ] {
        let share = wishes(cpus, Backend::Root).share(id(100));
        let refusal = check(&share, claims, &grid(1, 1, 8, 1), &around).unwrap_err();
        let help = refusal.help(id(100));
        assert_eq!(help.contains("stop vm"), stops, "{help}");
        assert_eq!(help.contains(table), tables, "{help}");
        assert!(help.contains("set-property cron.service"), "{help}");
    }
}

/// The threads would run elsewhere than the table says, and nothing would tell.
#[test]
fn what_is_above_a_vm_leaves_its_threads_their_cpus() {
    let above = |what: &str, cpus: &str| {
        let text = format!("unit qemu.slice is limited to cpus 0-3, which keeps {what} off {cpus}");
        Err(text)
    };
    let vcpus = above("the vcpus of vm 100", "cpus 4-5");
    for (wish, expected) in [
        (wishes("4-5", Backend::Slices), vcpus.clone()),
        (wishes("4-5", Backend::Affinity), vcpus),
        // A partition has its CPUs whatever is above it.
        (wishes("4-5", Backend::Root), NOTHING),
        (
            with_emulator("4-5", Backend::Root, "6-7"),
            above("pin.emulator of vm 100", "cpus 6-7"),
        ),
        (
            with_emulator("4-5", Backend::Root, "3,6"),
            warned(
                "pin.emulator of vm 100 is configured for cpus 3,6, of which unit qemu.slice \
                 leaves it cpu 3",
            ),
        ),
        (with_emulator("4-5", Backend::Root, "2-3"), NOTHING),
    ] {
        let found = alone(&wish, &unit("qemu.slice", "0-3"));
        assert_eq!(found, expected, "{wish:?}");
    }
    // Its own scope is above them as well.
    let text =
        "unit 100.scope is limited to cpus 0-3, which keeps the vcpus of vm 100 off cpus 4-5";
    let wish = wishes("4-5", Backend::Slices);
    assert_eq!(alone(&wish, &unit("100.scope", "0-3")), refused(text));
    // Units beside the VM limit others, not its threads.
    let found = alone(
        &wishes("4-5", Backend::Slices),
        &unit("cron.service", "0-3"),
    );
    assert_eq!(found, NOTHING);
    // A list of which the partition leaves nothing is none.
    let wish = with_emulator("2-3", Backend::Root, "0-1");
    assert_eq!(alone(&wish, &unit("100.scope", "2-3")), NOTHING);
}

proptest! {
    /// Whatever the order of starts and of changed tables.
    #[test]
    fn vms_that_are_admitted_never_share_a_cpu(
        asked in proptest::collection::vec(
            (100..104_u32, proptest::collection::btree_set(0..8_u32, 1..4), 0..BACKENDS.len()),
            1..12,
        ),
        foreign in proptest::collection::btree_set(0..8_u32, 0..2),
    ) {
        let of = |cpus: std::collections::BTreeSet<u32>| -> CpuSet {
            cpus.into_iter().map(CpuId).collect()
        };
        let foreign = of(foreign);
        let around = Surroundings {
            partitions: vec![Exclusive {
                group: "ci.slice".to_owned(),
                cpus: foreign.clone(),
                is_partition: true,
            }],
            ..Surroundings::default()
        };
        let host = grid(1, 1, 8, 1);
        let mut owned = Claims::new();
        for (vmid, cpus, backend) in asked {
            let wishes = Wishes { cpus: of(cpus), backend: BACKENDS[backend], ..Wishes::none() };
            if check(&wishes.share(id(vmid)), &owned, &host, &around).is_ok() {
                owned.insert(id(vmid), claim(vmid, wishes));
            }
            let sets = owned.values().map(|claim| &claim.wishes.cpus);
            let n: usize = sets.clone().map(CpuSet::len).sum();
            let all = sets.fold(CpuSet::new(), |all, cpus| all.union(cpus));
            prop_assert_eq!(n, all.len());
            prop_assert!(all.is_disjoint(&foreign));
        }
    }
}
