//! The known word that a misspelled one was meant to be.

/// Returns the word of `words`, which are in lower case, that is closest to `typed`, if one is close
/// enough; capital letters are no mistake.
pub fn nearest<'a>(typed: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong; long nonsense is not worth the arithmetic.
    let limit = (typed.chars().count() / 3).max(1);
    let near = words.filter(|word| typed.len() < 64 && *word != typed);
    let typed = typed.to_ascii_lowercase();
    // Letters that are wrong, missing or too many; two that are swapped are one mistake.
    let distance = |word| strsim::osa_distance(&typed, word);
    let (distance, word) = near.map(|word| (distance(word), word)).min()?;
    (distance <= limit).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_close() {
        let words = ["cpus", "pin", "power", "pci", "governor"];
        for (typed, meant) in [
            ("govenor", Some("governor")),
            ("cpu", Some("cpus")),
            ("cpsu", Some("cpus")),
            ("pcie", Some("pci")),
            ("CPUS", Some("cpus")),
            ("colour", None),
            ("cpus", None),
        ] {
            assert_eq!(nearest(typed, words.into_iter()), meant, "{typed}");
        }
    }
}
