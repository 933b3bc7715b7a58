package Lab::Pci;

# Passed-through devices as PVE treats them: mappings are resolved and functions reserved after pre-start, then
# bound to vfio-pci by new_id and reset; the reservation ends before post-stop.

use strict;
use warnings;

use Exporter 'import';
use Fcntl qw(:flock);
our @EXPORT_OK = qw(choose_devices reserve_devices free_devices prepare_devices);

use Lab::Conf qw(slurp spew);

my $reservations = '/run/qemu-server/pci-id-reservations';

sub keys_of { my ($conf) = @_; return sort grep { /^hostpci\d+$/ } keys %$conf; }

# The function of an entry without a mapping.
sub id_of {
    my ($entry) = @_;
    my ($id) = $entry =~ /^(?:host=)?([0-9a-f:.]+)/ or return;
    return $id =~ /^[0-9a-f]{4}:/ ? $id : "0000:$id";
}

# What this node has for a mapping, in the order of the file.
sub alternatives {
    my ($name) = @_;
    my ($section) = slurp('/etc/pve/mapping/pci.cfg') =~ /^\Q$name\E\n((?:\s+\S.*\n)*)/m or die "no mapping '$name'\n";
    my @maps = grep { /\bnode=pve1\b/ } $section =~ /^\s+map (.*)$/mg;
    return map { /\bpath=([^,;]+)/ ? $1 : () } @maps;
}

sub reserved { return -e $reservations ? grep { /\S/ } split(/\n/, slurp($reservations)) : (); }

# Puts the lines of a VM in place of those that it has.
sub set_reserved {
    my ($vmid, @lines) = @_;
    open(my $lock, '>>', "$reservations.lock") or die "$reservations.lock: $!\n";
    flock($lock, LOCK_EX);
    my @all = ((grep { (split(' '))[1] != $vmid } reserved()), @lines);
    return @all ? spew($reservations, join("\n", @all) . "\n") : unlink($reservations);
}

# Returns the configuration with functions in place of mappings: each the first one that nobody else has.
sub choose_devices {
    my ($vmid, $conf) = @_;
    my %taken = map { (split(' '))[1] == $vmid ? () : ((split(' '))[0] => 1) } reserved();
    my %chosen = %$conf;
    for my $key (keys_of($conf)) {
        my ($name) = $conf->{$key} =~ /^mapping=([^,]+)/ or next;
        my ($id) = grep { !$taken{$_} } alternatives($name) or die "no free device for '$name'\n";
        $taken{$id} = 1;
        $chosen{$key} = $id;
    }
    reserve_devices($vmid, \%chosen, 'time:' . (time() + 125));
    return \%chosen;
}

# until: "time:..." before QEMU runs, then "pid:...".
sub reserve_devices {
    my ($vmid, $conf, $until) = @_;
    set_reserved($vmid, map { id_of($conf->{$_}) . " $vmid $until" } keys_of($conf));
}

sub free_devices { my ($vmid) = @_; set_reserved($vmid); }

# One write without a newline; an error is only a warning, as in PVE.
sub file_write {
    my ($path, $text) = @_;
    open(my $fh, '>', $path) or return;
    syswrite($fh, $text) // warn "error writing '$text' to '$path': $!\n";
}

sub prepare_device {
    my ($id) = @_;
    my $device = "/sys/bus/pci/devices/$id";
    die "no PCI device found for '$id'\n" if !-d $device;
    my $driver = readlink("$device/driver") // '';
    if ($driver !~ m,/vfio-pci$,) {
        system('modprobe', 'vfio-pci') if !-d '/sys/bus/pci/drivers/vfio-pci';
        my ($vendor, $model) = map { slurp("$device/$_") =~ /0x([0-9a-f]{4})/ } qw(vendor device);
        file_write('/sys/bus/pci/drivers/vfio-pci/new_id', "$vendor $model");
        file_write("$device/driver/unbind", $id) if (readlink("$device/driver") // '') !~ m,/vfio-pci$,;
        file_write('/sys/bus/pci/drivers/vfio-pci/bind', $id) if !-d "$device/driver";
    }
    file_write("$device/reset", '1') if -e "$device/reset";
}

sub prepare_devices {
    my ($conf) = @_;
    prepare_device(id_of($conf->{$_})) for keys_of($conf);
}

1;
