"""What is fuzzed: each parser of what comes from outside, and what must hold whatever it is given.

A target takes bytes. It returns, or raises a MargoError; anything else is a finding. What can be written again is
read again the same, and nothing counts as signed but what was signed (`tests/fuzz/seeds.py` made that).
"""

import functools
import json
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from margo_agent.config import load_config
from margo_agent.outbox import Outbox
from margo_agent.record import RecordFile
from margo_oci import notary, simple_signing
from margo_oci.answers import next_page, retry_after_s
from margo_oci.application import parse_description
from margo_oci.apppackage import parse_package
from margo_oci.archive import Entry, pack, unpack
from margo_oci.auth import Challenge, Credentials, token_of
from margo_oci.capabilities import parse_capabilities
from margo_oci.carrier import build_chain, parse_carrier, parse_chain
from margo_oci.cbor import encode_cbor, parse_cbor
from margo_oci.certificates import Chain, check_anchor, read_certificates
from margo_oci.composereads import reads_only_the_archive
from margo_oci.constraints import Device
from margo_oci.content import Descriptor, canonical_json, parse_json
from margo_oci.cosign import is_keyless, parse_bundle, parse_statement
from margo_oci.cosign_key import open_sealed
from margo_oci.credentials import AuthFiles
from margo_oci.deploying import Wish, make_deployment, read_before
from margo_oci.deployment import parse_deployment
from margo_oci.desired_state import Lock, build_file_layer, build_state, parse_state, read_layer
from margo_oci.device_report import check_signed, parse_report
from margo_oci.device_status import parse_device_status
from margo_oci.envelopes import COSE, JWS, parse_envelope, parse_header
from margo_oci.errors import FormatError, MargoError
from margo_oci.events import Event, lines_of, parse_events
from margo_oci.files import FILE_LAYER, ExtraFile, read_file_layer
from margo_oci.fleet import standing, why
from margo_oci.freshness import SeenHead
from margo_oci.head import build_head, parse_head, verify_head, verify_release
from margo_oci.helper import login_of
from margo_oci.jwe import PrivateKey, unseal
from margo_oci.jwk import read_recipient
from margo_oci.keys import PublicKey
from margo_oci.layout import open_layout
from margo_oci.manifest import Manifest, build_index, parse_index
from margo_oci.offering import Offer
from margo_oci.package import open_archive
from margo_oci.proxy import check_proxy
from margo_oci.quadlet import ALL_LINES_LIMIT, images_of_units, names_only_the_archive, units_can_be_read, warnings_of
from margo_oci.reference import parse_image, parse_reference
from margo_oci.revising import revised
from margo_oci.root import Root, advance
from margo_oci.signatures import Attached, Found
from margo_oci.status import parse_status_manifest
from margo_oci.subjects import parse_subject
from margo_oci.trust import Policy, verify
from margo_oci.trustconfig import load_trust_config
from margo_oci.trustpolicy import Authorities, TrustPolicy, parse_trust_policy
from margo_oci.tuf import Document, canonical
from margo_oci.units import parse_unit
from margo_oci.yamldoc import parse_yaml
from margo_oci.yamltree import parse_tree

FIXED = Path(__file__).parent / "fixed"
NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
FILE_OF = "a3e2f5dc-912e-494f-8395-52cf3769bc06"
BETWEEN = b"\n\x00\x1f\n"  # between the parts of an input that has several
SCOPE = "plant-3/line-1/edge-17"
DEVICE = Device({"id": "edge-17", "cpus": [{"cores": 2, "architecture": "amd64"}], "memory": "1Gi"}, {"zone": "a"})


@dataclass(frozen=True)
class Target:
    """A parser: what it is fed to, how its inputs are built, words that it looks for, how many inputs it gets."""

    name: str
    feed: Callable[[bytes], object]
    shape: str = "bytes"  # what the mutator may take for granted: json, cbor, tar, text, der
    tokens: Sequence[bytes] = ()
    share: float = 1.0


class Broken(Exception):  # noqa: N818  (a property that does not hold is no error of the program)
    """A property that does not hold."""


