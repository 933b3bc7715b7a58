//! Tables of what is done about each combination of wished, remembered and observed value.

#[path = "special/tests.rs"]
mod special;

use super::*;
use crate::domain::knob::Knob;
use crate::domain::target::Place;
use crate::domain::vm::TaskId;

const NOW: Duration = Duration::from_secs(1000);

fn cpus(list: &str) -> Value {
    Value::Cpus(list.parse().unwrap())
}

fn irq() -> Target {
    Target::Knob(Knob::IrqAffinity, Place::Irq(24, "ahci".to_owned()))
}

fn thread() -> Target {
    Target::Affinity(TaskId { tid: 51, start: 7 })
}

fn kernel_thread() -> Target {
    Target::KernelThread(TaskId { tid: 9, start: 7 })
}

fn held(baseline: &str, ours: &str, before: Option<&str>) -> Held {
    Held {
        before: before.map(cpus),
        ..Held::new(cpus(baseline), cpus(ours))
    }
}

static NO_CPUSETS: BTreeMap<TaskId, CpuSet> = BTreeMap::new();
static NO_NODES: BTreeMap<u32, CpuSet> = BTreeMap::new();
static NO_BIRTHS: BTreeMap<Target, [CpuSet; 2]> = BTreeMap::new();
static NO_FREQUENCIES: Frequencies = Frequencies::new();
static NOTHING: BTreeSet<Target> = BTreeSet::new();

/// Returns what is known of a host in a run that has written nothing yet.
fn context<'a>(online: &'a CpuSet, shared: &'a CpuSet) -> Context<'a> {
    Context {
        online,
        shared,
        effective: &NO_CPUSETS,
        are_groups_cut: false,
        nodes: &NO_NODES,
        births: &NO_BIRTHS,
        frequencies: &NO_FREQUENCIES,
        written: &NOTHING,
        now: NOW,
    }
}

/// Compares one target on a host with CPUs 0 to 7, of which partitions have taken 2 and 3.
fn compare(target: &Target, wish: Option<&str>, held: Option<Held>, live: &str) -> Diff {
    let wish = wish.map(|wish| (target.clone(), Wish::from(cpus(wish))));
    let held = held.map(|held| (target.clone(), held));
    let live = Live::from([(target.clone(), cpus(live))]);
    let (online, shared) = ("0-7".parse().unwrap(), "0-1,4-7".parse().unwrap());
    let context = context(&online, &shared);
    let (wishes, held) = (wish.into_iter().collect(), held.into_iter().collect());
    diff(&wishes, &held, &live, context)
}

/// Returns what becomes of a target, in a word.
fn verdict(diff: &Diff) -> String {
    let drift = diff.drift.iter().map(|drift| match drift.answer {
        Answer::Reassert => "reassert",
        Answer::GiveUp => "give up",
        Answer::Leave => "leave",
    });
    let intend = diff.intend.iter().map(|_| "intend");
    let change = diff.changes.iter().map(|_| "write");
    let forget = diff.forget.iter().map(|_| "forget");
    let all = drift.chain(intend).chain(change).chain(forget);
    all.collect::<Vec<_>>().join(", ")
}

#[test]
fn what_is_wished_for_is_written_when_it_is_not_there() {
    let ours = || Some(held("0-7", "0-1,4-7", None));
    let announced = || Some(held("0-7", "0-1,4-7", Some("0-7")));
    for (target, wish, held, live, expected) in [
        (irq(), "0-1", None, "0-7", "intend, write"),
        (irq(), "0-1", None, "0-1", "intend"),
        (irq(), "0-1,4-7", ours(), "0-1,4-7", ""),
        (irq(), "0-1,4-7", ours(), "0-7", "intend, write"),
        (irq(), "0-1,4-7", ours(), "5", "reassert, intend, write"),
        (irq(), "0-1", ours(), "0-1,4-7", "intend, write"),
        (irq(), "0-1,4-7", announced(), "0-7", "intend, write"),
        (irq(), "0-1,4-7", announced(), "0-1,4-7", ""),
        // The kernel keeps what was asked for and cuts what it shows.
        (thread(), "0-5", Some(held_as("0-5", None)), "0-1,4-5", ""),
        (
            thread(),
            "0-5",
            Some(held_as("0-5", Some("0-1,4-5"))),
            "0-1,4-5",
            "intend, write",
        ),
        (thread(), "0-5", None, "0-1,4-5", "intend, write"),
        // A CPU that is absent cannot be asked for.
        (thread(), "9", Some(held_as("9", None)), "4", ""),
    ] {
        let found = verdict(&compare(&target, Some(wish), held.clone(), live));
        assert_eq!(
            found, expected,
            "{target}: wish {wish}, held {held:?}, live {live}"
        );
    }
}

