"""`margo-oci serve`: a bundle as a registry, for a site without one."""

import re
from pathlib import Path
from typing import Any

import click

from margo_cli.session import say
from margo_oci.errors import FormatError
from margo_oci.layout import open_layout
from margo_oci.offering import Offer
from margo_oci.serving import Server, server_tls

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class AddressType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """An option that is an address to listen at."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Parse, and let the usage error say what is wrong."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:]+)\]|([A-Za-z0-9.-]*)):([0-9]{1,5})", str(value))
        if not found or int(found[3]) > 65535:
            self.fail(f"{value!r}: host:port is expected, as 127.0.0.1:5000", param, ctx)
        return found[1] or found[2], int(found[3])


@click.command("serve")
@click.argument("layout", type=click.Path(exists=True, path_type=Path), metavar="DIR|SITE.tar")
@click.option("--listen", "address", type=AddressType(), default="127.0.0.1:5000", show_default=True,
              help="Where to; :5000 is every address of this machine.")  # fmt: skip
@click.option("--tls-cert", type=_FILE, metavar="PEM", help="Certificate, with its chain: HTTPS instead of HTTP.")
@click.option("--tls-key", type=_FILE, metavar="PEM", help="The key of --tls-cert.")
def serve(layout: Path, address: tuple[str, int], tls_cert: Path | None, tls_key: Path | None) -> None:
    """Offer an image layout as a registry that can only be read, until Ctrl-C.

    Whoever reaches the address may read: it asks for no login. What devices get they check as ever.

    \b
    Examples:
      margo-oci serve site.tar
      margo-oci serve /srv/site --listen :5000 --tls-cert site.pem --tls-key site.key
    """
    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    offer = Offer(open_layout(layout.resolve()))
    offer.check_unambiguous()
    tls = server_tls(tls_cert, tls_key) if tls_cert and tls_key else None
    try:
        server = Server(address, offer, tls)
    except OSError as error:
        raise FormatError(f"--listen {address[0]}:{address[1]}: {error.strerror or error}") from None
    with server:
        host, port = str(server.server_address[0]), server.server_address[1]
        say(f"serving {layout} at {'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}")
        server.serve_forever()
