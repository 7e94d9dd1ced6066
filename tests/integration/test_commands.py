"""Every command of margo-oci against a real registry: what its row in the documents promises."""

import asyncio
import json
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from margo_oci.deployment import parse_deployment
from margo_oci.desired_state import Layer, build_layer
from margo_oci.errors import ConflictError
from margo_oci.keys import FileKey
from margo_oci.manifest import IMAGE_MANIFEST, Manifest
from margo_oci.publish import Publisher, claim, current_state
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Access, Registry
from margo_oci.upload import Uploader
from tests.integration.site import IDS, Site, page, web
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry


@pytest.fixture(scope="session")
def image(plain_registry: LocalRegistry, images: Images) -> str:
    """What the components run."""
    images.push("images/web", "1.0", web_recipe())
    return f"{plain_registry.host}/images/web:1.0"


@pytest.fixture(scope="session")
def components(
    tmp_path_factory: pytest.TempPathFactory, plain_registry: LocalRegistry, engine: Engine, image: str
) -> Path:
    """The folder of two components, pushed once."""
    site = Site(tmp_path_factory.mktemp("components"), plain_registry, engine)
    site.component("hello", "1.0.0", web(image, 18111))
    site.component("pump", "1.0.0", web(image, 18112))
    return site.folder / "components"


@pytest.fixture
def site(tmp_path: Path, plain_registry: LocalRegistry, engine: Engine, components: Path) -> Site:
    """A site at a registry without TLS, with two components; nothing is published yet."""
    site = Site(tmp_path, plain_registry, engine)
    shutil.copytree(components, tmp_path / "components")
    site.deployment("hello", GREETING="hello")
    site.deployment("pump", GREETING="pump")
    return site


def web_recipe() -> images.Recipe:
    """The same image in every test."""
    return images.web()


