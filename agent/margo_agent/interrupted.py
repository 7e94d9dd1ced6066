"""What ends a pass in the middle without anybody's fault: it is left to be done, and no workload is blamed."""

from margo_oci.errors import ApplyError


class Interrupted(ApplyError):  # noqa: N818  (a kind of its own: what is under way stays recorded as such)
    """Nothing more can be done now; the next pass goes on from here."""


class Stopped(Interrupted):
    """Somebody asked the agent to stop."""


class Superseded(Interrupted):
    """A newer state was verified meanwhile: it is applied instead."""
