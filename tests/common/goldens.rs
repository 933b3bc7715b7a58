//! Whether expected texts are written again instead of being compared.

/// Tells whether `UPDATE_GOLDENS=1` is set; an empty one is not set, as with every other variable of a shell.
pub fn update() -> bool {
    is_asked(std::env::var_os("UPDATE_GOLDENS").as_deref())
}

fn is_asked(value: Option<&std::ffi::OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty())
}

#[test]
fn an_empty_variable_rewrites_nothing() {
    for (value, expected) in [(None, false), (Some(""), false), (Some("1"), true)] {
        let value = value.map(std::ffi::OsStr::new);
        assert_eq!(is_asked(value), expected, "{value:?}");
    }
}
