//! Problems at their places in the text of a table.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::error::Problem;
use crate::config::tree;

/// Makes problems at places of the tree.
#[derive(Clone, Copy)]
pub(super) struct At<'t, 'i>(pub(super) &'t DeTable<'i>);

impl At<'_, '_> {
    /// Returns a problem with the value at `path`, or with its item number `item`.
    pub(super) fn problem(
        self,
        path: &[&str],
        item: Option<usize>,
        message: String,
        help: &str,
    ) -> Problem {
        let value = tree::find(self.0, path);
        let items = value
            .map(|value| value.get_ref())
            .and_then(DeValue::as_array);
        let part = item.and_then(|n| items.and_then(|items| items.get(n)));
        Problem {
            span: part.or(value).map_or(0..0, Spanned::span),
            message,
            help: help.to_owned(),
        }
    }

    /// Returns a problem with the last name of `path` itself.
    pub(super) fn name_problem(self, path: &[&str], message: String, help: &str) -> Problem {
        Problem {
            span: tree::name_span(self.0, path).unwrap_or(0..0),
            message,
            help: help.to_owned(),
        }
    }
}
