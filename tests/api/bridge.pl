# Relays standard input and output to the unix socket named, until either side ends.
use strict; use warnings; use Socket;
socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die $!;
connect($s, sockaddr_un($ARGV[0])) or die "$ARGV[0]: $!";
my ($fds, $data) = ('', '');
vec($fds, 0, 1) = 1; vec($fds, fileno($s), 1) = 1;
while (select(my $ready = $fds, undef, undef, undef) > 0) {
    for ([\*STDIN, $s], [$s, \*STDOUT]) {
        my ($from, $to) = @$_;
        next unless vec($ready, fileno($from), 1);
        exit 0 unless sysread($from, $data, 65536);
        for (my $sent = 0; $sent < length $data;) { $sent += syswrite($to, $data, length($data) - $sent, $sent) // exit 0 }
    }
}
