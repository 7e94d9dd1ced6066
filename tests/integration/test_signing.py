"""Signatures, attestations and trees against a real registry, with real openssl, by the commands themselves."""

import base64
import json
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from margo_oci.identity import Identity
from tests.integration.site import Done, Site, web
from tests.integration.test_heads import Desk
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry
from tests.parts.sigstore import SigstoreServer, sigstore_server
from tests.unit.chains import IDENTITY, certify, root, statement

PORT = 18097
CI = Identity("ci@example.org", "https://issuer.example")
SPDX = {"spdxVersion": "SPDX-2.3", "packages": []}


class Bench(Desk):
    """A desk with a component that nobody signed yet."""

    def __init__(self, folder: Path, registry: LocalRegistry) -> None:
        super().__init__(folder, registry)
        self.component = f"{registry.host}/{folder.name}/hello:1.0.0"
        (folder / "hello").mkdir()
        (folder / "hello" / "compose.yaml").write_text("services: {web: {image: 'registry.example/web:1'}}\n")
        self.digest: str = self.do("component", "push", "hello", self.component).json["digest"]
        (folder / "sbom.json").write_text(json.dumps(SPDX))

    def do(self, *arguments: str, expect: int = 0) -> Done:
        """Run a command that reaches the registry."""
        return self.oci(*arguments, "--plain-http", "-o", "json", expect=expect)

    def sign(self, *how: str, expect: int = 0) -> Any:
        """Sign the component; return what was made."""
        done = self.do("sign", self.component, *how, expect=expect)
        return done.err if expect else done.json["made"]

    def verify(self, *how: str, expect: int = 0) -> Any:
        """Verify the component; return the formats that counted, or the words of a refusal."""
        done = self.do("verify", self.component, *how, expect=expect)
        return done.err if expect else [one["format"] for one in done.json["signatures"]]

    def tree(self, reference: str = "") -> Sequence[str]:
        """Return what hangs on the component, in words."""
        return [one["what"] for one in self.do("tree", reference or self.component).json["children"]]

    def read(self, path: str) -> bytes:
        """Read from the component's repository as anybody can."""
        repository = self.component.removeprefix(f"{self.registry.host}/").rpartition(":")[0]
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        with httpx2.Client(trust_env=False) as client:
            return client.get(f"{self.registry.url}/v2/{repository}/{path}", headers=accept).raise_for_status().content


@pytest.fixture
def bench(tmp_path: Path, plain_registry: LocalRegistry) -> Bench:
    return Bench(tmp_path, plain_registry)


def test_to_sign_twice_is_to_sign_once(bench: Bench) -> None:
    assert bench.sign("--key", "fleet.key") == ["bundle", "simple-signing"]
    assert bench.sign("--key", "fleet.key") == []
    assert bench.tree() == ["Sigstore bundle: release signature", "cosign v2 signatures: 1"]
    assert bench.verify("--key", "fleet.pub") == ["bundle"]


def test_two_keys_make_a_threshold_of_two(bench: Bench) -> None:
    both = ("--key", "a.pub", "--key", "b.pub", "--threshold", "2")
    bench.sign("--key", "a.key")
    assert "2 of those who are trusted must sign" in bench.verify(*both, expect=4)
    bench.sign("--key", "b.key")
    assert bench.verify(*both) == ["bundle", "bundle"]
    assert "signed, but by no key that is trusted here" in bench.verify("--key", "c.pub", expect=4)


def test_the_tag_of_cosign_v2_is_there_and_readable_with_openssl(bench: Bench) -> None:
    assert bench.sign("--key", "a.key", "--no-sig-tag") == ["bundle"]
    assert bench.sign("--key", "a.key") == ["simple-signing"]
    assert bench.sign("--key", "b.key") == ["bundle", "simple-signing"]
    layers = json.loads(bench.read(f"manifests/{bench.digest.replace(':', '-')}.sig"))["layers"]
    assert len(layers) == 2
    payload = bench.read(f"blobs/{layers[0]['digest']}")
    assert json.loads(payload)["critical"]["image"] == {"docker-manifest-digest": bench.digest}
    signature = base64.b64decode(layers[0]["annotations"]["dev.cosignproject.cosign/signature"])
    (bench.folder / "signature").write_bytes(signature)
    command = ["openssl", "dgst", "-sha256", "-verify", "a.pub", "-signature", "signature"]
    subprocess.run(command, cwd=bench.folder, input=payload, check=True, capture_output=True)


