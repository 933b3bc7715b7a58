# Shared by the lab's scripts that run on the developer's machine; sourced by bash.
# shellcheck shell=bash disable=SC2034

lab_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$lab_source/../.." && pwd)
lab_dir=${LAB_DIR:-$repo/target/lab}

say() { echo "lab: $*" >&2; }
fail() { echo "lab: error: $*" >&2; exit 1; }

# Installs what is missing; each argument is command:package. QEMU is never among them: the
# lab runs the one of its own image, so a PVE node keeps its own packages.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" > /dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || fail "please install: ${missing[*]} (or run as root, and the lab does it)"
    say "installing ${missing[*]}"
    apt-get update -q > /dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" > /dev/null
}
