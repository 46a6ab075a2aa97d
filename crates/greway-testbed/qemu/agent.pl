#!/usr/bin/perl
# The hands of a test inside a machine: runs what comes in over a virtio-serial port, one command after another.
# perl, since every Debian has it and a shell cannot take bytes as they are.
#
#   from the test                        to the test
#   RUN LENGTH\n and a shell script      OUT LENGTH\n and what it printed, as often as needed; DONE STATUS\n
#   PUT LENGTH MODE PATH\n and a file    DONE 0\n
#                                        HELLO BOOT-ID\n once, first
use strict;
use warnings;
use Fcntl;
use POSIX ();

my ($port) = @ARGV;
open(my $test, '+<:raw', $port) or die "$port: $!";

sub tell_test {
    my ($data) = @_;
    for (my $sent = 0; $sent < length $data;) {
        my $count = syswrite($test, $data, length($data) - $sent, $sent);
        die "$port: $!" unless defined $count;
        $sent += $count;
    }
}

my $waiting = '';

# Told to end at shutdown, it says first what became of the command that it is at: the one that asked for the shutdown.
my $ending = 0;
$SIG{TERM} = sub { $ending = 1 };

sub receive {
    for (my $ready = 0; !$ready;) {
        exit 0 if $ending;
        vec(my $wanted = '', fileno $test, 1) = 1;
        $ready = select($wanted, undef, undef, 1) > 0;
    }
    my $count = sysread($test, $waiting, 65536, length $waiting);
    die "$port: $!" unless defined $count;
    exit 0 if $count == 0;
}

sub line {
    receive() while index($waiting, "\n") < 0;
    $waiting =~ s/^([^\n]*)\n//;
    return $1;
}

sub bytes {
    my ($wanted) = @_;
    receive() while length $waiting < $wanted;
    return substr($waiting, 0, $wanted, '');
}

sub put {
    my ($mode, $path, $data) = @_;
    unlink $path;
    sysopen(my $file, $path, O_WRONLY | O_CREAT | O_EXCL, oct $mode) or return "$path: $!\n";
    chmod oct $mode, $file;
    binmode $file;
    print {$file} $data or return "$path: $!\n";
    close $file or return "$path: $!\n";
    return '';
}

# Ends with the script itself: what it left in the background may keep its end of the pipe.
sub run {
    my ($script) = @_;
    pipe(my $output, my $end) or die $!;
    my $child = fork() // die $!;
    if (!$child) {
        POSIX::setsid();
        open(STDIN, '<', '/dev/null');
        open(STDOUT, '>&', $end);
        open(STDERR, '>&', $end);
        close $_ for $output, $test;
        exec '/bin/sh', '-ec', $script or POSIX::_exit(127);
    }
    close $end;
    fcntl($output, F_SETFL, O_NONBLOCK);
    my ($status, $open) = (undef, 1);
    # Wakes up the select below.
    local $SIG{CHLD} = sub { };
    while (1) {
        if ($open) {
            my $count = sysread($output, my $data, 32768);
            if ($count) { tell_test("OUT $count\n$data"); next }
            $open = 0 if defined $count;
        }
        last if defined $status;
        $status = $? if waitpid($child, POSIX::WNOHANG()) == $child;
        # Once more round: what it wrote last is in the pipe.
        next if defined $status;
        vec(my $ready = '', fileno $output, 1) = $open;
        select($ready, undef, undef, 0.2);
    }
    my $signal = $status & 127;
    tell_test('DONE ' . ($signal ? 128 + $signal : $status >> 8) . "\n");
}

open(my $id, '<', '/proc/sys/kernel/random/boot_id') or die $!;
tell_test('HELLO ' . <$id>);
close $id;
chdir '/root';
while (1) {
    my ($verb, $length, @rest) = split / /, line(), 4;
    my $data = bytes($length);
    if ($verb eq 'RUN') {
        run($data);
    } elsif ($verb eq 'PUT') {
        my $error = put(@rest, $data);
        tell_test('OUT ' . length($error) . "\n$error") if $error;
        tell_test('DONE ' . ($error ? 1 : 0) . "\n");
    } else {
        die "\"$verb\" is no command";
    }
}