def test_notary_signs_with_a_chain_and_verifies_by_its_own_policy(bench: Bench) -> None:
    begin, end = datetime.now(UTC) - timedelta(days=2), datetime.now(UTC) + timedelta(days=30)
    authority = certify("notary root", extensions=[*root_extensions()], begin=begin, end=end)
    signer = certify("notary leaf", authority, begin=begin, end=end)
    pem = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (bench.folder / "leaf.key").write_bytes(pem)
    (bench.folder / "chain.pem").write_bytes(signer.pem + authority.pem)
    how = ("--key", "leaf.key", "--cert-chain", "chain.pem")
    assert bench.sign(*how) == ["bundle", "simple-signing", "notary"]
    assert bench.sign(*how) == []
    assert "Notary signature" in bench.tree()
    store = bench.folder / "notation" / "truststore" / "x509" / "ca" / "fleet"
    store.mkdir(parents=True)
    (store / "root.pem").write_bytes(authority.pem)
    scopes = [bench.component.rpartition(":")[0]]
    policy = {"version": "1.0", "trustPolicies": [statement(registryScopes=scopes, override={"revocation": "skip"})]}
    (bench.folder / "notation" / "trustpolicy.json").write_text(json.dumps(policy))
    assert bench.verify("--notary", "notation") == ["notary"]
    policy["trustPolicies"] = [
        statement(registryScopes=scopes, trustedIdentities=[IDENTITY.replace("example.org", "example.com")])
    ]
    (bench.folder / "notation" / "trustpolicy.json").write_text(json.dumps(policy))
    bench.verify("--notary", "notation", expect=4)


def root_extensions() -> Iterator[Any]:
    """What a root certificate says of itself."""
    for extension in root().certificate.extensions:
        yield extension.value, extension.critical


def test_a_command_signs_in_place_of_a_key_file(bench: Bench) -> None:
    how = ("--signer-command", "openssl dgst -sha256 -sign a.key", "--signer-key", "a.pub")
    assert bench.sign(*how) == ["bundle", "simple-signing"]
    assert bench.verify("--key", "a.pub") == ["bundle"]
    wrong = ("--signer-command", "openssl dgst -sha256 -sign b.key", "--signer-key", "c.pub")
    assert "is no signature by c.pub" in bench.sign(*wrong, expect=2)
    assert "it ended with 1" in bench.sign("--signer-command", "openssl dgst -x", "--signer-key", "c.pub", expect=2)


def test_documents_hang_on_the_tree_and_release_nothing(bench: Bench) -> None:
    attach = ("attach", bench.component, "sbom.json", "--type", "sbom-spdx")
    assert [bench.do(*attach).json["changed"] for _ in range(2)] == [True, False]
    signed = (*attach, "--key", "second.key")
    made = [bench.do(*signed).json for _ in range(2)]
    assert [one["changed"] for one in made] == [True, False]
    assert made[0]["predicateType"] == "https://spdx.dev/Document"
    assert sorted(bench.tree()) == ["Sigstore bundle: attestation of sbom-spdx", "sbom-spdx, unsigned"]
    refused = bench.verify("--key", "second.pub", expect=4)
    assert "signed 'https://spdx.dev/Document' for it, which is no release" in refused
    assert bench.sign("--key", "fleet.key")
    assert bench.verify("--key", "fleet.pub") == ["bundle"]
    warned = bench.do("attach", bench.component, "sbom.json", "--type", "sbom-spdx", "--key", "fleet.key")
    assert "keep another one for attestations" in warned.err
    assert len(warned.json["warnings"]) == 1


def test_what_cannot_be_attached_is_told(bench: Bench) -> None:
    wrong = bench.do("attach", bench.component, "sbom.json", "--type", "vex", expect=2)
    assert "sbom.json: not of type vex: OpenVEX's @context and statements are expected" in wrong.err
    assert "one of sbom-spdx" in bench.do("attach", bench.component, "sbom.json", "--type", "sbom", expect=2).err
    elsewhere = bench.component.replace(":1.0.0", ":9.9.9")
    assert bench.do("attach", elsewhere, "sbom.json", "--type", "sbom-spdx", expect=3).err
    assert bench.do("tree", elsewhere, expect=3).err


def test_the_tree_of_a_state_has_its_releases_and_its_head(bench: Bench) -> None:
    bench.first_root()
    for counter in (1, 2):
        bench.push(counter)
    bench.head("issue")
    shown = bench.tree(bench.state)
    assert shown[:2] == ["Sigstore bundle: release signature", "cosign v2 signatures: 1"]
    assert shown[2:] == ["head", "release 2", "release 1"]
    text = bench.oci("tree", bench.state, "--plain-http")
    assert "├── Sigstore bundle: release signature  sha256:" in text.out
    assert "└── release 1  sha256:" in text.out
    assert "nothing of this was verified" in text.err


