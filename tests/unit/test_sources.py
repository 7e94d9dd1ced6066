"""What the command line makes of a source: exactly one, and files named as they are called there."""

import os
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from margo_cli.layouts import layout_and_name
from margo_cli.main import cli
from margo_cli.push import _flux_place
from margo_cli.sources import Source, _only_state
from margo_oci.content import canonical_json, digest_of
from margo_oci.desired_state import build_state
from margo_oci.errors import FormatError
from margo_oci.gitsource import GitSource
from margo_oci.keys import generate
from margo_oci.manifest import IMAGE_INDEX
from margo_oci.offering import Offer
from margo_oci.publish import is_claim
from margo_oci.reference import parse_reference
from tests.unit.scenes import SCOPE, as_yaml, document, layer
from tests.unit.test_offering import layout_of

PLACE = "registry.example/fleet/edge-17:latest"


def push(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["push", *arguments, "--scope", "edge-17"], standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((PLACE,), "Expected: DIR REFERENCE"),
        (("states", PLACE, "more"), "Expected: DIR REFERENCE"),
        (("states", PLACE, "--from-git", "https://git.example/x", "--rev", "main"), "or REFERENCE alone"),
        ((PLACE, "--from-git", "https://git.example/x"), "--rev REV go together"),
        (("states", PLACE, "--rev", "main"), "--rev REV go together"),
        ((PLACE, "--from-git", "https://git.example/x", "--rev", "a", "--from-layout", "x.tar"), "two sources"),
        ((PLACE, "--from-layout", "x.tar"), "by whom?"),
        (("states", PLACE, "--require-signed"), "whose signature is required?"),
        (("states", PLACE, "--require-signed-only", "images"), "whose signature is required?"),
        (("--require-signed", "states", PLACE), "whose signature is required?"),
        (("--flux", "gitops", "states", PLACE), f"Got: gitops states {PLACE}"),
        (("states", "no reference"), "it starts with a registry"),
    ],
)
def test_a_push_has_exactly_one_source_and_says_so(arguments: tuple[str, ...], words: str) -> None:
    done = push(*arguments)
    assert isinstance(done.exception, click.UsageError)
    assert words in done.exception.format_message()


def test_no_word_is_taken_for_the_value_of_an_option_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.pub").write_bytes(generate(None)[1])
    for flags in (["--flux"], ["--verify-key", "fleet.pub", "--require-signed"]):
        done = push(*flags, "states", PLACE)
        assert isinstance(done.exception, FormatError)
        assert str(done.exception).startswith("states: ")


def test_a_key_to_check_by_is_not_taken_where_nothing_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.pub").write_bytes(generate(None)[1])
    done = push("--verify-key", "fleet.pub", "states", PLACE)
    assert isinstance(done.exception, click.UsageError)
    assert "--require-signed asks for them" in done.exception.format_message()


def test_what_is_wrong_in_a_commit_is_told_by_its_name_in_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "hello.yaml").write_bytes(as_yaml(document()))

    def git(*arguments: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "EMAIL": "a@example.org"}
        done = subprocess.run(
            ["git", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    git("add", "states")
    git("-c", "user.name=a", "commit", "--quiet", "--message=x")
    commit = git("rev-parse", "HEAD")
    source = Source(git=GitSource(str(tmp_path), "main", "states"))
    with source.documents(allow_empty=False) as (documents, origin):
        assert [str(one.file) for one in documents] == [f"{commit[:12]}:states/hello.yaml"]
        assert origin.revision == commit
    (tmp_path / "states" / "hello.yaml").write_text("id: x\n")
    git("add", "states")
    git("-c", "user.name=a", "commit", "--quiet", "--message=y")
    with pytest.raises(FormatError) as error, source.documents(allow_empty=False):
        pass
    assert error.value.faults[0].startswith(f"{git('rev-parse', 'HEAD')[:12]}:states/hello.yaml:1: ")


def test_a_layout_may_have_a_reference_behind_it_and_a_colon_in_its_name(tmp_path: Path) -> None:
    for name in ("site.tar", "a:b"):
        (tmp_path / name).touch()
    assert layout_and_name(f"{tmp_path}/site.tar:{PLACE}") == (tmp_path / "site.tar", PLACE)
    assert layout_and_name(f"{tmp_path}/a:b") == (tmp_path / "a:b", "")
    with pytest.raises(FormatError, match="there is no such layout"):
        layout_and_name(f"{tmp_path}/gone.tar")


def test_the_only_state_of_a_layout_is_found_among_whatever_else_is_in_it(tmp_path: Path) -> None:
    note = {"org.example.note": "x" * 200}
    index = canonical_json({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [], "annotations": note})
    state = build_state([layer()], counter=1, scope=SCOPE).manifest.data
    there = {"registry.example/image:1": index, "registry.example/note:1": b"{}", PLACE: state}
    assert str(_only_state(Offer(layout_of(tmp_path, there)), tmp_path)) == PLACE
    lost = Offer(layout_of(tmp_path, there))
    (tmp_path / "blobs" / "sha256" / digest_of(state).removeprefix("sha256:")).unlink()
    with pytest.raises(FormatError, match="one state is expected, there are: none; name it: "):
        _only_state(lost, tmp_path)


def test_a_claim_is_no_state_of_its_own() -> None:
    assert is_claim("latest-counter-7", {"latest", "latest-counter-7"})
    assert not is_claim("stable-counter-7", {"latest"})
    assert not is_claim("latest-counter-x", {"latest"})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (None, "registry.example/fleet/edge-17:latest-flux"),
        ("gitops", "registry.example/fleet/edge-17:gitops"),
        ("registry.example/flux/edge-17:1", "registry.example/flux/edge-17:1"),
    ],
)
def test_15_4_the_tag_for_flux_is_one_of_its_own(text: str | None, place: str) -> None:
    assert str(_flux_place(parse_reference(PLACE), text)) == place
    for bad in ("latest", PLACE, "a b", "", f"registry.example/flux@sha256:{'1' * 64}"):
        with pytest.raises(FormatError, match="--flux-to"):
            _flux_place(parse_reference(PLACE), bad)
