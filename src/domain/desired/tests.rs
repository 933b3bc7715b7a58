//! Tables of what is wished for what is observed.

use super::*;
use crate::domain::claim::{Claim, ClaimState, Wishes};
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::facts::{GroupFacts, Irq, KernelThread, VmFacts};
use crate::domain::knob::Knob;
use crate::domain::table::{HostKnobs, Power};
use crate::domain::target::Place;
use crate::domain::thread::Thread;
use crate::domain::vm::{TaskId, Vmid};

pub(super) const SCOPE: &str = "qemu.slice/100.scope";

pub(super) fn set(list: &str) -> CpuSet {
    list.parse().unwrap()
}

pub(super) fn id(vmid: u32) -> Vmid {
    vmid.to_string().parse().unwrap()
}

pub(super) fn task(tid: i32) -> TaskId {
    TaskId { tid, start: 7 }
}

/// A VM with vCPUs on 2 and 3 that also owns 4 for its iothreads.
pub(super) fn claim() -> Claim {
    Claim {
        vmid: id(100),
        state: ClaimState::Running { qemu: task(50) },
        wishes: Wishes {
            cpus: set("2-4"),
            vcpus: vec![CpuId(2), CpuId(3)],
            emulator: None,
            iothreads: BTreeMap::from([("io0".to_owned(), set("4"))]),
            vhost: vec![Some(set("5")), None],
            backend: Backend::Isolated,
            reason: String::new(),
            kernel_threads: true,
            interrupts: true,
            power: Power::default(),
            host: HostKnobs::default(),
            workqueues: true,
            watchdog: true,
            scheduler: Default::default(),
            device_interrupts: None,
            affinity: None,
            stays_delegated: true,
            hotplug: false,
            memory: Default::default(),
        },
        iothreads: BTreeMap::new(),
        devices: BTreeMap::new(),
        resets: BTreeMap::new(),
        bindings: BTreeMap::new(),
        offline: CpuSet::new(),
        is_unproven: false,
        standby: None,
        ending: None,
        stopper: None,
    }
}

pub(super) fn claims(claims: impl IntoIterator<Item = Claim>) -> Claims {
    let claims = claims.into_iter().map(|claim| (claim.vmid, claim));
    claims.collect()
}

/// A host with CPUs 0 to 7 on two nodes.
pub(super) fn facts() -> Facts {
    Facts {
        possible: set("0-7"),
        online: set("0-7"),
        shared: set("0-7"),
        nodes: BTreeMap::from([(0, set("0-3")), (1, set("4-7"))]),
        default_irq_affinity: Some(set("0-7")),
        vms: BTreeMap::from([(
            id(100),
            VmFacts {
                effective: None,
                nodes: CpuSet::new(),
                qemu: task(50),
                scope: SCOPE.to_owned(),
                threads: Vec::new(),
            },
        )]),
        ..Facts::default()
    }
}

pub(super) fn thread(comm: &str, group: &str, affinity: &str) -> Thread {
    Thread {
        id: task(51),
        comm: comm.to_owned(),
        group: format!("{SCOPE}{group}"),
        affinity: set(affinity),
        bound: false,
        iothread: None,
    }
}

/// Returns wished group and CPUs of the only thread of a VM, each with what it is given back to.
pub(super) fn of_thread(
    claim: Claim,
    thread: Thread,
    shared: &str,
) -> [Option<(String, Option<String>)>; 2] {
    let mut facts = facts();
    facts.shared = set(shared);
    facts.vms.get_mut(&id(100)).unwrap().threads = vec![thread];
    let wishes = desired(&claims([claim]), &BTreeMap::new(), &facts);
    [Target::Membership(task(51)), Target::Affinity(task(51))].map(|target| {
        let wish = wishes.get(&target)?;
        let baseline = wish.baseline.as_ref().map(ToString::to_string);
        Some((wish.value.to_string(), baseline))
    })
}

