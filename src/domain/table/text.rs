//! How values of a table are read and written: what people write is what a claim stores.

use serde::{Deserialize, Serialize};

/// Text that is no value of its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseWishError(pub(in crate::domain) String);

/// Value of a key that takes more than one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    /// `true` or `false`.
    Switch(bool),
    /// A whole number.
    Number(i64),
    /// Text in quotes.
    Text(String),
}

/// Makes a type read and written as its text form.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = ParseWishError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

pub(in crate::domain) use serde_as_text;
