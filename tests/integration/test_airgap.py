"""Without a network: bundles made at a real registry, which is gone when a device imports them."""

import json
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from oras.provider import Registry as OrasRegistry

from margo_oci.layout import NAME, open_layout
from tests.integration.site import Site
from tests.parts.engine import Engine
from tests.parts.oci_image import Layer, push_image
from tests.parts.place import temporary_place
from tests.parts.registry import LocalRegistry

PORT = 18931
MEBIBYTE = 2**20


@pytest.fixture
def registry() -> Iterator[LocalRegistry]:
    """A registry of its own: it is switched off here."""
    with temporary_place() as place, LocalRegistry(place, "plain") as registry:
        yield registry


@pytest.fixture
def site(tmp_path: Path, registry: LocalRegistry, engine: Engine) -> Iterator[Site]:
    """A site of its own, of which nothing runs in the end."""
    found = Site(tmp_path, registry, engine)
    yield found
    found.take_down()


def release(site: Site, **parameters: str) -> None:
    """Publish a state that runs one image with one parameter."""
    path = f"{site.folder.name}/web"
    layers = [Layer.base(), Layer.random(2 * MEBIBYTE, str(site.folder))]
    push_image(site.registry, path, "1", layers)
    compose = (
        f"services:\n  web:\n    image: {site.ref(path)}:1\n    environment:\n      GREETING: ${{GREETING:-hello}}\n"
    )
    site.component("hello", "1.0.0", compose)
    site.deployment("hello", **parameters)
    site.push()


def bundle(site: Site, name: str, *more: str, expect: int = 0) -> Path:
    """Make a bundle of the site's state."""
    site.oci("bundle", site.state, "-o", name, *more, *site.flags, expect=expect)
    return site.folder / name


def greeting(site: Site) -> str:
    """Return the parameter of what runs here."""
    with site.looking() as client:
        environment: list[str] = client.containers.get(site.containers()["hello"]).attrs["Config"]["Env"]
    return next(one.partition("=")[2] for one in environment if one.startswith("GREETING="))


def imported(site: Site, name: str, *, expect: int = 0) -> dict[str, object]:
    """Have the device import a bundle; return its report."""
    done = site.run("margo_agent", "import", name, "--config", "agent.yaml", "-o", "json")
    assert done.code == expect, done
    report: dict[str, object] = done.json
    return report


def test_13_5_a_bundle_runs_on_a_device_that_has_no_registry(site: Site) -> None:
    release(site, GREETING="one")
    made = json.loads(site.oci("bundle", site.state, "-o", "site.tar", "--key", "fleet.pub", "--output", "json",
                               *site.flags).out)  # fmt: skip
    assert made["verified"]
    assert made["states"][0]["scope"] == "edge-17"
    assert made["manifests"]["component"] == 1
    unsigned = site.oci("bundle", site.ref("components/hello:1.0.0"), "-o", "c.tar", "--key", "fleet.pub", *site.flags,
                        expect=4)  # fmt: skip
    assert "unsigned" in unsigned.err or "signature" in unsigned.err
    site.registry.stop()
    assert imported(site, "site.tar")["outcome"] == "applied"
    assert greeting(site) == "one"
    assert imported(site, "site.tar")["outcome"] == "unchanged"


def test_13_7_a_changed_parameter_travels_in_a_few_kilobytes(site: Site) -> None:
    release(site, GREETING="one")
    bundle(site, "site.tar")
    imported(site, "site.tar")
    release(site, GREETING="two")
    news = bundle(site, "news.tar", "--since", "site.tar")
    assert news.stat().st_size < 64_000
    site.registry.stop()
    assert imported(site, "news.tar")["outcome"] == "applied"
    assert greeting(site) == "two"
    report = imported(site, "site.tar", expect=4)
    assert report["reason"] == "rollback"
    assert greeting(site) == "two"


def test_13_7_a_device_without_the_base_says_what_is_missing(site: Site) -> None:
    release(site, GREETING="one")
    base = open_layout(bundle(site, "site"))
    bundle(site, "same.tar", "--since", "site")
    release(site, GREETING="two")
    bundle(site, "news.tar", "--since", "site")
    site.registry.stop()
    assert "import the earlier bundle first" in str(imported(site, "same.tar", expect=3)["message"])
    report = imported(site, "news.tar", expect=3)
    lacked = {entry.digest for entry in base.entries if "/web" in str(entry.annotations)}
    assert "import the earlier bundle first" in str(report["message"])
    assert any(digest in str(report["message"]) for digest in lacked)
    assert site.containers() == {}
    for name, says in (("site", "one"), ("news.tar", "two")):  # the advice can be followed
        assert imported(site, name)["outcome"] == "applied"
        assert greeting(site) == says