pub(super) fn some(value: &str, baseline: Option<&str>) -> Option<(String, Option<String>)> {
    Some((value.to_owned(), baseline.map(str::to_owned)))
}

#[test]
fn every_thread_goes_where_its_role_says() {
    let vcpu = format!("{SCOPE}/vcpu");
    let io = format!("{SCOPE}/io");
    let iothread = Thread {
        iothread: Some("io0".to_owned()),
        ..thread("IO io0", "", "0-7")
    };
    let unknown = Thread {
        iothread: Some("io1".to_owned()),
        ..thread("IO io1", "", "0-7")
    };
    let all = Some("0-7");
    let table = [
        (thread("CPU 0/KVM", "", "0-7"), Some(&vcpu), some("2", all)),
        (thread("CPU 1/TCG", "", "0-7"), Some(&vcpu), some("3", all)),
        // More vCPUs than CPUs: those without one are left where QEMU is.
        (thread("CPU 2/KVM", "", "0-7"), None, None),
        (iothread, Some(&io), some("4", all)),
        (unknown, None, None),
        (thread("vhost-50", "", "0-7"), None, some("5", all)),
        (thread("kvm", "", "0-7"), None, None),
        // Pinned by somebody before us: that is what it gets back.
        (
            thread("CPU 0/KVM", "", "6"),
            Some(&vcpu),
            some("2", Some("6")),
        ),
    ];
    for (thread, group, cpus) in table {
        let what = format!("{thread:?}");
        let scope = Some(SCOPE.to_owned());
        let group = group.map(|group| (group.clone(), scope));
        assert_eq!(of_thread(claim(), thread, "0-7"), [group, cpus], "{what}");
    }
}

#[test]
fn a_thread_that_strayed_into_a_partition_is_moved_out() {
    let out = some(SCOPE, Some(SCOPE));
    let stray = thread("kvm-nx-lpage-re", "/vcpu", "2");
    assert_eq!(
        of_thread(claim(), stray, "0-1,5-7"),
        [out, some("0-1,5-7", Some("0-7"))]
    );
}

#[test]
fn what_a_partition_has_cut_is_known_by_what_it_left() {
    let cut = |affinity: &str, natural: Option<&str>| {
        let mut claim = claim();
        claim.wishes.emulator = Some(set("0-3"));
        claim.wishes.affinity = natural.map(set);
        of_thread(claim, thread("kvm", "", affinity), "0-1,5-7")[1].clone()
    };
    assert_eq!(cut("0-1,5-7", None), some("0-1", Some("0-7")));
    assert_eq!(cut("1", Some("1-2")), some("0-1", Some("1-2")));
    assert_eq!(cut("6", None), some("0-1", Some("6")));
}

#[test]
fn without_a_partition_only_threads_are_wished_for() {
    let mut claim = claim();
    claim.wishes.backend = Backend::Affinity;
    (claim.wishes.kernel_threads, claim.wishes.interrupts) = (false, false);
    let mut facts = facts();
    facts.vms.get_mut(&id(100)).unwrap().threads = vec![thread("CPU 0/KVM", "", "0-7")];
    let wishes = desired(&claims([claim]), &BTreeMap::new(), &facts);
    let wishes: Vec<_> = wishes.into_iter().collect();
    let wish = Wish {
        value: Value::Cpus(set("2")),
        baseline: Some(Value::Cpus(set("0-7"))),
    };
    assert_eq!(wishes, [(Target::Affinity(task(51)), wish)]);
}

