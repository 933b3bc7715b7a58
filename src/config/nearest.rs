//! The known word that a misspelled one was meant to be.

/// Returns the word of `words`, which are in lower case, that is closest to `typed`, if one is close
/// enough; capital letters are no mistake.
pub fn nearest<'a>(typed: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong; long nonsense is not worth the arithmetic.
    let limit = (typed.chars().count() / 3).max(1);
    let near = words.filter(|word| typed.len() < 64 && *word != typed);
    let typed = typed.to_ascii_lowercase();
    let (distance, word) = near.map(|word| (distance(&typed, word), word)).min()?;
    (distance <= limit).then_some(word)
}

/// Counts the letters to change, add or remove to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (n, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = n + 1;
        for (m, b) in to.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[m + 1];
            row[m + 1] = change.min(row[m] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
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
            ("pcie", Some("pci")),
            ("CPUS", Some("cpus")),
            ("colour", None),
            ("cpus", None),
        ] {
            assert_eq!(nearest(typed, words.into_iter()), meant, "{typed}");
        }
    }
}
