//! What real kernels record, as their own text tells it, and what is made of it.
//!
//! A folder of `tests/trace` has the formats of a kernel's events, a page of its buffer, and the lines that the
//! kernel itself prints for the same records.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "measure/demo.rs"]
mod demo;
#[path = "common/goldens.rs"]
mod goldens;

use std::collections::BTreeMap;
use std::fs;

use pin_hook::domain::trace::event::{Context, Decoder, ELSEWHERE, Event, HERE};
use pin_hook::domain::trace::page::Page;
use tempfile::TempDir;

const KERNELS: [&str; 2] = ["6.12", "7.3"];

fn read(kernel: &str, name: &str) -> Vec<u8> {
    let path = format!("{}/tests/trace/{kernel}/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn text(kernel: &str, name: &str) -> String {
    String::from_utf8(read(kernel, name)).unwrap()
}

/// Returns the formats by the names of their events, without groups.
fn formats(kernel: &str) -> BTreeMap<String, String> {
    let text = text(kernel, "formats");
    let formats = text.split("name: ").skip(1).map(|one| {
        let name = one.lines().next().unwrap().to_owned();
        (name, one.to_owned())
    });
    formats.collect()
}

fn decoder(kernel: &str) -> Decoder {
    let formats = formats(kernel);
    let mut decoder = Decoder::default();
    for point in HERE.iter().chain(ELSEWHERE) {
        let (_, name) = point.name.split_once('/').unwrap();
        let format = formats
            .get(name)
            .unwrap_or_else(|| panic!("{kernel}: no {name}"));
        assert!(decoder.learn(point, format), "{kernel}: {name}");
    }
    decoder
}

/// Returns the value of a field in a line of the kernel's.
fn value<'l>(line: &'l str, name: &str) -> &'l str {
    let (_, rest) = line
        .split_once(&format!("{name}="))
        .unwrap_or_else(|| panic!("{name}: {line}"));
    rest.split_whitespace().next().unwrap_or_default()
}

/// Tells whether a record says what the kernel's line says.
fn agrees(event: &Event, line: &str) -> bool {
    let has = |name: &str| line.contains(&format!(": {name}"));
    match event {
        Event::Switch {
            last,
            is_ready,
            next,
            name,
        } => {
            value(line, "prev_pid") == last.to_string()
                && value(line, "next_pid") == next.to_string()
                && line.contains(&format!("next_comm={name} "))
                && value(line, "prev_state").starts_with('R') == *is_ready
        }
        Event::Begins(Context::Device(number, name)) => {
            value(line, "irq") == number.to_string() && line.ends_with(&format!("name={name}"))
        }
        Event::Begins(Context::Vector(_)) => line.contains("_entry: vector="),
        Event::Begins(Context::Softirq(number)) => value(line, "vec") == number.to_string(),
        Event::Ends => line.contains("_exit: "),
        Event::Calls(_) => {
            has("hrtimer_expire_entry") || has("timer_expire_entry") || has("csd_function_entry")
        }
        Event::Returns => {
            has("hrtimer_expire_exit") || has("timer_expire_exit") || has("csd_function_exit")
        }
        Event::Works(_) => has("workqueue_execute_start"),
        Event::Rests => has("workqueue_execute_end"),
        Event::Enters => has("kvm_entry"),
        Event::Leaves { for_host } => {
            let (_, reason) = line.split_once("reason ").unwrap();
            *for_host
                == (reason.starts_with("interrupt ") || reason.starts_with("EXTERNAL_INTERRUPT"))
        }
        Event::Nmi(_, ns) => line.contains(&format!("delta_ns: {ns} ")),
        Event::Asks { cpu, .. } => value(line, "cpu") == cpu.to_string(),
    }
}

/// Returns the time of a line, in microseconds since boot.
fn time(line: &str) -> u64 {
    let time = line
        .split_whitespace()
        .find_map(|word| word.strip_suffix(':')?.split_once('.'));
    let (seconds, micros) = time.unwrap_or_else(|| panic!("no time: {line}"));
    seconds.parse::<u64>().unwrap() * 1_000_000 + micros.parse::<u64>().unwrap()
}

