"""hash-password at a terminal: nothing that is typed is shown, and giving up gives the echo back."""

import os
import pty
import sys
import termios

BINARY = sys.argv[1]


def spawn():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(BINARY, [BINARY, "hash-password"])
    return pid, terminal


def read_until(terminal, text):
    seen = b""
    while text not in seen:
        seen += os.read(terminal, 4096)
    return seen


def echoes(terminal):
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


pid, terminal = spawn()
seen = read_until(terminal, b"Password: ")
os.write(terminal, b"geheim\n")
seen += read_until(terminal, b"Once more: ")
os.write(terminal, b"geheim\n")
seen += read_until(terminal, b"$2b$")
assert b"geheim" not in seen, seen
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

pid, terminal = spawn()
read_until(terminal, b"Password: ")
assert not echoes(terminal)
os.write(terminal, b"abc\x03")
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
assert echoes(terminal)
