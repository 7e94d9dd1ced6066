"""`margo-oci bundle`: desired states with all they lead to, for a site without a network."""

import asyncio
from pathlib import Path

import click

from margo_cli.platform_type import PlatformType
from margo_cli.session import REFERENCE, Session, human_bytes, say, with_session
from margo_cli.trusting import Trusting, trust_options
from margo_oci.bundle import Plan, is_in, is_tar, kinds, open_existing, plan_bundle, write_bundle
from margo_oci.closure import Closure
from margo_oci.errors import FormatError, MargoError
from margo_oci.layout import open_layout
from margo_oci.platforms import Platform
from margo_oci.reference import Reference


@click.command("bundle")
@click.argument("references", type=REFERENCE, nargs=-1, required=True, metavar="REFERENCE...")
@click.option("-o", "bundle_file", type=click.Path(path_type=Path), required=True, metavar="SITE.tar|DIR",
              help="Where to: a tar if it ends in .tar, which replaces an earlier one; else a folder.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that is no bundle, too, once the tar is whole.")
@click.option("--since", "since", type=click.Path(exists=True, path_type=Path), multiple=True, metavar="OTHER.tar|DIR",
              help="Leave out what this earlier bundle has; may be given several times.")  # fmt: skip
@click.option("--platform", "platforms", type=PlatformType(), multiple=True, metavar="linux/ARCH",
              help="Of images for several platforms take this one; may be given several times. [all]")  # fmt: skip
@click.option("--roots", type=REFERENCE, help="Where the chain of roots lies. [the tag `trust` beside each state]")
@trust_options
@with_session(short=False)
def bundle(
    session: Session,
    references: tuple[Reference, ...],
    bundle_file: Path,
    force: bool,
    since: tuple[Path, ...],
    platforms: tuple[Platform, ...],
    roots: Reference | None,
    trusting: Trusting,
) -> None:
    """Take the desired states at REFERENCE... with all they lead to as one OCI image layout.

    That is components, images, signatures in every form, heads, roots and claims. Digests are checked while it is
    written; with --key or another option of trust, the signatures of what is named as well, as a device does it. A
    bundle that was cut off goes on where it was.

    \b
    Examples:
      margo-oci bundle registry.example/fleet/edge-17:latest -o site.tar --key fleet.pub
      margo-oci bundle registry.example/fleet/edge-17:latest -o news.tar --since site.tar
    """
    bases = [open_layout(path.resolve()) for path in since]
    if any(bundle_file.resolve() == path.resolve() for path in since):
        raise FormatError(f"{bundle_file}: this is what --since names: name another file")
    otherwise = "name another, or have it replaced with --force" if is_tar(bundle_file) else "name another"
    there = open_existing(bundle_file, replace_tar=force or _is_bundle(bundle_file), otherwise=otherwise)

    async def work() -> tuple[Plan, int]:
        async with session.registry(*references) as registry:
            judge_for = trusting.judge if trusting.given else None
            closure = Closure(registry, platforms, judge_for, roots, lambda digest: is_in(bases, digest))
            for reference in references:
                node = await closure.take(reference)
                if trusting.given and node.kind != "state":  # states are judged as they are taken
                    judge = trusting.component_judge(reference)
                    await judge.signers(registry, reference.at(node.descriptor.digest), node.descriptor)
            plan = plan_bundle(closure, bases)
            with session.progress("fetching", len(plan.blobs)) as progress:
                return plan, await write_bundle(
                    registry, plan, bundle_file, progress=progress, others=there.entries if there else ()
                )

    plan, size_bytes = asyncio.run(work())
    states = [
        {"scope": one.scope, "counter": one.counter, "digest": one.manifest.digest, "deployments": len(one.layers)}
        for one in plan.states
    ]
    raw = {
        "bundle": str(bundle_file), "size": size_bytes, "verified": trusting.given, "states": states,
        "manifests": kinds(plan.nodes), "blobs": len(plan.blobs), "since": [str(path) for path in since],
    }  # fmt: skip
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds(plan.nodes).items())
    lines = [f"{one.scope or 'no scope'}: release {one.counter}, {_count(len(one.layers))}" for one in plan.states]
    session.show(raw, [*lines, f"{bundle_file}: {human_bytes(size_bytes)}: {counted}; {len(plan.blobs)} blobs"])
    if not trusting.given:
        say("no signature was checked: name who is trusted (--key) to be told here, and not by the device")


def _is_bundle(file: Path) -> bool:
    """Tell whether a bundle is there already, which a newer one takes the place of."""
    try:
        open_layout(file.resolve())
    except (MargoError, OSError):
        return False
    return True


def _count(deployments: int) -> str:
    return f"{deployments} deployment{'' if deployments == 1 else 's'}"