#[test]
fn records_say_what_the_kernel_prints_for_them() {
    for kernel in KERNELS {
        let (decoder, bytes) = (decoder(kernel), read(kernel, "page"));
        let lines = text(kernel, "trace");
        let mut lines = lines.lines();
        let mut n = 0;
        for record in Page::new(&bytes).unwrap() {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("{kernel}: more than {n} records"));
            let (running, event) = decoder
                .read(record.bytes)
                .unwrap_or_else(|| panic!("{kernel}: {line}"));
            assert!(agrees(&event, line), "{kernel}: {event:?}\n{line}");
            assert!(
                line.contains(&format!("-{running} ")),
                "{kernel}: {running}\n{line}"
            );
            // The kernel prints the nearest microsecond.
            assert!(
                (record.at + 500).abs_diff(time(line) * 1000) <= 1_000,
                "{kernel}: {}\n{line}",
                record.at
            );
            n += 1;
        }
        assert_eq!(lines.next(), None, "{kernel}: only {n} records");
        assert!(n > 80, "{kernel}: {n}");
    }
}

/// A host that has two measurements from the lab: VM 100 on all CPUs, and on its own.
fn measured() -> TempDir {
    let root = TempDir::new().unwrap();
    let dir = root.path().join("var/lib/pin-hook/measured");
    fs::create_dir_all(&dir).unwrap();
    for name in ["nothing", "pin-hook"] {
        fs::copy(
            golden(&format!("{name}.json")),
            dir.join(format!("{name}.json")),
        )
        .unwrap();
    }
    fs::write(dir.join("other.json"), "{\"cpus\": 1}").unwrap();
    root
}

