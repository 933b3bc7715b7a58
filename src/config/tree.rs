//! TOML as a tree with places: are its keys known, are its types right, which node is meant.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::error::Problem;
use super::keys::{Key, Shape, one_of};
use super::nearest::nearest;
use crate::domain::cpuset::CpuSet;

/// Parses TOML; the error is that of the first wrong place.
pub(super) fn parse<'i>(text: &'i str, keys: &[Key]) -> Result<DeTable<'i>, Problem> {
    let tree = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().replace('`', "'");
        let help = match message.as_str() {
            "duplicate key" => "a key or a section may be written only once".to_owned(),
            _ => syntax_help(text, span.start, keys),
        };
        let bare = miswritten(text, span.start, &message);
        let message = bare.unwrap_or(message);
        Problem {
            span,
            message,
            help,
        }
    })?;
    Ok(tree.into_inner())
}

/// Tells how the value in the line at `at` is to be written: a cpulist without quotes is a broken date or a
/// number with something behind it for TOML, a word a boolean, the quotes of word processors are letters,
/// and its booleans have one spelling. `message` is what the library says.
fn miswritten(text: &str, at: usize, message: &str) -> Option<String> {
    let before = text.get(..at)?;
    let line = &text[before.rfind('\n').map_or(0, |newline| newline + 1)..];
    let value = line.lines().next()?.split_once('=')?.1;
    let value = value.split('#').next()?.trim();
    let bare = value.trim_matches(['“', '”', '„', '‘', '’', '«', '»']);
    if bare != value {
        // What curls the quotes makes the hyphens long as well.
        let bare = bare.replace(['‐', '‑', '–', '—'], "-");
        let fact = format!("the quotes of {value} are not straight: write \"{bare}\"");
        return Some(fact);
    }
    match bare.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => return Some(format!("{bare} is not a boolean: write true")),
        "no" | "off" | "false" => return Some(format!("{bare} is not a boolean: write false")),
        _ => {}
    }
    let letter = |b: u8| b.is_ascii_digit() || b == b'-' || b == b',';
    let is_list = bare.bytes().all(letter) && bare.contains(['-', ',']);
    let is_list = is_list && bare.parse::<CpuSet>().is_ok();
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'/';
    // What begins as true, false, inf or nan does is taken for one of these.
    let is_word = ["invalid boolean", "invalid float"]
        .iter()
        .any(|one| message.starts_with(one));
    let is_word =
        is_word && bare.starts_with(|c: char| c.is_ascii_alphabetic()) && bare.bytes().all(letter);
    if is_word && !bare.is_empty() {
        return Some(format!("{bare} is not in quotes"));
    }
    is_list.then(|| format!("{bare} must be in quotes: \"{bare}\""))
}

/// Tells what the key in the line at `at` takes; most errors of syntax are missing quotes.
fn syntax_help(text: &str, at: usize, keys: &[Key]) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = &text[before.rfind('\n').map_or(0, |newline| newline + 1)..];
    let name = line.split_once('=').map(|(name, _)| name.trim());
    let meant = keys.iter().find(|key| Some(key.path) == name);
    let meant = meant.or(keys.iter().find(|key| Some(key.name()) == name));
    let general = || "lines of TOML are: key = value, [section], # comment".to_owned();
    meant.map_or_else(general, Key::help)
}

/// Where keys are in a file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Home<'p> {
    /// The node that they are for; empty outside of its sections.
    pub(super) node: &'p str,
    /// The section that they are in, as a path of names; empty above the first one.
    pub(super) section: &'p str,
}

/// Checks names and types of everything that is at a place in a file.
pub(super) fn check(tree: &DeTable<'_>, home: Home<'_>, keys: &[Key]) -> Result<(), Problem> {
    for (name, value) in in_file_order(tree) {
        let path = join(home.section, name.get_ref());
        let dotted = name.get_ref().contains('.');
        let below = format!("{path}.");
        match keys.iter().find(|key| key.path == path) {
            Some(key) if !dotted => key.shape.check(key, &path, value)?,
            None if !dotted && keys.iter().any(|key| key.is_below(&below)) => {
                let below = Home {
                    section: &path,
                    ..home
                };
                check(as_section(&path, value)?, below, keys)?;
            }
            _ => return Err(unknown(name, value, home, keys)),
        }
    }
    Ok(())
}

/// Takes the sections of the nodes out of the file.
pub(super) fn take_nodes<'i>(
    tree: &mut DeTable<'i>,
    keys: &[Key],
) -> Result<Vec<(String, DeTable<'i>)>, Problem> {
    let Some(nodes) = tree.remove("node") else {
        return Ok(Vec::new());
    };
    let nodes = as_section("node", &nodes)?.clone();
    let section = |(name, value): (&Spanned<_>, &Spanned<DeValue<'i>>)| {
        let name: &std::borrow::Cow<'_, str> = name.get_ref();
        let tree =
            as_section(&join("node", name), value).map_err(|problem| named(problem, name, keys))?;
        match tree.get_key_value("node") {
            Some((inner, _)) => Err(Problem {
                span: inner.span(),
                message: format!("node {name:?} cannot have nodes of its own"),
                help: "write [node.<name>] once for each node".to_owned(),
            }),
            None => Ok((name.clone().into_owned(), tree.clone())),
        }
    };
    in_file_order(&nodes).into_iter().map(section).collect()
}

