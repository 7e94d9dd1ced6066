"""`margo-oci component inspect`: what a component in a registry has."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from margo_cli.component_check import Checked, Source, check_component
from margo_cli.component_pull import Fetched, fetch_component, odd
from margo_cli.component_validate import type_option
from margo_cli.session import Session, human_bytes, reference_argument, say, with_session
from margo_oci.compose import images_of
from margo_oci.interpolation import Variable, variables_of
from margo_oci.package import COMPONENT_VERSION, QUADLET
from margo_oci.quadlet import is_unit, named_images
from margo_oci.reference import Reference


@click.command("inspect")
@reference_argument
@type_option
@with_session()
def inspect_component(session: Session, reference: Reference, kind: str | None) -> None:
    """Show what a component has: type, version, annotations, services, images, variables. Nothing is verified.

    \b
    Example:
      margo-oci component inspect registry.example/components/hello:1.0.0
    """
    fetched = fetch_component(session, reference, kind, None)
    checked = check_component(Source(fetched.entries), kind=fetched.form.name)
    for words in [*odd(fetched), *map(str, checked.faults)]:
        say(f"warning: {reference}: {words}")
    raw = _inspected(fetched, checked)
    session.show(raw, list(_lines(raw)))
    say("nothing of this was verified: `margo-oci verify` does")


def _inspected(fetched: Fetched, checked: Checked) -> Mapping[str, Any]:
    layer = fetched.manifest.layers[0]
    return {
        "reference": str(fetched.reference),
        "digest": fetched.manifest.digest,
        "artifactType": fetched.manifest.artifact_type,
        "type": fetched.form.name,
        "version": fetched.annotations.get(COMPONENT_VERSION, fetched.tag),
        "folder": fetched.archive.top,
        "annotations": {"manifest": dict(fetched.manifest.annotations), "layer": dict(layer.annotations)},
        "layer": {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size},
        "files": [{"path": one.path, "size": len(one.data)} for one in fetched.archive.entries if not one.folder],
        **_content(fetched, checked),
    }


def _content(fetched: Fetched, checked: Checked) -> Mapping[str, Any]:
    """Return what runs: units as they stand there, or services as Compose has them (none if it could not read them)."""
    if fetched.form is QUADLET:
        units = [one.path for one in fetched.archive.entries if is_unit(one.path) and not one.folder]
        return {"units": units, "images": named_images(fetched.archive.entries), "variables": []}
    if checked.template is None:
        return {"services": None, "images": None, "variables": None}
    template = checked.template
    return {
        "services": [
            {"name": name, "image": one.get("image"), "profiles": one.get("profiles") or []}
            for name, one in template["services"].items()
        ],
        "images": images_of(template),
        "variables": [_variable(one) for one in variables_of(template).values()],
    }


def _variable(one: Variable) -> Mapping[str, Any]:
    return {"name": one.name, "default": one.default, "required": one.required}


def _lines(raw: Mapping[str, Any]) -> Sequence[str]:
    lines = [f"digest    {raw['digest']}", f"type      {raw['type']}  {raw['artifactType']}"]
    lines += [f"version   {raw['version']}", f"folder    {raw['folder']}"]
    lines += [f"layer     {raw['layer']['digest']}  {human_bytes(raw['layer']['size'])}"]
    for name, value in {**raw["annotations"]["manifest"], **raw["annotations"]["layer"]}.items():
        lines.append(f"annotation {name}  {value}")
    for one in raw.get("services") or ():
        profiles = f"  profiles {', '.join(one['profiles'])}" if one["profiles"] else ""
        lines.append(f"service   {one['name']}{profiles}")
    lines += [f"unit      {one}" for one in raw.get("units") or ()]
    lines += [f"image     {one}" for one in raw["images"] or ()]
    for one in raw["variables"] or ():
        default = "(must be set)" if one["required"] else "(no default)" if one["default"] is None else one["default"]
        lines.append(f"variable  {one['name']}  {default}")
    lines += [f"file      {one['path']}  {human_bytes(one['size'])}" for one in raw["files"]]
    return lines
