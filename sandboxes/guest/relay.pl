# Passes connections to the box's loopback on to its egress socket, in both directions and each end by itself.
#
#   perl relay.pl LISTENER SOCKET
#
# LISTENER is the number of a listening socket. Started by enter.pl; what decides is behind SOCKET, outside of the box.
use strict;

my ($EAGAIN, $EINTR, $EMFILE) = (11, 4, 24);
my ($MOST_CONNECTIONS, $CHUNK) = (64, 65536);

# Everything in one process: a connection costs two buffers, not a process.
my (%peer, %out, %ended, %shut);

main(@ARGV);

sub main {
    my ($number, $socket) = @_;
    open(my $listener, '+<&=', $number) or exit(1);
    setpgrp(0, 0);                                                 # not meant by who signals the command's group
    chdir('/');
    $SIG{PIPE} = 'IGNORE';
    open(STDIN, '<', '/dev/null');
    open(STDOUT, '>', '/dev/null');                                # or the gateway would never see its end
    open(STDERR, '>', '/dev/null');
    serve($listener, $socket);
}

sub serve {
    my ($listener, $socket) = @_;
    unblock($listener);
    my %handle;
    while (1) {
        my ($reads, $writes) = ('', '');
        vec($reads, fileno($listener), 1) = 1 if keys(%handle) < 2 * $MOST_CONNECTIONS;
        for my $fd (keys %handle) {
            vec($reads, $fd, 1) = 1 if !$ended{$fd} && length($out{$peer{$fd}}) < $CHUNK;
            vec($writes, $fd, 1) = 1 if length($out{$fd});
        }
        next if select($reads, $writes, undef, undef) <= 0;
        welcome($listener, $socket, \%handle) if vec($reads, fileno($listener), 1);
        for my $fd (keys %handle) {
            next if !$handle{$fd};                                 # went with its peer
            my $lost = vec($reads, $fd, 1) && !take($handle{$fd}, $fd);
            $lost ||= vec($writes, $fd, 1) && !give($handle{$fd}, $fd);
            $lost ||= !settle(\%handle, $fd);
            part(\%handle, $fd) if $lost;
        }
    }
}

sub unblock { my $flags = fcntl($_[0], 3, 0); fcntl($_[0], 4, $flags | 2048) }

sub passing { my $why = $! + 0; return $why == $EAGAIN || $why == $EINTR }

sub welcome {
    my ($listener, $socket, $handle) = @_;
    accept(my $near, $listener) or return full($handle);
    socket(my $far, 1, 1, 0) or return full($handle);
    unblock($_) for $near, $far;
    connect($far, pack('Sa*x', 1, $socket)) or return;             # refused: both close as they go out of scope
    my @pair = (fileno($near), fileno($far));
    @$handle{@pair} = ($near, $far);
    @peer{@pair} = reverse @pair;
    @out{@pair} = ('', '');
    delete @ended{@pair};
    delete @shut{@pair};
}

# No file is left for more: wait for one to end, or the listener would have us run in circles.
sub full {
    my ($handle) = @_;
    $MOST_CONNECTIONS = int(keys(%$handle) / 2) || 1 if $! + 0 == $EMFILE;
}

sub take {
    my ($from, $fd) = @_;
    my $count = sysread($from, my $data, $CHUNK);
    return passing() if !defined $count;
    $ended{$fd} = 1 if $count == 0;
    $out{$peer{$fd}} .= $data;
    return 1;
}

sub give {
    my ($to, $fd) = @_;
    my $count = syswrite($to, $out{$fd});
    return passing() if !defined $count;
    substr($out{$fd}, 0, $count, '');
    return 1;
}

# Pass an end on once everything before it is written. False when nothing is left to do for the two.
sub settle {
    my ($handle, $fd) = @_;
    my $peer = $peer{$fd};
    for my $way ([$fd, $peer], [$peer, $fd]) {                     # writing to one may have been what the other waits for
        my ($from, $to) = @$way;
        next if !$ended{$from} || $shut{$to} || length($out{$to});
        shutdown($$handle{$to}, 1);
        $shut{$to} = 1;
    }
    return !($shut{$fd} && $shut{$peer});
}

sub part {
    my ($handle, $fd) = @_;
    my $peer = $peer{$fd};
    delete @$_{$fd, $peer} for $handle, \%peer, \%out, \%ended, \%shut;
}
