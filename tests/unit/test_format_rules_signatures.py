"""The rules of docs/format.md, section 9: signatures of other formats."""

import base64
import json
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from margo_oci import envelopes, notary, simple_signing
from margo_oci.cbor import parse_cbor
from margo_oci.certificates import Chain, read_certificates
from margo_oci.content import Descriptor, parse_json
from margo_oci.envelopes import COSE, JWS
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import FileKey, PasswordNeeded, PublicKey
from margo_oci.manifest import Manifest
from margo_oci.signers import CommandSigner
from margo_oci.trustpolicy import parse_trust_policy
from tests.unit import chains
from tests.unit.chains import (
    AUTHORITY,
    EXPIRY,
    NOW,
    REPOSITORY,
    SCHEME,
    SUBJECT,
    authorities,
    certify,
    chain,
    leaf,
    root,
)
from tests.unit.scenes import DIGEST, OTHER_DIGEST, VECTORS, key

SIMPLE = VECTORS / "simple_signing"
KEYS = VECTORS / "cosign_key"


def signature(name: str = REPOSITORY) -> simple_signing.Signature:
    return simple_signing.sign(DIGEST, key(), name=name)


def refusal(data: bytes, media_type: str = JWS, *, policy: Any = None, now: Any = NOW) -> TrustError:
    with pytest.raises(TrustError) as refused:
        notary.verify(data, media_type, SUBJECT, policy or authorities(), now=now)
    return refused.value


def faults(**changes: Any) -> str:
    with pytest.raises(FormatError) as refused:
        authorities(**changes)
    return str(refused.value)


def test_9_1_signatures_are_the_layers_of_an_image_under_a_tag() -> None:
    config, manifest = simple_signing.signature_image(made := signature())
    assert simple_signing.tag_of(DIGEST) == "sha256-" + "1" * 64 + ".sig"
    assert manifest.layers == (made.descriptor,)
    assert manifest.layers[0].media_type == "application/vnd.dev.cosign.simplesigning.v1+json"
    assert base64.b64decode(manifest.layers[0].annotations["dev.cosignproject.cosign/signature"]) == made.signature
    assert manifest.config == Descriptor.of(config, "application/vnd.oci.image.config.v1+json")
    assert len(config) == 233  # what cosign's own has, with one signature
    assert parse_json(config, what="config")["rootfs"]["diff_ids"] == [made.descriptor.digest]


def test_9_2_a_payload_has_the_bytes_that_cosign_writes() -> None:
    cosigns = (SIMPLE / "cosign-payload.json").read_bytes()
    said = simple_signing.parse_payload(cosigns)
    assert simple_signing.payload(said.digest, name=said.docker_reference) == cosigns
    assert simple_signing.payload(DIGEST, name="a/b", annotations={"b": "<&>", "a": "ä"}).endswith(
        b'"optional":{"a":"\xc3\xa4","b":"\\u003c\\u0026\\u003e"}}'
    )


def test_9_3_a_signature_is_over_exactly_the_bytes_and_by_p_256() -> None:
    made = signature()
    assert made.made_by(key().public)
    assert not simple_signing.Signature(made.payload + b"\n", made.signature).made_by(key().public)
    with pytest.raises(FormatError, match="release: an ECDSA P-256 key is expected"):
        simple_signing.sign(DIGEST, leaf("P-384").signer, name=REPOSITORY)


@pytest.mark.parametrize("field", ["critical", "image", "identity"])
def test_9_4_a_payload_with_a_field_too_many_is_refused(field: str) -> None:
    raw = json.loads(signature().payload)
    (raw if field == "critical" else raw["critical"])[field]["extra"] = ""
    with pytest.raises(FormatError, match=r"payload.*: exactly these fields are expected"):
        simple_signing.parse_payload(json.dumps(raw).encode())


def test_9_4_a_payload_hands_on_what_it_names() -> None:
    said = simple_signing.parse_payload(signature("other.example/fleet").payload)
    assert (said.digest, said.docker_reference) == (DIGEST, "other.example/fleet")


def test_9_5_sixteen_layers_are_looked_at_and_others_passed_over() -> None:
    layers = [simple_signing.sign(DIGEST, key(), name=f"a/{number}").descriptor for number in range(17)]
    other = Descriptor.of(b"x", "text/plain", layers[0].annotations)
    big = Descriptor.of(b"x" * (64 * 1024 + 1), simple_signing.PAYLOAD_TYPE, layers[0].annotations)
    image = Manifest.build("", [other, big, *layers])
    assert simple_signing.signature_layers(image) == layers[:14]
    with pytest.raises(FormatError, match="payload: 65537 bytes, at most 65536 are read"):
        simple_signing.read_signature(big, b"x" * (64 * 1024 + 1))


