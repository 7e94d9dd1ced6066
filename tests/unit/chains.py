"""Certificates, trust policies and Notary envelopes for tests, made in one line; every fault is an argument."""

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from margo_oci import algorithms, envelopes, notary
from margo_oci.cbor import Tagged, encode_cbor
from margo_oci.content import Descriptor
from margo_oci.keys import FileKey
from margo_oci.trustpolicy import Authorities, parse_trust_policy
from tests.unit.scenes import DIGEST

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
BEGIN, NOW, END = (datetime(year, 1, 1, tzinfo=UTC) for year in (2026, 2027, 2028))
REPOSITORY = "reg.example/fleet/edge-17"
SUBJECT = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=DIGEST, size=584)
IDENTITY = "x509.subject: C=DE, ST=BW, O=example.org"
CURVES: Mapping[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1(), "secp256k1": ec.SECP256K1()}  # fmt: skip
CODE_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
OCSP = x509.AuthorityInformationAccess(
    [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://ocsp.example"))]
)
SCHEME, TIME, EXPIRY = (f"io.cncf.notary.{name}" for name in ("signingScheme", "signingTime", "expiry"))
AUTHENTIC = "io.cncf.notary.authenticSigningTime"


@functools.cache
def private_key(kind: str, name: str) -> Key:
    """A private key; the same kind and name is the same key."""
    if kind.startswith("RSA"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[3:]))
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(CURVES[kind])


def subject_name(common_name: str, **more: str) -> x509.Name:
    """C=DE, ST=BW, O=example.org, and a common name."""
    pairs = {"C": "DE", "ST": "BW", "O": "example.org", **more, "CN": common_name}
    return x509.Name([x509.NameAttribute(x509.name._NAME_TO_NAMEOID[key], value) for key, value in pairs.items()])


def usage(*names: str) -> x509.KeyUsage:
    """A key usage with just these."""
    known = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: name in names for name in known})


@dataclass(frozen=True)
class Certified:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def signer(self) -> FileKey:
        assert not isinstance(self.key, ed25519.Ed25519PrivateKey)
        return FileKey(self.key, "release")


LEAF: Sequence[tuple[x509.ExtensionType, bool]] = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (usage("digital_signature"), True),
    (CODE_SIGNING, False),
)
AUTHORITY: Sequence[tuple[x509.ExtensionType, bool]] = (
    (x509.BasicConstraints(ca=True, path_length=None), True), (usage("key_cert_sign", "crl_sign"), True))  # fmt: skip


