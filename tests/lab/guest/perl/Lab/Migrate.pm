package Lab::Migrate;

# An incoming live migration: a second QEMU plays the VM on the other node.

use strict;
use warnings;

use Exporter 'import';
our @EXPORT_OK = qw(migrate_in remote_migrate_in);

use Lab::Conf qw(node load_config set_option move_config run_file);
use Lab::Kvm 'kvm_command';
use Lab::Util qw(qmp wait_for lock_config);
use Lab::Vm qw(vm_start vm_resume);

my $other = 'pve2';

# The source's QEMU: same machine, its own name for every socket and pidfile, outside qemu.slice.
sub start_source {
    my ($vmid, $conf) = @_;
    my @command = kvm_command($vmid, { %$conf, affinity => undef }, {});
    my $as = "source-$vmid";
    s,/var/run/qemu-server/\Q$vmid\E\.,/var/run/qemu-server/$as., for @command;
    s,/var/run/qmeventd\.sock,/var/run/nobody.sock, for @command;
    system(@command) == 0 or die "source did not start\n";
    return $as;
}

sub transfer {
    my ($vmid, $conf, $options) = @_;
    my $uri = 'unix:' . run_file($vmid, 'migrate');
    my $source = start_source($vmid, $conf);
    vm_start($vmid, { %$options, incoming => $uri });
    qmp($source, 'migrate', qq({"uri":"$uri"}));
    wait_for(60, sub { qmp($source, 'query-migrate') =~ /"status": "completed"/ })
        or die "migration did not complete\n";
    qmp($source, 'quit');
}

# The config is on the other node during the start and comes here when the memory has arrived.
sub migrate_in {
    my ($vmid) = @_;
    my $conf = load_config($vmid, $other);
    transfer($vmid, $conf, { migratedfrom => $other });
    move_config($vmid, $other, node());
    set_option($vmid, 'lock', undef);
    vm_resume($vmid);
}

# From another cluster: the config is here and locked before the start, which nothing else gives away.
sub remote_migrate_in {
    my ($vmid) = @_;
    set_option($vmid, 'lock', 'migrate');
    my $conf = load_config($vmid);
    transfer($vmid, $conf, { remote => 1, skiplock => 1 });
    vm_resume($vmid);
    set_option($vmid, 'lock', undef);
}

1;
