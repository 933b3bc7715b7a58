//! Numbers of things in sentences.

/// Returns a number of things, such as `1 thread` or `3 threads`.
pub fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}