def holds(condition: object, words: str) -> None:
    """Raise Broken unless `condition`."""
    if not condition:
        raise Broken(words)


def parts(data: bytes, count: int) -> list[bytes]:
    """Split an input; what is missing is empty."""
    return [*data.split(BETWEEN, count - 1), *[b""] * count][:count]


@functools.cache
def fixed(name: str) -> bytes:
    """Return a file that belongs to the seeds: a key, a root, a manifest."""
    return (FIXED / name).read_bytes()


@functools.cache
def trusted_root() -> Root:
    return Root.from_bytes(fixed("root.json"))


@functools.cache
def state_manifest() -> Manifest:
    return Manifest.from_bytes(fixed("manifest.json"), what="manifest")


@functools.cache
def policy() -> Policy:
    return Policy([PublicKey.from_pem(fixed("fleet.pub"), name="fleet")], [SCOPE], authorities=authorities())


@functools.cache
def authorities() -> Authorities:
    document = parse_trust_policy(fixed("trustpolicy.json"))
    return document.authorities(
        "reg.example/fleet/edge-17", {"ca:fleet": read_certificates(fixed("ca.crt"), name="ca")}
    )


@functools.cache
def scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="margo-fuzz-"))


def on_disk(name: str, data: bytes) -> Path:
    file = scratch() / name
    file.write_bytes(data)
    return file


def feed_json(data: bytes) -> None:
    value = parse_json(data, what="x")
    holds(parse_json(canonical_json(value), what="x", limit_bytes=1 << 30) == value, "JSON is read back as it was")


def feed_manifest(data: bytes) -> None:
    one = Manifest.from_bytes(data, what="manifest")
    again = Manifest.build(one.artifact_type, one.layers, one.annotations, one.subject)
    read = Manifest.from_bytes(again.data, what="again")
    holds((read.layers, read.annotations, read.subject) == (again.layers, again.annotations, again.subject), "manifest")
    for parse in (parse_chain, parse_carrier, notary.envelope_layer, simple_signing.signature_layers):
        told(functools.partial(parse, one))
    state = parse_state(one, what="manifest")
    if state.scope:
        built = build_state(state.layers, counter=state.counter, scope=state.scope)
        holds(parse_state(built.manifest, what="x").counter == state.counter, "a state is read back as it was")


def told(parse: Callable[[], object]) -> None:
    """Read something that may be refused, and go on."""
    try:
        parse()
    except MargoError:
        return


def feed_index(data: bytes) -> None:
    listed = parse_index(data, what="index")
    holds(parse_index(build_index(listed), what="again") == listed, "an index is read back as it was")


def feed_descriptor(data: bytes) -> None:
    one = Descriptor.from_dict(parse_json(data, what="x"), at="x")
    holds(Descriptor.from_dict(one.to_dict(), at="x") == one, "a descriptor is read back as it was")
    holds(one.data is None or Descriptor.of(one.data, "a/b").digest == one.digest, "inlined is what is named")


def feed_lock(data: bytes) -> None:
    one = Lock.from_json(data.decode(errors="surrogateescape"), at="lock")
    holds(Lock.from_json(one.to_json(), at="lock") == one, "a lock is read back as it was")


def feed_bundle(data: bytes) -> None:
    told(lambda: is_keyless(data))
    told(lambda: parse_statement(parse_bundle(data).payload))
    manifest = state_manifest()
    verify(manifest, Found([Attached("bundle", data)]), policy(), now=NOW)
    holds(parse_bundle(data).payload == parse_bundle(fixed("bundle.json")).payload, "another payload verified")


def feed_simple(data: bytes) -> None:
    payload, signature = parts(data, 2)
    told(lambda: simple_signing.parse_payload(payload))
    one = Attached("simple-signing", payload, signature=signature)
    verify(state_manifest(), Found([one]), policy(), now=NOW)
    holds(payload == parts(fixed("simple.bin"), 2)[0], "another payload verified")


