"""Components that others made and pushed, with oras and with tar, from a real registry (format 3.3, 7.5, 8.1, 8.2)."""

import gzip
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from oras.provider import Registry as OrasRegistry

from margo_cli import component_check
from margo_cli.main import cli
from margo_oci.compose import compose_missing
from margo_oci.errors import FormatError
from margo_oci.package import COMPOSE_ARTIFACT, COMPOSE_LAYER, QUADLET_ARTIFACT
from tests.parts.registry import LocalRegistry

FILES = {"compose.yaml": "services: {web: {image: 'x:${TAG:-1}', env_file: sub/web.env}}\n", "sub/web.env": "A=1\n",
         "sub/run.sh": "#!/bin/sh\n", f"sub/{'n' * 120}.txt": "a long name\n"}  # fmt: skip
UNIT = "[Container]\nImage=registry.example/web:1\n"
TARS = [["tar"], ["bsdtar"]]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a component, in which commands run."""
    for name, text in FILES.items():
        (tmp_path / "hello" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hello" / name).write_text(text)
    (tmp_path / "hello" / "sub" / "run.sh").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def oras_push(registry: LocalRegistry, name: str, what: str, *, config: str = "", **annotations: str) -> str:
    """Push one file or folder with oras; `config` is the artifact's type, as oras for Python says it."""
    reference = f"{registry.host}/others/{name}:1.0.0"
    client = OrasRegistry(insecure=True)
    if config:
        Path("config.json").write_text("{}")
    client.push(reference, files=[what], manifest_config=f"config.json:{config}" if config else None, quiet=True,
                manifest_annotations=annotations or None)  # fmt: skip
    return reference


def component(command: str, reference: str, *more: str) -> Result:
    return CliRunner().invoke(cli, ["component", command, reference, *more, "--plain-http"], standalone_mode=False)


def pulled(reference: str, folder: str = "pulled") -> dict[str, str]:
    """Pull a component; return its files."""
    shutil.rmtree(folder, ignore_errors=True)
    done = component("pull", reference, "-o", folder)
    assert done.exception is None, done.exception
    assert os.access(f"{folder}/sub/run.sh", os.X_OK)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("config", ["", COMPOSE_ARTIFACT], ids=["a config of oras", "the type as config"])
def test_8_1_a_folder_that_oras_packed_is_read(config: str, plain: LocalRegistry, work: Path) -> None:
    """Directory entries, PAX headers, the title of a folder, no annotation of the standard."""
    reference = oras_push(plain, f"folder-{len(config)}", f"hello:{COMPOSE_LAYER}", config=config)
    assert pulled(reference) == FILES
    said = json.loads(component("inspect", reference, "-o", "json").stdout)
    assert (said["type"], said["version"], said["folder"]) == ("compose", "1.0.0", "hello")
    assert said["services"] == [{"name": "web", "image": "x:${TAG:-1}", "profiles": []}]
    assert said["variables"] == [{"name": "TAG", "default": "1", "required": False}]
    assert said["annotations"]["layer"] == {"org.opencontainers.image.title": "hello"}


TAR_FORMS: Sequence[Sequence[str]] = (
    ["--format=gnu", "hello"], ["--format=pax", "hello"], ["--format=ustar", "--exclude=nnn*", "hello"],
    ["--format=pax", "./hello"], ["--sort=name", "--no-recursion", "hello/sub/run.sh", "hello/sub/web.env",
                                  "hello/compose.yaml"],
    ["--format=posix", "--owner=someone:4711", "--mtime=2001-01-01", "hello/sub", "hello/compose.yaml"],
)  # fmt: skip


def test_7_5_what_gnu_tar_makes_is_read_in_all_its_forms(plain: LocalRegistry, work: Path) -> None:
    for number, form in enumerate(TAR_FORMS):
        subprocess.run(
            ["tar", "--create", f"--use-compress-program=gzip -{1 + number}", "--file", "c.tgz", *form], check=True
        )
        found = pulled(oras_push(plain, f"gnu-{number}", f"c.tgz:{COMPOSE_LAYER}"))
        assert found.items() <= FILES.items()
        assert len(found) >= 3