def test_13_10_a_stick_that_is_put_in_is_applied_and_an_older_one_left_alone(site: Site) -> None:
    for name in ("one", "two"):
        release(site, GREETING=name)
        bundle(site, f"{name}.tar")
    site.registry.stop()
    watched = site.folder / "media"
    watched.mkdir()
    site.configure(**{"import": "{watch: media}"})
    with site.running_agent() as agent:
        shutil.copytree(site.folder, watched / "stick", ignore=lambda _, names: set(names) - {"two.tar"})
        taken = told(agent, "two.tar")
        assert taken["outcome"] == "applied"
        assert greeting(site) == "two"
        shutil.copy(site.folder / "one.tar", watched / "stick")
        left = told(agent, "one.tar")
        assert (left["outcome"], left["message"]) == ("unchanged", "counter 1 is older than 2, which was accepted")
    assert greeting(site) == "two"


def told(agent: subprocess.Popen[str], name: str) -> dict[str, object]:
    """Return what a running agent says of a bundle."""
    assert agent.stdout
    found: Iterator[dict[str, object]] = (json.loads(line) for line in agent.stdout)
    return next(one for one in found if name in str(one.get("reference")))


def test_13_6_head_and_roots_come_along(site: Site) -> None:
    release(site, GREETING="one")
    for name in ("root", "head"):
        site.keygen(name)
    site.oci("root", "init", "-o", "1.root.json", "--root-key", "root.pub", "--root-threshold", "1",
             "--head-key", "head.pub", "--release-key", "fleet.pub")  # fmt: skip
    site.oci("root", "sign", "1.root.json", "--key", "root.key")
    site.oci("root", "publish", "1.root.json", site.state.removesuffix(":latest"), *site.flags)
    site.oci("head", "issue", site.state, "--root", "1.root.json", "--key", "head.key", *site.flags)
    site.configure(trust="{mode: head+release, root: 1.root.json}")
    made = json.loads(site.oci("bundle", site.state, "-o", "site.tar", "--output", "json", *site.flags).out)
    assert (made["manifests"]["head"], made["manifests"]["roots"]) == (1, 1)
    site.registry.stop()
    report = imported(site, "site.tar")
    assert report["outcome"] == "applied"
    assert greeting(site) == "one"


def test_13_5_a_bundle_that_was_tampered_with_is_refused_for_the_same_reasons(site: Site) -> None:
    release(site, GREETING="one")
    folder = bundle(site, "site")
    entries = open_layout(folder).entries
    state = next(one.digest for one in entries if one.annotations[NAME] == site.state)
    file = folder / "blobs" / "sha256" / state.removeprefix("sha256:")
    good = file.read_bytes()
    file.write_bytes(good.replace(b"edge-17", b"edge-18"))
    assert imported(site, "site", expect=4)["reason"] == "digest-mismatch"
    file.write_bytes(good)
    site.keygen("stranger")
    site.configure(trust="{keys: [stranger.pub]}")
    assert imported(site, "site", expect=4)["reason"] == "wrong-key"
    site.configure(trust="{keys: [fleet.pub]}")
    index = json.loads((folder / "index.json").read_text())
    index["manifests"] = [one for one in index["manifests"] if one["digest"] == state]
    (folder / "index.json").write_text(json.dumps(index))
    assert imported(site, "site", expect=4)["reason"] == "unsigned"
    assert site.containers() == {}


def test_13_4_a_bundle_that_was_cut_off_goes_on_and_ends_the_same(site: Site) -> None:
    release(site, GREETING="one")
    whole = bundle(site, "site.tar").read_bytes()
    part = site.folder / "again.tar.part" / "blobs" / "sha256"
    part.mkdir(parents=True)
    folder = bundle(site, "site")
    large = max((folder / "blobs" / "sha256").iterdir(), key=lambda file: file.stat().st_size)
    shutil.copy(large, part)
    site.registry.forget()
    assert bundle(site, "again.tar").read_bytes() == whole
    assert not any(large.name in one.path for one in site.registry.requests())
    assert not part.exists()


