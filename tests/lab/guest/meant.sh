# What a case says of where it is meant to run, in lines of its file; sourced by bash, in the guest and outside.
# shellcheck shell=bash

# is_for KERNEL FILE: as "# kernels: NAME ..." says; without such a line it is for trixie's two.
is_for() {
    local kernels
    kernels=$(sed -n 's/^# kernels: //p' "$2")
    [[ " ${kernels:-stable backports} " = *" $1 "* ]]
}

# boot_of FILE: prints the kernel's parameters that "# boot: ..." asks for; mostly none, an empty line.
boot_of() {
    sed -n 's/^# boot: //p' "$1" | grep . || echo
}
