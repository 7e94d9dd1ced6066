"""Makes the seeds with the builders that publishers use: `python -m tests.fuzz.seeds`. They are kept.

Keys are new each time, so all of them are made at once.
"""

import base64
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from margo_agent.outbox import Waiting
from margo_agent.record import Accepted, Failure, Installed, Record
from margo_oci import cosign, notary, simple_signing
from margo_oci.apppackage import build_package
from margo_oci.archive import Entry, pack
from margo_oci.capabilities import Cpu, DeviceCapabilities, Peripheral
from margo_oci.carrier import build_carrier, build_chain
from margo_oci.cbor import Tagged, encode_cbor
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON, Descriptor, canonical_json
from margo_oci.cosign_key import seal
from margo_oci.desired_state import build_layer
from margo_oci.device_report import BuiltReport, Contents, build_report
from margo_oci.envelopes import PAYLOAD_TYPE
from margo_oci.events import lines_of
from margo_oci.jwe import seal as seal_secret
from margo_oci.jwk import read_recipient, to_jwk
from margo_oci.keys import FileKey
from margo_oci.layout import MARKER_DATA, index_of, tar_of
from margo_oci.layout import NAME as REF_NAME
from margo_oci.manifest import Manifest, build_index
from margo_oci.package import build_component
from tests.fuzz.targets import BETWEEN, FIXED, NOW
from tests.unit import chains
from tests.unit.applications import application, described
from tests.unit.scenes import (
    DIGEST,
    ID,
    OTHER_DIGEST,
    ROOT,
    SCOPE,
    VECTORS,
    as_yaml,
    deployment,
    document,
    gzip_of,
    hostile,
    key,
    layer,
    lock,
    member,
    parameter,
    state,
)
from tests.unit.test_device_status import EVENTS, STATUS
from tests.unit.trusted import role, rotated, signed_head
from tests.unit.trusted import root as trusted_root

SEEDS = Path(__file__).parent / "seeds"
NAME = "registry.example/fleet/edge-17"
GPU = {"matchExpressions": [{"key": "/type", "operator": "In", "values": ["gpu"]}]}
CONSTRAINTS = {
    "capacityRequirements": {"cpu": {"cores": 1.5, "architectures": ["amd64"]}, "memory": "512Mi", "storage": "1Gi"},
    "eligibilityRules": [
        {"labelSelector": {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["b"]}]}},
        {
            "propertySelector": {
                "matchExpressions": [{"key": "/peripherals", "operator": "ContainsAny", "itemSelector": GPU}]
            }
        },
    ],
}


def fixed() -> Mapping[str, bytes]:
    """What verifies, and what it is verified with."""
    manifest, root = state().manifest, trusted_root()
    release = simple_signing.sign(manifest.digest, key("fleet"), name=NAME)
    return {
        "root.json": root.data,
        "root2.json": rotated(root, "a", "b", head=role("head2")),
        "head.json": signed_head(root),
        "manifest.json": manifest.data,
        "bundle.json": cosign.sign(manifest.digest, key("fleet"), name=NAME),
        "simple.bin": BETWEEN.join([release.payload, release.signature]),
        "envelope.jws": chains.jws(body=notary.payload(manifest.descriptor)),
        "envelope.cose": chains.cose(body=notary.payload(manifest.descriptor)),
        "trustpolicy.json": chains.document(chains.statement()),
        "fleet.pub": public_pem(key("fleet")),
        "report.json": report(key("device")).manifest.data,
        "device.pub": public_pem(key("device")),
        "recipient.key": key("recipient").key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "ca.crt": chains.root().pem,
        "leaf.key": chains.leaf().key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    }


def report(device: FileKey) -> BuiltReport:
    """What a device reports."""
    return build_report(Contents("edge-17", STATUS.to_bytes(), lines_of(EVENTS), CAPABILITIES.to_bytes()), device)


def public_pem(one: FileKey) -> bytes:
    body = base64.encodebytes(one.public.der).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n".encode()