fn golden(name: &str) -> String {
    format!("{}/tests/trace/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn shown_on(root: &TempDir, words: &[&str]) -> (bool, String) {
    let mut command = assert_cmd::Command::cargo_bin("pin-hook").unwrap();
    let command = command.arg("--root").arg(root.path()).arg("measure");
    let output = command.args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn shown(words: &[&str]) -> (bool, String) {
    shown_on(&measured(), words)
}

#[track_caller]
fn check(name: &str, text: &str) {
    if goldens::update() {
        fs::write(golden(name), text).unwrap();
    }
    assert_eq!(fs::read_to_string(golden(name)).unwrap(), text, "{name}");
}

#[test]
fn a_measurement_is_shown_as_people_read_it() {
    for (name, words) in [
        ("pin-hook.txt", &["--show", "pin-hook"][..]),
        ("nothing.txt", &["--show", "nothing", "-v"]),
        ("compared.txt", &["--compare", "nothing", "pin-hook"]),
    ] {
        let (is_done, text) = shown(words);
        assert!(is_done, "{text}");
        check(name, &text);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}

#[test]
fn measurements_are_printed_as_json() {
    for (name, words) in [
        ("shown.json", &["--show", "pin-hook", "--json"][..]),
        (
            "compared.json",
            &["--compare", "nothing", "pin-hook", "--json"],
        ),
    ] {
        let (is_done, text) = shown(words);
        assert!(is_done, "{text}");
        check(name, &text);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["version"], 1, "{name}");
    }
}

#[test]
fn the_interruption_that_ended_a_measurement_is_shown_first() {
    let root = measured();
    let text = fs::read_to_string(golden("pin-hook.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["stopped"] = serde_json::json!({
        "limit_ns": 100_000, "ns": 36_077_580, "after_ns": 3_210_000_000_u64, "cpu": 5, "vcpu": 1
    });
    let path = root.path().join("var/lib/pin-hook/measured/stopped.json");
    fs::write(path, json.to_string()).unwrap();
    let (is_done, text) = shown_on(&root, &["--show", "stopped"]);
    assert!(is_done, "{text}");
    check("stopped.txt", &text);
}

/// One real-time thread that was limited and met the firmware, and normal ones that met neither.
#[test]
fn what_spinning_threads_have_seen_is_shown() {
    let root = measured();
    let text = fs::read_to_string(golden("pin-hook.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["vmid"] = serde_json::Value::Null;
    for seat in json["seats"].as_array_mut().unwrap() {
        seat["vcpu"] = serde_json::Value::Null;
    }
    json["unseen"] = serde_json::json!([]);
    json["spin"] = serde_json::json!({
        "is_realtime": false, "times": 1301, "total_ns": 1_691_000_000, "longest_ns": 36_081_000,
        "histogram": [599, 0, 25, 6, 255, 284, 25, 107], "n_unknown": 0, "idle_ns": 0,
        "unexplained": {"times": 0, "total_ns": 0, "longest_ns": 0}
    });
    let keep = |name: &str, json: &serde_json::Value| {
        let path = format!("var/lib/pin-hook/measured/{name}.json");
        fs::write(root.path().join(path), json.to_string()).unwrap();
    };
    keep("spun", &json);
    json["seats"].as_array_mut().unwrap().truncate(1);
    json["cpus"] = "4".into();
    json["spin"]["is_realtime"] = true.into();
    json["spin"]["n_unknown"] = 2.into();
    json["spin"]["idle_ns"] = 450_000_000.into();
    json["spin"]["unexplained"] =
        serde_json::json!({"times": 3, "total_ns": 412_000, "longest_ns": 181_000});
    keep("spun-realtime", &json);
    for name in ["spun", "spun-realtime"] {
        let (is_done, text) = shown_on(&root, &["--show", name]);
        assert!(is_done, "{text}");
        check(&format!("{name}.txt"), &text);
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(80), "{text}");
        let (_, shown) = shown_on(&root, &["--show", name, "--json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["spin"]["is_realtime"], name == "spun-realtime");
    }
}

/// The picture has the words of the text, and a bar for each value that is not nothing.
#[test]
fn a_comparison_can_be_written_as_svg() {
    let root = measured();
    let file = root.path().join("card.svg");
    let words = ["--compare", "nothing", "pin-hook"];
    let svg = ["--svg", file.to_str().unwrap()];
    assert_eq!(
        shown_on(&root, &[&words[..], &svg].concat()),
        (true, String::new())
    );
    let svg = fs::read_to_string(&file).unwrap();
    check("compared.svg", &svg);
    let texts = svg.lines().filter(|line| line.starts_with("<text "));
    let said: Vec<&str> = texts
        .map(|line| line.split_once('>').unwrap().1.split_once('<').unwrap().0)
        .collect();
    let (_, text) = shown(&words);
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(said, words);
    let bars = svg.lines().filter(|line| line.contains("height=\"10\""));
    let nothing = text.matches(" 0 ns").count();
    let n_rows = text
        .lines()
        .filter(|line| line.starts_with("  ") && !line.contains(" nothing "));
    assert_eq!(bars.count(), 2 * n_rows.count() - nothing);
}

#[test]
fn what_cannot_be_shown_is_said() {
    for (words, expected) in [
        (
            &["--show", "typo"][..],
            "those that are kept: nothing, other, pin-hook",
        ),
        (&["--show", "other"], "measure again with --save other"),
        (&["--show", "../../etc/passwd"], "a name has letters"),
        (&["--compare", "nothing"], "2 values"),
        (
            &["--show", "nothing", "--svg", "a.svg"],
            "cannot be used with",
        ),
        (&["100"], "a captured host (--root) can only be looked at"),
        (
            &["--cpus", "0", "--duration", "1h"],
            "\"1h\" is not a number with a unit",
        ),
        (&["--spin"], "required"),
        (&["100", "--spin"], "cannot be used with"),
        (&["--show", "nothing", "--spin"], "cannot be used with"),
        (&["--cpus", "0", "--realtime"], "--spin"),
        (&[], "required"),
    ] {
        let (is_done, text) = shown(words);
        assert!(!is_done && text.contains(expected), "{words:?}: {text}");
    }
}