#[test]
fn a_claim_wishes_for_what_its_state_allows() {
    let qemu = task(50);
    let starter = task(40);
    let deadline = std::time::Duration::from_secs(1);
    let reason = String::new();
    for (state, has_delegation, has_partition) in [
        (ClaimState::Reserved { starter, deadline }, true, false),
        (ClaimState::Waiting { qemu }, true, false),
        (ClaimState::Running { qemu }, true, true),
        (ClaimState::Running { qemu: task(49) }, true, false),
        (ClaimState::Failed { qemu, reason }, false, false),
    ] {
        let claim = Claim { state, ..claim() };
        let what = format!("{:?}", claim.state);
        let wishes = desired(&claims([claim]), &BTreeMap::new(), &facts());
        let has = |target: &Target| wishes.contains_key(target);
        assert_eq!(has(&Target::Delegation(id(100))), has_delegation, "{what}");
        let group = Target::Group(format!("{SCOPE}/vcpu"));
        assert_eq!(has(&group), has_partition, "{what}");
    }
}

#[test]
fn the_slice_passes_down_the_cpus_of_all_vms() {
    let mut other = claim();
    (other.vmid, other.wishes.cpus) = (id(101), set("6"));
    let mut facts = facts();
    let mut vm = facts.vms[&id(100)].clone();
    vm.scope = "qemu.slice/101.scope".to_owned();
    facts.vms.insert(id(101), vm);
    let wishes = desired(&claims([claim(), other]), &BTreeMap::new(), &facts);
    let exclusive = |group: &str| {
        let target = Target::Knob(Knob::CpusExclusive, Place::Group(group.to_owned()));
        wishes[&target].value.to_string()
    };
    assert_eq!(exclusive("qemu.slice"), "2-4,6");
    assert_eq!(exclusive(SCOPE), "2-4");
    assert_eq!(exclusive("qemu.slice/101.scope"), "6");
    assert_eq!(exclusive(&format!("{SCOPE}/vcpu")), "2-3");
    assert_eq!(exclusive(&format!("{SCOPE}/io")), "4");
}

/// A host whose default affinity of interrupts is narrowed from `0-7`.
pub(super) fn narrowed(ours: &str, before: Option<&str>) -> BTreeMap<Target, Held> {
    let target = Target::Knob(Knob::DefaultIrqAffinity, Place::Host);
    let held = Held {
        before: before.map(set).map(Value::Cpus),
        ..Held::new(Value::Cpus(set("0-7")), Value::Cpus(set(ours)))
    };
    BTreeMap::from([(target, held)])
}

fn of_irq(
    claims: &Claims,
    held: &BTreeMap<Target, Held>,
    affinity: &str,
    node: Option<u32>,
) -> Option<(String, Option<String>)> {
    let (number, actions) = (24, "ahci".to_owned());
    let mut facts = facts();
    facts.irqs = vec![Irq {
        number,
        actions: actions.clone(),
        affinity: set(affinity),
        node,
    }];
    let target = Target::Knob(Knob::IrqAffinity, Place::Irq(number, actions));
    let wishes = desired(claims, held, &facts);
    let wish = wishes.get(&target)?;
    Some((
        wish.value.to_string(),
        wish.baseline.as_ref().map(ToString::to_string),
    ))
}

#[test]
fn an_interrupt_keeps_what_is_left_of_its_cpus_or_gets_one_near_its_device() {
    let running = claims([claim()]);
    for (affinity, node, wished) in [
        ("0-7", None, "0-1,5-7"),
        ("1-3", None, "1"),
        ("6", Some(0), "6"),
        // 24 modulo the number of CPUs that may serve it.
        ("2-3", Some(0), "0"),
        ("2-3", Some(1), "5"),
        ("2", None, "7"),
        ("2", Some(9), "7"),
    ] {
        let found = of_irq(&running, &BTreeMap::new(), affinity, node);
        assert_eq!(
            found,
            some(wished, Some(affinity)),
            "{affinity} near {node:?}"
        );
    }
}

