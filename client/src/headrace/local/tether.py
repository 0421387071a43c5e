"""Becomes the command on its command line, tethered to the process that started it: when that dies, so does this.

Run as a script of its own (`python tether.py PARENT_PID COMMAND ...`) rather than as a `preexec_fn`, which is not safe
in a process with threads. The kernel keeps the tether across exec; where there is none (not Linux), the command runs
untethered and only an orderly stop ends it.
"""

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, *command = sys.argv[1:]
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the tether was tied
        sys.exit(1)
    os.execv(command[0], command)
