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
    # One at a time: images are built beside other steps.
    (
        flock 6
        apt-get update -q > /dev/null || true
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" > /dev/null
    ) 6> "${TMPDIR:-/tmp}/pin-hook-apt.lock" || fail "cannot install ${missing[*]}: apt-get says above why"
}

# need_space DIR MB WHAT: where a disk is too small, that is better said before than found out in the middle.
need_space() {
    local free
    free=$(free_mb "$1")
    [ "$free" -ge "$2" ] || fail "disk full: $1 has $free MB left, and $3 takes $2 MB"
}
free_mb() { df --output=avail -B 1M "$1" | tail -n 1 | tr -d ' '; }
