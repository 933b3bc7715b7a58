//! The format of the journal: what a version wrote, every later one understands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pin_hook::domain::backend::Backend;
use pin_hook::domain::claim::{Claim, ClaimState, Wishes};
use pin_hook::domain::cpuset::{CpuId, CpuSet};
use pin_hook::domain::debt::{Debt, Owner};
use pin_hook::domain::desired::desired;
use pin_hook::domain::facts::Facts;
use pin_hook::domain::knob::Knob;
use pin_hook::domain::memory::{MemoryWishes, Pool, Share};
use pin_hook::domain::pci::anew::Reset;
use pin_hook::domain::stage::Stage;
use pin_hook::domain::state::{Held, Record, State, based};
use pin_hook::domain::table::{AfterStop, HostKnobs, PciIrqs, Power};
use pin_hook::domain::target::{Place, Target, Value};
use pin_hook::domain::vm::{TaskId, Vmid};
use pin_hook::lifecycle::engine::journal::{Journal, lines};

use super::world::{World, id, parse};
use crate::common::sim::cpus;

/// A journal as the first version of this program wrote it, for ever as it is.
const V1: &str = include_str!("../journal/v1.journal");
/// What this version writes, with every kind of record, claim, target and value;
/// `UPDATE_GOLDENS=1` writes it again. A field may be added to it, none may change or go.
const NOW: &str = "tests/journal/now.journal";

const QEMU: TaskId = TaskId {
    tid: 4711,
    start: 81_234,
};
const POOL: Pool = Pool { node: 1, kib: 2048 };
const SCOPE: &str = "qemu.slice/100.scope";

fn wishes(backend: Backend) -> Wishes {
    Wishes {
        cpus: cpus("2-5"),
        vcpus: vec![CpuId(2), CpuId(3)],
        emulator: Some(cpus("0-1")),
        iothreads: BTreeMap::from([
            ("iothread-virtioscsi0".to_owned(), cpus("4")),
            ("*".to_owned(), cpus("5")),
        ]),
        vhost: vec![Some(cpus("6")), None],
        backend,
        reason: "kernel 6.12.107: no known problem".to_owned(),
        kernel_threads: true,
        interrupts: true,
        power: Power {
            governor: Some("performance".to_owned()),
            max_idle_latency: Some("2us".parse().unwrap()),
            ..Power::default()
        },
        host: HostKnobs {
            halt_poll: Some("200us".parse().unwrap()),
            ..HostKnobs::default()
        },
        workqueues: true,
        watchdog: true,
        scheduler: Default::default(),
        device_interrupts: Some(PciIrqs::Vcpus),
        affinity: Some(cpus("0-7")),
        stays_delegated: true,
        hotplug: false,
        memory: MemoryWishes {
            nodes: BTreeSet::from([0, 1]),
            shares: vec![Share {
                pool: POOL,
                needed: 64,
                before: 8,
                added: 56,
            }],
        },
    }
}

fn claim(vmid: u32, state: ClaimState, backend: Backend) -> Record {
    let iothreads = BTreeMap::from([(4715, "iothread-virtioscsi0".to_owned())]);
    let (vmid, wishes) = (id(vmid), wishes(backend));
    Record::Claim(Box::new(Claim {
        vmid,
        state,
        wishes,
        iothreads,
        devices: BTreeMap::from([("0000:01:00.0".to_owned(), "10de:2204".to_owned())]),
        resets: BTreeMap::from([("0000:01:00.0".to_owned(), Reset::By("flr".to_owned()))]),
        bindings: BTreeMap::from([("0000:01:00.0".to_owned(), AfterStop::Return)]),
        offline: "3".parse().unwrap(),
        is_unproven: false,
        standby: None,
        ending: None,
        stopper: None,
    }))
}

fn claims() -> Vec<Record> {
    let deadline = Duration::new(1900, 250_000_000);
    let reason = "affinity of thread 4713: writing \"2\" failed".to_owned();
    vec![
        claim(100, ClaimState::Running { qemu: QEMU }, Backend::Isolated),
        claim(101, ClaimState::Waiting { qemu: QEMU }, Backend::Root),
        claim(
            102,
            ClaimState::Reserved {
                starter: QEMU,
                deadline,
            },
            Backend::Affinity,
        ),
        claim(
            103,
            ClaimState::Failed { qemu: QEMU, reason },
            Backend::Slices,
        ),
        claim(104, ClaimState::Running { qemu: QEMU }, Backend::Isolated),
        Record::End(id(104)),
    ]
}

