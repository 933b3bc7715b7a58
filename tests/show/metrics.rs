//! `status --prometheus`: the text format as the collector reads it, and the names of docs/metrics.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::settled;

/// A gauge: its values by their labels.
type Gauge = BTreeMap<String, f64>;

/// Parses the text format (exposition format 0.0.4); anything that is none is a failure.
fn parsed(text: &str) -> BTreeMap<String, Gauge> {
    let mut gauges: BTreeMap<String, Gauge> = BTreeMap::new();
    let (mut helped, mut typed) = (BTreeSet::new(), BTreeSet::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helped.insert(name.to_owned()) && !help.is_empty(), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.strip_suffix(" gauge").unwrap();
            assert!(typed.insert(name.to_owned()), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            assert!(typed.contains(name) && helped.contains(name), "{line}");
            let labels = labels.strip_suffix('}').unwrap();
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once('=').unwrap();
                assert!(key.bytes().all(|b| b.is_ascii_lowercase()), "{line}");
                assert!(
                    value.starts_with('"') && value.ends_with('"') && value.len() > 2,
                    "{line}"
                );
            }
            let gauge = gauges.entry(name.to_owned()).or_default();
            let new = gauge.insert(labels.to_owned(), value.parse().unwrap());
            assert_eq!(new, None, "{line}");
        }
    }
    gauges
}

/// Names in docs/metrics.md, with their labels.
fn documented() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = fs::read_to_string(path).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `pin_hook_"));
    let row = |row: &str| {
        let cells: Vec<String> = row
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        (cells[1].clone(), cells[2].clone())
    };
    rows.map(row).collect()
}

#[test]
fn numbers_have_the_names_and_labels_of_the_page() {
    let node = settled();
    let (text, status) = node.shown(&["status", "--prometheus"]);
    let gauges = parsed(&text);
    let names = |labels: &str| {
        let keys = labels.split(',').filter_map(|label| label.split_once('='));
        keys.map(|(key, _)| key).collect::<Vec<_>>().join(", ")
    };
    let found = gauges.iter().map(|(name, gauge)| {
        let labels = gauge.keys().next().unwrap();
        (name.clone(), names(labels))
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), documented());
    assert_eq!((gauges["pin_hook_ok"][""], status), (1.0, 0), "{text}");
    let labels = "vmid=\"100\",state=\"running\",backend=\"isolated\"";
    for (name, value) in [
        ("ok", 1.0),
        ("cpus", 2.0),
        ("isolation", 3.0),
        ("threads_misplaced", 0.0),
    ] {
        assert_eq!(
            gauges[&format!("pin_hook_vm_{name}")][labels],
            value,
            "{name}"
        );
    }
}

#[test]
fn without_a_vm_there_are_numbers_of_the_host_alone() {
    let node = super::Node::new();
    let (text, _) = node.shown(&["status", "--prometheus"]);
    let gauges = parsed(&text);
    assert!(
        gauges.keys().all(|name| !name.starts_with("pin_hook_vm_")),
        "{text}"
    );
    assert_eq!(gauges["pin_hook_drifted"][""], 0.0);
}
