//! Tests of what is remembered.

use super::*;
use crate::domain::knob::Knob;
use crate::domain::target::Place;
use crate::domain::vm::TaskId;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn held() -> Held {
    Held::new(text("baseline"), text("0"))
}

#[test]
fn values_that_were_ours_are_remembered_each_once_and_the_last_ones_only() {
    let mut held = held();
    for n in 1..=10 {
        held.turn_to(&text(&n.to_string()));
    }
    let earlier: Vec<String> = held.earlier.iter().map(Value::to_string).collect();
    assert_eq!(earlier, ["9", "8", "7", "6", "5", "4", "3", "2"]);
    held.turn_to(&text("8"));
    let earlier: Vec<String> = held.earlier.iter().map(Value::to_string).collect();
    assert_eq!(earlier, ["10", "9", "7", "6", "5", "4", "3", "2"]);
    // The baseline is known as such.
    let mut held = Held::new(text("1"), text("1"));
    held.turn_to(&text("2"));
    assert!(held.earlier.is_empty());
}

#[test]
fn another_value_is_tried_anew() {
    let refused = || Held {
        refused: 2,
        ..held()
    };
    for (value, left) in [("0", 2), ("1", 0)] {
        let (mut turned, mut expected) = (refused(), refused());
        turned.turn_to(&text(value));
        expected.expect(&text(value));
        assert_eq!([turned.refused, expected.refused], [left; 2], "{value}");
    }
}

#[test]
fn what_was_counted_is_counted_anew() {
    let refused = Held {
        refused: 1,
        ..held()
    };
    let reasserted = Held {
        reasserted: vec![Duration::ZERO],
        ..held()
    };
    for (mut one, was_counted) in [(held(), false), (refused, true), (reasserted, true)] {
        assert_eq!(one.begin_anew(), was_counted);
        assert_eq!(one, held());
    }
}

#[test]
fn a_file_is_given_up_at_once_and_a_thread_after_three_refusals() {
    let file = Target::Knob(Knob::KsmRun, Place::Host);
    let thread = Target::KernelThread(TaskId { tid: 9, start: 7 });
    for (target, refused, is_given_up) in
        [(&file, 0, true), (&thread, 2, false), (&thread, 3, true)]
    {
        let held = Held {
            unchangeable: true,
            refused,
            ..held()
        };
        assert_eq!(held.is_given_up(target), is_given_up, "{target}, {refused}");
    }
}

#[test]
fn only_a_former_value_that_is_not_ours_was_set_back() {
    let file = Target::Knob(Knob::KsmRun, Place::Host);
    let same = Held::new(text("0"), text("0"));
    let begun = Held {
        before: Some(text("baseline")),
        ..held()
    };
    for (held, live, was_set_back) in [
        (held(), "baseline", true),
        (held(), "0", false),
        (same, "0", false),
        (begun, "baseline", false),
    ] {
        let found = held.was_set_back(&file, &text(live));
        assert_eq!(found, was_set_back, "{held:?}, live {live}");
    }
}
