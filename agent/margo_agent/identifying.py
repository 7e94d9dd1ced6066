"""`margo-agent identity`: the keys of this device, and what operators need of them."""

import json
from pathlib import Path

import click

from margo_agent.clock import system_clock
from margo_agent.config import AgentConfig, load_config
from margo_agent.options import config_option, output_option
from margo_agent.record import RecordFile
from margo_oci.freshness import format_moment


@click.group(invoke_without_command=True)
@config_option
@output_option
@click.pass_context
def identity(context: click.Context, config_file: Path, output: str) -> None:
    """Show the public key with which this device signs its reports; the key is made if there is none.

    Give it to operators as NAME.pub, where NAME is the device's. `init`, `csr` and `show` are about another key:
    the one that files for this device are encrypted to.

    \b
    Examples:
      margo-agent identity > edge-17.pub
      margo-agent identity init > edge-17.crt
    """
    if context.invoked_subcommand:
        return
    from margo_agent.device_key import key_file, load_key, public_pem

    config = load_config(config_file)
    public = load_key(config).public
    raw = {
        "device": config.device,
        "key": str(key_file(config)),
        "fingerprint": public.fingerprint,
        "publicKey": public_pem(public),
    }
    click.echo(json.dumps(raw, indent=2) if output == "json" else public_pem(public).strip())


@identity.command()
@config_option
@output_option
@click.option("--renew", is_flag=True, help="Replace them. The old key goes on opening what was encrypted to it.")
@click.option("--drop-earlier", is_flag=True, help="With --renew for the second time: the key before the last goes.")
@click.option("--days", type=click.IntRange(1, 36500), default=3650, show_default=True, help="How long it is valid.")
def init(config_file: Path, output: str, renew: bool, drop_earlier: bool, days: int) -> None:
    """Make the key that files for this device are encrypted to, and its certificate; print the certificate.

    The key stays in stateDir/identity, readable by the agent alone. Where the configuration names one (`identity`),
    none is made.

    \b
    Example:
      margo-agent identity init > edge-17.crt
    """
    from margo_agent.device_identity import make_identity

    config = load_config(config_file)
    now = system_clock().now(RecordFile(config.state_dir / "record.json").load().time)
    make_identity(config, now, days=days, renew=renew, drop_earlier=drop_earlier)
    _show(config, output)


@identity.command()
@config_option
def csr(config_file: Path) -> None:
    """Print a certificate request (PKCS#10) for that key: for who issues the certificates of a site.

    \b
    Example:
      margo-agent identity csr > edge-17.csr
    """
    from margo_agent.device_identity import request_of

    click.echo(request_of(load_config(config_file)).strip())


@identity.command()
@config_option
@output_option
def show(config_file: Path, output: str) -> None:
    """Print the certificate of that key: `margo-oci encrypt --to` takes it.

    \b
    Examples:
      margo-agent identity show > edge-17.crt
      margo-agent identity show -o json
    """
    _show(load_config(config_file), output)


def _show(config: AgentConfig, output: str) -> None:
    from margo_agent.device_identity import certificate_file, key_file, load_identity

    found = load_identity(config)
    raw = {
        "device": config.device,
        "key": str(key_file(config)),
        "certificateFile": str(certificate_file(config)),
        "keyId": found.kid,
        "expires": format_moment(found.certificate.not_valid_after_utc),
        "certificate": found.pem,
    }
    click.echo(json.dumps(raw, indent=2) if output == "json" else found.pem.strip())


COMMANDS = (identity,)
