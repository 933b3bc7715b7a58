package Lab::Vm;

# Start, stop and what follows, in PVE's order of steps. "Flag regime" and "legacy" are the
# two ways in which PVE decides who runs post-stop (qemu-server 9.1.13 and later, or older).

use strict;
use warnings;

use Exporter 'import';
our @EXPORT_OK = qw(vm_start vm_stop vm_cleanup vm_resume vm_stop_incoming);

use Lab::Conf qw(load_config set_option apply_pending config_path run_file pid_of slurp spew);
use Lab::Hook 'exec_hookscript';
use Lab::Hugepages 'with_hugepages';
use Lab::Kvm qw(kvm_command start_kvm);
use Lab::Pci qw(choose_devices reserve_devices free_devices prepare_devices);
use Lab::Util qw(wait_for lock_config qmp wait_for_unit_removed);

my $legacy_marker = '/run/qemu-server/force-legacy-cleanup';

sub legacy { return -e $legacy_marker; }

sub check_lock {
    my ($conf, $options) = @_;
    die "VM is locked ($conf->{lock})\n" if $conf->{lock} && !$options->{skiplock};
}

# options: paused, incoming (URI), migratedfrom, remote (from another cluster), skiplock, timeout, no_post_start
sub vm_start {
    my ($vmid, $options) = @_;
    lock_config($vmid, 10, sub {
        my $conf = load_config($vmid, $options->{migratedfrom});
        if (($conf->{lock} // '') eq 'backup' && pid_of($vmid)) {
            qmp($vmid, 'cont');
            return;
        }
        check_lock($conf, { skiplock => $options->{skiplock} || $options->{migratedfrom} });
        die "VM $vmid already running\n" if pid_of($vmid);
        vm_start_nolock($vmid, $conf, $options);
    });
}

sub vm_start_nolock {
    my ($vmid, $conf, $options) = @_;
    if (!$options->{migratedfrom}) {
        apply_pending($vmid);
        $conf = load_config($vmid);
    }
    $ENV{PVE_MIGRATED_FROM} = $options->{migratedfrom} // '' if !$options->{remote};
    exec_hookscript($conf, $vmid, 'pre-start', 1);
    my $chosen = choose_devices($vmid, $conf);
    my @command = kvm_command($vmid, $chosen, $options);
    prepare_devices($chosen);
    system("systemctl reset-failed $vmid.scope > /dev/null 2>&1");
    system("systemctl stop $vmid.scope > /dev/null 2>&1");
    wait_for_unit_removed("$vmid.scope");
    with_hugepages($conf, sub { start_kvm($vmid, $conf, \@command, $options->{timeout} // 120) });
    qmp($vmid, 'query-version');
    reserve_devices($vmid, $chosen, 'pid:' . pid_of($vmid));
    spew(run_file($vmid, 'cleanup'), time() . "\n");
    qmp($vmid, 'migrate-incoming', qq({"uri":"$options->{incoming}"})) if $options->{incoming};
    exec_hookscript($conf, $vmid, 'post-start') if !$options->{no_post_start};
}

sub vm_resume {
    my ($vmid) = @_;
    lock_config($vmid, 10, sub { qmp($vmid, 'cont') });
}

# Sends what the kind of stop asks for and waits; with force: SIGTERM, 10 s, SIGKILL.
sub end_qemu {
    my ($vmid, $pid, $options) = @_;
    my $gone = sub { (pid_of($vmid) // 0) != $pid };
    my $word = $options->{shutdown} ? 'powerdown' : 'quit';
    eval { qmp($vmid, $options->{shutdown} ? 'system_powerdown' : 'quit') };
    warn $@ if $@;
    return if wait_for($options->{timeout} // 60, $gone);
    die "VM quit/powerdown failed - got timeout\n" if !$options->{force};
    warn "VM still running - terminating now with SIGTERM\n";
    kill('TERM', $pid);
    return if wait_for(10, $gone);
    warn "VM still running - terminating now with SIGKILL\n";
    kill('KILL', $pid);
    wait_for(10, $gone);
}

# options: shutdown, timeout, force, skiplock, nocheck (migration source), keep_pending
sub vm_stop {
    my ($vmid, $options) = @_;
    lock_config($vmid, $options->{lock_timeout} // 10, sub { stop_nolock($vmid, $options) });
}

sub stop_nolock {
    my ($vmid, $options) = @_;
    my $pid = pid_of($vmid) or return;
    my $conf;
    if (!$options->{nocheck}) {
        $conf = load_config($vmid);
        check_lock($conf, $options);
        exec_hookscript($conf, $vmid, 'pre-stop');
    }
    end_qemu($vmid, $pid, $options);
    stop_cleanup($vmid, $conf, { skip_hook => $options->{nocheck}, pending => !$options->{nocheck} });
}

# What PVE does when QEMU is gone; only the first caller after a start does anything (flag regime).
sub stop_cleanup {
    my ($vmid, $conf, $options) = @_;
    my $flag = run_file($vmid, 'cleanup');
    return if !legacy() && !-e $flag;
    unlink(run_file($vmid, $_)) for qw(mon qmp pid vnc qga);
    free_devices($vmid);
    if ($options->{pending}) {
        apply_pending($vmid);
        $conf = load_config($vmid);
    }
    exec_hookscript($conf, $vmid, 'post-stop') if !$options->{skip_hook} && !legacy();
    unlink($flag);
}

# "qm stop --migratedfrom": SIGTERM that nobody waits for, no lock, the source node's config.
sub vm_stop_incoming {
    my ($vmid, $from) = @_;
    my $pid = pid_of($vmid) or return;
    kill('TERM', $pid);
    stop_cleanup($vmid, load_config($vmid, $from), {});
}

sub cleanup_nolock {
    my ($vmid, $clean) = @_;
    my $conf = load_config($vmid);
    if (pid_of($vmid)) {
        die "vm still running\n" if legacy();
        wait_for(30, sub { !pid_of($vmid) })
            or die "aborting cleanup, VM is still running after 30 seconds\n";
    }
    my $lock = $conf->{lock} // '';
    return if $lock eq 'rollback' || ($lock eq 'backup' && $clean);
    stop_cleanup($vmid, $conf, {});
    exec_hookscript($conf, $vmid, 'post-stop') if legacy();
}

# "qm cleanup", which qmeventd starts when a VM's monitor connection ends.
sub vm_cleanup {
    my ($vmid, $clean, $guest) = @_;
    return if !-e config_path($vmid);
    lock_config($vmid, 60, sub {
        cleanup_nolock($vmid, $clean);
        return if !unlink(run_file($vmid, 'reboot'));
        vm_start_nolock($vmid, load_config($vmid), {});
    });
}

1;
