//! `topology`: a picture of this host.

use anstyle::{AnsiColor, Style};

use super::args::Drawing;
use super::columns::MAX_COLUMNS;
use super::json;
use super::opening::write_of_caller;
use super::output::Output;
use crate::domain::drawing::frame::Line;
use crate::domain::drawing::svg::svg;
use crate::domain::map::draw::{LEAST_WIDTH, Paper, draw};
use crate::domain::map::{Map, OwnerKind};
use crate::domain::vm::Vmid;
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

/// Shows which CPUs of this host share what, and who owns which.
pub fn show(host: &Host, asked: &Drawing, output: &Output) -> anyhow::Result<Exit> {
    let map = topology(host)?;
    if asked.json {
        json::print(&map, output)?;
        return Ok(Exit::Done);
    }
    match &asked.svg {
        Some(file) => {
            let paper = paper(asked.width.map(usize::from), false);
            write_of_caller(
                file,
                &svg(&draw(&map, paper), |owner| map.ground(owner)),
                0o644,
            )?;
        }
        None => {
            let width = asked.width.or_else(|| output.columns()).map(usize::from);
            let is_ascii = asked.ascii || !is_utf8(variable);
            output.print(&picture(&map, paper(width, is_ascii)));
        }
    }
    for text in &map.left_out {
        output.say(Level::Info, text);
    }
    Ok(Exit::Done)
}

/// Returns the picture of what is around a VM, as wide as the terminal; nothing where it has no CPUs.
pub fn around(host: &Host, vmid: Vmid, output: &Output) -> anyhow::Result<Option<String>> {
    let map = topology(host)?.around(vmid);
    let width = output.columns().map(usize::from);
    let paper = paper(width, !is_utf8(variable));
    Ok(map.map(|map| picture(&map, paper)))
}

fn paper(width: Option<usize>, is_ascii: bool) -> Paper {
    Paper {
        width: width.unwrap_or(MAX_COLUMNS).max(usize::from(LEAST_WIDTH)),
        is_ascii,
    }
}

fn picture(map: &Map, paper: Paper) -> String {
    let lines = draw(map, paper);
    lines.iter().map(|line| colored(line, map) + "\n").collect()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
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
