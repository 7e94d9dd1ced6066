"""What `copy` takes of a layout, and by which settings each of its two sides is reached."""

import asyncio
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from margo_cli.copy import ends_options
from margo_cli.layouts import CopySource
from margo_cli.main import cli
from margo_cli.session import Session, with_session
from margo_oci.closure import Closure
from margo_oci.content import Descriptor
from margo_oci.errors import FormatError
from margo_oci.layout_registry import LayoutTransport
from margo_oci.manifest import IMAGE_MANIFEST, Manifest, build_index
from margo_oci.offering import Offer
from margo_oci.reference import parse_reference
from tests.unit.test_offering import HOST, STATE, layout_of

TO = parse_reference("registry.plant/copied/edge-17:stable")
NAME = f"{HOST}/fleet/edge-17:latest"


def test_one_thing_in_a_layout_is_named_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("site", "registry.example"):
        (tmp_path / folder).mkdir()
    (tmp_path / "SITE.tar").touch()
    found = {text: (one.layout, one.name) for text in (
        "oci:site", f"oci:site:{NAME}", "oci:site:v1", "SITE.tar", f"SITE.tar:{NAME}", "SITE.tar:v1", "gone.tar",
        NAME, "registry.example:5000/a.tar:1",
    ) if (one := CopySource.of(text))}  # fmt: skip
    assert found == {
        "oci:site": (Path("site"), ""),
        f"oci:site:{NAME}": (Path("site"), NAME),
        "oci:site:v1": (Path("site"), "v1"),
        "SITE.tar": (Path("SITE.tar"), ""),
        f"SITE.tar:{NAME}": (Path("SITE.tar"), NAME),
        "SITE.tar:v1": (Path("SITE.tar"), "v1"),
        "gone.tar": (Path("gone.tar"), ""),
        NAME: (None, ""),
        "registry.example:5000/a.tar:1": (None, ""),
    }
    with pytest.raises(FormatError, match="gone:v1: there is no such layout"):
        CopySource.of("oci:gone:v1")


@pytest.mark.parametrize(("written", "asked"), [(NAME, NAME), ("v1", "v1"), (NAME, f"{HOST}/fleet/edge-17@DIGEST")])
def test_13_9_one_thing_in_a_layout_is_found_by_its_name(tmp_path: Path, written: str, asked: str) -> None:
    offer = Offer(layout_of(tmp_path, {written: STATE.data}))
    name = asked.replace("DIGEST", STATE.digest)
    (reference,) = CopySource("", tmp_path, name).entries(offer, TO)
    found = offer.find(reference)
    assert found is not None
    assert found.digest == STATE.digest


def test_13_9_what_a_layout_has_is_said_where_the_name_is_another(tmp_path: Path) -> None:
    offer = Offer(layout_of(tmp_path, {"v1": STATE.data}))
    for name in ("v2", f"{HOST}/fleet/edge-18:latest"):
        with pytest.raises(FormatError, match="nothing under this name; it has v1"):
            CopySource(f"oci:x:{name}", tmp_path, name).entries(offer, TO)
    with pytest.raises(FormatError, match="copy one thing by its name, as oci:x:TAG; it has v1"):
        CopySource("oci:x", tmp_path).entries(offer, TO)


def test_13_9_what_a_layout_lacks_is_said_to_be_lacking_there(tmp_path: Path) -> None:
    child = Manifest.build("application/vnd.example+json", [], {"for": "another platform"})
    index = build_index([child.descriptor])
    layout_of(tmp_path, {f"{HOST}/web:1": index})
    done = CliRunner().invoke(cli, ["copy", f"oci:{tmp_path}", "registry.plant:5000"], standalone_mode=False)
    assert isinstance(done.exception, FormatError)
    assert f"1 that something in it names are not in it: {child.digest}" in str(done.exception)
    assert "--since or --platform" in str(done.exception)
    assert "https://" not in str(done.exception)


def test_13_9_one_thing_leads_to_what_hangs_on_it_and_to_nothing_else(tmp_path: Path) -> None:
    other = Manifest.build("application/vnd.example+json", [], {"an": "other"})
    simple = Manifest.build("application/x.simple", [])
    sig = STATE.digest.replace(":", "-") + ".sig"
    layout = layout_of(tmp_path, {"v1": STATE.data, "v2": other.data, sig: simple.data})
    assert layout.entries[0] == Descriptor.of(simple.data, IMAGE_MANIFEST, layout.entries[0].annotations)

    async def work() -> set[str]:
        transport = LayoutTransport(Offer(layout))
        async with transport.registry() as registry:
            closure = Closure(registry)
            for one in CopySource("", tmp_path, "v1").entries(transport.offer, TO):
                await closure.artifact(one)
            return set(closure.nodes)

    assert asyncio.run(work()) == {STATE.digest, simple.digest}


def test_each_side_of_a_copy_is_reached_by_settings_of_its_own(tmp_path: Path) -> None:
    seen: list[Session] = []
    (tmp_path / "ca.pem").touch()

    @click.command()
    @with_session()
    @ends_options
    def command(reading: Session, writing: Session) -> None:
        seen[:] = [reading, writing]

    def told(*arguments: str) -> list[tuple[bool, bool]]:
        CliRunner().invoke(command, arguments, standalone_mode=False, catch_exceptions=False)
        return [(one.plain_http, one.ca_file is not None) for one in seen]

    ca_file = str(tmp_path / "ca.pem")
    assert told("--from-plain-http", "--to-ca-file", ca_file) == [(True, False), (False, True)]
    assert told("--to-plain-http", "--from-ca-file", ca_file) == [(False, True), (True, False)]
    assert told("--plain-http") == [(True, False), (True, False)]
    assert told("--ca-file", ca_file, "--to-plain-http") == [(False, True), (True, True)]