fn debts() -> Vec<Record> {
    let owners = BTreeMap::from([
        (id(100), Owner::Running { qemu: QEMU }),
        (
            id(102),
            Owner::Starting {
                starter: QEMU,
                deadline: Duration::new(1900, 250_000_000),
            },
        ),
    ]);
    let debt = |vmid: u32, owners: &BTreeMap<Vmid, Owner>, due| {
        Record::Debt(Box::new(Debt {
            vmid: id(vmid),
            stopped: QEMU,
            owners: owners.clone(),
            due,
        }))
    };
    let due = Some(Duration::from_millis(1500));
    vec![
        debt(107, &owners, None),
        debt(108, &BTreeMap::new(), due),
        debt(109, &owners, None),
        Record::Paid(id(109)),
    ]
}

fn place(knob: Knob) -> Place {
    match knob {
        Knob::DefaultIrqAffinity => Place::Host,
        Knob::IrqAffinity => Place::Irq(24, "ahci[0000:00:1f.2]".to_owned()),
        Knob::UnboundCpus | Knob::WatchdogCpus => Place::Host,
        Knob::QueueCpus => Place::Workqueue("writeback".to_owned()),
        Knob::ResetMethod => Place::Function("0000:01:00.0".to_owned()),
        Knob::Online => Place::Cpu(CpuId(3)),
        Knob::Sysctl => Place::Sysctl("vm/stat_interval".to_owned()),
        Knob::IdleLatency => Place::Cpu(CpuId(2)),
        _ if knob.row().stage == Stage::Power => Place::Policy(2),
        _ if knob.row().stage == Stage::Host => Place::Host,
        Knob::ContainerCpus => Place::Container(id(200), 81234),
        _ => Place::Group(format!("{SCOPE}/vcpu")),
    }
}

fn targets() -> Vec<Target> {
    let mut targets = vec![
        Target::Delegation(id(100)),
        Target::MemoryNodes(id(100)),
        Target::Group(format!("{SCOPE}/vcpu")),
        Target::Membership(QEMU),
        Target::Affinity(QEMU),
        Target::KernelThread(TaskId { tid: 2, start: 0 }),
        Target::Class(QEMU),
    ];
    for knob in Knob::ALL.iter().copied() {
        if knob == Knob::ScopeNodes {
            targets.push(Target::Hugepages(POOL));
        }
        targets.push(Target::Knob(knob, place(knob)));
    }
    targets.push(Target::Driver("0000:01:00.0".to_owned()));
    let inside = Place::ContainerInside(id(200), 81234);
    targets.push(Target::Knob(Knob::ContainerCpus, inside));
    let unit = "system.slice".to_owned();
    targets.extend([Target::DropIn(unit.clone()), Target::AllowedCpus(unit)]);
    targets
}

fn values() -> [Value; 5] {
    let text = Value::Text("isolated".to_owned());
    [
        Value::Absent,
        Value::Present,
        Value::Cpus(cpus("0-7")),
        text,
        Value::Cpus(CpuSet::new()),
    ]
}

fn held(nth: usize) -> Held {
    let value = |n: usize| values()[n % values().len()].clone();
    Held {
        before: (!nth.is_multiple_of(2)).then(|| value(nth + 2)),
        reasserted: vec![Duration::from_millis(1500); nth % 3],
        unchangeable: nth.is_multiple_of(4),
        refused: u8::from(nth.is_multiple_of(5)),
        earlier: (0..nth % 4).map(value).collect(),
        asked: nth.is_multiple_of(3),
        ..Held::new(value(nth), value(nth + 1))
    }
}

fn records() -> Vec<Record> {
    let held = targets()
        .into_iter()
        .enumerate()
        .map(|(nth, target)| (target, held(nth)));
    let mut records = claims();
    records.push(Record::Intend(held.collect()));
    records.push(Record::Forget(vec![Target::Delegation(id(100))]));
    records.push(Record::Reload(true));
    records.extend(debts());
    based(records)
}