def test_9_6_a_signature_is_added_to_those_of_others() -> None:
    theirs = json.loads(simple_signing.signature_image(signature("theirs/x"))[1].data)
    theirs["layers"][0]["annotations"]["dev.sigstore.cosign/bundle"] = "theirs"
    theirs["annotations"] = {"kept": "yes"}
    config, both = simple_signing.signature_image(
        signature(), Manifest.from_bytes(json.dumps(theirs).encode(), what="theirs")
    )
    raw = json.loads(both.data)
    assert raw["layers"] == [*theirs["layers"], signature_entry(both)]
    assert raw["annotations"] == {"kept": "yes"}
    assert len(json.loads(config)["history"]) == 2
    for _ in range(14):
        _, both = simple_signing.signature_image(signature(), both)
    with pytest.raises(FormatError, match="signatures: 16 are there already, and no more are looked at"):
        simple_signing.signature_image(signature(), both)


def signature_entry(image: Manifest) -> dict[str, Any]:
    return image.layers[-1].to_dict()


def test_9_7_a_referrer_carries_a_notary_signature() -> None:
    carrier = notary.signature_manifest(b"{}", chain(), SUBJECT, created="2026-11-21T09:33:39Z")
    prints = [Chain.parse(chain()).fingerprint, Chain.parse(chain(root_only())).fingerprint]
    assert carrier.artifact_type == "application/vnd.cncf.notary.signature"
    assert carrier.subject == SUBJECT
    assert carrier.annotations["io.cncf.notary.x509chain.thumbprint#S256"].startswith(f'["{prints[0]}","')
    assert notary.envelope_layer(carrier) == Descriptor.of(b"{}", JWS)
    old = json.loads(carrier.data) | {"config": {**carrier.config.to_dict(), "mediaType": notary.ARTIFACT_TYPE}}
    del old["artifactType"]
    assert notary.envelope_layer(Manifest.from_bytes(json.dumps(old).encode(), what="old")).media_type == JWS
    with pytest.raises(FormatError, match="signature: exactly one layer is expected"):
        notary.envelope_layer(Manifest.build(notary.ARTIFACT_TYPE, []))
    with pytest.raises(FormatError, match="signature: 'text/plain'"):
        notary.envelope_layer(Manifest.build("text/plain", carrier.layers))


def root_only() -> chains.Certified:
    return certify("alone")


def test_9_8_a_jws_is_flattened_json_with_the_whole_chain() -> None:
    made = json.loads(notary.sign(SUBJECT, leaf().signer, chain(), now=NOW))
    assert made.keys() == {"payload", "protected", "header", "signature"}
    assert [base64.b64decode(der) for der in made["header"]["x5c"]] == chain()
    assert notary.verify(json.dumps(made).encode(), JWS, SUBJECT, authorities(), now=NOW).digest == DIGEST
    changes: list[dict[str, Any]] = [{"signatures": []}, {"payload": made["payload"] + "="}, {"protected": 7}]
    for change in changes:
        assert refusal(json.dumps(made | change).encode()).reason == "malformed-signature"
    both = refusal(chains.jws(unsigned={"cty": envelopes.PAYLOAD_TYPE}))
    assert "'cty' stands in the signed header and in the other" in str(both)


def test_9_9_a_cose_envelope_has_tag_18_and_tagged_times() -> None:
    assert notary.verify(chains.cose(), COSE, SUBJECT, authorities(), now=NOW).digest == DIGEST
    for bad in (chains.cose(tag=98), chains.cose(unprotected={}), chains.cose(unprotected={33: leaf().der})):
        assert "a tagged COSE_Sign1 with x5chain" in str(refusal(bad, COSE))
    untagged = refusal(chains.cose(header={chains.TIME: 1700000000}), COSE)
    assert "whole seconds with tag 1 are expected" in str(untagged)
    assert "not usable CBOR: a length that is not given beforehand" in str(refusal(b"\xd2\x9f\xff", COSE))
    with pytest.raises(FormatError, match="key 1 stands twice"):
        parse_cbor(b"\xa2\x01\x02\x01\x02", what="x", limit_bytes=99)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA3072"])
def test_9_10_the_key_gives_the_algorithm(kind: str) -> None:
    made = notary.sign(SUBJECT, leaf(kind).signer, chain(leaf(kind), root()), now=NOW)
    assert notary.verify(made, JWS, SUBJECT, authorities(), now=NOW).digest == DIGEST
    wrong = refusal(chains.jws(leaf(kind), header={"alg": "PS256"}))
    assert wrong.reason == "malformed-signature"
    assert "algorithm 'PS256': it was made with" in str(wrong)