def feed_sig_image(data: bytes) -> None:
    one = Manifest.from_bytes(data, what="signatures")
    for layer in simple_signing.signature_layers(one):
        told(functools.partial(simple_signing.read_signature, layer, b"{}"))
    _, grown = simple_signing.signature_image(simple_signing.Signature(b"payload", b"signature"), one)
    holds(grown.layers[: len(one.layers)] == one.layers, "a layer that was there is another")


def feed_notary(media_type: str, name: str, data: bytes) -> None:
    told(lambda: parse_header(parse_envelope(data, media_type)))
    verify(state_manifest(), Found([Attached("notary", data, media_type)]), policy(), now=NOW)
    said, good = parse_envelope(data, media_type), parse_envelope(fixed(name), media_type)
    holds((said.payload, said.protected) == (good.payload, good.protected), "another envelope verified")


def feed_header(data: bytes) -> None:
    envelope = parse_envelope(fixed("envelope.jws"), JWS)
    parse_header(replace(envelope, media_type=JWS if data[:1] == b"{" else COSE, protected=data))


def feed_cbor(data: bytes) -> None:
    value = parse_cbor(data, what="x", limit_bytes=64 * 1024)
    holds(encode_cbor(value) == data, "CBOR has one writing")


def feed_certificates(data: bytes) -> None:
    ders = parts(data, 3)
    told(lambda: check_anchor(ders[0], name="anchor"))
    told(lambda: read_certificates(data, name="file"))
    chain = Chain.parse([der for der in ders if der])
    told(lambda: chain.check_times(NOW))
    for read in (lambda: chain.key, lambda: chain.subject, lambda: chain.revocation_sources):
        told(read)
    _ = chain.signer, chain.fingerprint


def feed_policy(data: bytes) -> None:
    one: TrustPolicy = parse_trust_policy(data)
    stores = {store: [b"der"] for store in one.stores}
    told(lambda: one.authorities("reg.example/fleet/edge-17", stores))


def feed_subject(data: bytes) -> None:
    one = parse_subject(data.decode("utf-8", "replace"), at="x")
    holds(one.covers(one), "a subject covers itself")


def feed_cosign_key(data: bytes) -> None:
    open_sealed(data, b"password", name="key")


def feed_public_key(data: bytes) -> None:
    one = PublicKey.from_pem(data, name="key", use="notary")
    _ = one.algorithm, one.hint
    one.verifies(b"0\x06\x02\x01\x01\x02\x01\x01", b"data")


def feed_tuf(data: bytes) -> None:
    document = Document.from_bytes(data, what="x", limit_bytes=64 * 1024)
    holds(parse_json(data, what="x")["signed"] == document.signed, "what is signed is what was read")
    holds(canonical(document.signed) == document.signed_bytes, "canonical")


def feed_root(data: bytes) -> None:
    told(lambda: Root.from_bytes(data))
    stepped = advance(trusted_root(), data)
    good = Document.from_bytes(fixed("root2.json"), what="x", limit_bytes=64 * 1024)
    read = Document.from_bytes(data, what="x", limit_bytes=64 * 1024)
    holds(read.signed_bytes == good.signed_bytes and stepped.root.version == 2, "another root was followed")


def feed_head(data: bytes) -> None:
    document = Document.from_bytes(data, what="head", limit_bytes=16 * 1024)
    told(lambda: again(document))
    head = verify_head(data, trusted_root(), scopes=[SCOPE], now=NOW)
    verify_release(state_manifest(), [fixed("bundle.json")], head, trusted_root())
    good = Document.from_bytes(fixed("head.json"), what="head", limit_bytes=16 * 1024)
    holds(document.signed_bytes == good.signed_bytes, "another head verified")


def again(document: Document) -> None:
    head = parse_head(document.signed)
    holds(parse_head(build_head(head)) == head, "a head is read back as it was")
    holds(SeenHead.from_dict(head.seen.to_dict(), at="x") == head.seen, "what is remembered is read back as it was")


