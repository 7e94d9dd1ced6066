"""What push reads and checks: commits, states in layouts, signatures and platforms; and what others read of it."""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from oras.provider import Registry as OrasRegistry

from tests.integration.site import Site
from tests.parts.engine import Engine
from tests.parts.oci_image import Layer, push_image
from tests.parts.registry import LocalRegistry


@pytest.fixture
def site(tmp_path: Path, plain_registry: LocalRegistry, engine: Engine) -> Site:
    """A site with one component and its image."""
    site = Site(tmp_path, plain_registry, engine)
    path = f"{site.folder.name}/web"
    push_image(plain_registry, path, "1", [Layer.base()])
    site.component("hello", "1.0.0", f"services:\n  web:\n    image: {site.ref(path)}:1\n")
    site.deployment("hello", GREETING="one")
    return site


def git(site: Site, *arguments: str) -> str:
    """Run git in the folder of states."""
    author = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *arguments], cwd=site.folder / "states", env={**site.environment, **author}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def commit(site: Site) -> str:
    """Commit what is there; return the commit."""
    git(site, "add", "--all")
    git(site, "commit", "--quiet", "--allow-empty", "--message=x")
    return git(site, "rev-parse", "HEAD")


def from_git(site: Site, *more: str, expect: int = 0) -> dict[str, object]:
    """Push the branch main; return what push printed."""
    done = site.oci(
        "push", site.state, "--from-git", str(site.folder / "states"), "--rev", "main", "--key", "fleet.key",
        "--scope", "edge-17", "-o", "json", *site.flags, *more, expect=expect,
    )  # fmt: skip
    return {} if expect else done.json


def test_a_commit_is_published_and_noted_and_others_read_what_is_there(site: Site) -> None:
    git(site, "init", "--quiet", "--initial-branch=main")
    first = commit(site)
    pushed = from_git(site, "--flux")
    assert pushed["revision"] == first
    assert not from_git(site, "--dry-run")["changed"]
    commit(site)  # changes no deployment
    again = from_git(site, "--flux")
    assert (again["changed"], again["revision"], again["flux"]["changed"]) == (False, first, False)  # type: ignore[index]
    assert f"commit    {first}" in site.oci("inspect", site.state, *site.flags).out
    assert first[:11] in site.oci("history", site.state, *site.flags).out
    site.oci("verify", f"{site.state}-flux", "--key", "fleet.pub", *site.flags)

    oras = OrasRegistry(site.registry.host, insecure=True)
    for name, tag in (("state", site.state), ("flux", f"{site.state}-flux")):
        (file,) = oras.pull(tag, outdir=str(site.folder / name)) or [""]
        assert Path(file).stat().st_size
        subprocess.run(
            ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{tag}", f"oci:{site.folder}/{name}-oci"],
            check=True, env=site.environment,
        )  # fmt: skip
    layout = site.folder / "flux-oci"
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads((layout / "blobs" / entry["digest"].replace(":", "/")).read_text())
    assert manifest["annotations"]["org.opencontainers.image.revision"] == f"main@sha1:{first}"
    (layer,) = manifest["layers"]
    with tarfile.open(layout / "blobs" / layer["digest"].replace(":", "/"), "r:gz") as tar:
        assert tar.getnames() == ["hello.yaml"]


def test_what_is_not_signed_or_does_not_run_there_is_refused_before_anything_is_pushed(site: Site) -> None:
    image = f"{site.ref(site.folder.name)}/web:1"
    refused = site.push("--require-signed", "--verify-key", "fleet.pub", expect=4)
    assert "states/hello.yaml: component hello: component" in refused
    assert f"image {site.ref(site.folder.name)}/web@sha256:" in refused
    site.oci("sign", f"{site.ref('components/hello')}:1.0.0", "--key", "fleet.key", *site.flags)
    site.push("--require-signed-only", "components", "--verify-key", "fleet.pub", "--dry-run")
    site.oci("sign", image, "--key", "fleet.key", *site.flags)
    assert "no image for linux/s390x: it has linux/" in site.push("--platform", "linux/s390x", expect=2)
    assert site.oci("history", site.state, *site.flags, expect=3).err
    assert site.push("--require-signed", "--verify-key", "fleet.pub", "--platform", "linux/amd64")["changed"]


def test_4_8_what_would_move_is_told_and_newer_versions_are_written(site: Site) -> None:
    site.push()
    assert "nothing moves" in site.oci("lock", "update", "states", site.state, *site.flags).out
    path = f"{site.folder.name}/web"
    push_image(site.registry, path, "1", [Layer.base(), Layer.random(100, "another")])
    site.component("hello", "1.1.0", f"services:\n  web:\n    image: {site.ref(path)}:1\n")
    before = (site.folder / "states" / "hello.yaml").read_text()
    done = site.oci("lock", "update", "states", site.state, "--write", "-o", "json", *site.flags, expect=1)
    (move,) = done.json["moves"]
    assert (move["kind"], move["reference"], move["releaseMoved"]) == ("image", f"{site.ref(path)}:1", False)
    assert done.json["newer"][0]["allowed"] == "1.1.0"
    after = (site.folder / "states" / "hello.yaml").read_text()
    assert after == before.replace("revision: 1.0.0", "revision: 1.1.0")
    assert site.push()["counter"] == 2
    locks = site.oci("lock", "show", site.state, "--key", "fleet.pub", "-o", "json", *site.flags).json["locks"]
    assert list(locks[0]["components"]) == [f"oci://{site.ref('components/hello')}:1.1.0"]


def test_2_11_a_state_out_of_a_layout_is_published_again_by_another_and_with_the_locks_it_has(site: Site) -> None:
    site.push()
    site.oci("bundle", site.state, "-o", "site.tar", *site.flags)
    site.keygen("plant")
    to = site.ref(f"{site.folder.name}/copied:latest")
    arguments = ("push", to, "--from-layout", "site.tar", "--key", "plant.key", "--scope", "edge-17", *site.flags)
    assert "by whom?" in site.oci(*arguments, expect=2).err
    assert "signed, but by no key" in site.oci(*arguments, "--verify-key", "plant.pub", expect=4).err
    done = site.oci(*arguments, "--verify-key", "fleet.pub", "-o", "json").json
    assert (done["counter"], done["missing"]) == (1, [])
    site.oci("verify", to, "--key", "plant.pub", "--scope", "edge-17", *site.flags)
    assert "no difference" in site.oci("diff", site.state, to, *site.flags).out
