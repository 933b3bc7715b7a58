package Lab::Hugepages;

# Hugepages as PVE takes them: asked for once, node by node, right before QEMU starts; afterwards the
# pools are set to what the kernel's command line says, which is none here.

use strict;
use warnings;

use Exporter 'import';
our @EXPORT_OK = qw(with_hugepages memory_arguments);

use Lab::Conf qw(slurp spew);
use Lab::Util 'lock_file';

my $nodes = '/sys/devices/system/node';
my $mount = '/run/hugepages/kvm/2048kB';
my $kib = 2048;

sub is_wished { my ($conf) = @_; return $conf->{hugepages} && $conf->{numa}; }

# Guest nodes: memory in MiB and the node of the host.
sub guest_nodes {
    my ($conf) = @_;
    my @custom = map { $conf->{"numa$_"} } grep { $conf->{"numa$_"} } 0 .. 7;
    return map { [/memory=(\d+)/ ? $1 : 0, /hostnodes=(\d)/ ? $1 : 0] } @custom if @custom;
    my $sockets = $conf->{sockets} || 1;
    return map { [$conf->{memory} / $sockets, $_] } 0 .. $sockets - 1;
}

sub memory_arguments {
    my ($conf) = @_;
    return () if !is_wished($conf);
    my ($id, $cpu, @arguments) = (0, 0);
    my @all = guest_nodes($conf);
    my $cores = ($conf->{sockets} || 1) * ($conf->{cores} || 1) / @all;
    for my $node (@all) {
        my $bound = $conf->{"numa$id"} ? ",host-nodes=$node->[1],policy=bind" : '';
        push @arguments, '-object', "memory-backend-file,id=ram-node$id,size=$node->[0]M,mem-path=$mount,"
            . "share=on,prealloc=yes$bound", '-numa', "node,nodeid=$id,cpus=$cpu-" . ($cpu + $cores - 1)
            . ",memdev=ram-node$id";
        $cpu += $cores;
        $id++;
    }
    return @arguments;
}

sub pool { my ($node, $file) = @_; return "$nodes/node$node/hugepages/hugepages-${kib}kB/$file"; }

sub number { my ($path) = @_; return slurp($path) + 0; }

sub reset_pools { my ($before) = @_; spew(pool($_, 'nr_hugepages'), $before->{$_}) for keys %$before; }

sub allocate {
    my ($needed, $before) = @_;
    for my $node (sort keys %$needed) {
        my $missing = $needed->{$node} - number(pool($node, 'free_hugepages'));
        next if $missing <= 0;
        spew(pool($node, 'nr_hugepages'), number(pool($node, 'nr_hugepages')) + $missing);
        next if number(pool($node, 'free_hugepages')) >= $needed->{$node};
        reset_pools($before);
        die "start failed: hugepage allocation failed\n";
    }
}

# Calls $start with the pages ready; a start that fails resets the pools.
sub with_hugepages {
    my ($conf, $start) = @_;
    return $start->() if !is_wished($conf);
    if (!-d $mount) {
        system("mkdir -p $mount && mount -t hugetlbfs -o pagesize=${kib}k hugetlbfs $mount") == 0 or die "hugepage mount error\n";
    }
    lock_file('/var/lock/hugepages.lck', 60, sub {
        my %needed;
        $needed{ $_->[1] } += $_->[0] * 1024 / $kib for guest_nodes($conf);
        my %before = map { /node(\d+)$/ ? ($1 => number(pool($1, 'nr_hugepages'))) : () } glob("$nodes/node[0-9]*");
        allocate(\%needed, \%before);
        eval { $start->() };
        if (my $error = $@) {
            reset_pools(\%before);
            die $error;
        }
        spew("/sys/kernel/mm/hugepages/hugepages-${kib}kB/nr_hugepages", 0) if !$conf->{keephugepages};
    });
}

1;