def test_keygen_writes_a_private_key_for_its_owner_only_and_never_overwrites(site: Site) -> None:
    mode = (site.folder / "fleet.key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert "never overwritten" in site.oci("keygen", "--name", "fleet", "--no-password", expect=2).err


def test_an_encrypted_key_signs_with_the_password_of_the_environment(site: Site) -> None:
    site.environment["MARGO_OCI_KEY_PASSWORD"] = "open sesame"
    site.oci("keygen", "--name", "safe")
    assert b"ENCRYPTED PRIVATE KEY" in (site.folder / "safe.key").read_bytes()
    assert site.push(key="safe.key")["counter"] == 1
    site.environment["MARGO_OCI_KEY_PASSWORD"] = "wrong"
    assert "the password is wrong" in site.push(key="safe.key", expect=2)
    del site.environment["MARGO_OCI_KEY_PASSWORD"]
    assert "set MARGO_OCI_KEY_PASSWORD" in site.push(key="safe.key", expect=2)


def test_the_last_line_of_push_is_the_pinned_reference(site: Site) -> None:
    done = site.oci("push", "states", site.state, "--key", "fleet.key", "--scope", "edge-17", *site.flags)
    digest = site.oci("inspect", site.state, "-o", "json", *site.flags).json["digest"]
    assert done.out.splitlines()[-1] == f"{site.state.removesuffix(':latest')}@{digest}"


def test_push_tells_of_each_layer_whether_it_was_uploaded(site: Site) -> None:
    first = site.push()
    assert [(one["name"], one["status"]) for one in first["layers"]] == [("hello", "uploaded"), ("pump", "uploaded")]
    assert first["bytesUploaded"] == sum(one["size"] for one in first["layers"])
    site.deployment("pump", GREETING="faster")
    second = site.push()
    assert [(one["name"], one["status"]) for one in second["layers"]] == [("hello", "present"), ("pump", "uploaded")]
    assert (first["counter"], second["counter"]) == (1, 2)


def test_2_4_the_same_content_is_no_new_release(site: Site) -> None:
    first, second = site.push(), site.push()
    assert (second["changed"], second["digest"], second["counter"]) == (False, first["digest"], 1)


def test_a_dry_run_sends_nothing(site: Site) -> None:
    planned = site.push("--dry-run")
    assert (planned["dryRun"], planned["counter"]) == (True, 1)
    assert [one["status"] for one in planned["layers"]] == ["new", "new"]
    assert "does not have it" in site.oci("inspect", site.state, *site.flags, expect=3).err
    assert site.push()["digest"] == planned["digest"]


def test_all_faults_of_all_files_are_told_at_once(site: Site) -> None:
    (site.folder / "states" / "a.yaml").write_text("id: nonsense\nmetadata: {name: a}\n")
    (site.folder / "states" / "b.yaml").write_text("kind: Other\nx: &a 1\ny: *a\n")
    error = site.push(expect=2)
    assert "states/a.yaml:1: id: 'nonsense' does not fit: a UUID" in error
    assert "states/a.yaml:2: metadata.namespace: is missing" in error
    assert "states/b.yaml:3: aliases" in error


def test_a_component_that_is_not_there_is_named(site: Site) -> None:
    site.deployment("hello", "7.7.7")
    error = site.push(expect=3)
    assert "states/hello.yaml: component hello: " in error
    assert "does not have it" in error


def test_push_warns_of_a_variable_that_nobody_sets(site: Site) -> None:
    image = f"{site.registry.host}/images/web:1.0"
    site.component("hello", "1.1.0", web(image, 18111, "    labels: {place: $PLACE}\n"))
    site.deployment("hello", "1.1.0", GREETING="hello")
    command = ("push", "states", site.state, "--key", "fleet.key", "--scope", "edge-17", *site.flags)
    warned = site.oci(*command).err
    assert "warning: states/hello.yaml: hello: component hello: variable PLACE: no parameter sets it" in warned
    assert "pump" not in warned
    site.deployment("hello", "1.1.0", GREETING="hello", PLACE="hall")
    assert "warning" not in site.oci(*command).err


def test_a_counter_must_rise(site: Site) -> None:
    site.push("--counter", "7")
    site.deployment("hello", GREETING="changed")
    assert "counter 7 is not higher than 7" in site.push("--counter", "7", expect=2)
    assert site.push("--counter", "9")["counter"] == 9
    assert "1 to 18446744073709551615" in site.push("--counter", "18446744073709551616", expect=2)


def test_verify_checks_like_a_device(site: Site) -> None:
    digest = site.push()["digest"]
    found = site.oci("verify", site.state, "--key", "fleet.pub", "--scope", "edge-17", "-o", "json", *site.flags).json
    assert (found["verified"], found["digest"], found["signedBy"]) == (True, digest, "fleet.pub")
    site.keygen("other")
    wrong_key = site.oci("verify", site.state, "--key", "other.pub", *site.flags, expect=4)
    assert "by no key that is trusted here: other.pub" in wrong_key.err
    wrong_scope = site.oci("verify", site.state, "--key", "fleet.pub", "--scope", "edge-18", *site.flags, expect=4)
    assert "is for scope 'edge-17'" in wrong_scope.err
    pinned = f"{site.state.removesuffix(':latest')}@{digest}"
    site.oci("verify", pinned, "--key", "fleet.pub", *site.flags)


def test_inspect_shows_locks_signatures_and_sizes(site: Site) -> None:
    site.push()
    found = site.oci("inspect", site.state, "-o", "json", *site.flags).json
    hello = next(one for one in found["deployments"] if one["name"] == "hello")
    assert set(hello["lock"]["components"]) == {f"oci://{site.ref('components/hello')}:1.0.0"}
    assert set(hello["lock"]["images"]) == {site.ref("images/web:1.0")}
    assert [one["artifactType"] for one in found["referrers"]] == ["application/vnd.dev.sigstore.bundle.v0.3+json"]
    assert found["sizes"]["manifest"] > 0


def test_pull_writes_the_documents_byte_for_byte(site: Site) -> None:
    site.push()
    pull = ["pull", site.state, "--key", "fleet.pub", *site.flags]
    site.oci(*pull, "-o", "pulled")
    for name in ("hello", "pump"):
        written = (site.folder / "states" / f"{name}.yaml").read_bytes()
        assert (site.folder / "pulled" / f"{IDS[name]}.yaml").read_bytes() == written
    (site.folder / "pulled" / f"{IDS['hello']}.yaml").write_text("mine")
    assert "is there with other content" in site.oci(*pull, "-o", "pulled", expect=2).err
    site.oci(*pull, "-o", "pulled", "--force")


def test_diff_shows_what_changes_and_what_a_device_fetches(site: Site) -> None:
    pushed = site.push()
    same = site.oci("diff", site.state, "states", *site.flags)
    assert same.out == "no difference\n"
    site.deployment("hello", GREETING="changed")
    site.remove("pump")
    found = site.oci("diff", site.state, "states", "-o", "json", *site.flags, expect=1).json
    assert [one["name"] for one in found["removed"]] == ["pump"]
    assert (
        '+    GREETING: {value: "changed", targets: [{pointer: GREETING, components: [hello]}]}'
        in found["changed"][0]["diff"]
    )
    second = site.push()
    found = site.oci("diff", f"{site.state}-counter-1", site.state, "-o", "json", *site.flags, expect=1).json
    sizes = {one["digest"]: one["size"] for one in second["layers"]}
    new = sum(size for digest, size in sizes.items() if digest not in {one["digest"] for one in pushed["layers"]})
    inspected = site.oci("inspect", site.state, "-o", "json", *site.flags).json
    assert found["fetchBytes"] == new + inspected["sizes"]["manifest"]


def test_history_and_rollback_keep_every_release_reachable(site: Site) -> None:
    first = site.push()
    site.deployment("hello", GREETING="second")
    site.push()
    back = site.oci("rollback", site.state, "--to", "1", "--key", "fleet.key", "-o", "json", *site.flags).json
    rows = site.oci("history", site.state, "-o", "json", *site.flags).json["releases"]
    assert [(row["counter"], row["current"]) for row in rows] == [(3, True), (2, False), (1, False)]
    assert rows[2]["digest"] == first["digest"]
    assert all(row["signedAt"] for row in rows)
    assert rows[0]["digest"] == back["digest"] != first["digest"]
    missing = site.oci("rollback", site.state, "--to", "99", "--key", "fleet.key", *site.flags, expect=2)
    assert "release 99 is not there" in missing.err


def test_a_rollback_is_refused_for_a_release_somebody_else_signed(site: Site) -> None:
    site.keygen("other")
    site.push(key="other.key")
    site.deployment("hello", GREETING="ours")
    assert "which no key of yours signed" in site.push(expect=3)
    site.push("--counter", "2")
    error = site.oci("rollback", site.state, "--to", "1", "--key", "fleet.key", *site.flags, expect=4).err
    assert "by no key that is trusted here" in error


def test_something_else_under_the_tag_is_not_overwritten(site: Site) -> None:
    error = site.oci(
        "push", "states", site.ref("components/hello:1.0.0"), "--key", "fleet.key", "--scope", "edge-17", *site.flags,
        expect=2,
    ).err  # fmt: skip
    assert "holds something else, which is not overwritten" in error


def test_a_component_is_the_same_bytes_again_and_is_checked_first(site: Site) -> None:
    image = site.ref("images/web:1.0")
    first = site.component("hello", "1.0.0", web(image, 18111))
    assert first.out.splitlines()[0].startswith("present")
    folder = site.folder / "components" / "hello"
    (folder / "compose.yaml").write_text("services:\n  web:\n    image: x\n    env_file: [../fleet.key]\n")
    error = site.oci("component", "push", str(folder), site.ref("components/hello:1.0.1"), *site.flags, expect=2).err
    assert "leads out of the archive" in error
    (folder / "compose.yaml").write_text("services:\n  web:\n    build: .\n")
    error = site.oci("component", "push", str(folder), site.ref("components/hello:1.0.1"), *site.flags, expect=2).err
    assert "services.web: no image" in error
    (folder / "compose.yaml").write_text("services: [")
    site.oci("component", "push", str(folder), site.ref("components/hello:1.0.1"), *site.flags, expect=2)
    (folder / "compose.yaml").rename(folder / "docker-compose.yml")
    error = site.oci("component", "push", str(folder), site.ref("components/hello:1.0.1"), *site.flags, expect=2).err
    assert "compose.yaml is missing: rename docker-compose.yml" in error
    error = site.oci("component", "push", str(folder), site.ref("components/hello:v1"), *site.flags, expect=2).err
    assert "SemVer 2.0" in error


def test_a_component_can_be_signed_by_its_vendor(site: Site) -> None:
    site.keygen("vendor")
    folder = str(site.folder / "components" / "hello")
    signed = site.oci(
        "component",
        "push",
        folder,
        site.ref("components/hello:1.0.0"),
        "--key",
        "vendor.key",
        "-o",
        "json",
        *site.flags,
    ).json
    assert signed["signed"] is True
    tag = signed["digest"].replace(":", "-")

    async def listed() -> int:
        async with Registry(lambda _: Access(plain_http=True)) as registry:
            found = await registry.manifest(parse_reference(site.ref(f"components/hello:{tag}")))
            assert found
            return len(json.loads(found.data)["manifests"])

    assert asyncio.run(listed()) >= 1


def test_usage_registry_and_network_have_their_exit_codes(site: Site) -> None:
    site.oci("push", "states", site.state, expect=2)
    site.oci("no-such-command", expect=2)
    site.oci("inspect", "nonsense", expect=2)
    assert "refused" in site.oci("inspect", "127.0.0.1:9/x/y", "--plain-http", expect=3).err.lower()
    assert "speaks plain HTTP: --plain-http" in site.oci("inspect", site.state, expect=3).err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(site: Site, shell: str) -> None:
    assert "_MARGO_OCI_COMPLETE" in site.oci("completion", shell).out


# --- publishers who meet, and pushes that are cut off


def publisher(site: Site) -> tuple[Publisher, Reference, Registry]:
    """Return a publisher as `push` makes it."""
    registry = Registry(lambda _: Access(plain_http=True))
    key = FileKey.from_pem((site.folder / "fleet.key").read_bytes(), None, name="fleet.key")
    reference = parse_reference(site.state)
    uploader = Uploader(reference.host, Access(plain_http=True))
    return Publisher(registry, uploader, key, lambda: datetime.now(UTC)), reference, registry


class CutOff(Uploader):
    """An uploader whose cable is pulled before the tag moves."""

    def manifest(self, reference: Reference, data: bytes, media_type: str = IMAGE_MANIFEST) -> bool:
        """Push, but not to the tag that devices follow."""
        if reference.tag == "latest":
            raise ConnectionError("cable pulled")
        return super().manifest(reference, data, media_type)


def layer(greeting: str) -> Layer:
    """Return a layer that needs nothing else."""
    text = (
        f"id: {IDS['hello']}\nmetadata: {{name: hello, namespace: x}}\nspec:\n  applicationId: x\n"
        "  deploymentProfile: {type: compose, components: [{name: hello, properties: {repository: 'oci://r.example/x',"
        " revision: 1.0.0}}]}\n"
        f"  parameters: {{g: {{value: '{greeting}', targets: [{{pointer: G, components: [hello]}}]}}}}\n"
    )
    return build_layer(parse_deployment(text.encode(), what="x"))


def test_2_5_of_two_publishers_with_one_counter_at_least_one_finds_out(site: Site) -> None:
    async def meet() -> list[object]:
        first, reference, registry = publisher(site)
        second, _, other = publisher(site)
        async with registry, other:
            return list(
                await asyncio.gather(
                    first.publish(reference, [layer("a")], scope="edge-17", counter=1),
                    second.publish(reference, [layer("b")], scope="edge-17", counter=1),
                    return_exceptions=True,
                )
            )

    outcomes = asyncio.run(meet())
    assert any(isinstance(one, ConflictError) for one in outcomes), outcomes
    assert all(isinstance(one, ConflictError) or not isinstance(one, BaseException) for one in outcomes), outcomes


def test_2_3_a_push_cut_off_before_the_tag_and_repeated_ends_the_same(site: Site) -> None:
    async def cut_off_and_again() -> None:
        one, reference, registry = publisher(site)
        async with registry:
            cut = replace(one, uploader=CutOff(reference.host, Access(plain_http=True)))
            with pytest.raises(ConnectionError):
                await cut.publish(reference, [layer("a")], scope="edge-17")
            assert await current_state(registry, reference) is None
            release = await one.publish(reference, [layer("a")], scope="edge-17")
            assert (release.state.counter, release.uploaded) == (1, frozenset())

    asyncio.run(cut_off_and_again())


def test_2_6_a_counter_that_another_state_claimed_is_not_used_again(site: Site) -> None:
    async def claimed() -> None:
        one, reference, registry = publisher(site)
        async with registry:
            stale = Manifest.build("application/vnd.org.margo.config.v1+json", [], {"who": "knows"})
            one.uploader.blob(reference, stale.config, b"{}")
            one.uploader.manifest(claim(reference, 1), stale.data)
            release = await one.publish(reference, [layer("a")], scope="edge-17")
            assert release.state.counter == 2
            other = reference.at("other")
            one.uploader.manifest(claim(other, 1), stale.data)
            with pytest.raises(ConflictError, match="counter 1 is taken"):
                await one.publish(other, [layer("b")], scope="edge-17", counter=1)

    asyncio.run(claimed())


def test_2_7_a_rollback_moves_no_layer(site: Site) -> None:
    site.push()
    site.deployment("hello", GREETING="second")
    site.push()
    site.registry.forget()
    site.oci("rollback", site.state, "--to", "1", "--key", "fleet.key", *site.flags)
    started = [one for one in site.registry.requests() if one.method == "POST"]
    assert len(started) == 3  # the bundle; for cosign 2 a payload and a config


# --- a registry with a login


@pytest.fixture
def guarded(tmp_path: Path, auth_registry: LocalRegistry, engine: Engine) -> Iterator[Site]:
    """A site at a registry that asks who is there."""
    login = (auth_registry.username, auth_registry.password)
    Images(engine.docker_host, auth_registry.host, login).push("images/web", "1.0", web_recipe())
    site = Site(tmp_path, auth_registry, engine)
    yield site
    site.take_down()


def test_a_login_is_kept_where_docker_keeps_it_and_a_device_uses_its_own(guarded: Site) -> None:
    host, name = guarded.registry.host, guarded.registry.username
    refused = guarded.oci("inspect", guarded.state, *guarded.flags, expect=3)
    assert f"margo-oci login {host}" in refused.err
    login = ["login", host, "-u", name, "--password-stdin", *guarded.flags]
    assert "not accepted" in guarded.oci(*login, stdin="wrong\n", expect=3).err
    guarded.oci(*login, stdin=f"{guarded.registry.password}\n")
    kept = guarded.folder / "docker" / "config.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    guarded.component("hello", "1.0.0", web(guarded.ref("images/web:1.0"), 18121))
    guarded.deployment("hello", GREETING="behind a login")
    guarded.push()
    guarded.oci("logout", host)
    assert json.loads(kept.read_text())["auths"] == {}

    (guarded.folder / "password").write_text(guarded.registry.password + "\n")
    assert guarded.agent("once", expect=3)["outcome"] == "unreachable"
    guarded.configure(registry=f", username: {name}, passwordFile: password")
    report = guarded.agent("once")
    assert (report["outcome"], page(18121)) == ("applied", "behind a login")
    assert guarded.registry.password not in json.dumps(report)
