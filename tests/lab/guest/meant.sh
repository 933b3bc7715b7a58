# What a case says of where it is meant to run, in lines of its file; sourced by bash, in the guest and outside.
# shellcheck shell=bash

# is_for KERNEL FILE: "# kernels: NAME ..." names those where "make check" runs it; without such a line these are
# trixie's two, and with "none" among them it does not. With LAB_ALL each case is for trixie's two beside those that it
# names, but for one that says "only".
is_for() {
    local kernels
    kernels=$(sed -n 's/^# kernels: //p' "$2")
    kernels=${kernels:-stable backports}
    [ -n "${LAB_ALL:-}" ] || [[ " $kernels " != *' none '* ]] || return 1
    [ -z "${LAB_ALL:-}" ] || [[ $kernels = *' only' ]] || kernels="stable backports $kernels"
    [[ " $kernels " = *" $1 "* ]]
}

# boot_of FILE: prints the kernel's parameters that "# boot: ..." asks for; mostly none, an empty line.
boot_of() {
    sed -n 's/^# boot: //p' "$1" | grep . || echo
}