fn held_as(ours: &str, before: Option<&str>) -> Held {
    held("0-7", ours, before)
}

#[test]
fn what_is_not_wished_for_any_more_is_given_back_and_then_forgotten() {
    for (target, held, live, expected) in [
        (
            irq(),
            held("0-7", "0-1,4-7", None),
            "0-1,4-7",
            "intend, write",
        ),
        (
            irq(),
            held("0-7", "0-7", Some("0-1,4-7")),
            "0-1,4-7",
            "intend, write",
        ),
        (irq(), held("0-7", "0-7", Some("0-1,4-7")), "0-7", "forget"),
        (irq(), held("0-7", "0-1,4-7", None), "0-7", "forget"),
        (irq(), held("0-7", "0-1,4-7", None), "5", "leave, forget"),
        // What it has looks like what would be left of its own, but was asked for by us.
        (
            thread(),
            held("0-7", "0-1,4-7", None),
            "0-1,4-7",
            "intend, write",
        ),
        (thread(), held("0-7", "0-7", Some("2")), "0-1,4-7", "forget"),
        // The kernel gives some kernel threads all that is left, also when they had less.
        (
            kernel_thread(),
            held("0-3", "0-1", None),
            "0-1,4-7",
            "intend, write",
        ),
        (
            kernel_thread(),
            held("0-3", "0-1", None),
            "5",
            "leave, forget",
        ),
    ] {
        let found = verdict(&compare(&target, None, Some(held.clone()), live));
        assert_eq!(found, expected, "{target}: held {held:?}, live {live}");
    }
}

#[test]
fn somebody_elses_value_is_replaced_three_times_in_ten_minutes() {
    let at = |secs: u64| Duration::from_secs(secs);
    for (reasserted, expected) in [
        (vec![], "reassert, intend, write"),
        (vec![at(500), at(600)], "reassert, intend, write"),
        (vec![at(500), at(600), at(700)], "give up"),
        (vec![at(399), at(600), at(700)], "reassert, intend, write"),
    ] {
        let held = Held {
            reasserted: reasserted.clone(),
            ..held("0-7", "0-1", None)
        };
        let diff = compare(&irq(), Some("0-1"), Some(held), "5");
        assert_eq!(verdict(&diff), expected, "{reasserted:?}");
        if let [(_, held)] = &diff.intend[..] {
            assert_eq!(held.reasserted.last(), Some(&NOW));
        }
    }
}

#[test]
fn what_refuses_every_change_is_remembered_and_left() {
    let held = || Held {
        unchangeable: true,
        ..held("2", "0-1", None)
    };
    assert_eq!(
        verdict(&compare(&irq(), Some("0-1"), Some(held()), "2")),
        ""
    );
    for live in ["2", "0-1", "5"] {
        let found = compare(&irq(), None, Some(held()), live);
        assert_eq!(verdict(&found), "forget", "{live}");
    }
}

