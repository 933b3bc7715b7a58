package Lab::Kvm;

# The command line of a VM's QEMU and the start of the process.

use strict;
use warnings;

use Text::ParseWords 'shellwords';
use Time::HiRes 'time';
use Exporter 'import';
our @EXPORT_OK = qw(kvm_command start_kvm);

use Lab::Conf qw(run_file pid_of);
use Lab::Hugepages 'memory_arguments';
use Lab::Util qw(enter_scope wait_for);

sub vcpus {
    my ($conf) = @_;
    my ($sockets, $cores) = ($conf->{sockets} || 1, $conf->{cores} || 1);
    my $max = $sockets * $cores;
    return ($sockets, $cores, $max, $conf->{vcpus} || $max);
}

sub smp_arguments {
    my ($conf) = @_;
    my ($sockets, $cores, $max, $boot) = vcpus($conf);
    my $topology = "sockets=$sockets,cores=$cores,maxcpus=$max";
    return ('-smp', "$boot,$topology") if ($conf->{hotplug} // '') !~ /\bcpu\b/;
    my @more = map {
        ('-device', "qemu64-x86_64-cpu,id=cpu$_,socket-id=" . int(($_ - 1) / $cores)
            . ',core-id=' . (($_ - 1) % $cores) . ',thread-id=0')
    } 2 .. $boot;
    return ('-smp', "1,$topology", @more);
}

# PVE makes one iothread object per virtio disk that asks for it.
sub iothread_arguments {
    my ($conf) = @_;
    my $single = ($conf->{scsihw} // '') eq 'virtio-scsi-single';
    my @ids;
    for my $key (sort keys %$conf) {
        next if ($conf->{$key} // '') !~ /(^|,)iothread=(1|on|yes|true)(,|$)/i;
        push @ids, "iothread-$key" if $key =~ /^virtio\d+$/;
        push @ids, "iothread-virtioscsi$1" if $single && $key =~ /^scsi(\d+)$/;
    }
    return map { ('-object', "iothread,id=$_") } @ids;
}

sub hostpci_arguments {
    my ($conf) = @_;
    my @arguments;
    for my $key (sort grep { /^hostpci\d+$/ } keys %$conf) {
        my ($id) = $conf->{$key} =~ /^(?:host=)?([0-9a-f:.]+)/;
        $id = "0000:$id" if $id !~ /^[0-9a-f]{4}:/;
        # As for mediated devices: then QEMU's command line does not tell the function.
        my $by = -e '/run/qemu-server/by-sysfsdev' ? "sysfsdev=/sys/bus/pci/devices/$id" : "host=$id";
        push @arguments, '-device', "vfio-pci,$by,id=$key";
    }
    return @arguments;
}

sub monitor {
    my ($id, @options) = @_;
    return ('-chardev', join(',', "socket,id=$id", @options), '-mon', "chardev=$id,mode=control");
}

# QEMU 9.2 and later, which PVE 9 has, count in milliseconds.
sub reconnect { return -e '/usr/share/lab/backports' ? 'reconnect-ms=5000' : 'reconnect=5' }

# The emulated CPU has SVM, so that KVM works, slowly: with "kvm: 1" in the config, where PVE has that by default.
sub accel_arguments {
    my ($conf) = @_;
    return $conf->{kvm} ? ('-accel', 'kvm', '-cpu', 'host') : ('-accel', 'tcg,thread=multi');
}

# The guest is a firmware of our own that halts; "args: -bios /usr/share/lab/spin.bin" makes all its vCPUs spin,
# driver.bin in its place drives what is passed through.
sub kvm_command {
    my ($vmid, $conf, $options) = @_;
    my @affinity = $conf->{affinity} ? ('/usr/bin/taskset', '--cpu-list', '--all-tasks', $conf->{affinity}) : ();
    my $memory = ($conf->{memory} // 32) =~ /(\d+)/ ? $1 : 32;
    return (
        @affinity, '/usr/bin/kvm', '-name', ($conf->{name} // "vm$vmid") . ',debug-threads=on', '-no-shutdown',
        monitor('qmp', 'path=' . run_file($vmid, 'qmp'), 'server=on', 'wait=off'),
        monitor('qmp-event', 'path=/var/run/qmeventd.sock', reconnect()),
        '-pidfile', run_file($vmid, 'pid'), '-daemonize', smp_arguments($conf), '-nodefaults', '-vga', 'none',
        '-display', 'none', '-m', $memory > 64 ? 64 : $memory, memory_arguments($conf), iothread_arguments($conf),
        '-machine', 'type=pc', accel_arguments($conf), '-bios', '/usr/share/lab/idle.bin',
        hostpci_arguments($conf),
        ($options->{incoming} ? ('-incoming', 'defer') : ()),
        ($options->{incoming} || $options->{paused} || $conf->{freeze} ? ('-S') : ()),
        shellwords($conf->{args} // ''),
    );
}

# Forks; the child enters the scope and becomes QEMU, which daemonizes when it is ready.
sub start_kvm {
    my ($vmid, $conf, $command, $timeout) = @_;
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        eval {
            enter_scope($vmid, $conf);
            umask(0077);
            open(STDIN, '<', '/dev/null');
            exec { $command->[0] } @$command;
            die "exec of $command->[0] failed: $!\n";
        };
        print STDERR $@;
        exec('/bin/false');
    }
    if (!wait_for($timeout, sub { waitpid($pid, 1) == $pid })) {
        kill('KILL', $pid);
        die "start failed: command '$command->[0]' failed: got timeout\n";
    }
    return if !$?;
    die 'start failed: QEMU exited with code ' . ($? >> 8) . "\n" if !($? & 127);
    die 'start failed: command failed: got signal ' . ($? & 127) . "\n";
}

1;
