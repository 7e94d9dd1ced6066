"""`margo-oci tree`: what hangs on a digest."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import click

from margo_cli.session import Session, human_bytes, reference_argument, say, with_session
from margo_oci.errors import said
from margo_oci.reference import Reference
from margo_oci.tree import Node
from margo_oci.tree import tree as look


@click.command("tree")
@reference_argument
@with_session()
def tree_command(session: Session, reference: Reference) -> None:
    """Show all that hangs on what REFERENCE leads to: signatures, attestations, SBOMs, heads, releases.

    Referrers are found by the registry's list and by the tag that stands in for it; cosign v2's tags, and for a state
    the tags of its head and its releases, as well. Nothing is verified: types are what they say of themselves.

    \b
    Examples:
      margo-oci tree registry.example/fleet/edge-17:latest
      margo-oci tree registry.example/images/web:1.0 -o json
    """

    async def work() -> Node:
        async with session.registry(reference) as registry:
            return await look(registry, reference)

    root = asyncio.run(work())
    raw = {"reference": str(reference.at(root.digest)), **_json(root)}
    session.show(raw, [str(reference), *_lines(root, "")])
    say("nothing of this was verified: `margo-oci verify` does")


def _json(node: Node) -> Mapping[str, Any]:
    return {
        "what": node.what,
        "digest": node.digest or None,
        "artifactType": node.artifact_type or None,
        "size": node.size,
        "created": node.created or None,
        "tag": node.tag or None,
        "note": node.note or None,
        "children": [_json(one) for one in node.children],
    }


def _lines(node: Node, indent: str, branch: str = "") -> Iterator[str]:
    parts = [node.what, node.digest, human_bytes(node.size) if node.size else "", said(node.created)]
    parts += [f"tag {node.tag}" if node.tag and branch else "", f"({node.note})" if node.note else ""]
    yield indent + branch + "  ".join(filter(None, parts))
    below = indent + {"": "", "├── ": "│   ", "└── ": "    "}[branch]
    for child in node.children:
        yield from _lines(child, below, "└── " if child is node.children[-1] else "├── ")
