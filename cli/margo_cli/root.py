"""`margo-oci root`: ceremonies. The keys may be on different machines, the file travels."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from margo_cli.session import (
    DURATION,
    F,
    Session,
    load_public_keys,
    load_signer,
    output_option,
    read_file,
    say,
    with_session,
)
from margo_oci.carrier import TRUST_TAG
from margo_oci.errors import FormatError
from margo_oci.freshness import format_moment, parse_moment
from margo_oci.judging import read_root
from margo_oci.reference import parse_reference
from margo_oci.root import Root

if TYPE_CHECKING:  # python-tuf takes a while to load, and most commands need none of it
    from margo_oci.ceremony import Change, RoleName, Standing

FILE = click.Path(path_type=Path)
ROLES: Sequence["RoleName"] = ("root", "head", "release")


@click.group()
def root() -> None:
    """Make, sign, change and publish the root of trust: which keys sign heads and releases."""


def _keys(name: str, verb: str, text: str, **settings: Any) -> Callable[[F], F]:
    return click.option(
        f"--{verb}{name}-key", f"{verb.strip('-')}_{name}".strip("_"), multiple=True, help=text, **settings
    )


def _role_options(*, rotating: bool) -> Callable[[F], F]:
    """Add the options that say who has which role."""

    def decorate(command: F) -> F:
        for name in reversed(ROLES):
            unchanged = "as it is" if rotating else "1"
            text = f"So many {name} keys must sign. [{unchanged}]"
            command = click.option(f"--{name}-threshold", type=click.IntRange(1, 64), help=text)(command)
            if rotating:
                command = _keys(name, "remove-", f"A {name} key that leaves: its name, or its id.")(command)
                command = _keys(name, "add-", f"Public key that joins as {name} key.", type=FILE)(command)
            else:
                command = _keys(name, "", f"Public key of role {name}; may be given several times.", type=FILE,
                                required=True)(command)  # fmt: skip
        for option in (
            click.option("--floor", help="No head issued before is accepted: `now`, or RFC 3339. [none]"),
            click.option("--expires", type=DURATION, default="365d", show_default=True, help="How long it holds."),
            click.option("--out", "-o", "out", type=FILE, required=True, help="Where to write; never overwritten."),
        ):
            command = option(command)
        return command

    return decorate


@root.command("init")
@_role_options(rotating=False)
def init(out: Path, expires: timedelta, floor: str | None, **roles: Any) -> None:
    """Write version 1 of a root, unsigned: its holders sign it with `root sign`, one after the other.

    \b
    Example:
      margo-oci root init -o 1.root.json --root-key a.pub --root-key b.pub --root-key c.pub --root-threshold 2 \\
          --head-key head.pub --release-key fleet.pub
    """
    from margo_oci.ceremony import begin

    _write_new(out, begin(_changes(roles), expires=_now() + expires, floor=_floor(floor)))
    _say_next(out, None)


@root.command("rotate")
@click.argument("file", type=FILE, metavar="ROOT")
@_role_options(rotating=True)
def rotate(file: Path, out: Path, expires: timedelta, floor: str | None, **roles: Any) -> None:
    """Write the version after ROOT, unsigned: with other keys or thresholds, or just a later expiry.

    It counts when enough keys of ROOT and enough of its own have signed it. A key that leaves says nothing more
    on devices that have the new root; devices forget the versions of heads (counters of releases) that it signed.

    \b
    Examples:
      margo-oci root rotate 1.root.json -o 2.root.json --remove-head-key head --add-head-key head-2.pub
      margo-oci root rotate 2.root.json -o 3.root.json --expires 365d
    """
    from margo_oci.ceremony import rotate as next_version

    data = next_version(read_file(file), _changes(roles), expires=_now() + expires, floor=_floor(floor))
    _write_new(out, data)
    _say_next(out, file)


@root.command("sign")
@click.argument("file", type=FILE, metavar="ROOT")
@click.option("--key", "key_file", type=FILE, required=True, help="Private root key, PKCS#8 PEM.")
@click.option("--previous", type=FILE, help="The version before, whose keys must sign as well.")
@output_option
def sign(file: Path, key_file: Path, previous: Path | None, output: str) -> None:
    """Add a signature to ROOT, and tell whose are missing. Signing again changes nothing else.

    \b
    Examples:
      margo-oci root sign 1.root.json --key a.key
      margo-oci root sign 2.root.json --key b.key --previous 1.root.json
    """
    from margo_oci.ceremony import add_signature, standing

    before = read_root(previous) if previous else None
    signed = add_signature(read_file(file), load_signer(key_file), previous=before)
    _replace(file, signed)
    _show(Session(output), file, standing(signed, previous=before))


@root.command("show")
@click.argument("place", metavar="ROOT|REFERENCE")
@click.option("--previous", type=FILE, help="The version before ROOT, whose keys must sign as well.")
@with_session()
def show(session: Session, place: str, previous: Path | None) -> None:
    """Show who has which role, the thresholds, the expiry and who signed; of a REFERENCE the whole chain.

    \b
    Examples:
      margo-oci root show 2.root.json --previous 1.root.json
      margo-oci root show registry.example/fleet/trust:trust
    """
    from margo_oci.ceremony import read_roots, standing

    if "/" not in place or Path(place).exists():
        before = read_root(previous) if previous else None
        _show(session, Path(place), standing(read_file(Path(place)), previous=before), verbose=True)
        return
    reference = parse_reference(place, default_tag=TRUST_TAG)

    async def work() -> Sequence[Root]:
        async with session.registry(reference) as registry:
            return (await read_roots(registry, reference))[1]

    chain = asyncio.run(work())
    if not chain:
        raise FormatError(f"{reference}: no root was published here")
    rows = [{"version": one.version, "expires": format_moment(one.expires)} for one in chain]
    raw = {"reference": str(reference), "chain": rows, "root": _root_json(standing(chain[-1].data))}
    lines = [f"version {row['version']}  expires {row['expires']}" for row in rows]
    session.show(raw, [*lines, *_lines(standing(chain[-1].data), verbose=True)])


@root.command("publish")
@click.argument("file", type=FILE, metavar="ROOT")
@click.argument("place", metavar="REFERENCE")
@with_session()
def publish(session: Session, file: Path, place: str) -> None:
    """Append ROOT to the chain under a tag, after checking all signatures. Devices find it there.

    Versions are published one after the other; another history is never overwritten. Without a tag it is `trust`.

    \b
    Example:
      margo-oci root publish 2.root.json registry.example/fleet/trust:trust
    """
    from margo_oci.ceremony import publish_root, read_unsigned

    reference = parse_reference(place, default_tag=TRUST_TAG)
    if reference.digest:
        raise FormatError(f"{reference}: a tag is expected, not a digest")
    data = read_file(file)

    async def work() -> bool:
        from margo_oci.upload import Uploader

        async with session.registry(reference) as registry:
            uploader = Uploader(reference.host, session.access(reference)(reference.host))
            return await publish_root(registry, uploader, reference, data)

    changed = asyncio.run(work())
    version = read_unsigned(data).version
    verb = "published" if changed else "is there already:"
    session.show(
        {"reference": str(reference), "version": version, "changed": changed},
        [f"{verb} version {version} of the root at {reference}"],
    )


def _changes(roles: dict[str, Any]) -> dict["RoleName", "Change"]:
    from margo_oci.ceremony import Change

    return {
        name: Change(
            add=load_public_keys(roles.get(name) or roles.get(f"add_{name}") or ()),
            remove=roles.get(f"remove_{name}") or (),
            threshold=roles[f"{name}_threshold"],
        )
        for name in ROLES
    }


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _floor(text: str | None) -> datetime | None:
    if not text:
        return None
    floor = _now() if text == "now" else parse_moment(text, at="--floor")
    if floor > _now():
        raise FormatError(f"--floor {text}: this is to come: devices would take it for the time it is")
    return floor


def _write_new(file: Path, data: bytes) -> None:
    if file.exists():
        raise FormatError(f"{file} is there already: roots are never overwritten")
    file.write_bytes(data)


def _replace(file: Path, data: bytes) -> None:
    """Write beside it and rename: signatures of others are not lost when the disk is full."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_bytes(data)
    beside.replace(file)


