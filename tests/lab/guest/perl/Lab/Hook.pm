package Lab::Hook;

# Runs a hookscript by PVE's contract: argv, environment, pipes, messages.

use strict;
use warnings;

use Exporter 'import';
our @EXPORT_OK = qw(exec_hookscript check_hookscript run_command);

my $snippets = '/var/lib/vz/snippets';

sub relay {
    my ($from, $to) = @_;
    my $count = sysread($from, my $buffer, 65536);
    return 0 if !$count;
    syswrite($to, $buffer);
    return 1;
}

# Starts the command with three pipes; exec's own errno comes back through a fourth one.
sub spawn {
    my ($command, $out, $err) = @_;
    pipe(my $in_r, my $in_w) or die "pipe: $!\n";
    pipe($out->[0], $out->[1]) or die "pipe: $!\n";
    pipe($err->[0], $err->[1]) or die "pipe: $!\n";
    pipe(my $exec_r, my $exec_w) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        open(STDIN, '<&', $in_r);
        open(STDOUT, '>&', $out->[1]);
        open(STDERR, '>&', $err->[1]);
        no warnings 'exec';
        exec { $command->[0] } @$command;
        syswrite($exec_w, "$!");
        kill('KILL', $$);
    }
    close($_) for ($in_r, $in_w, $out->[1], $err->[1], $exec_w);
    my $failed = sysread($exec_r, my $errno, 256);
    return ($pid, $failed ? $errno : undef);
}

# Reads both pipes until EOF, whoever holds them, and only then waits for the process.
sub run_command {
    my ($command) = @_;
    my ($out, $err) = ([], []);
    my ($pid, $errno) = spawn($command, $out, $err);
    my %open = (fileno($out->[0]) => [$out->[0], \*STDOUT], fileno($err->[0]) => [$err->[0], \*STDERR]);
    while (%open) {
        my $bits = '';
        vec($bits, $_, 1) = 1 for keys %open;
        next if select($bits, undef, undef, undef) < 0;
        for my $fd (keys %open) {
            next if !vec($bits, $fd, 1);
            delete $open{$fd} if !relay(@{ $open{$fd} });
        }
    }
    waitpid($pid, 0);
    my $text = "command '" . join(' ', @$command) . "' failed";
    die "$text: open3: exec of $command->[0] failed: $errno\n" if defined($errno);
    die "$text: got signal " . ($? & 127) . "\n" if $? & 127;
    die "$text: exit code " . ($? >> 8) . "\n" if $?;
}

sub check_hookscript {
    my ($volid) = @_;
    my ($name) = $volid =~ m,^local:snippets/([^/]+)$,;
    die "'$volid' is not in the snippets directory\n" if !defined($name);
    die "script '$volid' does not exist\n" if !-f "$snippets/$name";
    die "script '$volid' is not executable\n" if !-x "$snippets/$name";
    return "$snippets/$name";
}

sub exec_hookscript {
    my ($conf, $vmid, $phase, $stop_on_error) = @_;
    my $volid = $conf->{hookscript} // return;
    eval {
        my $path = check_hookscript($volid);
        local $ENV{LC_ALL} = 'C';
        local $ENV{LVM_SUPPRESS_FD_WARNINGS} = '1';
        run_command([$path, $vmid, $phase]);
    };
    return if !$@;
    my $message = "hookscript error for $vmid on $phase: $@";
    die $message if $stop_on_error;
    warn $message;
}

1;