#[test]
fn what_lives_in_a_cgroup_goes_with_it() {
    let group = || Place::Group("qemu.slice/100.scope/vcpu".to_owned());
    let table = [
        (Target::Knob(Knob::Partition, group()), "forget"),
        (Target::Knob(Knob::Cpus, group()), "forget"),
        (
            Target::Knob(Knob::CpusetForChildren, group()),
            "intend, write",
        ),
        (
            Target::Group("qemu.slice/100.scope/vcpu".to_owned()),
            "intend, write",
        ),
    ];
    for (target, expected) in table {
        let held = Held::new(Value::Absent, Value::Present);
        let held = BTreeMap::from([(target.clone(), held)]);
        let live = Live::from([(target.clone(), Value::Present)]);
        let all = "0-7".parse().unwrap();
        let context = context(&all, &all);
        let found = diff(&Desired::new(), &held, &live, context);
        assert_eq!(verdict(&found), expected, "{target}");
    }
}

#[test]
fn an_invalid_partition_is_the_kernels_verdict_and_no_drift() {
    let group = Place::Group("qemu.slice/100.scope/vcpu".to_owned());
    let target = Target::Knob(Knob::Partition, group);
    let text = |text: &str| Value::Text(text.to_owned());
    let wishes = Desired::from([(target.clone(), Wish::from(text("isolated")))]);
    let held = Held::new(Value::Absent, text("isolated"));
    let held = BTreeMap::from([(target.clone(), held)]);
    let all = "0-7".parse().unwrap();
    for (live, expected) in [
        ("isolated", ""),
        (
            "isolated invalid (Parent is not a partition root)",
            "intend, write",
        ),
        ("member", "reassert, intend, write"),
    ] {
        let live = Live::from([(target.clone(), text(live))]);
        let context = context(&all, &all);
        assert_eq!(
            verdict(&diff(&wishes, &held, &live, context)),
            expected,
            "{live:?}"
        );
    }
}

#[test]
fn a_thread_is_asked_again_where_it_may_ask_for_something_else_than_it_shows() {
    let shown = "0-1,4-7";
    for (held, expected) in [
        // Moved out of a partition it shows all that is left, and asks for what it had there.
        (None, "intend, write"),
        (Some(held_as(shown, Some("2"))), "intend, write"),
        (Some(held_as(shown, None)), ""),
    ] {
        let wish = Wish {
            value: cpus(shown),
            baseline: Some(cpus("0-7")),
        };
        let wishes = Desired::from([(thread(), wish)]);
        let held: BTreeMap<_, _> = held.map(|held| (thread(), held)).into_iter().collect();
        let live = Live::from([(thread(), cpus(shown))]);
        let (online, shared) = ("0-7".parse().unwrap(), shown.parse().unwrap());
        let context = context(&online, &shared);
        let found = diff(&wishes, &held, &live, context);
        assert_eq!(verdict(&found), expected, "{held:?}");
    }
}

#[test]
fn a_kernel_thread_is_asked_again_where_a_run_died_and_not_by_the_run_that_asked_it() {
    let shown = "0-1,4-7";
    for (before, is_written, expected) in [
        (Some("0-7"), false, "intend, write"),
        (Some("0-7"), true, ""),
        (None, false, ""),
    ] {
        let held = Held {
            asked: true,
            ..held("0-7", shown, before)
        };
        let wishes = Desired::from([(kernel_thread(), Wish::from(cpus(shown)))]);
        let live = Live::from([(kernel_thread(), cpus(shown))]);
        let written = BTreeSet::from_iter(is_written.then(kernel_thread));
        let (online, shared) = ("0-7".parse().unwrap(), shown.parse().unwrap());
        let context = Context {
            written: &written,
            ..context(&online, &shared)
        };
        let held = BTreeMap::from([(kernel_thread(), held)]);
        let found = diff(&wishes, &held, &live, context);
        assert_eq!(verdict(&found), expected, "{before:?}, {is_written}");
    }
}

