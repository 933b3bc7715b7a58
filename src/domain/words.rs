//! Numbers and names of things in sentences.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::time::Duration;

/// Columns that a list is not cut below.
pub const LEAST_COLUMNS: usize = 12;

/// Returns a number of things, such as `1 thread` or `3 threads`.
pub fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}

/// Returns the names of a list in one line: all of up to three, otherwise the first two.
pub fn few(names: &[String]) -> String {
    match names {
        [first, second, rest @ ..] if rest.len() > 1 => {
            format!("{first}, {second} and {} more", rest.len())
        }
        _ => names.join(", "),
    }
}

/// Returns text that no terminal takes for commands, but for colours: with letters (`\u{1b}`) for what is no letter.
/// What files, VMs and programs are called somebody else may have chosen.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let is_bad = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
    if !text.contains(is_bad) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for (n, piece) in text.split('\u{1b}').enumerate() {
        if n > 0 {
            shown.push_str(if is_color(piece) { "\u{1b}" } else { "\\u{1b}" });
        }
        for letter in piece.chars() {
            match is_bad(letter) {
                true => shown.extend(letter.escape_default()),
                false => shown.push(letter),
            }
        }
    }
    shown.into()
}

/// Tells whether text behind an escape begins with the choice of a colour (`[1;31m`).
fn is_color(text: &str) -> bool {
    let rest = text.strip_prefix('[').map(|rest| {
        rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ';')
    });
    rest.is_some_and(|rest| rest.starts_with('m'))
}

/// Most letters of a word that is shown: what a file has in place of a number may be of any length.
const LONGEST_WORD: usize = 2000;

/// Returns text as one line that no terminal takes for commands, whatever files it quotes: with letters for what is
/// no letter (`\n`, `\u{1b}`), and without the end of words that nobody has written.
pub fn in_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut length = 0;
    for letter in text.chars() {
        length = if letter == ' ' { 0 } else { length + 1 };
        match length.cmp(&LONGEST_WORD) {
            Ordering::Less if letter.is_control() => line.extend(letter.escape_default()),
            Ordering::Less => line.push(letter),
            Ordering::Equal => line.push('…'),
            Ordering::Greater => {}
        }
    }
    line
}

/// Returns how long something took, as precisely as people read it: `82 ms`, `4.6 s`, `31 s`.
pub fn in_words(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms @ 1000..9950 => format!("{}.{} s", (ms + 50) / 1000, (ms + 50) % 1000 / 100),
        ms => format!("{} s", (ms + 500) / 1000),
    }
}

/// Returns the path of a sysctl below `/proc/sys`: dots separate, and a slash stands for a dot
/// that belongs to a name, as in sysctl(8). The same the other way round gives the name of a path.
pub fn path_of_sysctl(name: &str) -> String {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    });
    swapped.collect()
}

/// Cuts text into lines of at most `width` columns, where a word, a list or a path allows it.
pub fn pieces(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words(text) {
        let line = lines
            .last_mut()
            .filter(|line| line.is_empty() || length(line) + length(word.trim_end()) <= width);
        match line {
            Some(line) => line.push_str(word),
            None => lines.push(word.to_owned()),
        }
    }
    lines
        .iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// Cuts text where a line may end: after a blank; in long lists and paths after a comma or a slash;
/// in long names after a dash.
pub fn words(text: &str) -> Vec<&str> {
    let words = text.split_inclusive(' ').collect();
    cut_long(cut_long(words, &[',', '/']), &['-', '@'])
}

fn cut_long<'t>(words: Vec<&'t str>, ends: &[char]) -> Vec<&'t str> {
    let cut = |word: &'t str| match length(word) > LEAST_COLUMNS {
        true => word.split_inclusive(ends).collect(),
        false => vec![word],
    };
    words.into_iter().flat_map(cut).collect()
}

/// Returns how many columns a text takes.
pub fn length(text: &str) -> usize {
    text.chars().count()
}

/// Returns a size that is known in KiB, in the largest unit that leaves a number above it.
pub fn size(kib: u64) -> String {
    let (unit, name) = match kib {
        0..1024 => return format!("{kib} KiB"),
        1024..0x10_0000 => (1024, "MiB"),
        _ => (1024 * 1024, "GiB"),
    };
    match (kib / unit, kib % unit * 10 / unit) {
        (whole @ 0..10, tenth @ 1..) => format!("{whole}.{tenth} {name}"),
        _ => format!("{} {name}", (kib + unit / 2) / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let names = |n: usize| (1..=n).map(|n| format!("pve{n}")).collect::<Vec<_>>();
        assert_eq!(few(&names(3)), "pve1, pve2, pve3");
        assert_eq!(few(&names(97)), "pve1, pve2 and 95 more");
    }

    #[test]
    fn a_terminal_is_told_nothing_but_colours() {
        for (text, shown) in [
            ("plain\n\ttext", "plain\n\ttext"),
            (
                "\u{1b}[1m\u{1b}[31mred\u{1b}[0m",
                "\u{1b}[1m\u{1b}[31mred\u{1b}[0m",
            ),
            ("a\0b\rc", "a\\u{0}b\\rc"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{1b}", "\\u{1b}"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }

    #[test]
    fn a_message_is_one_line_whatever_it_quotes() {
        assert_eq!(
            in_one_line("cpu5 is \"0\n1\u{1b}[m\""),
            "cpu5 is \"0\\n1\\u{1b}[m\""
        );
        let long = in_one_line(&format!("is {}, not a number", "9".repeat(70_000)));
        assert_eq!(
            long.chars().count(),
            "is ".len() + LONGEST_WORD + " not a number".len()
        );
        assert!(long.ends_with("9… not a number"), "{long}");
    }

    #[test]
    fn times_are_told_as_people_read_them() {
        for (ms, words) in [
            (82, "82 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (4558, "4.6 s"),
            (9949, "9.9 s"),
            (9950, "10 s"),
            (30_643, "31 s"),
        ] {
            assert_eq!(in_words(Duration::from_millis(ms)), words);
        }
    }

    #[test]
    fn sizes_are_told_as_people_read_them() {
        for (kib, words) in [
            (512, "512 KiB"),
            (1280, "1.2 MiB"),
            (25_600, "25 MiB"),
            (4_194_304, "4 GiB"),
            (65_700_000, "63 GiB"),
        ] {
            assert_eq!(size(kib), words);
        }
    }

    #[test]
    fn names_of_sysctls_are_paths() {
        assert_eq!(path_of_sysctl("vm.stat_interval"), "vm/stat_interval");
        assert_eq!(
            path_of_sysctl("net.ipv4.conf.eno1/100.rp_filter"),
            "net/ipv4/conf/eno1.100/rp_filter"
        );
    }
}
