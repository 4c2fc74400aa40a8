# Perl: regular expressions, hashes, forks, pipes, sockets, sorting, packing.
perl -e '
    use strict; use warnings; use POSIX ":sys_wait_h"; use Socket; use IO::Handle;
    my %count; open my $f, "<", "/etc/passwd" or die; while (<$f>) { $count{(split /:/)[6]}++ }
    print map { my $k = $_; chomp $k; "$k $count{$_}\n" } sort keys %count;
    my $text = "the quick brown fox" x 1000; my $n = () = $text =~ /\b\w*o\w*\b/g; print "$n\n";
    pipe(my $r, my $w); my $pid = fork; if (!$pid) { close $r; print $w "from child\n"; exit 3 }
    close $w; print <$r>; waitpid $pid, 0; print $? >> 8, "\n";
    socketpair(my $x, my $y, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; $x->autoflush; print $x "over a socket\n"; print scalar <$y>;
    print `echo backticks`; print join(",", unpack("N n C a3", pack("N n C a3", 1, 2, 3, "abc"))), "\n";
    local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select undef, undef, undef, 10 }; print $@;
    my @sorted = sort { $a <=> $b } map { $_ * 7919 % 10007 } 1 .. 10000; print "@sorted[0..4]\n";
    print join(" ", grep { -d "/$_" } qw(etc usr nothing)), "\n"; mkdir "/tmp/p" or die; rmdir "/tmp/p" or die;
'
