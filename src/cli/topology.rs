//! `topology`: a picture of this host.

use anstyle::{AnsiColor, Style};

use super::columns::MAX_COLUMNS;
use super::json;
use super::output::Output;
use crate::domain::map::draw::{LEAST_WIDTH, Line, Paper, draw};
use crate::domain::map::{Map, OwnerKind};
use crate::host::Host;
use crate::lifecycle::engine::account::{Exit, Level};
use crate::lifecycle::show::topology::topology;

/// Colours of VMs, in turn; those that are hard to read on black or white are left out.
const COLORS: [AnsiColor; 5] = [
    AnsiColor::Green,
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Yellow,
    AnsiColor::Red,
];

/// How the picture is to be drawn.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Whether it is drawn in ASCII only.
    pub ascii: bool,
    /// Columns of the longest line.
    pub width: Option<u16>,
    /// Whether JSON is printed instead.
    pub json: bool,
}

/// Shows which CPUs of this host share what, and who owns which.
pub fn show(host: &Host, wish: Wish, output: &Output) -> anyhow::Result<Exit> {
    let map = topology(host)?;
    if wish.json {
        json::print(&map, output)?;
        return Ok(Exit::Done);
    }
    let width = wish.width.or_else(|| output.columns()).map(usize::from);
    let paper = Paper {
        width: width.unwrap_or(MAX_COLUMNS).max(usize::from(LEAST_WIDTH)),
        is_ascii: wish.ascii || !is_utf8(|name| std::env::var(name).unwrap_or_default()),
    };
    let lines = draw(&map, paper);
    let lines = lines.iter().map(|line| colored(line, &map) + "\n");
    output.print(&lines.collect::<String>());
    for text in &map.left_out {
        output.say(Level::Info, text);
    }
    Ok(Exit::Done)
}

/// Tells whether the locale is one of UTF-8, by the first variable that is set, as setlocale(3) does.
fn is_utf8(variable: impl Fn(&str) -> String) -> bool {
    let mut values = ["LC_ALL", "LC_CTYPE", "LANG"].map(variable).into_iter();
    let locale = values.find(|value| !value.is_empty()).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

fn colored(line: &Line, map: &Map) -> String {
    let spans = line.spans.iter().map(|span| {
        let style = span.owner.map_or(Style::new(), |owner| style(map, owner));
        format!("{style}{}{style:#}", span.text)
    });
    spans.collect::<String>().trim_end().to_owned()
}

fn style(map: &Map, owner: usize) -> Style {
    match map.owners[owner].kind {
        OwnerKind::Vm => COLORS[owner % COLORS.len()].on_default().bold(),
        OwnerKind::Partition | OwnerKind::Isolcpus => AnsiColor::Blue.on_default(),
        OwnerKind::Offline => Style::new().dimmed(),
        OwnerKind::Host => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_tells_the_locale() {
        let told = |all: &'static str, ctype: &'static str, lang: &'static str| {
            is_utf8(|name| {
                let value = match name {
                    "LC_ALL" => all,
                    "LC_CTYPE" => ctype,
                    _ => lang,
                };
                value.to_owned()
            })
        };
        assert!(told("", "", "de_DE.UTF-8"));
        assert!(told("", "C.utf8", "C"));
        assert!(!told("C", "", "de_DE.UTF-8"));
        assert!(!told("", "", ""));
    }
}
