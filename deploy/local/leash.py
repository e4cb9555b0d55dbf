"""Run one program so that it cannot outlive the launcher.

    python -I -S leash.py LAUNCHER_PID SIGNAL [--unprivileged] -- PROGRAM ARGUMENT...

The kernel sends SIGNAL to the program when the launcher's main thread ends, however it ends. It is a script of its own, and
not a `preexec_fn`, because the launcher has threads and Python code must not run between fork and exec then. It replaces
itself with the program, so it costs 10 ms and no memory.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CLONE_NEWUSER = 0x10000000
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
# Any id but 0 will do inside the namespace; files stay root's outside of it.
_ID_IN_NAMESPACE = 1000
_NOBODY = 65534


def main(arguments: list[str]) -> None:
    """Tie this process to the launcher, then become the program."""
    split = arguments.index("--")
    launcher, death_signal, *flags = arguments[:split]
    program = arguments[split + 1 :]
    libc = ctypes.CDLL(None, use_errno=True)
    if "--unprivileged" in flags and os.geteuid() == 0:
        _leave_root(libc)
    if sys.platform == "linux":
        # After the change of credentials, which clears it. The exec keeps it: it gains no privilege.
        _checked(libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(launcher):
        sys.exit("the launcher ended while this process was starting")
    # Python ignores SIGPIPE and an exec would hand that on.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(program[0], program)  # noqa: S606  (its whole purpose)


def _leave_root(libc: ctypes.CDLL) -> None:
    """Stop being root in the eyes of a program that refuses to run as root (PostgreSQL)."""
    try:
        _enter_user_namespace(libc)
    except OSError:
        # Containers often forbid user namespaces.
        _become_nobody(libc)


def _enter_user_namespace(libc: ctypes.CDLL) -> None:
    user, group = os.geteuid(), os.getegid()
    _checked(libc.unshare(_CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_ID_IN_NAMESPACE} {user} 1"),
        ("gid_map", f"{_ID_IN_NAMESPACE} {group} 1"),
    ):
        Path("/proc/self", file).write_text(text, encoding="ascii")


def _become_nobody(libc: ctypes.CDLL) -> None:
    """Change to the user nobody, but keep the right to pass folders that only root may enter, such as /root."""
    _checked(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl(PR_SET_KEEPCAPS)")
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    bit = 1 << _CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    _checked(libc.capset(header, effective_permitted_inheritable), "capset")
    raised = libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)
    _checked(raised, "prctl(PR_CAP_AMBIENT_RAISE)")


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