@pytest.fixture
def sigstore(bench: Bench) -> Iterator[SigstoreServer]:
    """A private Sigstore on this machine; the bench knows it, and has a login there."""
    with sigstore_server() as server:
        (bench.folder / "sigstore.json").write_text(json.dumps(server.client_config))
        (bench.folder / "trusted_root.json").write_text(json.dumps(server.instance.trusted_root))
        (bench.folder / "token").write_text(server.instance.token(CI) + "\n")
        yield server


def expected(
    identity: str = CI.subject, issuer: str = CI.issuer, root_file: str = "trusted_root.json"
) -> Sequence[str]:
    return ("--certificate-identity", identity, "--certificate-oidc-issuer", issuer, "--trust-config", root_file)


def test_a_login_signs_and_is_verified_by_its_name(bench: Bench, sigstore: SigstoreServer) -> None:
    how = ("--keyless", "--identity-token", "token", "--trust-config", "sigstore.json")
    assert bench.sign(*how) == ["keyless"]
    assert bench.sign(*how) == []
    assert len(sigstore.instance.logged) == 1
    for root_file in ("trusted_root.json", "sigstore.json"):
        assert bench.verify(*expected(root_file=root_file)) == ["keyless"]
    assert "trusted is else@example.org" in bench.verify(*expected("else@example.org"), expect=4)
    assert "trusted is ci@example.org" in bench.verify(*expected(issuer="https://else.example"), expect=4)
    assert "no identity is trusted here" in bench.verify("--key", "fleet.pub", expect=4)
    assert bench.sign("--key", "fleet.key") == ["bundle", "simple-signing"]
    assert bench.verify(*expected(), "--key", "fleet.pub", "--threshold", "2") == ["keyless", "bundle"]


def test_a_login_that_does_not_work_is_told(bench: Bench, sigstore: SigstoreServer) -> None:
    how = ("--keyless", "--trust-config", "sigstore.json")
    assert "Missing option '--identity-token'" in bench.sign(*how, expect=2)
    told = bench.sign(*how, "--identity-token", "gone", expect=2)
    assert "identity token: neither a token nor a file that can be read: No such file" in told
    assert "identity token: " in bench.sign(*how, "--identity-token", "sigstore.json", expect=2)
    assert "a way to sign of its own" in bench.sign(*how, "--identity-token", "token", "--key", "a.key", expect=2)
    sigstore.refusing = True
    assert "error: Sigstore: " in bench.sign(*how, "--identity-token", "token", expect=3)
    assert bench.tree() == []


@pytest.fixture
def site(tmp_path: Path, tls_registry: LocalRegistry, engine: Engine) -> Iterator[Site]:
    """A site with one deployment, published and not yet applied."""
    Images(engine.docker_host, tls_registry.host).push("images/web", "1.0", images.web())
    site = Site(tmp_path, tls_registry, engine)
    site.component("hello", "7.0.0", web(f"{tls_registry.host}/images/web:1.0", PORT))
    site.deployment("hello", "7.0.0", GREETING="hello")
    site.push()
    yield site
    site.take_down()


def test_a_device_that_asks_for_the_vendors_signature_waits_for_it(site: Site) -> None:
    site.keygen("vendor")
    repository = site.ref("components/*")
    site.configure(trust=f'{{keys: [fleet.pub], components: [{{repositories: ["{repository}"], keys: [vendor.pub]}}]}}')
    refused = site.agent("once", expect=4)
    assert (refused["outcome"], refused["reason"]) == ("refused", "unsigned")
    component = site.ref("components/hello:7.0.0")
    site.oci("sign", component, "--key", "vendor.key", *site.flags)
    site.oci("verify", component, "--policy", "agent.yaml", *site.flags)
    assert site.agent("once")["outcome"] == "applied"
    assert set(site.containers()) == {"hello"}


def test_a_device_runs_what_a_login_signed(site: Site) -> None:
    with sigstore_server() as server:
        (site.folder / "sigstore.json").write_text(json.dumps(server.client_config))
        (site.folder / "root.json").write_text(json.dumps(server.instance.trusted_root))
        trusted = f'{{subject: "{CI.subject}", issuer: "{CI.issuer}"}}'
        site.configure(trust=f"{{identities: [{trusted}], trustedRoot: root.json}}")
        assert site.agent("once", expect=4)["outcome"] == "refused"
        site.environment["SIGSTORE_ID_TOKEN"] = server.instance.token(CI)
        by_tag = site.oci("sign", site.state, "--keyless", "--trust-config", "sigstore.json", *site.flags, expect=2)
        pinned = by_tag.err.split()[-1]  # a tag may be moved by others, and the message says what it leads to
        site.oci("sign", pinned, "--keyless", "--trust-config", "sigstore.json", *site.flags)
    # The services are away now: a device needs none of them.
    report = site.agent("once")
    assert (report["outcome"], report["counter"]) == ("applied", 1)
    assert site.agent("once")["outcome"] == "unchanged"