def certify(
    name: str,
    issuer: Certified | None = None,
    *,
    kind: str = "P-256",
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = LEAF,
    hashing: hashes.HashAlgorithm | None = hashes.SHA256(),  # noqa: B008
    begin: datetime = BEGIN,
    end: datetime = END,
    subject: x509.Name | None = None,
) -> Certified:
    """A certificate, signed by `issuer` or by itself."""
    key = private_key(kind, name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or subject_name(name))
        .issuer_name(issuer.certificate.subject if issuer else subject or subject_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Certified(builder.sign(issuer.key if issuer else key, hashing), key)  # type: ignore[arg-type]


@functools.cache
def root() -> Certified:
    """The authority that tests trust."""
    return certify("root", extensions=AUTHORITY)


@functools.cache
def leaf(kind: str = "P-256") -> Certified:
    """A signer whom it vouches for."""
    return certify(f"signer {kind}", root(), kind=kind)


def chain(*certified: Certified) -> list[bytes]:
    """DER certificates: the usual two if none is named."""
    return [each.der for each in certified or (leaf(), root())]


def document(*statements: Mapping[str, Any]) -> bytes:
    """A trust policy document."""
    return json.dumps({"version": "1.0", "trustPolicies": list(statements)}).encode()


def statement(**changes: Any) -> dict[str, Any]:
    """A statement for REPOSITORY; `level` and `override` go where they belong, `...` takes a field out."""
    verification = {key: changes.pop(key) for key in ("level", "override", "verifyTimestamp") if key in changes}
    raw = {
        "name": "states",
        "registryScopes": [REPOSITORY],
        "signatureVerification": {"level": "strict", **verification},
        "trustStores": ["ca:fleet"],
        "trustedIdentities": [IDENTITY],
        **changes,
    }
    return {key: value for key, value in raw.items() if value is not ...}


def authorities(*roots: bytes, **changes: Any) -> Authorities:
    """Who counts, by a policy with one statement; the trust stores it names hold `roots`."""
    policy = parse_trust_policy(document(statement(**changes)))
    return policy.authorities(REPOSITORY, dict.fromkeys(policy.stores, roots or (root().der,)))


def jws(signer: Certified | None = None, certificates: Sequence[bytes] | None = None, *, body: bytes | None = None,
        header: Mapping[str, Any] | None = None, unsigned: Mapping[str, Any] | None = None) -> bytes:  # fmt: skip
    """A JWS whose signature is right, whatever it says; `...` takes a field out."""
    signer = signer or leaf()
    protected = json.loads(notary.protected_header(signer.signer.public.algorithm, NOW)) | dict(header or {})
    signed_header = json.dumps({key: value for key, value in protected.items() if value is not ...}).encode()
    parts = {"protected": base64url(signed_header), "payload": base64url(body or notary.payload(SUBJECT))}
    signature = signer.signer.sign(f"{parts['protected']}.{parts['payload']}".encode())
    listed = [base64.b64encode(der).decode() for der in certificates or chain(signer, root())]
    parts["signature"] = base64url(algorithms.side_by_side(signer.signer.public.algorithm, signature))
    return json.dumps({**parts, "header": {"x5c": listed, **(unsigned or {})}}).encode()


def pss(signer: Certified, algorithm: str) -> bytes:
    """A JWS by an RSA key with any hash of the PS family."""
    protected = json.loads(notary.protected_header(algorithm, NOW))
    parts = {"protected": base64url(json.dumps(protected).encode()), "payload": base64url(notary.payload(SUBJECT))}
    hashing = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[algorithm[2:]]
    assert isinstance(signer.key, rsa.RSAPrivateKey)
    signature = signer.key.sign(
        f"{parts['protected']}.{parts['payload']}".encode(),
        padding.PSS(padding.MGF1(hashing), padding.PSS.DIGEST_LENGTH),
        hashing,
    )
    listed = [base64.b64encode(der).decode() for der in chain(signer, root())]
    return json.dumps({**parts, "signature": base64url(signature), "header": {"x5c": listed}}).encode()


def cose(signer: Certified | None = None, *, header: Mapping[Any, Any] | None = None, tag: int = 18,
         unprotected: Mapping[Any, Any] | None = None, body: bytes | None = None) -> bytes:  # fmt: skip
    """A COSE_Sign1 whose signature is right, whatever it says; `...` takes a field out."""
    signer, body = signer or leaf(), body or notary.payload(SUBJECT)
    usual = {
        1: -7,
        2: [SCHEME],
        3: envelopes.PAYLOAD_TYPE,
        SCHEME: envelopes.X509,
        TIME: seconds(NOW),
        **(header or {}),
    }
    protected = encode_cbor({key: value for key, value in usual.items() if value is not ...})
    signature = signer.signer.sign(encode_cbor(["Signature1", protected, b"", body]))
    raw = algorithms.side_by_side(signer.signer.public.algorithm, signature)
    listed = {33: chain(signer, root())} if unprotected is None else unprotected
    return encode_cbor(Tagged(tag, [protected, listed, body, raw]))


def seconds(moment: datetime) -> Tagged:
    """A time as COSE has it."""
    return Tagged(1, int(moment.timestamp()))


def base64url(data: bytes) -> str:
    """Base64 as JOSE writes it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def common_names(*names: str) -> x509.Name:
    """A name with several common names."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