@pytest.mark.parametrize("algorithm", ["PS256", "PS384", "PS512"])
def test_9_10_a_long_rsa_key_counts_with_each_hash_of_its_family(algorithm: str) -> None:
    assert notary.verify(chains.pss(leaf("RSA3072"), algorithm), JWS, SUBJECT, authorities(), now=NOW).digest == DIGEST


def test_9_10_a_short_rsa_key_is_refused() -> None:
    short = chain(leaf("RSA2048"), root())
    refused = refusal(chains.jws(certificates=short))
    assert refused.reason == "bad-certificate"
    assert "RSA with 2048 bits: 3072 or 4096 are expected, less is not accepted" in str(refused)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"crit": ...}, "crit: a list is expected"),
        ({"crit": []}, "crit: io.cncf.notary.signingScheme is to stand there"),
        ({EXPIRY: "2030-01-01T00:00:00Z"}, "crit: io.cncf.notary.expiry is to stand there"),
        ({"crit": [SCHEME, "x"], "x": 1}, "crit: 'x' is critical, and not understood here"),
        ({"crit": [SCHEME, SCHEME]}, "crit: each name stands once, and in the header"),
        ({"crit": [SCHEME, EXPIRY]}, "crit: each name stands once, and in the header"),
        ({SCHEME: "notary.x509.signingAuthority", chains.TIME: ..., chains.AUTHENTIC: "2026-01-01T00:00:00Z"},
         "crit: io.cncf.notary.authenticSigningTime is to stand there"),
    ],
)  # fmt: skip
def test_9_11_what_is_critical_is_named_and_understood(header: dict[str, Any], message: str) -> None:
    refused = refusal(chains.jws(header=header))
    assert refused.reason == "malformed-signature"
    assert message in str(refused)


@pytest.mark.parametrize(("field", "value"), [("mediaType", "text/plain"), ("digest", OTHER_DIGEST), ("size", 585)])
def test_9_12_a_signature_of_something_else_is_refused(field: str, value: Any) -> None:
    target = {"mediaType": SUBJECT.media_type, "digest": DIGEST, "size": 584, field: value}
    refused = refusal(chains.jws(body=json.dumps({"targetArtifact": target}).encode()))
    assert refused.reason == "moved-signature"
    assert "moved here from there" in str(refused)


def test_9_12_a_payload_says_nothing_else() -> None:
    body = json.dumps(json.loads(notary.payload(SUBJECT)) | {"more": 1}).encode()
    assert "targetArtifact and nothing else is expected" in str(refusal(chains.jws(body=body)))


def test_9_13_a_tls_certificate_does_not_sign() -> None:
    tls = certify("device", root(), extensions=[(chains.usage("digital_signature", "key_agreement"), True)])
    refused = refusal(chains.jws(tls))
    assert refused.reason == "bad-certificate"
    assert "its key usage is to be digitalSignature, and nothing else" in str(refused)


def test_9_13_a_self_signed_certificate_may_be_the_whole_chain() -> None:
    alone = certify("alone")
    assert notary.verify(
        chains.jws(alone, chain(alone)), JWS, SUBJECT, authorities(alone.der), now=NOW
    ).signed_by.startswith("CN=alone,")


def test_9_13_sha_1_is_refused() -> None:
    old = read_certificates((VECTORS / "notary" / "sha1.crt").read_bytes(), name="sha1.crt")
    with pytest.raises(FormatError, match="signed with SHA1: SHA-256, SHA-384 or SHA-512 is expected"):
        Chain.parse(old)


def test_9_14_a_chain_of_another_authority_is_refused() -> None:
    other = certify("other root", extensions=AUTHORITY)
    refused = refusal(chains.jws(), policy=authorities(other.der))
    assert refused.reason == "wrong-key"
    assert "none of its certificates is in a trust store of policy 'states' for notary.x509" in str(refused)
    assert refusal(chains.jws(), policy=authorities(trustStores=["signingAuthority:fleet"])).reason == "wrong-key"


def test_9_14_the_signer_is_one_of_those_named() -> None:
    named = authorities(trustedIdentities=["x509.subject: C=DE, ST=BW, O=example.org, OU=Releases"])
    refused = refusal(chains.jws(), policy=named)
    assert refused.reason == "wrong-key"
    assert "policy 'states' trusts others: C=DE, ST=BW, O=example.org, OU=Releases" in str(refused)
    assert notary.verify(chains.jws(), JWS, SUBJECT, authorities(trustedIdentities=["*"]), now=NOW)


