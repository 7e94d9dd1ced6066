"""An option that is a platform, such as linux/arm64."""

import re

import click

from margo_oci.platforms import Platform


class PlatformType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """An option that is a platform."""

    name = "platform"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Platform:
        """Parse, and let the usage error say what is wrong."""
        if isinstance(value, Platform):
            return value
        found = re.fullmatch(r"linux/([a-z0-9_]{1,20})(?:/([a-z0-9]{1,10}))?", str(value))
        if not found:
            self.fail(f"{value!r}: linux/amd64, linux/arm64 or linux/arm/v7 is expected", param, ctx)
        known = Platform.of(found[1])
        return Platform(known.architecture, found[2] or known.variant)
