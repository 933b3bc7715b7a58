//! What systemd makes of the files of a unit: a base file and drop-ins are one unit, later ones win.
//!
//! Rules as in systemd.unit(5) and `src/shared/dropin.c`: of drop-ins with one name the first in the
//! order of directories counts, and those that count are applied in the order of their names.

use super::cpuset::CpuSet;

/// Where systemd looks for files of units, the first one with a name wins (`systemd-analyze unit-paths`).
pub const UNIT_DIRS: [&str; 12] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator.late",
];

/// Where systemd looks for the settings of its manager, in the same way.
pub const MANAGER_DIRS: [&str; 4] = [
    "/etc/systemd",
    "/run/systemd",
    "/usr/local/lib/systemd",
    "/usr/lib/systemd",
];

/// CPUs that a key of a unit names, as its files leave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The CPUs.
    pub cpus: CpuSet,
    /// File of the last assignment.
    pub file: String,
}

/// A unit that says which CPUs its processes may run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Affinity that its processes are started with (`CPUAffinity=`).
    pub affinity: Option<Setting>,
    /// CPUs of its cgroup (`AllowedCPUs=`).
    pub allowed: Option<Setting>,
}

/// Returns the section that systemd reads the properties of a unit from; `None` where it has none
/// that matter here.
pub fn section_of(unit: &str) -> Option<&'static str> {
    match unit.rsplit_once('.')?.1 {
        "service" => Some("Service"),
        "slice" => Some("Slice"),
        "scope" => Some("Scope"),
        _ => None,
    }
}

/// Tells whether there can be such a unit without a file of its own.
pub fn needs_no_file(unit: &str) -> bool {
    unit.ends_with(".slice") || unit.ends_with(".scope")
}

/// Returns the template of an instance: `foo@.service` of `foo@1.service`.
pub fn template_of(unit: &str) -> Option<String> {
    let (name, kind) = unit.rsplit_once('.')?;
    let (prefix, instance) = name.split_once('@')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{kind}"))
}

/// Returns the directories of drop-ins of a unit in one place, the most specific first: its own, that
/// of its template, and one for every prefix that ends with a dash (`unit_file_find_dirs()`).
///
/// The one for all units of its type (`service.d`) comes after those of all places.
pub fn drop_in_dirs(unit: &str) -> Vec<String> {
    let mut dirs = vec![format!("{unit}.d")];
    for more in [template_of(unit), shorter(unit)].into_iter().flatten() {
        dirs.extend(drop_in_dirs(&more));
    }
    dirs
}

/// Returns the unit whose name is the next shorter prefix with a dash: `a-b-.service` of
/// `a-b-c.service`; an instance stays one.
fn shorter(unit: &str) -> Option<String> {
    let (name, kind) = unit.rsplit_once('.')?;
    let (prefix, instance) = match name.split_once('@') {
        Some((prefix, instance)) if !instance.is_empty() => (prefix, format!("@{instance}")),
        Some((prefix, _)) => (prefix, String::new()),
        None => (name, String::new()),
    };
    let chopped = prefix.strip_suffix('-').unwrap_or(prefix);
    let (shorter, _) = chopped
        .rsplit_once('-')
        .filter(|(shorter, _)| !shorter.is_empty())?;
    Some(format!("{shorter}-{instance}.{kind}"))
}

/// Returns the directory of drop-ins for all units of the type of one.
pub fn dir_of_type(unit: &str) -> String {
    let kind = unit.rsplit_once('.').map_or(unit, |(_, kind)| kind);
    format!("{kind}.d")
}

/// Returns what files, each with its path and in the order in which they are applied, leave of a key
/// that names CPUs in a section. An empty assignment takes back those before it.
///
/// `numa` in `CPUAffinity=` (the CPUs of `NUMAMask=`) names no CPUs by itself and is passed over.
pub fn assigned(files: &[(String, String)], section: &str, key: &str) -> Option<Setting> {
    let mut setting: Option<Setting> = None;
    for (path, text) in files {
        for value in values(text, section, key) {
            let mut cpus = setting.map(|one| one.cpus).unwrap_or_default();
            let parts = value.split([' ', '\t', ',']);
            let named = parts.filter_map(|part| part.parse::<CpuSet>().ok());
            match value.is_empty() {
                true => cpus = CpuSet::new(),
                false => named.for_each(|named| cpus = cpus.union(&named)),
            }
            let file = path.clone();
            setting = Some(Setting { cpus, file });
        }
    }
    setting.filter(|setting| !setting.cpus.is_empty())
}

