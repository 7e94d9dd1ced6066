"""Runs the real `margo-agent` and kills it at one exact moment: `struck KIND NUMBER BELOW COMMAND…`.

It ends with 0 to 5 as the agent does, or by SIGKILL if the moment came.
"""

import os
import signal
import sys

from margo_agent.main import main
from tests.simulators.outages import Outage, during


def _kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    kind, number, below = sys.argv[1:4]
    sys.argv[1:] = sys.argv[4:]
    with during(Outage(_kill, int(number), (kind,), below)):
        main()
