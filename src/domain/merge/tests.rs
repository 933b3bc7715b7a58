//! Tests of which wish holds.

use super::*;
use crate::domain::knob::Knob;
use crate::domain::target::Place;

const WORDS: Rule = Rule::Strongest(&["performance", "powersave"]);

fn asked(vmid: u32, since: u64, text: &str) -> SettingWish {
    SettingWish {
        vmid: vmid.to_string().parse().unwrap(),
        since,
        value: Value::Text(text.to_owned()),
    }
}

fn held(rule: Rule, wishes: &[(u32, u64, &str)]) -> String {
    let wishes = wishes
        .iter()
        .map(|(vmid, since, text)| asked(*vmid, *since, text));
    let wishes: Vec<SettingWish> = wishes.collect();
    winner(rule, &wishes).unwrap().value.to_string()
}

#[test]
fn the_rule_decides_and_not_the_order_of_starts() {
    for (rule, wishes, expected) in [
        (Rule::First, [(101, 5, "a"), (100, 9, "b")], "a"),
        (Rule::Highest, [(101, 5, "3"), (100, 9, "120")], "120"),
        (Rule::Lowest, [(101, 5, "3"), (100, 9, "120")], "3"),
        (
            WORDS,
            [(101, 5, "powersave"), (100, 9, "performance")],
            "performance",
        ),
    ] {
        assert_eq!(held(rule, &wishes), expected, "{rule:?}");
        let [first, second] = wishes;
        assert_eq!(held(rule, &[second, first]), expected, "{rule:?}");
    }
}

#[test]
fn what_a_rule_does_not_know_is_left_to_the_first() {
    let wishes = [(101, 5, "userspace"), (100, 9, "performance")];
    assert_eq!(held(WORDS, &wishes), "userspace");
    assert_eq!(held(Rule::Highest, &[(101, 5, "all"), (100, 2, "1")]), "1");
    assert_eq!(winner(Rule::First, &[]), None);
}

/// `status` would name the wrong VM as the one whose wish holds.
#[test]
fn of_vms_that_ask_for_the_same_the_first_to_start_holds_it() {
    for rule in [Rule::First, Rule::Highest, Rule::Lowest] {
        let (late, early) = (asked(100, 9, "3"), asked(101, 5, "3"));
        let wishes = [late, early.clone()];
        assert_eq!(winner(rule, &wishes), Some(&early), "{rule:?}");
    }
}

/// The order of starts would decide how often the kernel interrupts a VM.
#[test]
fn a_setting_of_the_host_has_the_rule_of_its_own_name() {
    for (name, expected) in [
        ("vm/stat_interval", Rule::Highest),
        ("kernel/numa_balancing", Rule::Lowest),
        ("vm/swappiness", Rule::First),
    ] {
        let target = Target::Knob(Knob::Sysctl, Place::Sysctl(name.to_owned()));
        assert_eq!(rule(&target), expected, "{name}");
    }
}
