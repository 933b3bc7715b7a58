//! What the demo shows before anything is built must be what the program prints.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/hosts.rs"]
mod hosts;

use std::fs;
use std::path::Path;

/// The demo has no test program to make a synthetic host, so it has the files of one as text.
/// `UPDATE_GOLDENS=1` rewrites it.
#[test]
fn the_host_of_the_demo_is_that_of_the_plans() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/demo/5900x.host");
    let mut text = "# The host synthetic-5900x of tests/common/hosts.rs.\n".to_owned();
    for (path, content) in hosts::entries("synthetic-5900x") {
        for line in content.lines() {
            text += &format!("{path}:{line}\n");
        }
    }
    if goldens::update() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "{} is not the host", path.display());
}

#[test]
fn the_demo_ends_with_the_card_of_all_that_it_measures() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/demo/guest.sh");
    let script = fs::read_to_string(path).unwrap();
    let after = |start| {
        let lines = script.lines();
        lines.filter_map(move |line: &str| line.strip_prefix(start))
    };
    let names: Vec<&str> = after("disturb ").collect();
    let card = format!("pin-hook measure --compare {}", names.join(" "));
    assert_eq!(names, ["nothing", "affinity", "pin-hook"]);
    assert_eq!(after("shown ").next_back(), Some(card.as_str()));
}
