//! Unit files of systemd: which CPUs they leave to the processes of units and of the manager.
//!
//! Files and not systemd are asked: a unit that does not run is to be able to start as well, and
//! systemd knows only those that somebody has loaded.

use std::collections::{BTreeMap, BTreeSet};

use super::files::Files;
use crate::domain::unit::{
    MANAGER_DIRS, Masked, Setting, UNIT_DIRS, Unit, assigned, dir_of_type, drop_in_dirs,
    needs_no_file, section_of, template_of,
};

/// Returns the units that say which CPUs their processes may run on, by name.
///
/// What names another unit (an alias) is that unit, and what is masked is none.
pub fn pinned_units(files: &dyn Files) -> Vec<Unit> {
    let places = Places::of(files, &UNIT_DIRS);
    let aliases = places.aliases();
    let units = places.units().into_iter();
    let units = units.filter(|unit| !aliases.contains_key(unit));
    units
        .filter_map(|unit| places.unit(&unit, &aliases))
        .collect()
}

/// Returns the affinity that all units inherit from systemd itself, where its settings say one.
pub fn manager_affinity(files: &dyn Files) -> Option<Setting> {
    let places = Places::of(files, &MANAGER_DIRS);
    let base = places.path_of("system.conf");
    let drop_ins = places.drop_ins([vec!["system.conf.d".to_owned()]]);
    let paths: Vec<String> = base.into_iter().chain(drop_ins).collect();
    assigned(&places.texts(&paths), "Manager", "CPUAffinity")
}

/// Tells whether a unit is masked, and until when: a link to nowhere, or an empty file, in its place.
pub fn masked(files: &dyn Files, unit: &'static str) -> Option<Masked> {
    for (dir, until_boot) in [
        ("/etc/systemd/system", false),
        ("/run/systemd/system", true),
    ] {
        let path = format!("{dir}/{unit}");
        let is_mask = match files.link(&path) {
            Ok(target) => target == "/dev/null",
            Err(_) if !files.exists(&path) => continue,
            Err(_) => files.read(&path).is_ok_and(|text| text.is_empty()),
        };
        return is_mask.then_some(Masked { unit, until_boot });
    }
    None
}

/// Directories in the order of precedence, with the names in them.
struct Places<'f> {
    files: &'f dyn Files,
    dirs: Vec<(&'static str, BTreeSet<String>)>,
}

impl<'f> Places<'f> {
    fn of(files: &'f dyn Files, dirs: &[&'static str]) -> Self {
        let names = |dir: &str| files.list(dir).unwrap_or_default().into_iter().collect();
        let dirs = dirs.iter().map(|dir| (*dir, names(dir)));
        Places {
            files,
            dirs: dirs.collect(),
        }
    }

    /// Returns every name that is one of a unit, with files or with drop-ins only.
    fn units(&self) -> BTreeSet<String> {
        let names = self.dirs.iter().flat_map(|(_, names)| names);
        let names = names.map(|name| name.strip_suffix(".d").unwrap_or(name));
        // `a-.slice` stands for all whose names begin so.
        let units = names.filter(|name| section_of(name).is_some() && !name.contains("-."));
        units.map(str::to_owned).collect()
    }

    fn path_of(&self, name: &str) -> Option<String> {
        let (dir, _) = self.dirs.iter().find(|(_, names)| names.contains(name))?;
        Some(format!("{dir}/{name}"))
    }

    /// Returns the units that are other units by a link, and which: an instance may be a link to its
    /// template and is itself nevertheless.
    fn aliases(&self) -> BTreeMap<String, String> {
        let aliases = self.units().into_iter().filter_map(|name| {
            let target = self.files.link(&self.path_of(&name)?).ok()?;
            let target = target.rsplit('/').next()?.to_owned();
            let is_other = target != name && template_of(&name).as_ref() != Some(&target);
            (is_other && section_of(&target).is_some()).then_some((name, target))
        });
        aliases.collect()
    }

    fn unit(&self, name: &str, aliases: &BTreeMap<String, String>) -> Option<Unit> {
        let own = self.path_of(name);
        let base = own.or_else(|| self.path_of(&template_of(name)?));
        if base.is_none() && !needs_no_file(name) {
            return None;
        }
        let others = aliases.iter().filter(|(_, target)| *target == name);
        let names = [name]
            .into_iter()
            .chain(others.map(|(alias, _)| alias.as_str()));
        let drop_ins = self.drop_ins_of(names);
        let texts = self.texts(&base.iter().cloned().chain(drop_ins).collect::<Vec<_>>());
        let is_masked =
            base.is_some() && texts.first().is_none_or(|(_, text)| text.trim().is_empty());
        let section = section_of(name).filter(|_| !is_masked)?;
        let unit = Unit {
            name: name.to_owned(),
            affinity: assigned(&texts, section, "CPUAffinity"),
            allowed: assigned(&texts, section, "AllowedCPUs"),
        };
        (unit.affinity.is_some() || unit.allowed.is_some()).then_some(unit)
    }

    fn drop_ins_of<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<String> {
        let names: Vec<&str> = names.collect();
        let groups = names.iter().map(|name| drop_in_dirs(name));
        let of_type = names.first().map(|name| vec![dir_of_type(name)]);
        self.drop_ins(groups.chain(of_type))
    }

    /// Returns the drop-ins that count, in the order in which they are applied. Of those with one name
    /// the first counts: in the order of groups of directories, in one of places, there of directories.
    fn drop_ins(&self, groups: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
        let mut by_name = BTreeMap::new();
        for group in groups {
            for (place, there) in &self.dirs {
                for name in group.iter().filter(|name| there.contains(*name)) {
                    let dir = format!("{place}/{name}");
                    let drop_ins = self.files.list(&dir).unwrap_or_default().into_iter();
                    for drop_in in drop_ins.filter(|drop_in| drop_in.ends_with(".conf")) {
                        let path = format!("{dir}/{drop_in}");
                        by_name.entry(drop_in).or_insert(path);
                    }
                }
            }
        }
        by_name.into_values().collect()
    }

    fn texts(&self, paths: &[String]) -> Vec<(String, String)> {
        let text = |path: &String| Some((path.clone(), self.files.read(path).ok()?));
        paths.iter().filter_map(text).collect()
    }
}
