"""The options of `push` that say what must hold for components and images before they are published."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from margo_cli.platform_type import PlatformType
from margo_cli.session import read_file
from margo_cli.trusting import Trusting
from margo_oci.constraints import parse_device
from margo_oci.deployment import Deployment
from margo_oci.desired_state import Lock
from margo_oci.errors import FormatError
from margo_oci.pinned import check_platforms, check_signed, pinned
from margo_oci.platforms import Platform
from margo_oci.registry import Registry
from margo_oci.trustconfig import Sources, load_trust_config

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_KINDS = {"components": "component", "images": "image"}


@dataclass(frozen=True)
class Checks:
    """What is asked of components and images; `trusting` is whom to believe, `signed` of which kinds it is asked."""

    trusting: Trusting
    signed: Sequence[str] = ()
    platforms: Sequence[Platform] = ()

    async def check(self, registry: Registry, locked: Mapping[str, tuple[Deployment, Lock]]) -> None:
        """Refuse what does not hold. Raises TrustError or FormatError with all faults, RegistryError."""
        found = pinned(locked)
        if self.platforms:
            await check_platforms(registry, found, self.platforms)
        if self.signed:
            asked = [one for one in found if one.kind in self.signed]
            await check_signed(registry, asked, self.trusting.component_judge)


def checking_options(command: F) -> F:
    """Add the options, and hand them over as `checks`."""

    # Two options, because one whose value may be left out takes the next word for its value.
    @click.option("--require-signed", is_flag=True,
                  help="Refuse components and images without a signature that is trusted: --verify-key or --policy.",
                  )  # fmt: skip
    @click.option("--require-signed-only", type=click.Choice(list(_KINDS)),
                  help="As --require-signed, of these alone.")  # fmt: skip
    @click.option("--verify-key", "verify_keys", type=click.Path(path_type=Path), multiple=True,
                  help="Public key that --require-signed accepts; several are possible.")  # fmt: skip
    @click.option("--policy", "policy_file", type=_FILE, metavar="FILE",
                  help="For --require-signed: a file with `trust.components`, such as an agent's.")  # fmt: skip
    @click.option("--platform", "platforms", type=PlatformType(), multiple=True, metavar="linux/ARCH",
                  help="Refuse images that do not run on it; may be given several times. [not checked]")  # fmt: skip
    @click.option("--capabilities", type=_FILE, metavar="FILE",
                  help="What `margo-agent capabilities -o json` says: its architecture is a --platform.")  # fmt: skip
    @functools.wraps(command)
    def called(
        *args: Any,
        require_signed: bool,
        require_signed_only: str | None,
        verify_keys: Sequence[Path],
        policy_file: Path | None,
        platforms: tuple[Platform, ...],
        capabilities: Path | None,
        **kwargs: Any,
    ) -> Any:
        trusting = Trusting(Sources(keys=verify_keys), load_trust_config(policy_file) if policy_file else None)
        if policy_file and replace(trusting, config=None).given:
            raise click.UsageError("--policy names everybody who is trusted: no --verify-key does beside it.")
        signed = _signed(require_signed, require_signed_only)
        if signed and not trusting.given:
            raise click.UsageError("Missing option '--verify-key' (or --policy): whose signature is required?")
        checks = Checks(trusting, signed, [*platforms, *(_platforms(capabilities) if capabilities else ())])
        return command(*args, checks=checks, **kwargs)

    return called  # type: ignore[return-value]


def _signed(required: bool, only: str | None) -> Sequence[str]:
    """Return the kinds of what must be signed."""
    if only:
        return [_KINDS[only]]
    return list(_KINDS.values()) if required else []


def _platforms(file: Path) -> Sequence[Platform]:
    device = parse_device(read_file(file), what=str(file))
    cpus = [one for one in device.properties.get("cpus") or () if isinstance(one, dict)]
    names = dict.fromkeys(str(one.get("architecture") or "") for one in cpus)
    known = [Platform.of(name) for name in names if name not in ("", "other")]
    if not known:
        raise FormatError(f"{file}: it names no architecture: say which with --platform")
    return known
