# kernels: none
# With the pressure accounting off at boot nothing has to be counted apart: the column "isolated" of 82-quiet.
# boot: psi=0
. /usr/lib/lab/lib.sh
. /usr/lib/lab/quiet.sh

refuses 'the kernel keeps no account of pressure' cat /proc/pressure/cpu
knobs_in_use 1
isolated other
check 'isolated: at most 4 switches to kernel threads but the measurement'\''s own' test "$foreign" -le 4
equal 'isolated: none of them for pressure accounting' 0 "$psi"
table_of_all
