//! `<vmid>.toml` and `host.toml`: from the operator's text to checked wishes.
//!
//! Reading goes in four steps, and the first error ends it: TOML itself, names and types (of the
//! sections of all nodes, so that a typo shows everywhere), values, and what contradicts each
//! other. The key lists of [`super::keys`] and the types of [`crate::domain::table`] say the same
//! twice; a test holds them together.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::checks;
use super::error::{ConfigError, Problem};
use super::keys::{HOST_KEYS, KEYS, Key};
use super::tree::{self, Home};
use crate::domain::table::{Cpus, Defaults, HostSettings, Table};

/// Largest file that is read, in bytes; a table has a few lines.
pub const MAX_BYTES: usize = 64 * 1024;

/// Parses the table of a VM as it holds on `node`.
///
/// `file` is only a name for messages. What the table leaves open comes from `defaults`.
///
/// # Errors
///
/// The first thing that is wrong, with its place; other nodes' sections may have it too.
pub fn parse_table(
    file: &str,
    text: &str,
    node: &str,
    defaults: &Defaults,
) -> Result<Table, ConfigError> {
    read(file, text, |text| table_of(text, node, defaults))
}

/// Parses the settings of the host.
///
/// # Errors
///
/// The first thing that is wrong, with its place.
pub fn parse_host_settings(file: &str, text: &str) -> Result<HostSettings, ConfigError> {
    read(file, text, |text| {
        let tree = tree::parse(text, HOST_KEYS)?;
        tree::check(&tree, Home::default(), HOST_KEYS)?;
        values_of(&tree, HOST_KEYS)
    })
}

fn read<T>(
    file: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, Problem>,
) -> Result<T, ConfigError> {
    // Editors of other systems put the mark there; it is no part of the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_BYTES {
        let too_large = Problem {
            span: 0..0,
            message: format!("{} bytes, the limit is {MAX_BYTES}", text.len()),
            help: "check that this is the right file".to_owned(),
        };
        return Err(too_large.in_file(file, ""));
    }
    let parsed = match control_character(text) {
        Some(problem) => Err(problem),
        None => parse(text),
    };
    parsed.map_err(|problem| problem.in_file(file, text))
}

/// Finds what no editor shows and TOML forbids; the library only says what it expected instead.
fn control_character(text: &str) -> Option<Problem> {
    let is_wrong = |c: char| c.is_ascii_control() && !"\t\n\r".contains(c);
    let (at, c) = text.char_indices().find(|(_, c)| is_wrong(*c))?;
    let name = if c == '\0' { " (NUL)" } else { "" };
    Some(Problem {
        span: at..at + 1,
        message: format!("control character U+{:04X}{name}", u32::from(c)),
        help: "take it out: an editor may not show it, cat -v does".to_owned(),
    })
}

fn table_of(text: &str, node: &str, defaults: &Defaults) -> Result<Table, Problem> {
    let mut base = tree::parse(text, KEYS)?;
    let nodes = tree::take_nodes(&mut base, KEYS)?;
    let of_nodes = nodes.iter().map(|(node, tree)| (node.as_str(), tree));
    for (node, section) in std::iter::once(("", &base)).chain(of_nodes) {
        let home = Home { node, section: "" };
        tree::check(section, home, KEYS)?;
        // Values are looked at in every section too, but what they mean together only for ours.
        with_cpus(section)?;
    }
    if let Some((_, over)) = nodes.iter().find(|(name, _)| name == node) {
        tree::merge(&mut base, over, "", KEYS);
    }
    if !base.contains_key("cpus") {
        return Err(no_cpus(node));
    }
    let mut table: Table = values_of(&base, KEYS)?;
    table.nodes = nodes.into_iter().map(|(name, _)| name).collect();
    if tree::find(&base, &["isolate", "backend"]).is_none() {
        table.isolate.backend = defaults.backend;
    }
    if tree::find(&base, &["start", "on-refusal"]).is_none() {
        table.start.on_refusal = defaults.on_refusal;
    }
    if let Some(profile) = table.profile {
        profile.fill(&mut table);
    }
    checks::check(&table, &base)?;
    Ok(table)
}

/// Reads the values of a section that may leave the CPUs to another one.
fn with_cpus(section: &DeTable<'_>) -> Result<Table, Problem> {
    let mut tree = section.clone();
    let auto = DeValue::String(Cpus::Auto.to_string().into());
    let name = Spanned::new(0..0, "cpus".into());
    tree.entry(name).or_insert(Spanned::new(0..0, auto));
    values_of(&tree, KEYS)
}

fn values_of<T: DeserializeOwned>(tree: &DeTable<'_>, keys: &[Key]) -> Result<T, Problem> {
    let whole = Spanned::new(0..0, tree.clone());
    T::deserialize(Deserializer::from(whole)).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (path, help) = match tree::key_at(tree, &span, keys) {
            Some(key) => (format!("{}: ", key.path), key.help()),
            None => (String::new(), "man pin-hook.toml, EVERY KEY".to_owned()),
        };
        Problem {
            span,
            message: format!("{path}{}", error.message()),
            help,
        }
    })
}

fn no_cpus(node: &str) -> Problem {
    Problem {
        span: 0..0,
        message: format!("no cpus for this vm on node {node}"),
        help: format!(
            "write cpus = \"auto\", or its cpus, such as cpus = \"6-11,18-23\", on top or below [node.{node}]"
        ),
    }
}
