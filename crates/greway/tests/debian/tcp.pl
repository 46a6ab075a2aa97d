#!/usr/bin/perl
# A bulk by TCP, and whether it arrived as it was sent.
#   tcp.pl serve PORT                 one connection: answers with what came
#   tcp.pl send HOST PORT BYTES       sends so many; prints "intact BYTES SUM", or fails
#   tcp.pl send HOST PORT FILE        sends a little every 10 ms until FILE exists
use strict;
use warnings;
use Socket;

my ($verb, @arguments) = @ARGV;
# A host that is gone for a moment is no reason to give up, one that stays away is.
alarm 600;

sub seen {
    my ($total, $sum, $data) = @_;
    return ($total + length $data, (unpack('%32C*', $data) + $sum * 31) % 65521);
}

socket(my $socket, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
if ($verb eq 'serve') {
    setsockopt($socket, SOL_SOCKET, SO_REUSEADDR, 1);
    bind($socket, sockaddr_in($arguments[0], INADDR_ANY)) or die "bind: $!\n";
    listen($socket, 1) or die "listen: $!\n";
    accept(my $peer, $socket) or die "accept: $!\n";
    my ($total, $sum, $waiting) = (0, 0, '');
    while (sysread($peer, my $data, 65536)) {
        # In the pieces that the sender made of it: the sum depends on them.
        $waiting .= $data;
        ($total, $sum) = seen($total, $sum, substr($waiting, 0, 1000, '')) while length $waiting >= 1000;
    }
    ($total, $sum) = seen($total, $sum, $waiting) if length $waiting;
    syswrite($peer, "$total $sum\n");
    exit 0;
}
my ($host, $port, $until) = @arguments;
# The server may be a moment later than we are.
my $connected;
for (1 .. 100) {
    last if $connected = connect($socket, sockaddr_in($port, inet_aton($host)));
    select(undef, undef, undef, 0.1);
    close $socket;
    socket($socket, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
}
die "connect: $!\n" unless $connected;
my ($total, $sum) = (0, 0);
while ($until =~ /^\d+$/ ? $total < $until : !-e $until) {
    my $data = pack('N*', map { $total + $_ * 4 } 0 .. 249);
    for (my $sent = 0; $sent < length $data;) {
        my $count = syswrite($socket, $data, length($data) - $sent, $sent) // die "send: $!\n";
        $sent += $count;
    }
    ($total, $sum) = seen($total, $sum, $data);
    select(undef, undef, undef, 0.01) if $until !~ /^\d+$/;
}
shutdown($socket, 1);
sysread($socket, my $answer, 100) or die "no answer: $!\n";
die "sent $total $sum, arrived: $answer" unless $answer eq "$total $sum\n";
print "intact $answer";