def _say_next(file: Path, previous: Path | None) -> None:
    more = f" --previous {previous}" if previous else ""
    say(f"{file}: not signed yet: each holder runs `margo-oci root sign {file}{more} --key …`")


def _show(session: Session, file: Path, found: "Standing", *, verbose: bool = False) -> None:
    session.show({"file": str(file), **_root_json(found)}, _lines(found, verbose=verbose))


def _root_json(found: "Standing") -> dict[str, Any]:
    one = found.root
    return {
        "version": one.version,
        "expires": format_moment(one.expires),
        "floor": format_moment(one.floor) if one.floor else None,
        "roles": {
            name: {"threshold": quorum.threshold, "keys": [{"name": key.name, "id": key.id} for key in quorum.keys]}
            for name, quorum in (("root", one.holders), ("head", one.heads), ("release", one.releases))
        },
        "signatures": [
            {"of": part.whose, "signed": [key.name for key in part.signed], "missing": part.missing,
             "waitingFor": [key.name for key in part.waiting_for] if part.missing else []}
            for part in found.parts
        ],
        "complete": found.complete,
    }  # fmt: skip


def _lines(found: "Standing", *, verbose: bool) -> Sequence[str]:
    raw = _root_json(found)
    lines = [f"root version {raw['version']}, expires {raw['expires']}"]
    if verbose:
        lines += [f"floor    {raw['floor']}"] if raw["floor"] else []
        for name, role in raw["roles"].items():
            keys = ", ".join(f"{key['name']} ({key['id'][:12]})" for key in role["keys"])
            lines.append(f"{name:<8} {role['threshold']} of {len(role['keys'])}: {keys}")
    for part in raw["signatures"]:
        waiting = f", {part['missing']} missing of {', '.join(part['waitingFor'])}" if part["missing"] else ", enough"
        lines.append(f"signed for {part['of']} by {', '.join(part['signed']) or 'nobody'}{waiting}")
    if found.root.version > 1 and len(found.parts) == 1:
        lines.append(f"version {found.root.version - 1} has its say as well: --previous shows who is missing there")
    return lines
