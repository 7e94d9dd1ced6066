"""Why a deployment cannot be applied now, though another pass may: nothing of it is touched, nothing is remembered."""

from margo_oci.errors import ApplyError


class Unready(ApplyError):  # noqa: N818  (the workload is not to blame: try again)
    """What a deployment needs is not on this device, or not free: another pass looks again."""


class PullFailed(Unready):
    """An image could not be fetched, or the engine did not take it."""

    code = "pull-failed"


class Unfit(Unready):
    """This device lacks something that the deployment needs: a port, a device, memory, a platform."""

    code = "unfit"


class NoRoom(Unready):
    """What has to come does not fit on the disk."""

    code = "no-room"


class Sealed(Unready):
    """A secret cannot be opened on this device, or there is no memory to keep it in."""

    code = "secret"
