//! What the quick start says that is printed, as far as it needs no VM that runs.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod pve_tree;

use std::fs;
use std::path::Path;

use pin_hook::lifecycle::engine::account::Account;
use pve_tree::Node;

/// Commands of the console blocks, each with the pattern of what it prints.
fn sessions() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/quickstart.md");
    let text = fs::read_to_string(path).unwrap();
    let mut sessions: Vec<(String, String)> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match line.strip_prefix("# ") {
                Some(command) => sessions.push((command.to_owned(), String::new())),
                None => {
                    let printed = &mut sessions.last_mut().unwrap().1;
                    *printed += line;
                    // A line of its own stands for any number of lines.
                    printed.push_str(if line == "..." { "" } else { "\n" });
                }
            }
        }
    }
    sessions
}

/// Tells whether a text is as a pattern with "..." for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn printed(account: &Account) -> String {
    let lines = account.lines.iter();
    lines
        .map(|line| format!("pin-hook: {}\n", line.text))
        .collect()
}

#[test]
fn enable_and_disable_print_what_the_quick_start_says() {
    let sessions = sessions();
    let said = |command: &str| {
        let found = sessions.iter().find(|(typed, _)| typed == command);
        found.unwrap_or_else(|| panic!("{command}")).1.clone()
    };
    let node = Node::new();
    node.vm("pve1", 100, "cores: 4\n");
    let path = "/etc/pin-hook/100.toml";
    node.put(path, &said(&format!("grep ^cpus {path}")));
    let enabled = printed(&node.enable(100));
    assert!(matches(&said("pin-hook enable 100"), &enabled), "{enabled}");
    let disabled = printed(&node.disable(100));
    assert!(
        matches(&said("pin-hook disable 100"), &disabled),
        "{disabled}"
    );
}

#[test]
fn every_line_of_a_session_counts() {
    assert!(matches("a\n...b ... c\n", "a\nx\ny\nb 5 c\n"));
    assert!(matches("a\n...b\n", "a\nb\n"));
    assert!(!matches("a\n...b\n", "a\nc\n"));
    assert!(!matches("a\n", "a\nb\n"));
    assert!(matches("", ""));
    assert!(sessions().len() >= 8);
}
