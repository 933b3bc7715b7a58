//! A value of a target, as it is shown.

use crate::domain::target::Value;

/// Returns the text of a value; nothing where its target does not exist.
pub(super) fn text(value: &Value) -> Option<String> {
    (*value != Value::Absent).then(|| value.to_string())
}
