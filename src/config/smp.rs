//! `-smp` in a VM's `args`: the only way to SMT in a guest of PVE.
//!
//! PVE writes its own `-smp` first and appends `args`. QEMU merges all of them property by
//! property, and the last value of each wins.

use super::property::{integer, is_blank};

/// Numbers of a guest's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Smp {
    /// vCPUs at the start by the keys of the config.
    pub(super) configured: u32,
    /// vCPUs at the start.
    pub(super) cpus: u32,
    /// vCPUs that can exist.
    pub(super) max_cpus: u32,
    /// Threads per core.
    pub(super) threads: u32,
}

impl Smp {
    /// Returns the numbers after every `-smp` in `args`.
    pub(super) fn with_args(mut self, args: &str) -> Self {
        let words = split_words(args);
        for pair in words.windows(2) {
            if matches!(pair[0].as_str(), "-smp" | "--smp") {
                self.merge(&pair[1]);
            }
        }
        self
    }

    fn merge(&mut self, options: &str) {
        for option in options.split(',') {
            let (key, value) = option.split_once('=').unwrap_or(("cpus", option));
            match (key, integer(value).filter(|n| *n > 0)) {
                ("cpus", Some(n)) => self.cpus = n,
                ("maxcpus", Some(n)) => self.max_cpus = n,
                ("threads", Some(n)) => self.threads = n,
                _ => {}
            }
        }
        self.max_cpus = self.max_cpus.max(self.cpus);
    }
}

/// Splits text into words as a shell does; text with an open quote has no words, as in Perl.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if is_blank(c) => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if open == c => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        Some(_) => Vec::new(),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        assert_eq!(
            split_words(" -a  'b c'd \"e\\\"f\" g\\ h "),
            ["-a", "b cd", "e\"f", "g h"]
        );
        assert_eq!(split_words("-a 'b"), Vec::<String>::new());
        assert_eq!(split_words("''"), [""]);
    }

    #[test]
    fn last_value_of_each_property_wins() {
        let smp = Smp {
            configured: 8,
            cpus: 8,
            max_cpus: 8,
            threads: 1,
        };
        let merged = |args| {
            let smp = smp.with_args(args);
            (smp.cpus, smp.max_cpus, smp.threads)
        };
        assert_eq!(merged(""), (8, 8, 1));
        assert_eq!(merged("-smp 12,cores=6,threads=2"), (12, 12, 2));
        assert_eq!(merged("-smp threads=2 -smp cpus=4"), (4, 8, 2));
        assert_eq!(merged("-name -smp"), (8, 8, 1));
        assert_eq!(merged("--smp 'threads=2,threads=4'"), (8, 8, 4));
        assert_eq!(merged("-smp x,threads=0"), (8, 8, 1));
    }
}
