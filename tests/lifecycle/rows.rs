//! Every setting of the knob table, wished for by its key: what the recipe in docs/architecture.md promises
//! of a new row holds for each of them.

use pin_hook::config::keys::KEYS;
use pin_hook::domain::knob::{Grammar, Knob, Row, Words};
use pin_hook::lifecycle::show::status::status;

use super::world::{CONF, World};

/// The sysctl of the example in the list of keys.
const SYSCTL: (&str, &str) = ("vm/stat_interval", "vm.stat_interval");

/// A file of a row on the lab's node, and how the table and `status` call it.
struct Setting {
    row: &'static Row,
    path: String,
    line: String,
    key: String,
}

impl Setting {
    fn of(row: &'static Row) -> Option<Self> {
        let key = row.key?;
        let name = key.trim_end_matches(" {}");
        let known = KEYS.iter().find(|known| known.path == name);
        let known = known.unwrap_or_else(|| panic!("{name} is no key of a table"));
        // CPU 2 is owned, and policy 2 is its own.
        let place = if name == key { "2" } else { SYSCTL.0 };
        Some(Setting {
            row,
            path: row.path.replacen("{}", place, 1),
            line: format!("{name} = {}\n", known.example),
            key: key.replacen("{}", SYSCTL.1, 1),
        })
    }

    /// Returns a node with a VM that wishes for it, and with another value in the file.
    fn world(&self) -> World {
        let world = World::lab().vm(100, CONF, &format!("cpus = \"2-3\"\n{}", self.line));
        // What a host can do is looked at in its first policy.
        let paths = [self.row.path.replacen("{}", "0", 1), self.path.clone()];
        for path in paths {
            match (self.row.grammar, self.row.words) {
                (Grammar::Choice, _) => world.sim.poke(&path, "always").unwrap(),
                (_, Words::Governors(_)) => {}
                (_, Words::Beside(_)) => world.sim.put(&path, "balance_power\n"),
                (_, Words::Unlisted | Words::Limit(_)) => world.sim.put(&path, "7\n"),
            }
        }
        world
    }
}

#[test]
fn every_setting_is_planned_told_and_given_back() {
    let rows = Knob::ALL.iter().map(|knob| knob.row());
    let settings: Vec<Setting> = rows.filter_map(Setting::of).collect();
    assert!(settings.len() > 10);
    for setting in settings {
        let Setting { path, key, .. } = &setting;
        let world = setting.world();
        let before = world.capture();
        let former = world.sim.get(path);
        let planned = world.plan(100).changes;
        let planned = planned.iter().find(|planned| planned.target == *path);
        let planned = planned.unwrap_or_else(|| panic!("{path} is not planned"));
        assert_eq!(planned.purpose, setting.row.doc);
        assert_ne!(planned.before, planned.after, "{path}");
        world.start(100);
        assert_ne!(world.sim.get(path), former, "{path}");
        let status = status(&world.host, None).unwrap();
        assert!(status.ok, "{path}: {status:#?}");
        let told = status.settings.iter().find(|told| told.target == *path);
        let told = told.unwrap_or_else(|| panic!("{path} is not told"));
        assert_eq!(told.key.as_ref(), Some(key));
        assert_eq!(Some(&told.wanted), planned.after.as_ref(), "{path}");
        assert_eq!(Some(&told.before), planned.before.as_ref(), "{path}");
        world.stop(100);
        world.assert_as(&before);
        world.assert_at_rest();
    }
}