def seeds(made: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield targets and inputs; all of them are good, or nearly."""
    manifest, root = state().manifest, trusted_root()
    bundle, simple = made["bundle.json"], made["simple.bin"]
    payload, signature = simple.split(BETWEEN)
    carrier = build_carrier(made["head.json"], [bundle])
    roots = build_chain(
        {n: Descriptor.of(made[f"root{n}.json"], "a/b") for n in (2,)} | {1: Descriptor.of(root.data, "a/b")}
    )
    _, sig_image = simple_signing.signature_image(simple_signing.Signature(payload, signature))
    inline = Descriptor.of(b"{}", "application/json", {"a": "b"}, inline=True)
    yield from layouts()
    yield from extra_files(made["recipient.key"])
    yield from (("json", b'{"a":[1,2.5,null,true,{"b":"\\u00e4"}],"c":"d"}'), ("json", manifest.data))
    yield from (("manifest", one.data) for one in (manifest, carrier, roots, sig_image))
    yield (
        "manifest",
        notary.signature_manifest(made["envelope.jws"], chains.chain(), manifest.descriptor, created="x").data,
    )
    yield "index", build_index([manifest.descriptor, Descriptor.of(bundle, cosign.BUNDLE_TYPE, {"a": "b"})])
    yield from (("descriptor", canonical_json(one.to_dict())) for one in (inline, layer(), carrier.layers[0]))
    yield "lock", lock().to_json().encode()
    yield from of_devices(made["report.json"])
    yield from (("bundle", bundle), ("bundle", (VECTORS / "cosign" / "bundle.json").read_bytes()))
    yield "bundle", bundle.replace(b'"publicKey"', b'"certificate"')
    yield from (
        ("simple-signing", simple),
        ("simple-signing", (VECTORS / "simple_signing" / "cosign-payload.json").read_bytes()),
    )
    yield from (
        ("sig-image", sig_image.data),
        ("sig-image", (VECTORS / "simple_signing" / "manifest.json").read_bytes()),
    )
    yield from (("jws", made["envelope.jws"]), ("jws", (VECTORS / "notary" / "envelope.jws.json").read_bytes()))
    yield from (("cose", made["envelope.cose"]), ("cose", (VECTORS / "notary" / "envelope.cose").read_bytes()))
    yield "notary-header", notary.protected_header("ES256", chains.NOW, chains.END)
    yield "notary-header", (VECTORS / "notary" / "protected.json").read_bytes()
    cose_header = {
        1: -7,
        2: [chains.SCHEME],
        3: PAYLOAD_TYPE,
        chains.SCHEME: "notary.x509",
        chains.TIME: chains.seconds(chains.NOW),
    }
    yield "notary-header", encode_cbor(cose_header)
    yield "cbor", encode_cbor(cose_header)
    yield "cbor", encode_cbor(Tagged(18, [b"bytes", {33: [b"der", -1, True]}, "text", None or 2**64 - 1]))
    yield from (("certificates", BETWEEN.join(chains.chain())), ("certificates", chains.root().pem))
    yield from (
        ("certificates", chains.certify("signer P-256", extensions=kind).der)
        for kind in (chains.LEAF, chains.AUTHORITY)
    )
    middle = chains.certify("middle", chains.root(), extensions=chains.AUTHORITY)
    signer = chains.certify("with OCSP", middle, extensions=[*chains.LEAF, (chains.OCSP, False)])
    yield "certificates", BETWEEN.join(chains.chain(signer, middle, chains.root()))
    yield "trust-policy", made["trustpolicy.json"]
    yield "trust-policy", (VECTORS / "notary" / "policy" / "trustpolicy.json").read_bytes()
    yield (
        "trust-policy",
        chains.document(
            chains.statement(), chains.statement(name="all", registryScopes=["*"], override={"revocation": "skip"})
        ),
    )
    yield from (("subject", b"C=DE, ST=BW, O=example.org"), ("subject", rb"C=DE,S=B\2c W\ ,O=a\"b,1.2.3=\c3\a4"))
    yield "cosign-key", seal(b"pkcs8", b"password").replace(b"\n\n", b"\n")
    yield "cosign-key", (VECTORS / "cosign_key" / "ours.key").read_bytes()
    yield from (
        ("public-key", made["fleet.pub"]),
        ("public-key", (VECTORS / "simple_signing" / "key.pub").read_bytes()),
    )
    yield from (("tuf", made["head.json"]), ("tuf", root.data))
    yield from (("root", made["root2.json"]), ("root", root.data))
    yield "head", made["head.json"]
    yield from (("chain", roots.data), ("carrier", carrier.data))
    yield from tars()
    yield from texts()
    yield (
        "trust",
        BETWEEN.join([manifest.data, b"b" + bundle, b"j" + made["envelope.jws"], b"c" + made["envelope.cose"]]),
    )
    yield "trust", BETWEEN.join([manifest.data, b"s" + payload + b"\x00\x1e\x00" + signature, b"rubbish"])


def tars() -> Iterator[tuple[str, bytes]]:
    """Yield archives of ours and of others."""
    files = {
        "compose.yaml": Entry("compose.yaml", COMPOSE),
        "web.env": Entry("web.env", b"A=1\n"),
        ".env": Entry(".env", b"TAG=1\n"),
        "start.sh": Entry("start.sh", b"#!/bin/sh\n", executable=True),
    }
    component = build_component(files, name="hello", version="1.0.0").layer
    links = hostile(
        member("top", kind=tarfile.DIRTYPE, mode=0o755),
        member("top/a"),
        member("top/b", kind=tarfile.SYMTYPE, link="a"),
        member("top/c", kind=tarfile.LNKTYPE, link="top/a"),
    )
    yield from (("archive", component), ("archive", links), ("archive", pack({"a": Entry("a", b"x" * 700)})))
    yield "archive", hostile(member("top/" + "n" * 200, b"x", pax={"comment": "y"}), pax={"z": "1"})
    yield from (("component", component), ("component", hostile(member("hello/compose.yaml", COMPOSE))))
    part = b"services: {part: {image: x, env_file: part.env}}"
    yield (
        "component",
        hostile(member("a/compose.yaml", INCLUDES), member("a/b/part.yaml", part), member("a/b/part.env")),
    )
    yield "layer", build_layer(deployment(), lock()).data
    yield "layer", hostile(member(f"{ID}.yaml", as_yaml(document())), member("b.yml", as_yaml(document())))


def texts() -> Iterator[tuple[str, bytes]]:
    """Yield YAML, JSON of others, and lines."""
    yield "units", UNIT
    yield from (("compose-tree", COMPOSE), ("compose-tree", MERGES), ("yaml", COMPOSE), ("yaml", AGENT))
    for file in sorted((VECTORS / "margo" / "valid").glob("ApplicationDeployment-*.yaml")):
        yield "deployment", file.read_bytes()
    yield "deployment", as_yaml(document(parameters={"port": parameter(80, "ENV.PORT"), "a": parameter([1, "b"], "A")}))
    for file in sorted((VECTORS / "applications" / "valid").glob("*.yaml")):
        yield "description", file.read_bytes()
    yield "description", as_yaml(application("deploymentProfiles.0.deviceConstraints", CONSTRAINTS))
    files = {"resources/icon.png": b"png", "resources/license.md": b"MIT"}
    yield "package", build_package(described(), files).manifest.data
    yield from (("agent-config", AGENT), ("agent-config", (ROOT / "examples" / "agent.yaml").read_bytes()))
    yield from (("trust-config", AGENT), ("trust-config", TRUST), ("trust-config", HEADS))
    yield "challenge", b'Bearer realm="https://auth.example/token",service="reg.example",scope="repository:a/b:pull"'
    yield "challenge", b'Basic realm="a \\"b\\""\nNegotiate, Bearer realm=http://auth.example/t?a=b , service=x'
    yield from (("token", b'{"token":"abc.def","expires_in":300}'), ("token", b'{"access_token":"x","issued_at":"y"}'))
    yield from (("reference", b"oci://reg.example:5000/fleet/edge-17:latest"), ("reference", b"docker.io/nginx"))
    yield from (("reference", f"[::1]:5000/a/b__c-d:v1@{DIGEST}".encode()), ("reference", b"http://u:p@proxy:3128"))
    yield "answers", BETWEEN.join([b"120", b"Sat, 21 Nov 2026 12:00:00 GMT", b"/v2/a/tags/list?n=100&last=x"])
    yield (
        "answers",
        BETWEEN.join(
            [b"Sat, 21 Nov 2026 12:01:00 GMT", b"Sat, 21 Nov 2026 12:00:00 +0100", b"https://reg.example:443/v2/"]
        ),
    )
    yield (
        "auth-file",
        b'{"auths":{"https://reg.example:5000/v1/":{"auth":"YW5uOnNlY3JldA=="},"reg.example:5000/fleet":{"username":"a","password":"b"}}}',
    )
    yield (
        "auth-file",
        b'{"auths":{"https://index.docker.io/v1/":{"identitytoken":"x"}},"credHelpers":{"a.b":"c"},"credsStore":""}',
    )
    yield from (
        ("helper-answer", b'{"ServerURL":"a","Username":"ann","Secret":"x"}'),
        ("helper-answer", b'{"Username":"<token>","Secret":"y"}'),
    )
    record = Record().accept(Accepted(7, DIGEST, SCOPE)).did_install(ID, Installed(DIGEST, "hello", ["web"], "2026"))
    record = record.did_fail("b", Failure(OTHER_DIGEST, "b", ["web"], "exited with 1"), sure=False)
    yield "record", json.dumps({"format": 1, **asdict(record)}).encode()


COMPOSE = b"""services:
  web:
    image: registry.example/web:1
    env_file: [web.env]
    ports: ["8080:80"]
    volumes: [{type: volume, source: data, target: /data}]
    security_opt: ["seccomp:unconfined"]
volumes: {data: {}}
"""
MERGES = b"""x-base: &base
  image: a:1
  environment: &env {A: "1", B: null}
services:
  one: &one {<<: *base, extends: {file: compose.yaml, service: one}}
  two:
    <<: [*base, *one]
    environment: {<<: *env, A: !reset null}
configs: {page: {file: page.html}}
"""
AGENT = b"""device: edge-17
source: reg.example:5000/fleet/edge-17:latest
scopes: [edge-17, plant-3/line-1]
trust: {keys: [fleet.pub], threshold: 1}
registries:
  "reg.example:5000": {plainHttp: true, mirrors: [mirror.example/cache]}
interval: 1m30s
stateDir: state
lock: enforce
proxy: {url: "http://proxy:3128", noProxy: [plant.example]}
"""
INCLUDES = b"""include:
  - b/part.yaml
  - {path: [b/part.yaml], project_directory: b, env_file: b/part.env}
services: {}
"""
UNIT = b"""# what serves
[Unit]
Description=Web

[Container]
Image=registry.example/web:1
Volume=data.volume:/data
Mount=type=image,source=registry.example/model:4,destination=/m
Exec=serve \\
  --port 80
"""
TRUST = b"""trust:
  notary: notary
  identities: [{subject: ci@example.org, issuer: "https://issuer.example"}]
  trustedRoot: trusted_root.json
  components: [{repositories: ["registry.example/vendor/*"], keys: [vendor.pub]}]
"""
HEADS = b"trust: {mode: head+release, root: root.json, chain: reg.example/fleet/edge-17:trust, freshness: warn}\n"


CAPABILITIES = DeviceCapabilities(
    id="edge-17", cpus=(Cpu(4, "arm64"),), memory="3.7Gi", peripherals=(Peripheral("gpu", "NVIDIA"),),
    interfaces=("ethernet",), labels={"line": "1", "slots": [1, 2.5], "spare": False},
)  # fmt: skip


def of_devices(report: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what devices write about themselves."""
    pump = STATUS.deployments[0]
    yield from (("status-manifest", canonical_json(one)) for one in (pump.manifest(), pump.older_manifest("a/b")))
    yield from (("device-status", STATUS.to_bytes()), ("events", lines_of(EVENTS)))
    yield from (("capabilities", CAPABILITIES.to_bytes()), ("report", report))
    yield "outbox", Waiting(events=EVENTS, dropped=1).to_bytes()


def extra_files(private: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield files of deployments, plain and encrypted, and whom they are encrypted to."""
    opening = FileKey.from_pem(private, None, name="recipient.key")
    mine = read_recipient(public_pem(opening), name="recipient", now=NOW)
    other = read_recipient(public_pem(key("other")), name="other", now=NOW)
    yield from (("secret", seal_secret(b"a secret", some)) for some in ([mine], [other, mine], [other]))
    yield "recipient", canonical_json({**to_jwk(mine.key), "use": "enc", "kid": "a"})
    yield "recipient", public_pem(opening)
    yield "recipient", chains.root().pem
    yield "extra-file", pack({"conf/a": Entry("conf/a", b"allow all", executable=True)})


def layouts() -> Iterator[tuple[str, bytes]]:
    """Yield layouts of ours and of others, packed."""
    manifest = Manifest.build("application/x", [EMPTY_CONFIG])
    referrer = Manifest.build("application/y", [], subject=manifest.descriptor)
    names = {
        "registry.example/fleet/edge-17:latest": manifest,
        f"registry.example/fleet/edge-17@{referrer.digest}": referrer,
    }
    entries = [replace(one.descriptor, annotations={REF_NAME: name}) for name, one in names.items()]
    blobs = [(one.descriptor, iter([one.data])) for one in names.values()]
    yield "image-layout", gzip_of(b"".join(tar_of(entries, [*blobs, (EMPTY_CONFIG, iter([EMPTY_JSON]))])))
    other = member(f"blobs/sha256/{manifest.digest[7:]}", manifest.data, pax={"mtime": "1.5"})
    index = index_of([manifest.descriptor])
    yield "image-layout", hostile(member("./oci-layout", MARKER_DATA), member("./index.json", index), other)


def main() -> None:
    """Write them all."""
    made = fixed()
    FIXED.mkdir(exist_ok=True)
    for name, data in made.items():
        (FIXED / name).write_bytes(data)
    numbers: dict[str, int] = {}
    for target, data in seeds(made):
        numbers[target] = numbers.get(target, 0) + 1
        folder = SEEDS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{numbers[target]}").write_bytes(data)


if __name__ == "__main__":
    main()
