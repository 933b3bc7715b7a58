//! The option `startup` of guests.

use super::property::{integer, trim};
use crate::domain::startup::Startup;

/// Reads `order=N,up=S,down=S` as `PVE::JSONSchema::pve_parse_startup_order` does: a number alone is the order,
/// the last of a key counts, and anything else makes all of it void, as does a lone 0.
pub(super) fn startup(text: &str) -> Option<Startup> {
    if text == "0" {
        return None;
    }
    let mut startup = Startup::default();
    for part in text.split(',').filter(|part| !trim(part).is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or(("order", part));
        let value = Some(integer(value)?);
        match key {
            "order" => startup.order = value,
            "up" => startup.up = value,
            "down" => startup.down = value,
            _ => return None,
        }
    }
    Some(startup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_pve_reads_it() {
        let of = |text| startup(text).map(|one| (one.order, one.up, one.down));
        for (text, expected) in [
            ("order=2,up=30,down=60", Some((Some(2), Some(30), Some(60)))),
            ("3", Some((Some(3), None, None))),
            ("up=5", Some((None, Some(5), None))),
            ("order=1, ,order=4", Some((Some(4), None, None))),
            ("0", None),
            ("order=0", Some((Some(0), None, None))),
            ("order=-1", None),
            ("order=", None),
            ("order=1,first=1", None),
            ("order=1 ", None),
        ] {
            assert_eq!(of(text), expected, "{text:?}");
        }
    }
}