@contextmanager
def served(site: Site, name: str, port: int, *more: str) -> Iterator[str]:
    """Serve a bundle; yield where."""
    command = [sys.executable, "-m", "margo_cli", "serve", name, "--listen", f"127.0.0.1:{port}", *more]
    with subprocess.Popen(command, cwd=site.folder, env=site.environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr
            assert f"127.0.0.1:{port}" in server.stderr.readline()
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


def test_13_8_a_served_bundle_stands_in_for_the_registry(site: Site) -> None:
    release(site, GREETING="one")
    bundle(site, "site.tar")
    site.registry.stop()
    with served(site, "site.tar", int(site.registry.host.rpartition(":")[2])):
        assert site.agent("once")["outcome"] == "applied"
        assert site.agent("once")["outcome"] == "unchanged"
        assert greeting(site) == "one"
        shown = site.oci("verify", site.state, "--key", "fleet.pub", *site.flags)
        assert "edge-17" in shown.out


def test_13_8_skopeo_and_oras_read_what_is_served(site: Site) -> None:
    release(site, GREETING="one")
    bundle(site, "site")
    component = site.repository("components/hello")
    with served(site, "site", PORT) as host:
        source = f"docker://{host}/{site.folder.name}/web:1"
        command = ["skopeo", "copy", "--src-tls-verify=false", source, "oci:pulled:web"]
        subprocess.run(command, cwd=site.folder, capture_output=True, check=True)
        assert (site.folder / "pulled" / "index.json").exists()
        client = OrasRegistry(insecure=True)
        pulled = client.pull(f"{host}/{component}:1.0.0", outdir=str(site.folder / "oras"))
        assert len(pulled) == 1
        tags = client.get_tags(f"{host}/{component}")
        assert tags == ["1.0.0"]
        answers = asked(host, f"/v2/{site.folder.name}/edge-17/manifests/latest")
        assert answers == [200, 304, 405]


def asked(host: str, path: str) -> list[int]:
    """Return the statuses of a GET, the same with what is known, and a PUT."""
    connection = HTTPConnection(host, timeout=10)
    connection.request("GET", path)
    first = connection.getresponse()
    first.read()
    connection.request("GET", path, headers={"If-None-Match": first.headers["ETag"]})
    second = connection.getresponse()
    second.read()
    connection.request("PUT", path, body=b"{}")
    third = connection.getresponse()
    assert (third.headers["Allow"], json.load(third)["errors"][0]["code"]) == ("GET, HEAD", "UNSUPPORTED")
    connection.close()
    return [first.status, second.status, third.status]


def test_13_8_a_bundle_is_served_over_tls(site: Site, tls_registry: LocalRegistry) -> None:
    release(site, GREETING="one")
    bundle(site, "site.tar")
    keys = tls_registry.storage.parent
    pair = {name: next(keys.rglob(name)) for name in ("server.pem", "server.key")}
    more = ("--tls-cert", str(pair["server.pem"]), "--tls-key", str(pair["server.key"]))
    with served(site, "site.tar", PORT, *more) as host:
        state = site.state.replace(site.registry.host, host)
        site.oci("inspect", state, "--ca-file", str(tls_registry.ca_file))
        refused = site.oci("inspect", state, "--plain-http", expect=3)
        assert "error" in refused.err


def test_13_9_an_artifact_is_copied_with_its_signatures_and_only_once(
    site: Site, plain_registry: LocalRegistry
) -> None:
    release(site, GREETING="one")
    to = f"{plain_registry.host}/{site.folder.name}/copied:stable"
    first = site.oci("copy", site.state, to, "-o", "json", *site.flags).json
    assert first["sent"] > 0
    site.oci("verify", to, "--key", "fleet.pub", *site.flags)
    plain_registry.forget()
    again = site.oci("copy", site.state, to, "-o", "json", *site.flags).json
    assert (again["sent"], again["sentBytes"]) == (0, 0)
    assert not any(one.method in ("POST", "PATCH") for one in plain_registry.requests())


def test_13_9_a_bundle_is_copied_whole_into_a_registry(site: Site, plain_registry: LocalRegistry) -> None:
    release(site, GREETING="one")
    bundle(site, "site.tar")
    host, prefix = plain_registry.host, f"{site.folder.name}-mirror"
    site.oci("copy", "site.tar", f"{host}/{prefix}", *site.flags)
    site.registry.stop()
    state = f"{host}/{prefix}/{site.state.partition('/')[2]}"
    site.oci("verify", state, "--key", "fleet.pub", *site.flags)
    access = (
        f'{{"{site.registry.host}": {{mirrors: ["{host}/{prefix}"], plainHttp: true}}, "{host}": {{plainHttp: true}}}}'
    )
    site.configure(registries=access, source=state)
    assert site.agent("once")["outcome"] == "applied"
    assert greeting(site) == "one"


def test_13_9_one_thing_in_a_bundle_is_copied_and_two_kinds_of_registries_are_joined(
    site: Site, tls_registry: LocalRegistry
) -> None:
    release(site, GREETING="one")
    bundle(site, "site.tar")
    ca_file = str(tls_registry.ca_file)
    place = f"{tls_registry.host}/{site.folder.name}"
    component = site.ref("components/hello:1.0.0")
    site.oci("copy", f"site.tar:{component}", f"{place}/hello:stable", "--to-ca-file", ca_file)
    site.oci("copy", site.state, f"{place}/edge-17:stable", "--from-plain-http", "--to-ca-file", ca_file)
    shown = site.oci("verify", f"{place}/edge-17:stable", "--key", "fleet.pub", "--ca-file", ca_file)
    assert "edge-17" in shown.out
    site.oci("component", "inspect", f"{place}/hello:stable", "--ca-file", ca_file)


def test_13_9_an_artifact_is_copied_into_a_layout(site: Site) -> None:
    release(site, GREETING="one")
    site.oci("copy", site.ref("components/hello:1.0.0"), "oci:taken", *site.flags)
    site.oci("copy", site.state, "oci:taken", *site.flags)
    again = site.oci("copy", site.state, "oci:taken", "-o", "json", *site.flags).json
    assert (again["sent"], again["sentBytes"]) == (0, 0)
    names = {
        entry.annotations["org.opencontainers.image.ref.name"] for entry in open_layout(site.folder / "taken").entries
    }
    assert {site.ref("components/hello:1.0.0"), site.state} <= names
    (site.folder / "notes.tar").write_text("somebody's own")
    refused = site.oci("copy", site.state, "notes.tar", *site.flags, expect=2)
    assert "it is there already" in refused.err
    assert (site.folder / "notes.tar").read_text() == "somebody's own"


def test_13_11_cosign_finds_in_a_layout_what_it_verifies(site: Site) -> None:
    release(site)
    place = bundle(site, "site")
    listed = json.loads((place / "index.json").read_text())["manifests"]
    kinds = {one["annotations"]["kind"]: one["digest"] for one in listed if "kind" in one["annotations"]}
    target = kinds["dev.cosignproject.cosign/image"]
    pem = (site.folder / "fleet.pub").read_bytes()

    def blob(digest: str) -> bytes:
        return (place / "blobs" / digest.replace(":", "/")).read_bytes()

    (bundled,) = bundles_over(target, place)
    envelope = json.loads(blob(bundled))["dsseEnvelope"]
    payload = b64decode(envelope["payload"])
    length = f"DSSEv1 {len(envelope['payloadType'])} {envelope['payloadType']} {len(payload)} ".encode()
    assert is_signed(pem, envelope["signatures"][0]["sig"], length + payload)
    assert json.loads(payload)["subject"][0]["digest"]["sha256"] == target.removeprefix("sha256:")
    (simple,) = json.loads(blob(kinds["dev.cosignproject.cosign/sigs"]))["layers"]
    assert is_signed(pem, simple["annotations"]["dev.cosignproject.cosign/signature"], blob(simple["digest"]))


def bundles_over(target: str, layout: Path) -> Sequence[str]:
    """Return the Sigstore bundles that refer to `target`, found as cosign does: all blobs are looked through."""
    found = []
    for file in (layout / "blobs" / "sha256").iterdir():
        try:
            manifest = json.loads(file.read_bytes())
        except ValueError:
            continue
        if isinstance(manifest, dict) and manifest.get("subject", {}).get("digest") == target:
            found += [one["digest"] for one in manifest["layers"] if "sigstore.bundle" in one["mediaType"]]
    return found


def is_signed(public_pem: bytes, signature: str, message: bytes) -> bool:
    """Tell whether a P-256 signature in base64 holds."""
    public = load_pem_public_key(public_pem)
    assert isinstance(public, EllipticCurvePublicKey)
    public.verify(b64decode(signature), message, ECDSA(SHA256()))
    return True


def test_skopeo_reads_what_was_bundled(site: Site) -> None:
    release(site, GREETING="one")
    bundle(site, "site")
    bundle(site, "site.tar")
    name = f"{site.ref(site.folder.name)}/web:1"
    for source in (f"oci:site:{name}", f"oci-archive:site.tar:{name}"):
        done = subprocess.run(["skopeo", "inspect", "--raw", source], cwd=site.folder, capture_output=True, text=True,
                              check=True)  # fmt: skip
        assert len(json.loads(done.stdout)["layers"]) == 2