#[test]
fn an_interrupt_that_was_born_narrowed_is_given_what_it_would_have_had() {
    let running = claims([claim()]);
    let none = Claims::new();
    let held = narrowed("0-1,5-7", None);
    let all = Some("0-7");
    assert_eq!(
        of_irq(&running, &held, "0-1,5-7", None),
        some("0-1,5-7", all)
    );
    assert_eq!(of_irq(&none, &held, "0-1,5-7", None), some("0-7", all));
    // The kernel cuts the default to the node of the device.
    assert_eq!(
        of_irq(&running, &held, "5-7", Some(1)),
        some("5-7", Some("4-7"))
    );
    assert_eq!(
        of_irq(&none, &held, "5-7", Some(1)),
        some("4-7", Some("4-7"))
    );
    assert_eq!(of_irq(&none, &held, "3", None), None);
    // Born right before the default was written again, or given back.
    let held = narrowed("0-3,5-7", Some("0-1,5-7"));
    assert_eq!(of_irq(&none, &held, "0-1,5-7", None), some("0-7", all));
    assert_eq!(of_irq(&none, &held, "0-3,5-7", None), some("0-7", all));
    let held = narrowed("0-7", Some("0-1,5-7"));
    assert_eq!(of_irq(&none, &held, "0-1,5-7", None), some("0-7", all));
    assert_eq!(of_irq(&none, &held, "0-7", None), None);
}

fn of_kernel_thread(
    claim: Claim,
    comm: &str,
    affinity: &str,
    shared: &str,
) -> Option<(String, Option<String>)> {
    let mut facts = facts();
    facts.shared = set(shared);
    facts.kernel_threads = vec![KernelThread {
        id: task(9),
        comm: comm.to_owned(),
        affinity: set(affinity),
        kept: set(affinity),
        bound: comm.starts_with("migration/"),
    }];
    let wishes = desired(&claims([claim]), &BTreeMap::new(), &facts);
    let wish = wishes.get(&Target::KernelThread(task(9)))?;
    Some((
        wish.value.to_string(),
        wish.baseline.as_ref().map(ToString::to_string),
    ))
}

#[test]
fn kernel_threads_that_may_be_moved_are_kept_off() {
    let rest = "0-1,5-7";
    for (comm, affinity, shared, wished) in [
        ("kauditd", "0-7", "0-7", some(rest, Some("0-7"))),
        // The kernel has taken it off by itself.
        ("kauditd", rest, rest, some(rest, Some("0-7"))),
        ("kswapd0", "0-3", "0-7", some("0-1", Some("0-3"))),
        ("kauditd", "2-3", "0-7", some(rest, Some("2-3"))),
        ("migration/2", "2", "0-7", None),
        ("irq/24-ahci", "2", "0-7", None),
    ] {
        assert_eq!(
            of_kernel_thread(claim(), comm, affinity, shared),
            wished,
            "{comm} on {affinity}"
        );
    }
}

#[test]
fn kernel_threads_that_nobody_wishes_to_move_are_remembered_where_the_kernel_would_forget() {
    let all = "0-7";
    for (affinity, shared, wished) in [
        ("0-3", all, some("0-3", Some("0-3"))),
        (all, all, None),
        ("0-1,5-7", "0-1,5-7", None),
    ] {
        let mut claim = claim();
        claim.wishes.kernel_threads = false;
        let found = of_kernel_thread(claim, "kswapd0", affinity, shared);
        assert_eq!(found, wished, "{affinity} of {shared}");
    }
}