def feed_chain(data: bytes) -> None:
    roots = parse_chain(Manifest.from_bytes(data, what="chain"))
    holds(list(parse_chain(build_chain(roots))) == sorted(roots), "a chain is read back as it was")


def feed_carrier(data: bytes) -> None:
    one = parse_carrier(Manifest.from_bytes(data, what="carrier"))
    holds(one.head.data is None or len(one.head.data) == one.head.size, "inlined is what is named")


def feed_status_manifest(data: bytes) -> None:
    one = parse_status_manifest(data)
    again = parse_status_manifest(canonical_json(one.manifest()))
    holds(replace(again, adopted=one.adopted) == one, "a status is read back as it was")


def feed_device_status(data: bytes) -> None:
    one = parse_device_status(data)
    holds(parse_device_status(one.to_bytes()) == one, "a device status is read back as it was")
    holds(standing(one, None, now=NOW) != "doubtful", "a device that is not doubted stands somehow")
    holds(all(text.isprintable() for text in (one.device, one.message, why(one, "failed"))), "it can be shown")


def feed_events(data: bytes) -> None:
    events = parse_events(data)
    holds(parse_events(lines_of(events)) == list(events), "events are read back as they were")


def feed_capabilities(data: bytes) -> None:
    one = parse_capabilities(data)
    holds(parse_capabilities(one.to_bytes()) == one, "capabilities are read back as they were")


def feed_report(data: bytes) -> None:
    layers = parse_report(Manifest.from_bytes(data, what="report"))
    bundle = layers.bundle.data if layers.bundle else None
    if bundle:
        check_signed(layers, bundle, PublicKey.from_pem(fixed("device.pub"), name="device"))
        signed = parse_report(Manifest.from_bytes(fixed("report.json"), what="report")).signed
        holds(layers.signed == signed, "only what was signed counts")


