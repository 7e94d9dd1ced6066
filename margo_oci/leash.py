"""Commands that do not outlive who started them, not even if that is killed.

A Compose that went on alone after a kill -9 of its agent would work against the next pass.
"""

import os
import sys
from collections.abc import Sequence

# prctl(PR_SET_PDEATHSIG, SIGKILL), then become the command. A preexec_fn would not be safe where there are threads.
_LEASH = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"  # killed before the line above
    "given = open('/proc/self/environ', 'rb').read().split(b'\\0')\n"  # Python adds LC_CTYPE to its own
    "try: os.execvpe(sys.argv[2], sys.argv[2:], dict(one.split(b'=', 1) for one in given if b'=' in one))\n"
    "except OSError as error: sys.exit(f'{sys.argv[2]}: {error.strerror}')\n"
)


def leashed(command: Sequence[str]) -> Sequence[str]:
    """Return a command that becomes `command`, and is killed as soon as the thread that starts it is gone (Linux)."""
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command]
