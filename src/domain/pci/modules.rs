//! Which kernel modules match a function, by texts of `depmod` and `modprobe`.

use std::collections::BTreeSet;

/// Returns the modules of which an alias matches what a function is recognised by
/// (`pci:v00001B36d...`); pairs of pattern and module.
pub fn matching<'a>(
    modalias: &str,
    aliases: impl Iterator<Item = (&'a str, &'a str)>,
) -> BTreeSet<String> {
    let matches = aliases.filter(|(pattern, _)| {
        // Nearly all others are sorted out by how they begin.
        pattern.starts_with("pci:") && is_match(pattern.as_bytes(), modalias.as_bytes())
    });
    matches.map(|(_, module)| as_in_sysfs(module)).collect()
}

/// Returns the modules that udev does not load: those that settings of `modprobe` or the kernel's
/// command line forbid (modprobe.d(5), `module_blacklist=`).
pub fn kept_away<'a>(
    settings: impl Iterator<Item = &'a str>,
    command_line: &str,
) -> BTreeSet<String> {
    let lines = settings.flat_map(str::lines).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["blacklist", module] => Some(module),
            ["install", module, command] if is_nothing(command) => Some(module),
            _ => None,
        }
    });
    let options = command_line.split_whitespace().filter_map(|word| {
        let names = ["modprobe.blacklist=", "module_blacklist="];
        names.iter().find_map(|name| word.strip_prefix(name))
    });
    let all = lines.chain(options.flat_map(|list| list.split(',')));
    all.map(as_in_sysfs).collect()
}

/// Tells whether a command to run instead of loading a module does nothing.
fn is_nothing(command: &str) -> bool {
    ["true", "false"].contains(&command.rsplit('/').next().unwrap_or_default())
}

/// Names are written with either sign; sysfs has the second one.
fn as_in_sysfs(module: &str) -> String {
    module.replace('-', "_")
}

/// Tells whether a pattern, in which `*` stands for any text, matches the whole of a text.
fn is_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star is, and what of the text it ends before.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, t));
                p += 1;
            }
            (Some(byte), _) if *byte == text[t] || *byte == b'?' => {
                p += 1;
                t += 1;
            }
            (_, Some((at, end))) => {
                star = Some((at, end + 1));
                p = at + 1;
                t = end + 1;
            }
            _ => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NVME: &str = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02";

    #[test]
    fn a_module_matches_by_device_or_by_class() {
        let aliases = [
            ("pci:v*d*sv*sd*bc01sc08i02*", "nvme"),
            ("pci:v00001B36d00000010sv*sd*bc*sc*i*", "odd-name"),
            ("pci:v00001B36d00000011sv*sd*bc*sc*i*", "other"),
            ("pci:v*d*sv*sd*bc01sc06i01*", "ahci"),
            ("vfio_pci:v*d*sv*sd*bc*sc*i*", "vfio-pci"),
        ];
        let found: Vec<String> = matching(NVME, aliases.into_iter()).into_iter().collect();
        assert_eq!(found, ["nvme", "odd_name"]);
    }

    #[test]
    fn patterns_match_the_whole_text() {
        for (pattern, text, expected) in [
            ("a*b", "ab", true),
            ("a*b", "axxb", true),
            ("a*b", "abx", false),
            ("a*b*c", "abbc", true),
            ("a*", "a", true),
            ("a?c", "abc", true),
            ("", "a", false),
            ("*", "", true),
        ] {
            let found = is_match(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, expected, "{pattern} {text}");
        }
    }

    #[test]
    fn modules_are_kept_away_in_several_ways() {
        let texts = [
            "# blacklist no\nblacklist nouveau\n  blacklist snd-hda-intel\n",
            "install a /bin/false\ninstall b /sbin/modprobe c\n",
        ];
        let away = kept_away(
            texts.into_iter(),
            "quiet modprobe.blacklist=x,y module_blacklist=z",
        );
        let away: Vec<String> = away.into_iter().collect();
        assert_eq!(away, ["a", "nouveau", "snd_hda_intel", "x", "y", "z"]);
    }
}
