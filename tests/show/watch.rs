//! `status --watch` on a terminal, which `script` makes.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use super::{Node, PARTITION, settled};

/// Somebody in front of a terminal.
struct Watcher {
    child: Child,
    seen: String,
}

impl Watcher {
    /// Has `pin-hook` run between two looks at the settings of the terminal.
    fn of(node: &Node) -> Self {
        let program = env!("CARGO_BIN_EXE_pin-hook");
        let root = node.dir.path().display();
        let line = format!(
            "stty rows 30 cols 80; stty -g; timeout --foreground 60 {program} status 100 --watch --interval 1 --root {root}; echo left $?; \
             stty -g"
        );
        let mut script = Command::new("script");
        let script = script.args(["-qec", &line, "/dev/null"]);
        let script = script.env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
        let child = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let seen = String::new();
        Watcher { child, seen }
    }

    /// Reads until a text is on the screen, and returns what came.
    fn sees(&mut self, text: &str) -> String {
        let start = self.seen.len();
        while !self.seen[start..].contains(text) {
            let mut bytes = [0; 4096];
            let out = self.child.stdout.as_mut().unwrap();
            let n = out.read(&mut bytes).unwrap();
            assert_ne!(n, 0, "{text} is not in {:?}", self.seen);
            self.seen += &String::from_utf8_lossy(&bytes[..n]);
        }
        self.seen[start..].to_owned()
    }

    fn types(&mut self, keys: &str) {
        let keyboard = self.child.stdin.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Ends it, and checks that the terminal is as before.
    fn leaves(mut self) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.child
            .stdout
            .as_mut()
            .unwrap()
            .read_to_string(&mut rest)
            .unwrap();
        assert!(self.child.wait().unwrap().success());
        self.seen += &rest;
        let all = &self.seen;
        let settings = all
            .lines()
            .map(str::trim)
            .filter(|line| line.matches(':').count() > 20)
            .map(|line| line.rsplit('\u{1b}').next().unwrap());
        let settings: Vec<&str> = settings.collect();
        assert!(settings.len() == 2 && settings[0] == settings[1], "{all:?}");
        assert!(
            all.contains("left 0") && all.contains("\x1b[?1049l"),
            "{all:?}"
        );
    }
}

#[test]
fn only_what_changes_is_drawn_until_q_is_pressed() {
    let node = settled();
    let mut watcher = Watcher::of(&node);
    let first = watcher.sees("every 1 s, q ends");
    assert!(
        first.contains("\x1b[?1049h") && first.contains("A vm 100"),
        "{first:?}"
    );
    node.put(PARTITION, "isolated invalid (busy)\n");
    let next = watcher.sees("(busy)");
    assert!(!next.contains("A vm 100"), "{next:?}");
    watcher.types("q");
    watcher.leaves();
}

#[test]
fn an_interrupt_gives_the_terminal_back() {
    let node = settled();
    let mut watcher = Watcher::of(&node);
    watcher.sees("every 1 s, q ends");
    watcher.types("\u{3}");
    watcher.leaves();
}

#[test]
fn without_a_terminal_nothing_is_watched() {
    let (text, status) = settled().shown(&["status", "--watch"]);
    let told = "pin-hook: error: --watch needs a terminal\npin-hook: help: leave out --watch";
    assert!(text.starts_with(told) && status == 1, "{text}");
}
