# The last step before the program, inside the box: Landlock as the second wall, and the relay to the egress socket.
#
#   perl enter.pl [landlock] [list PATH | run PATH | read PATH | write PATH]... [relay PORT SOCKET] -- COMMAND [ARGUMENT]...
#
# With `landlock` nothing is accessible but what a rule names: `run` is read and execute, `write` is read and write but
# never execute. A kernel without Landlock is no error, one that has it and fails is. The relay listens before the
# command starts, so that no connection is refused, and runs beside it (relay.pl). It is no child of the command, and is
# outside its Landlock domain, so that the command can neither trace nor signal it (ABI 6). Perl because it is up in a
# millisecond. No modules: each would cost another.
use strict;

my ($EXECUTE, $WRITE_FILE, $READ_FILE, $READ_DIR, $REMOVE) = (1, 2, 4, 8, 16 | 32);
my ($MAKE, $REFER, $TRUNCATE, $IOCTL_DEV) = (1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12, 1 << 13, 1 << 14, 1 << 15);
my $DEVICES = 1 << 6 | 1 << 11;                                    # making them: nobody may
my $ON_FILES = $EXECUTE | $WRITE_FILE | $READ_FILE | $TRUNCATE | $IOCTL_DEV;
my %RIGHTS = (
    list  => $READ_DIR,
    run   => $EXECUTE | $READ_FILE | $READ_DIR,
    read  => $READ_FILE | $READ_DIR,
    write => $READ_FILE | $READ_DIR | $WRITE_FILE | $REMOVE | $MAKE | $REFER | $TRUNCATE | $IOCTL_DEV,
);
my ($O_PATH, $ENOENT, $BACKLOG) = (0x200000, 2, 64);

main(@ARGV);

sub main {
    my ($landlock, @rules, @relay) = (0);
    while (defined(my $word = shift)) {
        last if $word eq '--';
        if    ($word eq 'landlock')    { $landlock = 1 }
        elsif (exists $RIGHTS{$word})  { push @rules, [$word, shift] }
        elsif ($word eq 'relay')       { @relay = (shift, shift) }
        else                           { fail("what is '$word'?") }
    }
    relay(@relay) if @relay;
    restrict(@rules) if $landlock;
    exec { $_[0] } @_ or fail("cannot run '$_[0]': $!", 127);
}

sub fail {
    my ($what, $status) = @_;
    print STDERR "interlock: $what\n";
    exit($status || 126);
}

# --- Landlock (its numbers are the same on all architectures)

sub restrict {
    my $abi = syscall(444, 0, 0, 1);
    return if $abi < 1;
    my $known = $EXECUTE | $WRITE_FILE | $READ_FILE | $READ_DIR | $REMOVE | $MAKE | $DEVICES;
    $known |= $REFER     if $abi >= 2;
    $known |= $TRUNCATE  if $abi >= 3;
    $known |= $IOCTL_DEV if $abi >= 5;
    my $wanted = pack('QQQ', $known, 0, 3);                        # scoped: abstract sockets, signals
    my $size = $abi >= 6 ? 24 : 8;
    my $rules = syscall(444, $wanted, $size, 0);
    fail("no Landlock ruleset: $!") if $rules < 0;
    allow($rules, $known, @$_) for @_;
    syscall(446, $rules, 0) == 0 or fail("Landlock does not hold: $!");
}

sub allow {
    my ($rules, $known, $right, $path) = @_;
    my $place;
    if (!sysopen($place, $path, $O_PATH)) {
        return if $! + 0 == $ENOENT;
        fail("cannot look at '$path': $!");
    }
    my $rights = $RIGHTS{$right} & $known & (-d $path ? -1 : $ON_FILES);
    my $rule = pack('Ql', $rights, fileno($place));
    syscall(445, $rules, 1, $rule, 0) == 0 or fail("no Landlock rule for '$path': $!");
    close($place);
}

# --- The relay

sub relay {
    my ($port, $socket) = @_;
    local $^F = 255;                                               # the listener lives on in the relay's exec
    socket(my $listener, 2, 1, 0) or fail("no socket: $!");
    setsockopt($listener, 1, 2, 1);                                # SO_REUSEADDR
    bind($listener, pack('Sna4x8', 2, $port, "\x7f\0\0\1")) or fail("no relay on port $port: $!");
    listen($listener, $BACKLOG) or fail("no relay: $!");
    my $child = fork();
    fail("no relay: $!") if !defined $child;
    become_relay(fileno($listener), $socket) if $child == 0;
    waitpid($child, 0);
    fail('no relay: it could not start') if $?;
    close($listener);
}

# Twice a child, so that whoever reaps orphans gets it, and without the secrets in the environment.
sub become_relay {
    my $child = fork();
    exit(defined $child ? 0 : 1) if !defined $child || $child;
    (my $program = $0) =~ s{[^/]+$}{relay.pl};
    %ENV = ();
    exec { $^X } $^X, $program, @_;
    exit(1);
}
