package Lab::Pci;

# PVE's prepare step for passed-through devices: bind to vfio-pci by new_id, then reset.

use strict;
use warnings;

use Exporter 'import';
our @EXPORT_OK = qw(prepare_devices);

use Lab::Conf 'slurp';

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
    for my $key (sort grep { /^hostpci\d+$/ } keys %$conf) {
        my ($id) = $conf->{$key} =~ /^(?:host=)?([0-9a-f:.]+)/;
        prepare_device($id =~ /^[0-9a-f]{4}:/ ? $id : "0000:$id");
    }
}

1;