def feed_outbox(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox(Path(folder))
        outbox.file.write_bytes(data)
        before = outbox.load()
        after = outbox.add([Event(kind="outcome", state="failed", reason="quite new")], time="2026-11-21T12:00:00Z")
        numbers = [one.number for one in after.events]
        holds(numbers[-1] == before.last + 1 and sorted(set(numbers)) == numbers, "numbers rise by one")
        holds(outbox.load().events == after.events, "an outbox is read back as it was")


def feed_archive(data: bytes) -> None:
    entries = {entry.path: entry for entry in unpack(data, what="archive")}
    packed = unpack(pack(entries), what="again")
    holds({entry.path: entry for entry in packed} == entries, "an archive is read back as it was")


def feed_image_layout(data: bytes) -> None:
    """Read a tar (packed here, so that its headers can be changed) as a layout, and ask it as a registry."""
    try:
        unpacked = zlib.decompressobj(wbits=31).decompress(data, 2**20)
    except zlib.error:
        raise FormatError("not packed") from None
    layout = open_layout(on_disk("site.tar", unpacked))
    offer = Offer(layout)
    for entry in layout.entries[:8]:
        told(lambda digest=entry.digest: layout.small(digest))  # type: ignore[misc]
        for reference in offer.all_references[:8]:
            for kind in ("manifests", "blobs", "referrers"):
                answer = offer.answer(f"/v2/{reference.repository}/{kind}/{entry.digest}", {"range": "bytes=2-"})
                body = b"".join(answer.pieces)
                holds(len(body) == answer.size, "an answer is as long as it says")


def feed_component(data: bytes) -> None:
    one = open_archive(data, what="archive")
    holds(not reads_only_the_archive([replace(e, path=f"{one.top}/{e.path}") for e in one.entries]), "rules hold")


def feed_units(data: bytes) -> None:
    """Read a unit and a drop-in; a line of the unit is one that was written."""
    unit = parse_unit(data)
    holds(all(0 < one.number <= data.count(b"\n") + 1 and one.section in unit.sections for one in unit.lines), "lines")
    entries = [Entry("a/a.container", data), Entry("a/a.volume.d/x.conf", data), Entry("a/b.kube", data)]
    too_many = len(entries) * (data.count(b"\n") + 1) > ALL_LINES_LIMIT  # which is a fault of no file
    for fault in (*units_can_be_read(entries), *names_only_the_archive(entries), *warnings_of(entries)):
        holds(too_many or fault.file in ("a/a.container", "a/a.volume.d/x.conf", "a/b.kube"), "a fault has its file")
    if unit.faults:
        raise FormatError(unit.faults[0][1])
    images_of_units(entries[:2], what="units")


def feed_layer(data: bytes) -> None:
    layer = Descriptor.of(data, "application/vnd.margo.manifests.layer.v1+tar+gzip")
    for placed in read_layer(layer, data, what="layer"):
        _ = placed.revision


def feed_secret(data: bytes) -> None:
    key = serialization.load_pem_private_key((FIXED / "recipient.key").read_bytes(), None)
    assert isinstance(key, PrivateKey)
    opened = unseal(data, [key], what="x.jwe")
    holds(opened in (None, b"a secret"), "what opens is what was encrypted")


def feed_recipient(data: bytes) -> None:
    one = read_recipient(data, name="x.crt", now=NOW)
    holds(len(one.kid) == 43, "a kid is a thumbprint")


def feed_file(data: bytes) -> None:
    layer = build_file_layer(FILE_OF, ExtraFile("conf/a", b"")).descriptor
    layer = Descriptor.of(data, FILE_LAYER, layer.annotations)
    file = read_file_layer(layer, data, what="layer")
    again = build_file_layer(FILE_OF, file)
    holds(read_file_layer(again.descriptor, again.data, what="layer") == file, "a file is what it was")


def feed_tree(data: bytes) -> None:
    parse_tree(data, what="compose.yaml").nearest("services.web.image")


def feed_yaml(data: bytes) -> None:
    parse_yaml(data, what="x.yaml").line(("a", 0))


def feed_deployment(data: bytes) -> None:
    one = parse_deployment(data, what="x.yaml")
    holds(revised(data, {}, what="x.yaml") == data, "it changes without a change")
    with suppress(FormatError):  # a revision that is written in a strange way
        name = one.components[0].name
        moved = parse_deployment(revised(data, {name: "9.9.9"}, what="x.yaml"), what="x.yaml")
        holds(moved.components[0].revision == "9.9.9", "another revision stands there")
    for component in one.components:
        one.environment(component.name)


def feed_description(data: bytes) -> None:
    description = parse_description(data, what="margo.yaml")
    source = parse_reference("registry.example/apps/hello:1.0.0")
    for profile in description.profiles:
        profile.constraints.lacking(DEVICE)
        wish = Wish(name="hello", scope=SCOPE, source=source, profile=profile.id)
        with suppress(MargoError):
            made = make_deployment(description, wish)
            holds(make_deployment(description, wish, read_before(made, what="x.yaml")) == made, "it changes by itself")


def feed_package(data: bytes) -> None:
    package = parse_package(Manifest.from_bytes(data, what="package"), what="package")
    holds(all(".." not in path.split("/") and not path.startswith("/") for path in package.files), "a path leads out")


def feed_config(data: bytes) -> None:
    load_config(on_disk("agent.yaml", data))


def feed_trust_config(data: bytes) -> None:
    config = load_trust_config(on_disk("trust.yaml", data))
    config.component_sources("registry.example/vendor/pump")
    with suppress(OSError):  # as documented, for files that cannot be read
        told(lambda: config.sources.load("registry.example/fleet"))


def feed_challenge(data: bytes) -> None:
    text = data.decode("latin-1")
    challenge = Challenge.parse(*text.split("\n"))
    holds(len(challenge.scope) <= 300 and challenge.scope.isprintable(), "fit for a message")
    for who in (None, Credentials("ann", "secret"), Credentials("", "", "identity")):
        for secure in (True, False):
            told(functools.partial(challenge.token_request, who, secure=secure))


def feed_token(data: bytes) -> None:
    token = token_of(data)
    holds(0 < token.life_s <= 24 * 3600, "a token lives between nothing and a day")
    holds("\n" not in token.bearer and token.bearer.isascii(), "a token fits into a header")


def feed_reference(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    told(lambda: check_proxy(text, what="proxy"))
    told(lambda: holds(parse_image(text) == parse_image(str(parse_image(text))), "an image is read back as it was"))
    one = parse_reference(text)
    holds(parse_reference(str(one), default_tag="") == one, "a reference is read back as it was")


def feed_answers(data: bytes) -> None:
    wait, date, link = (part.decode("latin-1") for part in parts(data, 3))
    seconds = retry_after_s({"Retry-After": wait, "Date": date})
    holds(seconds is None or 0 <= seconds <= 3600, "between nothing and an hour")
    url = next_page(link, asked="https://reg.example/v2/a/tags/list?n=100")
    holds(url.startswith(("https://", "HTTPS://")), "a next page stays in TLS")


def feed_auth_file(data: bytes) -> None:
    files = AuthFiles((on_disk("auth.json", data),))
    for host, repository in (("reg.example:5000", "fleet/edge-17"), ("registry-1.docker.io", "")):
        found = files.find(host, repository)
        if found:
            _ = found.basic


def feed_helper(data: bytes) -> None:
    found = login_of(data.decode(errors="replace"), what="helper")
    _ = found.basic


def feed_record(data: bytes) -> None:
    file = RecordFile(on_disk("record.json", data))
    one = file.load()
    _ = one.digest, one.known, one.known_by("policy")
    file.save(one)
    holds(json.dumps(repr(file.load())) == json.dumps(repr(one)), "a record is read back as it was")


def feed_trust(data: bytes) -> None:
    """Several signatures at once, of any format, each with its own first byte, and any manifest."""
    manifest_data, *signatures = data.split(BETWEEN)
    manifest = Manifest.from_bytes(manifest_data, what="manifest")
    verified = verify(manifest, Found([_attached(one) for one in signatures]), policy(), now=NOW)
    holds(verified.state.manifest.data == fixed("manifest.json"), "another manifest verified")


def _attached(data: bytes) -> Attached:
    kind, rest = data[:1], data[1:]
    if kind == b"s":
        payload, _, signature = rest.partition(b"\x00\x1e\x00")
        return Attached("simple-signing", payload, signature=signature)
    if kind in (b"j", b"c"):
        return Attached("notary", rest, JWS if kind == b"j" else COSE)
    return Attached("bundle", rest)


_JSON = (b"null", b"{}", b"[]", b"-1", b"1e999", b'"\\ud800"', b"9" * 400, b"0.5", b"true", b'""', b'"data":', b"NaN")
_TUF = (*_JSON, b'"signed"', b'"signatures"', b'"keyid"', b'"sig"', b'"x-roles"', b'"x-floor"', b'"threshold":0')
_YAML = (
    b"&a ", b"*a", b"<<: ", b"!reset ", b"!!binary ", b"? ", b"- ", b": ", b"\n", b"|\n  ", b">-\n ", b"---\n",
    b"{", b"}", b"[", b"]", b"'", b'"', b'"\\0"', b"#", b"%YAML 1.2\n", b"\t", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"~",
    b"0x1f", b"-.inf", b"1e400", b"services", b"include", b"extends", b"env_file", b"volumes", b"configs", b"file",
)  # fmt: skip
_URL = (b"https://", b"http://", b"//", b"@", b"[", b"]", b"[::1]", b":99999", b"%00", b"?", b"#", b"\\", b"..", b"\t")
_HEADER = (b'realm="', b"Bearer ", b"Basic ", b"=", b'"', b"\\", b",", b" ", b"scope", b"service", b"\n", *_URL)
_DER = (b"\x30\x80", b"\x05\x00", b"\x02\x01\x00", b"\x01\x01\xff", b"\x06\x03\x55\x1d\x0f", b"\x18\x0f00000101000000Z")

TARGETS: Sequence[Target] = (
    Target("json", feed_json, "json", _JSON),
    Target("manifest", feed_manifest, "json", _JSON),
    Target("index", feed_index, "json", _JSON),
    Target("descriptor", feed_descriptor, "json", _JSON),
    Target("lock", feed_lock, "json", _JSON),
    Target("bundle", feed_bundle, "json", _JSON),
    Target("simple-signing", feed_simple, "json", _JSON),
    Target("sig-image", feed_sig_image, "json", _JSON),
    Target("jws", functools.partial(feed_notary, JWS, "envelope.jws"), "json", _JSON),
    Target("cose", functools.partial(feed_notary, COSE, "envelope.cose"), "cbor"),
    Target("notary-header", feed_header, "cbor", _JSON),
    Target("cbor", feed_cbor, "cbor"),
    Target("certificates", feed_certificates, "der", _DER),
    Target("trust-policy", feed_policy, "json", _JSON),
    Target("subject", feed_subject, "text", (b"C=", b", ", b"\\", b"\\2c", b'"', b"#", b"1.2=", b"O=", b"ST=")),
    Target("cosign-key", feed_cosign_key, "json", _JSON, share=0.02),  # scrypt takes a tenth of a second
    Target("public-key", feed_public_key, "bytes", _DER),
    Target("tuf", feed_tuf, "json", _TUF),
    Target("root", feed_root, "json", _TUF),
    Target("head", feed_head, "json", _TUF),
    Target("chain", feed_chain, "json", _JSON),
    Target("carrier", feed_carrier, "json", _JSON),
    Target("status-manifest", feed_status_manifest, "json", _JSON),
    Target("device-status", feed_device_status, "json", _JSON),
    Target("events", feed_events, "text", (*_JSON, b"\n")),
    Target("capabilities", feed_capabilities, "json", _JSON),
    Target("report", feed_report, "json", _JSON),
    Target("outbox", feed_outbox, "text", (*_JSON, b"\n", b'"number":'), share=0.2),  # kept durably each time
    Target("archive", feed_archive, "tar"),
    Target("image-layout", feed_image_layout, "tar", _JSON, share=0.3),  # written to a disk each time
    Target("component", feed_component, "tar", _YAML),
    Target("units", feed_units, "text", (b"[Container]", b"Image=", b"Volume=./", b"Mount=type=image,"), share=0.3),
    Target("layer", feed_layer, "tar", _YAML),
    Target("extra-file", feed_file, "tar"),
    Target("secret", feed_secret, "json", (*_JSON, b'"crit":', b'"zip":', b'"aad":', b'"unprotected":', b'"apu":')),
    Target("recipient", feed_recipient, "json", (*_JSON, *_DER)),
    Target("compose-tree", feed_tree, "text", _YAML),
    Target("yaml", feed_yaml, "text", _YAML),
    Target("deployment", feed_deployment, "text", _YAML),
    Target("description", feed_description, "text", (*_YAML, b"regexMatch: ", b"x-a-extensions: {}", b"ENV.", b"1Gi")),
    Target("package", feed_package, "json", _JSON),
    Target("agent-config", feed_config, "text", (*_YAML, *_URL)),
    Target("trust-config", feed_trust_config, "text", _YAML),
    Target("challenge", feed_challenge, "text", _HEADER),
    Target("token", feed_token, "json", (*_JSON, b'"token"', b'"access_token"', b'"expires_in":')),
    Target("reference", feed_reference, "text", (b"oci://", b":", b"@sha256:", b"docker.io/", b"__", b"-", *_URL)),
    Target("answers", feed_answers, "text", (b"GMT", b"+9999", b"Sat, ", BETWEEN, *_URL)),
    Target("auth-file", feed_auth_file, "json", (*_JSON, b'"auths":', b'"auth":', b'"credsStore":', b'"credHelpers":')),
    Target("helper-answer", feed_helper, "json", (*_JSON, b'"Username"', b'"Secret"', b"<token>")),
    Target("record", feed_record, "json", _JSON, share=0.5),  # kept durably each time
    Target("trust", feed_trust, "json", (*_JSON, BETWEEN)),
)  # fmt: skip
BY_NAME = {target.name: target for target in TARGETS}