#[test]
fn without_a_partition_other_units_are_cut() {
    let mut claim = claim();
    claim.wishes.backend = Backend::Slices;
    let group = |unit: Option<&str>, allowed: &str, listed: Option<&str>| GroupFacts {
        unit: unit.map(|unit| (unit.to_owned(), set(allowed))),
        listed: listed.map(set),
    };
    for (path, facts_of, expected) in [
        ("a.slice", group(Some("a.slice"), "", None), Some("0-1,5-7")),
        ("a.slice", group(Some("a.slice"), "1-2", None), Some("1")),
        (
            "a.slice",
            group(Some("a.slice"), "2-3", None),
            Some("0-1,5-7"),
        ),
        ("a.slice", group(Some("a.slice"), "0-1", None), None),
        (SCOPE, group(Some("100.scope"), "", None), None),
        ("lxc", group(None, "", Some("")), Some("0-1,5-7")),
        ("lxc", group(None, "", Some("0-3")), Some("0-1")),
        ("lxc", group(None, "", None), None),
    ] {
        let what = format!("{path}: {facts_of:?}");
        let mut facts = facts();
        facts.groups = BTreeMap::from([(path.to_owned(), facts_of.clone())]);
        let wishes = desired(&claims([claim.clone()]), &BTreeMap::new(), &facts);
        let list = Target::Knob(Knob::OutsideCpus, Place::Group(path.to_owned()));
        let target = match facts_of.unit {
            Some((unit, _)) => Target::AllowedCpus(unit),
            None => list,
        };
        let wish = wishes.get(&target).map(|wish| wish.value.to_string());
        assert_eq!(wish.as_deref(), expected, "{what}");
    }
}

#[test]
fn what_systemd_leaves_in_a_file_is_given_back_as_the_property() {
    let mut claim = claim();
    claim.wishes.backend = Backend::Slices;
    let mut facts = facts();
    let group = GroupFacts {
        unit: Some(("a.slice".to_owned(), set("0-1,5-7"))),
        listed: Some(set("0-1,5-7")),
    };
    facts.groups = BTreeMap::from([("a.slice".to_owned(), group)]);
    let held = Held::new(Value::Cpus(CpuSet::new()), Value::Cpus(set("0-1,5-7")));
    let held = BTreeMap::from([(Target::AllowedCpus("a.slice".to_owned()), held)]);
    let wishes = desired(&claims([claim]), &held, &facts);
    let list = Target::Knob(Knob::ListedCpus, Place::Group("a.slice".to_owned()));
    let wish = &wishes[&list];
    assert_eq!(wish.value, Value::Cpus(set("0-1,5-7")));
    assert_eq!(wish.baseline, Some(Value::Cpus(CpuSet::new())));
}

#[test]
fn without_a_partition_emulator_threads_are_pinned_to_the_rest() {
    let mut claim = claim();
    claim.wishes.backend = Backend::Slices;
    let cases = [
        (thread("kvm", "", "0-7"), None, "0-1,5-7", "0-7"),
        (thread("CPU 0/KVM", "", "0-7"), None, "2", "0-7"),
        (thread("CPU 7/KVM", "", "0-7"), None, "0-1,5-7", "0-7"),
        (thread("kvm", "", "0-7"), Some("1-3"), "1", "0-7"),
        (thread("kvm", "", "1-3"), Some("1-3"), "1", "1-3"),
    ];
    for (thread, affinity, expected, baseline) in cases {
        let mut claim = claim.clone();
        claim.wishes.affinity = affinity.map(set);
        let what = format!("{thread:?}");
        let found = of_thread(claim, thread, "0-7");
        assert_eq!(found, [None, some(expected, Some(baseline))], "{what}");
    }
}

/// Case allowedcpus-above: the slice of all VMs has `AllowedCPUs=0-5`.
#[test]
fn a_thread_gets_what_the_units_above_the_vm_leave() {
    for (emulator, group, live, expected) in [
        (Some("0-1,6-7"), "", "0-5", "0-1"),
        (None, "/vcpu", "2-3", "0-1,5"),
    ] {
        let mut claim = claim();
        claim.wishes.emulator = emulator.map(set);
        let mut facts = facts();
        let vm = facts.vms.get_mut(&id(100)).unwrap();
        vm.effective = Some(set("0-5"));
        vm.threads = vec![thread("kvm", group, live)];
        let wishes = desired(&claims([claim]), &BTreeMap::new(), &facts);
        let wish = &wishes[&Target::Affinity(task(51))];
        assert_eq!(wish.value, Value::Cpus(set(expected)), "{group}");
        assert_eq!(wish.baseline, Some(Value::Cpus(set("0-7"))), "{group}");
    }
}
