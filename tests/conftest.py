"""For all tests, and for the process that hands them out to workers."""

import signal

from xdist.workermanage import NodeManager

STOP_LIMIT_S = 60


def pytest_configure() -> None:
    """End on SIGTERM as on Ctrl-C: orderly, with everything stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    NodeManager.EXIT_TIMEOUT = STOP_LIMIT_S  # so that workers can stop their engines; then they are killed