def test_9_15_certificates_are_valid_now_or_when_an_authority_says_it_was_signed() -> None:
    late = chains.END + timedelta(days=1)
    refused = refusal(chains.jws(), now=late)
    assert refused.reason == "bad-certificate"
    assert "valid from 2026-01-01 00:00 to 2028-01-01 00:00 UTC, and not at 2028-01-02 00:00 UTC" in str(refused)
    stamped = chains.jws(header={
        SCHEME: envelopes.SIGNING_AUTHORITY, chains.TIME: ..., "crit": [SCHEME, chains.AUTHENTIC],
        chains.AUTHENTIC: "2027-01-01T00:00:00Z"})  # fmt: skip
    store = authorities(trustStores=["signingAuthority:fleet"])
    assert notary.verify(stamped, JWS, SUBJECT, store, now=late).digest == DIGEST


def test_9_15_an_expired_signature_does_not_count() -> None:
    made = notary.sign(SUBJECT, leaf().signer, chain(), now=NOW, expiry=NOW + timedelta(hours=1))
    assert notary.verify(made, JWS, SUBJECT, authorities(), now=NOW)
    refused = refusal(made, now=NOW + timedelta(hours=2))
    assert refused.reason == "expired-signature"
    assert "it expired 2027-01-01T01:00:00Z" in str(refused)


def test_9_16_a_certificate_that_wants_to_be_asked_about_is_refused_unless_the_policy_says_so() -> None:
    asking = certify("asking", root(), extensions=[*chains.LEAF, (chains.OCSP, False)])
    refused = refusal(chains.jws(asking))
    assert refused.reason == "revocation-unknown"
    assert '"override": {"revocation": "skip"}' in str(refused)
    logged = notary.verify(chains.jws(asking), JWS, SUBJECT, authorities(override={"revocation": "log"}), now=NOW)
    assert "nobody is asked here" in logged.notes[0]
    skipped = authorities(override={"revocation": "skip"})
    assert notary.verify(chains.jws(asking), JWS, SUBJECT, skipped, now=NOW).notes == []


def test_9_17_nothing_counts_under_audit_and_skip() -> None:
    said = "does not enforce who signed, and so nothing counts as verified by it: use strict or permissive"
    assert said in faults(level="audit")
    assert said in faults(level="skip", trustStores=..., trustedIdentities=...)
    assert said in faults(override={"authenticity": "log"})
    assert "timestamps are not looked at here" in faults(trustStores=["ca:fleet", "tsa:x"])
    assert authorities(trustStores=["ca:fleet", "tsa:x"], verifyTimestamp="afterCertExpiry")


def test_9_17_what_a_policy_only_logs_is_handed_on() -> None:
    late = notary.verify(chains.jws(), JWS, SUBJECT, authorities(level="permissive"), now=chains.END + timedelta(1))
    assert "and not at 2028-01-02" in late.notes[0]


def test_9_17_a_repository_has_its_own_statement_before_the_one_for_all() -> None:
    policy = parse_trust_policy(
        chains.document(chains.statement(name="all", registryScopes=["*"]), chains.statement(name="own"))
    )
    assert policy.statement_for(REPOSITORY).name == "own"
    assert policy.statement_for("reg.example/other").name == "all"


def test_9_18_cosigns_key_file_is_read_and_written() -> None:
    opened = FileKey.from_pem((KEYS / "cosign.key").read_bytes(), b"", name="cosign.key")
    assert opened.public.der == PublicKey.from_pem((KEYS / "cosign.pub").read_bytes(), name="cosign.pub").der
    ours = (KEYS / "ours.key").read_bytes()
    assert FileKey.from_pem(ours, b"correct horse", name="k").public.der == public("ours.pub").der
    with pytest.raises(FormatError, match="k: the password is wrong, or the file was changed"):
        FileKey.from_pem(ours, b"wrong", name="k")
    with pytest.raises(PasswordNeeded, match="k: this key is encrypted: a password is needed"):
        FileKey.from_pem(ours, None, name="k")


def public(file: str) -> PublicKey:
    return PublicKey.from_pem((KEYS / file).read_bytes(), name=file)


def test_9_19_a_command_that_signs_is_believed_only_when_its_answer_verifies(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", tmp_path / "k"], check=True
    )
    pem = subprocess.run(["openssl", "ec", "-in", tmp_path / "k", "-pubout"], capture_output=True, check=True).stdout
    command = ["openssl", "dgst", "-sha256", "-sign", str(tmp_path / "k")]
    right = CommandSigner(PublicKey.from_pem(pem, name="k.pub"), command)
    assert right.public.verifies(right.sign(b"data"), b"data")
    with pytest.raises(FormatError, match=r"signer openssl: its answer .* is no signature by fleet: another key"):
        CommandSigner(key().public, command).sign(b"data")
