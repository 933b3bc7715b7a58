//! A screen that is looked at for long: only lines that have changed are drawn again.

use std::time::Duration;

use anyhow::bail;

use super::output::Output;
use crate::domain::advice::Advised;
use crate::domain::words::count;
use crate::host::terminal::{Terminal, Woken};
use crate::lifecycle::engine::account::Level;

/// Shows what `print` prints, every `interval`, until somebody has enough.
///
/// # Errors
/// There is no terminal, or it prints nothing but an error from the start.
pub fn watch(
    interval: Duration,
    output: &Output,
    print: impl Fn(&Output) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // What is wrong from the start is told as without a screen.
    let mut text = output.keep(&print)?;
    let Some(terminal) = Terminal::take()? else {
        bail!(Advised::new(
            "--watch needs a terminal",
            "leave out --watch, or use --json or --prometheus for a program that watches",
        ));
    };
    let mut screen = Screen::default();
    loop {
        let lines = fitted(&text, terminal.n_lines(), interval);
        terminal.print(&screen.drawn(lines));
        match terminal.wait(interval) {
            Woken::Quit => return Ok(()),
            Woken::Resized => screen = Screen::default(),
            Woken::Time => {}
        }
        text = output.keep(&print).unwrap_or_else(|error| {
            let told = output.keep(|output| {
                output.say(Level::Error, &format!("{error:#}"));
                Ok(())
            });
            told.unwrap_or_default()
        });
    }
}

/// Returns the lines that fit, and what there is to know below them.
fn fitted(text: &str, height: usize, interval: Duration) -> Vec<String> {
    let all: Vec<&str> = text.lines().collect();
    let room = height.saturating_sub(1);
    let shown = &all[..all.len().min(room)];
    let mut foot = format!("every {} s, q ends", interval.as_secs());
    if shown.len() < all.len() {
        foot += &format!("; {} more below", count(all.len() - shown.len(), "line"));
    }
    let lines = shown.iter().map(|line| (*line).to_owned());
    lines.chain([foot]).collect()
}

/// What a terminal shows.
#[derive(Debug, Default)]
struct Screen(Option<Vec<String>>);

impl Screen {
    /// Returns what makes the terminal show these lines, and takes note of them.
    fn drawn(&mut self, lines: Vec<String>) -> String {
        let before = self.0.take();
        let mut text = match before {
            Some(_) => String::new(),
            None => "\x1b[H\x1b[2J".to_owned(),
        };
        let before = before.unwrap_or_default();
        for (n, line) in lines.iter().enumerate() {
            if before.get(n) != Some(line) {
                text += &format!("\x1b[{};1H\x1b[2K{line}", n + 1);
            }
        }
        if before.len() > lines.len() {
            text += &format!("\x1b[{};1H\x1b[J", lines.len() + 1);
        }
        self.0 = Some(lines);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn only_what_changes_is_drawn_again() {
        let mut screen = Screen::default();
        let all = screen.drawn(lines("a\nb\nc"));
        assert_eq!(
            all,
            "\x1b[H\x1b[2J\x1b[1;1H\x1b[2Ka\x1b[2;1H\x1b[2Kb\x1b[3;1H\x1b[2Kc"
        );
        assert_eq!(screen.drawn(lines("a\nb\nc")), "");
        assert_eq!(screen.drawn(lines("a\nB\nc")), "\x1b[2;1H\x1b[2KB");
        assert_eq!(screen.drawn(lines("a")), "\x1b[2;1H\x1b[J");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let shown = |height| fitted("a\nb\nc\n", height, Duration::from_secs(2));
        assert_eq!(shown(4), ["a", "b", "c", "every 2 s, q ends"]);
        assert_eq!(shown(3), ["a", "b", "every 2 s, q ends; 1 line more below"]);
        assert_eq!(shown(0).len(), 1);
    }
}
