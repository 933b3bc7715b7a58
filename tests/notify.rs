//! The program that hands notifications to PVE, with a stand-in for PVE's modules; and its templates.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// What was given to PVE, a line for each thing.
const STAND_IN: &str = r#"package PVE::Notify;
use strict;
use warnings;

sub common_template_data { return { fqdn => 'pve1.example.org', 'cluster-name' => 'home' }; }

sub notify {
    my ($severity, $template, $data, $fields, @more) = @_;
    die "no such target\n" if $severity eq 'info';
    binmode(STDOUT, ':utf8');
    print "$severity $template " . scalar(@more) . "\n";
    print "data $_: $data->{$_}\n" for sort keys %$data;
    print "field $_: $fields->{$_}\n" for sort keys %$fields;
}

1;
"#;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs the program; `module` is PVE's.
fn run(module: &str, words: &[&str]) -> Output {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("PVE")).unwrap();
    fs::write(dir.path().join("PVE/Notify.pm"), module).unwrap();
    let mut command = Command::new(here("libexec/notify"));
    command.args(words).env("PERL5LIB", dir.path());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(text).unwrap()
}

fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().split('.').next().unwrap().to_owned()
}

#[test]
fn pve_is_given_the_template_its_data_and_the_fields() {
    let words = [
        "error",
        "100",
        "vm 100 was not started",
        "vm 100: cpu 3 is offline – \"x\" $HOME",
        "help: echo 1",
    ];
    let output = run(STAND_IN, &words);
    let host = hostname();
    let expected = format!(
        "error pin-hook 0\ndata cluster-name: home\ndata fqdn: pve1.example.org\ndata hostname: {host}\n\
         data message: vm 100: cpu 3 is offline – \"x\" $HOME\nhelp: echo 1\n\
         data title: vm 100 was not started\ndata vmid: 100\n\
         field hostname: {host}\nfield type: pin-hook\nfield vmid: 100\n"
    );
    assert_eq!(said(&output), expected);
    assert!(output.status.success());
}

#[test]
fn a_notification_of_the_host_has_no_vm() {
    // An older PVE has no data of its own.
    let old = STAND_IN.replace("sub common_template_data", "sub other");
    let output = run(&old, &["warning", "-", "an interrupt is left alone"]);
    let text = said(&output);
    assert!(text.starts_with("warning pin-hook 0\n"), "{text}");
    assert!(!text.contains("vmid") && !text.contains("fqdn"), "{text}");
    assert!(
        text.contains(&format!("data hostname: {}\n", hostname())),
        "{text}"
    );
}

#[test]
fn what_pve_refuses_fails_the_unit() {
    for (words, expected) in [
        (&["info", "-", "x"][..], "no such target"),
        (&["error", "100"], "usage: notify SEVERITY VMID TITLE"),
    ] {
        let output = run(STAND_IN, words);
        assert!(!output.status.success());
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
}

/// PVE's renderer finds no other names, and says nothing of a word that it does not know.
#[test]
fn the_templates_are_named_as_pve_looks_for_them_and_use_what_they_are_given() {
    let known = ["{{hostname}}", "{{title}}", "{{message}}"];
    for end in ["subject.txt.hbs", "body.txt.hbs", "body.html.hbs"] {
        let text = fs::read_to_string(here(&format!("templates/pin-hook-{end}"))).unwrap();
        let words = text.split("{{").skip(1);
        let words: Vec<String> = words
            .map(|rest| format!("{{{{{}}}}}", rest.split_once("}}").unwrap().0))
            .collect();
        assert!(!words.is_empty(), "{end}");
        assert!(
            words.iter().all(|word| known.contains(&word.as_str())),
            "{end}: {words:?}"
        );
    }
}
