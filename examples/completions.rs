//! Writes the completions of bash, zsh and fish into a directory: `completions DIR`.
//!
//! Not a command of the program, which would only become larger by it. What clap knows is the grammar; the ids of
//! VMs are asked of `pin-hook list --ids` when somebody presses the key.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::{Generator, Shell};

fn main() -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: completions DIR");
    let dir = std::env::args_os().nth(1).ok_or_else(usage)?;
    write(Path::new(&dir))
}

/// Writes the completions of every shell.
pub fn write(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut shown(), "pin-hook", &mut text);
        let text = String::from_utf8(text).map_err(io::Error::other)?;
        let text = match shell {
            Shell::Bash => of_one_name(&text) + &bash(),
            Shell::Zsh => zsh(&text),
            _ => text + &fish(),
        };
        fs::write(dir.join(shell.file_name("pin-hook")), text)?;
    }
    Ok(())
}

/// Returns the grammar without what only PVE and the program itself write.
fn shown() -> clap::Command {
    let whole = pin_hook::cli::grammar();
    let bare = clap::Command::new("pin-hook").args(whole.get_arguments().cloned());
    let commands = whole.get_subcommands().filter(|one| !one.is_hide_set());
    bare.subcommands(commands.cloned())
}

/// Returns the commands that take the id of a VM.
fn with_id() -> Vec<String> {
    let grammar = shown();
    let commands = grammar.get_subcommands();
    let takes_id = |one: &&clap::Command| one.get_positionals().any(|arg| arg.get_id() == "vmid");
    let names = commands.filter(takes_id).map(clap::Command::get_name);
    names.map(str::to_owned).collect()
}

/// Returns the options that a value follows.
fn with_value() -> Vec<String> {
    let grammar = shown();
    let commands = grammar.get_subcommands().chain([&grammar]);
    let options = commands.flat_map(clap::Command::get_opts);
    let valued = options.filter(|one| one.get_action().takes_values());
    let mut names: Vec<String> = valued
        .filter_map(|one| Some(format!("--{}", one.get_long()?)))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Returns clap's script with one name for each command: where the name of the program has a hyphen, clap_complete
/// 4.6 sets one and asks for another, so that nothing behind a command is ever completed.
fn of_one_name(text: &str) -> String {
    text.replace("pin__subcmd__hook", "pin__hook")
}

/// Returns a function around clap's own: where an id may be, ids are all that it offers.
fn bash() -> String {
    let (commands, options) = (with_id().join("|"), with_value().join("|"));
    format!(
        r#"
_pin_hook_with_ids() {{
    _pin__hook "$@"
    local cur="${{COMP_WORDS[COMP_CWORD]}}" command="" word="" before="" id
    [[ $cur == -* ]] && return
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}" "$cur"; do
        case $before in
            {options}) [[ $word == "$cur" ]] && return ;;
            *) case $word in
                -* | "$cur") ;;
                *) [[ -n $command ]] && return
                   command=$word ;;
            esac ;;
        esac
        before=$word
    done
    case $command in {commands}) ;; *) return ;; esac
    COMPREPLY=()
    while IFS=$'\t' read -r id _; do
        [[ $id =~ ^[0-9]+$ && $id == "$cur"* ]] && COMPREPLY+=("$id")
    done < <("$1" list --ids 2> /dev/null)
}}
complete -F _pin_hook_with_ids -o bashdefault -o default pin-hook
"#
    )
}

/// Returns the script with a function for ids in the place of the default; names are descriptions.
fn zsh(text: &str) -> String {
    let lines = text.lines().map(|line| match line.contains(":vmid -- ") {
        true => line.replace(":_default'", ":_pin-hook_ids'") + "\n",
        false => line.to_owned() + "\n",
    });
    let function = r#"_pin-hook_ids() {
    local -a ids
    ids=(${(f)"$(_call_program ids pin-hook list --ids 2> /dev/null)"})
    ids=(${${(M)ids:#<->*}/$'\t'/:})
    _describe -t ids 'vm' ids
}

if [ "$funcstack[1]""#;
    let whole: String = lines.collect();
    whole.replacen("if [ \"$funcstack[1]\"", function, 1)
}

/// Returns what fish asks for ids; it takes what follows a tab as the description.
fn fish() -> String {
    let of = |command: String| {
        format!(
            "complete -c pin-hook -n \"__fish_pin_hook_using_subcommand {command}\" -f -a \
             \"(pin-hook list --ids 2> /dev/null | string match -r '^[0-9].*')\"\n"
        )
    };
    with_id().into_iter().map(of).collect()
}
