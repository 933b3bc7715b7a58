//! Other files than configs of guests: the lines and words that are needed.

use crate::domain::measure::measurement::Measurement;

/// What makes a file recognisable as a snippet of this program.
const SNIPPET: &str = "calls pin-hook(8)";
/// Properties of a storage that are needed.
pub(super) const STORAGE: [&str; 8] = [
    "path",
    "content",
    "content-dirs",
    "is_mountpoint",
    "base",
    "shared",
    "disable",
    "nodes",
];
/// What is read or run at boot, and may make virtual functions; one that is no directory is a file. Others see of them
/// only what mentions that.
pub const AT_BOOT: [&str; 16] = [
    "/etc/systemd/system",
    "/etc/systemd/network",
    "/etc/udev/rules.d",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d",
    "/etc/network/if-pre-up.d",
    "/etc/network/if-up.d",
    "/etc/modprobe.d",
    "/etc/tmpfiles.d",
    "/etc/sysfs.conf",
    "/etc/sysfs.d",
    "/etc/rc.local",
    "/etc/cron.d",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/var/lib/vz/snippets",
];
/// What mentions virtual functions of network cards.
const VIRTUALS: [&str; 5] = ["sriov", "sr-iov", "numvfs", "num_vfs", "max_vfs"];
/// Packages whose versions are told.
const PACKAGES: [&str; 6] = [
    "pve-manager",
    "qemu-server",
    "pve-qemu-kvm",
    "qemu-system-x86",
    "systemd",
    "pin-hook",
];
/// Parameters of the kernel that tell whose host it is.
const NAMES: [&str; 7] = [
    "root",
    "resume",
    "ip",
    "nfsroot",
    "cryptdevice",
    "systemd.hostname",
    "hostname",
];
/// Parts of the names of parameters that are secrets.
const SECRETS: [&str; 4] = ["pass", "secret", "token", "key"];
/// Keys of units that are needed.
const UNIT: [&str; 2] = ["CPUAffinity", "AllowedCPUs"];

/// Tells whether a text mentions virtual functions of network cards.
pub fn mentions_virtuals(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    VIRTUALS.iter().any(|word| text.contains(word))
}

/// Returns the lines that mention virtual functions: scripts and settings of the boot are asked for nothing else.
pub(super) fn virtuals(text: &str) -> String {
    kept(text, mentions_virtuals)
}

/// Returns what the kernel has said of its IOMMU.
pub(super) fn iommu_messages(text: &str) -> String {
    kept(text, is_of_iommu)
}

/// Tells whether a message of the kernel is about its IOMMU (`drivers/iommu/intel`, `drivers/iommu/amd`).
pub fn is_of_iommu(message: &str) -> bool {
    message.contains("DMAR") || message.contains("AMD-Vi")
}

/// Returns the lines that begin with one of `starts`.
pub(super) fn lines(text: &str, starts: &[&str]) -> String {
    kept(text, |line| {
        starts.iter().any(|start| line.starts_with(start))
    })
}

/// Returns the lines but those whose first word is `word`.
pub(super) fn lines_but(text: &str, word: &str) -> String {
    kept(text, |line| line.split_whitespace().next() != Some(word))
}

fn kept(text: &str, mut is_kept: impl FnMut(&str) -> bool) -> String {
    let lines = text.lines().filter(|line| is_kept(line));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Returns the heads of the sections of a file of PVE, and the properties of these names.
pub(super) fn properties(text: &str, names: &[&str]) -> String {
    kept(text, |line| {
        let first = line.split_whitespace().next().unwrap_or_default();
        match line.starts_with([' ', '\t']) {
            true => names.contains(&first),
            false => line.contains(':') && !line.starts_with('#'),
        }
    })
}

/// Returns the routes to everywhere: the others tell in which network the host is.
pub(super) fn default_routes(text: &str) -> String {
    let all = format!("{:032}", 0);
    kept(text, |line| line.starts_with(&all))
}

/// Returns parameters of the kernel.
pub(super) fn parameters(text: &str, keeps_names: bool) -> String {
    let words = text
        .trim_end()
        .split(' ')
        .map(|word| match word.split_once('=') {
            Some((name, _)) if is_private(name, keeps_names) => format!("{name}=hidden"),
            _ => word.to_owned(),
        });
    let end = if text.ends_with('\n') { "\n" } else { "" };
    words.collect::<Vec<_>>().join(" ") + end
}

fn is_private(name: &str, keeps_names: bool) -> bool {
    let is_secret = SECRETS.iter().any(|part| name.contains(part));
    is_secret || !keeps_names && (NAMES.contains(&name) || name.starts_with("rd."))
}

/// Returns the parameters of the kernel in the settings of GRUB.
pub(super) fn grub(text: &str, keeps_names: bool) -> String {
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let is_ours = name.trim_start().starts_with("GRUB_CMDLINE_LINUX");
        let quote = value.trim().chars().next().filter(|c| "\"'".contains(*c));
        let quote = quote.map(String::from).unwrap_or_default();
        let words = value.trim().trim_matches(['"', '\'']);
        let words = parameters(words, keeps_names);
        is_ours.then(|| format!("{name}={quote}{words}{quote}\n"))
    });
    lines.collect()
}