#[test]
fn a_journal_of_version_1_is_understood() {
    let (state, damage) = parse(V1).unwrap();
    assert!(damage.is_none());
    assert_eq!(state.claims.len(), 4);
    assert_eq!(state.held.len(), 11);
    assert!(state.needs_reload);
    let claim = &state.claims[&id(100)];
    assert_eq!(claim.qemu(), Some(QEMU));
    let untouched = Wishes {
        power: Power::default(),
        host: HostKnobs::default(),
        workqueues: false,
        watchdog: false,
        memory: MemoryWishes::default(),
        device_interrupts: None,
        ..wishes(Backend::Isolated)
    };
    assert_eq!(claim.wishes, untouched);
    let scope = Place::Group(format!("{SCOPE}/vcpu"));
    assert!(
        state
            .held
            .contains_key(&Target::Knob(Knob::Partition, scope))
    );
}

/// Journals of two running VMs, one with every setting, as they were in /run on real kernels.
const FROM_THE_LAB: [(&str, &str, usize); 3] = [
    (
        "6.1, slices",
        include_str!("../journal/lab-6.1.journal"),
        100,
    ),
    (
        "6.12, isolated",
        include_str!("../journal/lab-6.12.journal"),
        100,
    ),
    (
        "7.3, isolated",
        include_str!("../journal/lab-7.3.journal"),
        100,
    ),
];

#[test]
fn journals_of_real_runs_are_understood_and_given_back() {
    for (run, text, least) in FROM_THE_LAB {
        let (mut state, damage) = parse(text).unwrap();
        assert!(damage.is_none(), "{run}");
        assert!(state.claims.values().all(Claim::owns), "{run}");
        assert_eq!(state.claims.len(), 2, "{run}");
        assert!(state.held.len() > least, "{run}: {}", state.held.len());
        for vmid in [100, 101] {
            state.apply(Record::End(id(vmid)));
        }
        let wishes = desired(&state.claims, &state.held, &Facts::default());
        for (target, held) in &state.held {
            let wish = wishes.get(target).map(|wish| &wish.value);
            assert!(
                wish.is_none_or(|value| *value == held.baseline),
                "{run}: {target}"
            );
        }
    }
}

#[test]
fn drivers_and_pools_are_written_like_other_targets() {
    let held =
        r#"{"baseline":{"text":"nouveau"},"ours":{"text":"vfio-pci"},"due":{"secs":10,"nanos":0}}"#;
    let written = [
        (
            r#"{"driver":"0000:01:00.0"}"#,
            Target::Driver("0000:01:00.0".to_owned()),
        ),
        (
            r#"{"hugepages":{"node":1,"kib":2048}}"#,
            Target::Hugepages(POOL),
        ),
    ];
    for (text, target) in written {
        let line = format!(r#"{{"intend":[[{text},{held}]]}}"#);
        let (state, damage) = parse(&format!("{{\"version\":1}}\n{line}\n")).unwrap();
        assert!(damage.is_none());
        assert_eq!(state.held[&target].baseline, Value::Text("nouveau".into()));
        let records: Vec<_> = state.held.clone().into_iter().collect();
        let again = lines(&[Record::Intend(records)]).unwrap();
        assert!(again.starts_with(&line), "{again}");
    }
    let odd = r#"{"driver":{"node":1,"kib":2048}}"#;
    assert!(serde_json::from_str::<Target>(odd).is_err());
}

#[test]
fn what_this_version_writes_is_what_it_reads() {
    let text = lines(&records()).unwrap();
    if crate::common::goldens::update() {
        std::fs::write(NOW, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(NOW).unwrap(), text);
    let mut expected = State::default();
    records()
        .into_iter()
        .for_each(|record| expected.apply(record));
    let (state, damage) = parse(&text).unwrap();
    assert!(damage.is_none());
    assert_eq!(state, expected);
    assert_eq!(expected.debts.len(), 2);
    assert_eq!(expected.held.len(), targets().len() - 1);
}

/// A run that finishes another's may write nothing else down than that the claim has come to its end.
#[test]
fn a_claim_that_was_settled_is_remembered_as_that() {
    let world = World::lab();
    let open = || Journal::open(&world.host).unwrap().unwrap();
    let Record::Claim(mut claim) =
        claim(100, ClaimState::Running { qemu: QEMU }, Backend::Isolated)
    else {
        panic!("a record of a claim");
    };
    claim.is_unproven = true;
    open().append(vec![Record::Claim(claim)]).unwrap();
    let is_unproven = |journal: Journal<'_>| journal.state().claims[&id(100)].is_unproven;
    assert!(is_unproven(open()));
    let mut journal = open();
    journal.prove(&[id(100)]);
    journal.checkpoint(false).unwrap();
    drop(journal);
    assert!(!is_unproven(open()));
}