/// A key of the table right below `[node]` is meant for a node that is not named.
fn named(problem: Problem, key: &str, keys: &[Key]) -> Problem {
    if !keys
        .iter()
        .any(|known| known.path.split('.').next() == Some(key))
    {
        return problem;
    }
    Problem {
        message: format!("node.{key} does not name a node"),
        help: format!(
            "write {key} below a line [node.NAME], with the name of a node of the cluster"
        ),
        ..problem
    }
}

/// Replaces every key of `base` that `over` has too; a key is replaced as a whole.
pub(super) fn merge<'i>(base: &mut DeTable<'i>, over: &DeTable<'i>, section: &str, keys: &[Key]) {
    for (name, value) in over {
        let path = join(section, name.get_ref());
        let whole = keys.iter().any(|key| key.path == path);
        let below = base.get_mut(name.get_ref().as_ref()).map(Spanned::get_mut);
        match (below, value.get_ref()) {
            (Some(DeValue::Table(below)), DeValue::Table(above)) if !whole => {
                merge(below, above, &path, keys);
            }
            _ => {
                base.remove(name.get_ref().as_ref());
                base.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Returns the value at a path of names.
pub(super) fn find<'t, 'i>(
    tree: &'t DeTable<'i>,
    path: &[&str],
) -> Option<&'t Spanned<DeValue<'i>>> {
    let (first, rest) = path.split_first()?;
    let value = tree.get(*first)?;
    match (rest, value.get_ref()) {
        ([], _) => Some(value),
        (rest, DeValue::Table(below)) => find(below, rest),
        _ => None,
    }
}

/// Returns the place of the last name of a path.
pub(super) fn name_span(tree: &DeTable<'_>, path: &[&str]) -> Option<Range<usize>> {
    let (name, section) = path.split_last()?;
    let below = match section {
        [] => tree,
        section => find(tree, section)?.get_ref().as_table()?,
    };
    let (name, _) = below.get_key_value(*name)?;
    Some(name.span())
}

/// Returns the key whose value covers `span`.
pub(super) fn key_at<'k>(
    tree: &DeTable<'_>,
    span: &Range<usize>,
    keys: &'k [Key],
) -> Option<&'k Key> {
    keys.iter().find(|key| {
        let path: Vec<_> = key.path.split('.').collect();
        let covers = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
        match find(tree, &path).map(|value| (value.span(), value.get_ref())) {
            // The span of a table with a header of its own is the header alone.
            Some((_, DeValue::Table(below))) => below.values().any(|value| covers(value.span())),
            Some((outer, _)) => covers(outer),
            None => false,
        }
    })
}

type Entry<'t, 'i> = (
    &'t Spanned<std::borrow::Cow<'i, str>>,
    &'t Spanned<DeValue<'i>>,
);

fn in_file_order<'t, 'i>(tree: &'t DeTable<'i>) -> Vec<Entry<'t, 'i>> {
    let mut entries: Vec<_> = tree.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn as_section<'t, 'i>(
    path: &str,
    value: &'t Spanned<DeValue<'i>>,
) -> Result<&'t DeTable<'i>, Problem> {
    match value.get_ref() {
        DeValue::Table(tree) => Ok(tree),
        other => Err(Problem {
            span: value.span(),
            message: format!("{path} is {}, expected a section", kind(other)),
            help: format!("write its keys below a line [{path}]"),
        }),
    }
}

fn join(section: &str, name: &str) -> String {
    match section {
        "" => name.to_owned(),
        _ => format!("{section}.{name}"),
    }
}

fn unknown(
    name: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    home: Home<'_>,
    keys: &[Key],
) -> Problem {
    let (name, span) = (name.get_ref().as_ref(), name.span());
    let prefix = join(home.section, "");
    let prefix = prefix.trim_start_matches('.');
    let mut expected: Vec<&str> = Vec::new();
    for key in keys {
        let below = key.path.strip_prefix(prefix);
        let name = below.and_then(|rest| rest.split('.').next());
        expected.extend(name.filter(|name| !expected.contains(name)));
    }
    let elsewhere = keys.iter().find(|key| key.name() == name);
    let is_section = matches!(value.get_ref(), DeValue::Table(_));
    let is_of = |key: &Key| {
        key.path
            .split_once('.')
            .is_some_and(|(first, _)| first == name)
    };
    let other = value.get_ref().as_table();
    let other = other.filter(|_| keys.iter().any(is_of));
    let dotted = other.and_then(|below| below.keys().next());
    let dotted = dotted.map(|key| home.of_dotted(name, key.get_ref()));
    let meant = nearest(name, expected.iter().copied());
    let help = dotted.unwrap_or_else(|| match (meant, elsewhere) {
        // [nodes.pve1] is a typo of [node.pve1], and not the key of another section.
        (Some(meant), _) if is_section => format!("did you mean \"{meant}\"?"),
        (_, Some(key)) => home.of_key(key),
        (Some(meant), None) => format!("did you mean \"{meant}\"?"),
        (None, None) => "remove it; nothing is ignored silently".to_owned(),
    });
    Problem {
        span,
        message: format!(
            "unknown key {name:?}, expected one of {}",
            expected.join(", ")
        ),
        help,
    }
}

impl Home<'_> {
    /// Says where a key belongs that is in a section of others.
    fn of_key(self, key: &Key) -> String {
        let (name, node) = (key.name(), self.node);
        match (key.path.rsplit_once('.'), node) {
            (Some((section, _)), "") => format!("{name} belongs below a line [{section}]"),
            (None, "") => format!("{name} belongs above the first section"),
            (Some(_), _) => format!("write {} below the line [node.{node}]", key.path),
            (None, _) => format!("{name} belongs right below the line [node.{node}]"),
        }
    }

    /// Says how to write a key with the name of its section before it, below the line of a section.
    fn of_dotted(self, section: &str, name: &str) -> String {
        match self.node {
            _ if section == self.section => {
                format!("write {name}: the line [{section}] says {section} already")
            }
            "" => format!(
                "write {section}.{name} above the first section, or {name} below a line [{section}]"
            ),
            node => format!(
                "write {section}.{name} right below the line [node.{node}], or {name} below a line \
                 [node.{node}.{section}]"
            ),
        }
    }
}

/// Names the type of a value.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// Tells whether `read` takes the number.
fn fits<T, E>(number: &DeInteger<'_>, read: fn(&str, u32) -> Result<T, E>) -> bool {
    read(number.as_str(), number.radix()).is_ok()
}

impl Shape {
    /// Checks that `value` at `path`, which is `key` or a part of it, has this shape.
    fn check(self, key: &Key, path: &str, value: &Spanned<DeValue<'_>>) -> Result<(), Problem> {
        let element = match (self, value.get_ref()) {
            (Self::Numbers, DeValue::Array(items)) => {
                for (n, item) in items.iter().enumerate() {
                    Self::Number.check(key, &format!("{path}[{n}]"), item)?;
                }
                return Ok(());
            }
            (Self::Texts, DeValue::Table(tree)) => (tree, Self::Text),
            (Self::TextsOrNumbers, DeValue::Table(tree)) => (tree, Self::TextOrNumber),
            (_, scalar) => return self.check_scalar(key, path, scalar, value.span()),
        };
        for (name, item) in in_file_order(element.0) {
            element.1.check(key, &join(path, name.get_ref()), item)?;
        }
        Ok(())
    }

    fn check_scalar(
        self,
        key: &Key,
        path: &str,
        value: &DeValue<'_>,
        span: Range<usize>,
    ) -> Result<(), Problem> {
        let mut help = None;
        let message = match (self, value) {
            (Self::Word(words), DeValue::String(word)) if !words.contains(&word.as_ref()) => {
                help = nearest(word, words.iter().copied());
                format!("{path} cannot be {word:?}, expected {}", one_of(words))
            }
            (Self::AutoSwitch, DeValue::String(word)) if word != "auto" => {
                format!("{path} cannot be {word:?}, expected {}", key.takes)
            }
            (Self::Number, DeValue::Integer(n)) if !fits(n, u32::from_str_radix) => {
                format!("{path} cannot be {n}")
            }
            (Self::TextOrNumber, DeValue::Integer(n)) if !fits(n, i64::from_str_radix) => {
                format!("{path} cannot be {n}")
            }
            (Self::Word(_) | Self::AutoSwitch, DeValue::String(_))
            | (Self::Text | Self::TextOrNumber, DeValue::String(_))
            | (Self::Switch | Self::AutoSwitch, DeValue::Boolean(_))
            | (Self::Number | Self::TextOrNumber, DeValue::Integer(_)) => return Ok(()),
            _ if path == key.path => {
                format!("{path} is {}, expected {}", kind(value), key.expected())
            }
            _ => format!("{path} is {}, expected {}", kind(value), self.part()),
        };
        let help = help.map(|meant| format!("did you mean \"{meant}\"?"));
        let help = help.unwrap_or_else(|| key.help());
        Err(Problem {
            span,
            message,
            help,
        })
    }

    /// Names what one part of a list or table has to be.
    fn part(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::TextOrNumber => "a number or a string in quotes",
            _ => "a string in quotes",
        }
    }
}