#[test]
fn a_drop_in_whose_making_or_removal_was_interrupted_is_taken_away_again() {
    let target = Target::Delegation("100".parse().unwrap());
    let all = "0-7".parse().unwrap();
    let live = Live::from([(target.clone(), Value::Absent)]);
    for (before, is_written, expected) in [
        (Some(Value::Present), false, "intend, write"),
        (Some(Value::Present), true, "forget"),
        (None, false, "forget"),
    ] {
        let held = Held {
            before,
            ..Held::new(Value::Absent, Value::Absent)
        };
        let held = BTreeMap::from([(target.clone(), held)]);
        let written = BTreeSet::from_iter(is_written.then(|| target.clone()));
        let context = Context {
            written: &written,
            ..context(&all, &all)
        };
        let found = diff(&Desired::new(), &held, &live, context);
        assert_eq!(verdict(&found), expected, "{held:?}");
    }
}

#[test]
fn an_interrupt_that_was_set_up_again_is_not_somebody_elses() {
    let all = "0-7".parse().unwrap();
    let births = ["0-1,4-11", "0-1,4-7"].map(|cpus| cpus.parse().unwrap());
    let births = BTreeMap::from([(irq(), births)]);
    let held = BTreeMap::from([(irq(), held("0-7", "2", None))]);
    let live = Live::from([(irq(), cpus("0-1,4-7"))]);
    let wished: Desired = [(irq(), Wish::from(cpus("2")))].into_iter().collect();
    for (wishes, births, expected) in [
        (&wished, &births, "intend, write"),
        (&Desired::new(), &births, "intend, write"),
        (&wished, &BTreeMap::new(), "reassert, intend, write"),
        (&Desired::new(), &BTreeMap::new(), "leave, forget"),
    ] {
        let context = Context {
            births,
            ..context(&all, &all)
        };
        assert_eq!(verdict(&diff(wishes, &held, &live, context)), expected);
    }
}

#[test]
fn a_setting_that_somebody_sets_back_is_his_after_three_times() {
    let target = Target::Knob(Knob::KsmRun, Place::Host);
    let text = |text: &str| Value::Text(text.to_owned());
    let all = "0-7".parse().unwrap();
    let context = context(&all, &all);
    let wishes: Desired = [(target.clone(), Wish::from(text("0")))]
        .into_iter()
        .collect();
    let live = Live::from([(target.clone(), text("1"))]);
    let found = |held: Held| {
        let held = BTreeMap::from([(target.clone(), held)]);
        diff(&wishes, &held, &live, context)
    };
    let mut held = Held::new(text("1"), text("0"));
    for _ in 0..3 {
        let found = found(held.clone());
        assert_eq!(verdict(&found), "reassert, intend, write");
        let [(_, next)] = found.intend.as_slice() else {
            panic!("{found:#?}");
        };
        held = Held {
            before: None,
            ..next.clone()
        };
    }
    assert_eq!(verdict(&found(held.clone())), "give up");
    // A run that died before its write has not been answered by anybody.
    let begun = Held {
        before: Some(text("1")),
        ..held
    };
    assert_eq!(verdict(&found(begun)), "intend, write");
}

/// An administrator's mask of a thread that the kernel moves to its node whenever a partition comes or goes.
#[test]
fn a_kernel_thread_that_the_kernel_sent_to_its_node_is_given_back() {
    let set = |list: &str| list.parse::<CpuSet>().unwrap();
    let nodes = BTreeMap::from([(0, set("0-3")), (1, set("4-7"))]);
    let (online, shared) = (set("0-7"), set("0-1,5-7"));
    for (live, expected) in [
        ("0-1", "intend, write"),
        ("0-3", "intend, write"),
        ("5-7", "intend, write"),
        ("0", "leave, forget"),
        ("1,6", "leave, forget"),
    ] {
        let context = Context {
            nodes: &nodes,
            ..context(&online, &shared)
        };
        let target = kernel_thread();
        let held = BTreeMap::from([(target.clone(), held("0-7", "0-1,5-7", None))]);
        let seen = Live::from([(target, cpus(live))]);
        let found = verdict(&diff(&Desired::default(), &held, &seen, context));
        assert_eq!(found, expected, "{live}");
    }
}