/// Returns mounts without their options, and where a server is without its name.
pub(super) fn mounts(text: &str) -> String {
    let lines = text.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, source) = (right.next()?, right.next().unwrap_or_default());
        let source = match source.contains(':') || source.starts_with("//") {
            true => "remote",
            false => source,
        };
        Some(format!("{left} - {kind} {source} rw\n"))
    });
    lines.collect()
}

/// Returns the command line of a QEMU, or of a task of PVE, as far as it is needed; nothing of others.
pub(super) fn command(text: &str) -> String {
    if let Some(task) = text.strip_prefix("task UPID:") {
        let kind = task.split(':').nth(4).unwrap_or_default();
        return format!("task UPID:::::{kind}:\0");
    }
    let mut words = text.split('\0');
    let program = words.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    if !(program.ends_with("kvm") || name.starts_with("qemu-")) {
        return String::new();
    }
    let mut left = vec![program.to_owned()];
    let words: Vec<&str> = words.collect();
    for pair in words.windows(2) {
        let (option, value) = (pair[0], pair[1]);
        if option.trim_start_matches('-') == "pidfile" {
            left.extend([option.to_owned(), value.to_owned()]);
        } else if value.starts_with("vfio-pci") {
            let host = value.split(',').filter(|part| part.starts_with("host="));
            let host = host.map(|part| format!(",{part}")).collect::<String>();
            let driver = value.split(',').next().unwrap_or_default();
            left.extend([option.to_owned(), format!("{driver}{host}")]);
        }
    }
    left.join("\0") + "\0"
}

/// Returns a snippet of this program, and nothing of others.
pub(super) fn snippet(text: &str) -> String {
    match text.contains(SNIPPET) {
        true => text.to_owned(),
        false => virtuals(text),
    }
}

/// Returns what a unit says about CPUs. One with other lines is not empty: that is a masked one.
pub(super) fn unit(text: &str) -> String {
    let mut goes_on = false;
    let left = kept(text, |line| {
        let line = line.trim();
        let is_key = line
            .split_once('=')
            .is_some_and(|(key, _)| UNIT.contains(&key.trim()));
        let is_kept = goes_on || is_key || line.starts_with('[') || mentions_virtuals(line);
        goes_on = (goes_on || is_key) && line.ends_with('\\');
        is_kept
    });
    match left.is_empty() && !text.trim().is_empty() {
        true => "[Unit]\n".to_owned(),
        false => left,
    }
}

/// Returns the versions of packages that matter.
pub(super) fn packages(text: &str) -> String {
    let mut left = String::new();
    for stanza in text.split("\n\n") {
        let is_one = name_of(stanza).is_some_and(|name| PACKAGES.contains(&name));
        if is_one {
            left += &lines(stanza, &["Package: ", "Status: ", "Version: "]);
            left.push('\n');
        }
    }
    left
}

/// Returns a measurement that was kept, without the name of its VM unless names stay.
pub(super) fn measurement(text: &str, keeps_names: bool) -> String {
    let Ok(mut measurement) = serde_json::from_str::<Measurement>(text) else {
        return String::new();
    };
    measurement.name = measurement.name.filter(|_| keeps_names);
    serde_json::to_string(&measurement).unwrap_or_default()
}

/// Returns the version of an installed package.
pub fn version<'t>(status: &'t str, package: &str) -> Option<&'t str> {
    let mut stanzas = status.split("\n\n");
    let stanza = stanzas.find(|stanza| name_of(stanza) == Some(package))?;
    let value = |key| stanza.lines().find_map(|line| line.strip_prefix(key));
    let is_installed = value("Status: ").is_some_and(|status| status.ends_with(" installed"));
    value("Version: ").filter(|_| is_installed)
}

fn name_of(stanza: &str) -> Option<&str> {
    let first = stanza.trim_start().lines().next()?;
    first.strip_prefix("Package: ")
}
