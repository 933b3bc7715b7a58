package Lab::Util;

# Waiting with deadlines, the VM's lock, QMP and systemd.

use strict;
use warnings;

use Fcntl ':flock';
use Time::HiRes 'time';
use Exporter 'import';
our @EXPORT_OK = qw(wait_for lock_config lock_file qmp qmp_handshake qmp_read enter_scope wait_for_unit_removed);

use Lab::Conf qw(slurp run_file);

# Polls until the condition is true; false when the deadline passed.
sub wait_for {
    my ($seconds, $condition) = @_;
    my $end = time() + $seconds;
    while (!$condition->()) {
        return 0 if time() >= $end;
        select(undef, undef, undef, 0.05);
    }
    return 1;
}

# Runs the code under the VM's lock, which is held through all phases.
sub lock_config {
    my ($vmid, $timeout, $code) = @_;
    return lock_file("/var/lock/qemu-server/lock-$vmid.conf", $timeout, $code);
}

sub lock_file {
    my ($path, $timeout, $code) = @_;
    open(my $fh, '>>', $path) or die "can't open lock file '$path' - $!\n";
    if (!flock($fh, LOCK_EX | LOCK_NB)) {
        print STDERR "trying to acquire lock...\n";
        wait_for($timeout, sub { flock($fh, LOCK_EX | LOCK_NB) })
            or die "can't lock file '$path' - got timeout\n";
        print STDERR " OK\n";
    }
    my @result = $code->();
    close($fh);
    return @result;
}

# Reads QMP lines until one matches; "" at EOF or after the deadline.
sub qmp_read {
    my ($socket, $pattern, $seconds) = @_;
    my $end = time() + $seconds;
    my $buffer = '';
    while (1) {
        while ($buffer =~ s/^(.*)\n//) {
            my $line = $1;
            return $line if $line =~ $pattern;
        }
        my $bits = '';
        vec($bits, fileno($socket), 1) = 1;
        my $left = $end - time();
        return '' if $left <= 0 || select($bits, undef, undef, $left) <= 0;
        return '' if !sysread($socket, $buffer, 65536, length($buffer));
    }
}

sub qmp_handshake {
    my ($socket, $seconds) = @_;
    syswrite($socket, qq({"execute":"qmp_capabilities"}\n));
    return qmp_read($socket, qr/"return"/, $seconds);
}

# One QMP command on a fresh connection, as PVE's short-lived clients do; QEMU serves one at a time.
sub qmp {
    my ($vmid, $command, $arguments, $timeout) = @_;
    $timeout //= $command eq 'quit' ? 60 : 5;
    my $path = run_file($vmid, 'qmp');
    # Loaded here, as most calls of qm need none and loading takes longer than the rest of them.
    require Socket;
    socket(my $socket, Socket::PF_UNIX(), Socket::SOCK_STREAM(), 0) or die "socket: $!\n";
    connect($socket, Socket::pack_sockaddr_un($path))
        or die "unable to connect to VM $vmid qmp socket - $!\n";
    die "VM $vmid qmp command '$command' failed - got timeout\n"
        if qmp_read($socket, qr/"QMP"/, $timeout) eq '' || qmp_handshake($socket, $timeout) eq '';
    my $text = $arguments ? qq({"execute":"$command","arguments":$arguments}) : qq({"execute":"$command"});
    syswrite($socket, "$text\n");
    my $answer = qmp_read($socket, qr/"return"|"error"/, $timeout);
    return '' if $command eq 'quit';
    die "VM $vmid qmp command '$command' failed - got timeout\n" if $answer eq '';
    die "VM $vmid qmp command '$command' failed - $1\n" if $answer =~ /"error".*"desc": "([^"]*)"/;
    return $answer;
}

my @manager = qw(org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager);

# Moves the calling process into <vmid>.scope with the properties that PVE uses.
sub enter_scope {
    my ($vmid, $conf) = @_;
    my $weight = $conf->{cpuunits} // 100;
    $weight = 10000 if $weight > 10000;
    my @properties = (
        [qw(PIDs au 1), $$], [qw(Slice s qemu.slice)], [qw(KillMode s process)], [qw(SendSIGKILL b false)],
        [qw(TimeoutStopUSec t 18446744073709551615)], [qw(After as 1 dbus.service)],
        [qw(Before as 2 pve-ha-lrm.service pve-guests.service)], [qw(CPUWeight t), $weight],
    );
    push @properties, ['CPUQuotaPerSecUSec', 't', int($conf->{cpulimit} * 100) * 10000] if $conf->{cpulimit};
    system('busctl', '--quiet', 'call', @manager, 'StartTransientUnit', 'ssa(sv)a(sa(sv))', "$vmid.scope", 'fail',
        scalar(@properties), (map { @$_ } @properties), 0) == 0
        or die "systemd: StartTransientUnit $vmid.scope failed\n";
    wait_for(20, sub { slurp('/proc/self/cgroup') =~ m,/qemu\.slice/\Q$vmid\E\.scope$,m })
        or die "systemd: timeout\n";
}

sub wait_for_unit_removed {
    my ($unit) = @_;
    my $removed = sub {
        system("busctl --quiet call @manager GetUnit s $unit > /dev/null 2>&1") != 0;
    };
    wait_for(20, $removed) or die "timeout waiting on systemd\n";
}

1;
