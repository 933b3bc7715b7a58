package Lab::Conf;

# A VM's config file and the paths around it, as PVE lays them out.

use strict;
use warnings;

use Exporter 'import';
our @EXPORT_OK = qw(node config_path load_config set_option apply_pending move_config run_file pid_of slurp spew);

my $run = '/var/run/qemu-server';

sub slurp {
    my ($path) = @_;
    open(my $fh, '<', $path) or return undef;
    local $/;
    return scalar(<$fh>) // '';
}

sub spew {
    my ($path, $text) = @_;
    open(my $fh, '>', $path) or die "unable to write '$path' - $!\n";
    print $fh $text;
    close($fh) or die "unable to write '$path' - $!\n";
}

sub node {
    my $name = slurp('/proc/sys/kernel/hostname');
    $name =~ s/[.\n].*//s;
    return $name;
}

sub config_path {
    my ($vmid, $node) = @_;
    $node //= node();
    return "/etc/pve/nodes/$node/qemu-server/$vmid.conf";
}

sub run_file { return "$run/$_[0].$_[1]"; }

# Options before the first section, and those of [PENDING].
sub load_config {
    my ($vmid, $node) = @_;
    my $text = slurp(config_path($vmid, $node));
    die "Configuration file '" . config_path($vmid, $node) . "' does not exist\n" if !defined($text);
    my ($conf, $pending, $section) = ({}, {}, '');
    for my $line (split(/\n/, $text)) {
        if ($line =~ /^\[(.+)\]\s*$/) {
            $section = lc($1);
        } elsif ($line =~ /^([a-z][a-z_\-]*\d*):\s*(.+?)\s*$/) {
            $conf->{$1} = $2 if $section eq '';
            $pending->{$1} = $2 if $section eq 'pending';
        }
    }
    return wantarray ? ($conf, $pending) : $conf;
}

# Sets (or with undef removes) one option of the main section.
sub set_option {
    my ($vmid, $key, $value) = @_;
    my $path = config_path($vmid);
    my ($main, $sections) = split(/(?=^\[)/m, slurp($path), 2);
    $main = join('', grep { !/^\Q$key\E:/ } split(/(?<=\n)/, $main // ''));
    $main =~ s/\n+\z/\n/;
    $main .= "$key: $value\n" if defined($value);
    spew("$path.tmp", $main . (defined($sections) ? "\n$sections" : ''));
    rename("$path.tmp", $path) or die "rename: $!\n";
}

sub apply_pending {
    my ($vmid) = @_;
    my (undef, $pending) = load_config($vmid);
    return if !%$pending;
    for my $key (sort keys %$pending) {
        if ($key eq 'delete') {
            set_option($vmid, $_, undef) for split(/[,;\s]+/, $pending->{delete} =~ s/!//gr);
        } else {
            set_option($vmid, $key, $pending->{$key});
        }
    }
    my $path = config_path($vmid);
    my $text = slurp($path);
    $text =~ s/\n*^\[PENDING\]\n.*?(?=^\[|\z)/\n/ims;
    spew($path, $text);
}

sub move_config {
    my ($vmid, $from, $to) = @_;
    rename(config_path($vmid, $from), config_path($vmid, $to)) or die "unable to move config - $!\n";
}

# PVE's running test: the pid of the pidfile, if it is this VM's QEMU.
sub pid_of {
    my ($vmid) = @_;
    my $pid = slurp(run_file($vmid, 'pid')) // return undef;
    return undef if $pid !~ /^(\d+)$/m;
    $pid = $1;
    my @argv = split(/\0/, slurp("/proc/$pid/cmdline") // return undef);
    return undef if !@argv || $argv[0] !~ m,(kvm$|(^|/)qemu-[^/]+$),;
    my ($at) = grep { $argv[$_] =~ /^--?pidfile$/ } 0 .. $#argv;
    return undef if !defined($at) || $argv[$at + 1] ne run_file($vmid, 'pid');
    return undef if (slurp("/proc/$pid/stat") // '') =~ /\) Z /;
    return $pid;
}

1;