/// Returns the values that are assigned to a key in a section. A line that ends with a backslash goes
/// on in the next one, and comments in between are left out.
fn values(text: &str, section: &str, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_inside = false;
    let mut begun = String::new();
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(more) = line.strip_suffix('\\') {
            begun += more;
            begun.push(' ');
            continue;
        }
        let line = std::mem::take(&mut begun) + line;
        let name = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        is_inside = name.map_or(is_inside, |name| name == section);
        let value = line.split_once('=').filter(|(left, _)| left.trim() == key);
        found.extend(
            value
                .filter(|_| is_inside)
                .map(|(_, value)| value.trim().to_owned()),
        );
    }
    found
}

/// A unit that nobody can start (`systemctl mask`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masked {
    /// Its name.
    pub unit: &'static str,
    /// Whether that ends with the next boot.
    pub until_boot: bool,
}

impl Masked {
    /// Returns the command that undoes it.
    pub fn undo(&self) -> String {
        let option = if self.until_boot { "--runtime " } else { "" };
        format!("systemctl unmask {option}{}", self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Option<String> {
        let file = |(n, text): (usize, &&str)| (n.to_string(), (*text).to_owned());
        let files: Vec<_> = texts.iter().enumerate().map(file).collect();
        let setting = assigned(&files, "Service", "CPUAffinity")?;
        Some(format!("{} by {}", setting.cpus, setting.file))
    }

    #[test]
    fn later_assignments_add_and_an_empty_one_takes_back() {
        for (texts, expected) in [
            (vec!["[Service]\nCPUAffinity=2-3 5\n"], Some("2-3,5 by 0")),
            (vec!["[Service]\nCPUAffinity = 2,\t3\n"], Some("2-3 by 0")),
            (
                vec!["[Service]\nCPUAffinity=1\nCPUAffinity=\nCPUAffinity=4,6\n"],
                Some("4,6 by 0"),
            ),
            (
                vec![
                    "[Service]\nCPUAffinity=20 21\n",
                    "[Service]\nCPUAffinity=2\n",
                ],
                Some("2,20-21 by 1"),
            ),
            (
                vec![
                    "[Service]\nCPUAffinity=20\n",
                    "[Service]\nCPUAffinity=\nCPUAffinity=2 3\n",
                ],
                Some("2-3 by 1"),
            ),
            (
                vec!["[Service]\nCPUAffinity=20\n", "[Service]\nCPUAffinity=\n"],
                None,
            ),
            (
                vec!["[Service]\nCPUAffinity=2 \\\n# not this\n 3\n"],
                Some("2-3 by 0"),
            ),
            (vec!["[Service]\n#CPUAffinity=1\n;CPUAffinity=1\n"], None),
            (vec!["[Service]\nCPUAffinity=numa\n"], None),
            (vec!["[Install]\nCPUAffinity=1\n"], None),
            (vec!["CPUAffinity=1\n"], None),
        ] {
            assert_eq!(of(&texts).as_deref(), expected, "{texts:?}");
        }
    }

    #[test]
    fn drop_ins_are_looked_for_from_the_specific_to_the_general() {
        for (unit, expected) in [
            ("a.service", "a"),
            ("a-b-c.service", "a-b-c a-b- a-"),
            ("a-b@1.service", "a-b@1 a-b@ a- a-@1 a-@"),
            ("a@1.service", "a@1 a@"),
            ("-.slice", "-"),
        ] {
            let kind = unit.rsplit_once('.').unwrap().1;
            let expected = expected.split(' ').map(|name| format!("{name}.{kind}.d"));
            assert_eq!(drop_in_dirs(unit), expected.collect::<Vec<_>>(), "{unit}");
        }
        assert_eq!(dir_of_type("a-b.service"), "service.d");
    }
}