def test_7_5_what_bsdtar_makes_is_read(plain: LocalRegistry, work: Path) -> None:
    if not shutil.which("bsdtar"):
        pytest.skip("bsdtar is missing (libarchive-tools)")
    for form in ("pax", "ustar", "gnutar"):
        subprocess.run(["bsdtar", "-c", "-z", "-f", "c.tgz", "--format", form, "./hello"], check=True)
        assert pulled(oras_push(plain, f"bsd-{form}", f"c.tgz:{COMPOSE_LAYER}")) == FILES


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_7_5_what_python_makes_is_read(form: int, prefix: str, plain: LocalRegistry, work: Path) -> None:
    with gzip.open("c.tgz", "wb", compresslevel=0 if prefix else 9) as stream, \
            tarfile.open(fileobj=stream, mode="w", format=form) as tar:  # fmt: skip
        for name in reversed(FILES):  # no entries for folders, and the last file first
            tar.add(f"hello/{name}", arcname=f"{prefix}hello/{name}")
    assert pulled(oras_push(plain, f"python-{form}-{len(prefix)}", f"c.tgz:{COMPOSE_LAYER}")) == FILES


def test_8_2_annotations_on_the_manifest_count_and_a_contradiction_is_told(plain: LocalRegistry, work: Path) -> None:
    said = {"org.margo.component.type": "compose", "org.margo.component.version": "1.0.0"}
    right = oras_push(plain, "annotated", f"hello:{COMPOSE_LAYER}", **said)
    assert "warning" not in component("inspect", right).stderr
    other = {"org.margo.component.type": "quadlet", "org.margo.component.version": "2.0.0"}
    wrong = oras_push(plain, "contradicting", f"hello:{COMPOSE_LAYER}", **other)
    told = component("inspect", wrong).stderr
    assert f"warning: {wrong}: tag 1.0.0 is not its version 2.0.0, as the standard wants it" in told
    assert f"warning: {wrong}: it says of itself that it is of type 'quadlet', and is compose" in told


@pytest.mark.parametrize("ending", ["tar.gzip", "tar+gzip"])
def test_8_10_a_quadlet_archive_of_oras_is_read_in_both_spellings(
    ending: str, plain: LocalRegistry, work: Path
) -> None:
    (work / "pump").mkdir()
    (work / "pump" / "web.container").write_text(UNIT)
    layer = f"application/vnd.org.margo.component.quadlet.v1.{ending}"
    reference = oras_push(plain, f"pump-{ending[3:4].replace('+', 'p').replace('.', 'd')}/pump", f"pump:{layer}",
                          config=QUADLET_ARTIFACT)  # fmt: skip
    said = json.loads(component("inspect", reference, "-o", "json").stdout)
    assert (said["type"], said["units"], said["images"]) == ("quadlet", ["web.container"], ["registry.example/web:1"])
    assert component("pull", reference, "-o", "there").exception is None
    assert (work / "there" / "web.container").read_text() == UNIT


def test_8_1_a_layer_without_its_type_is_refused_with_the_type_it_needs(plain: LocalRegistry, work: Path) -> None:
    reference = oras_push(plain, "untyped", "hello", config=COMPOSE_ARTIFACT)
    done = component("pull", reference, "-o", "pulled")
    assert isinstance(done.exception, FormatError)
    assert str(done.exception).endswith(f"its media type is {COMPOSE_LAYER}")
    assert not (work / "pulled").exists()


def test_8_6_without_compose_a_pull_says_what_was_not_checked(
    plain: LocalRegistry, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise FormatError(compose_missing("x86_64"))

    monkeypatch.setattr(component_check, "compose", missing)
    reference = oras_push(plain, "unchecked", f"hello:{COMPOSE_LAYER}")
    warned = component("pull", reference, "-o", "pulled").stderr
    assert f"warning: {reference}: Compose's own parser did not see it: Docker Compose is missing: install" in warned
    assert (work / "pulled" / "compose.yaml").exists()
    said = component("inspect", reference, "-o", "json")
    assert (json.loads(said.stdout)["services"], said.exception) == (None, None)


def test_8_6_nothing_is_written_of_an_archive_that_breaks_a_rule(plain: LocalRegistry, work: Path) -> None:
    for number, text in enumerate(("services: {web: {image: x, env_file: /etc/passwd}}", "services: {web: {build: .}}",
                                   "services: {web: {image: x, ports: {a: b}}}")):  # fmt: skip
        (work / "hello" / "compose.yaml").write_text(text)
        done = component("pull", oras_push(plain, f"broken-{number}", f"hello:{COMPOSE_LAYER}"), "-o", "pulled")
        assert isinstance(done.exception, FormatError), text
        assert not (work / "pulled").exists()
