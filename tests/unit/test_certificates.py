"""Chains of code signers: what each certificate must be, and what is said of every other."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.certificates import Chain, check_anchor, read_certificates
from margo_oci.errors import FormatError
from tests.unit import chains
from tests.unit.chains import AUTHORITY, CODE_SIGNING, LEAF, NOW, certify, chain, leaf, root, usage
from tests.unit.scenes import read_or_refused

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
SIGNS, CERTIFIES = (usage("digital_signature"), True), (usage("key_cert_sign"), True)
CA = x509.BasicConstraints(ca=True, path_length=None)


def refused(*certified: chains.Certified) -> str:
    with pytest.raises(FormatError) as error:
        Chain.parse(chain(*certified))
    return str(error.value)


def test_the_usual_chain_is_one() -> None:
    parsed = Chain.parse(chain())
    parsed.check_times(NOW)
    assert parsed.key.der == leaf().signer.public.der
    assert str(parsed.subject) == "C=DE, ST=BW, O=example.org, CN=signer P-256"
    assert parsed.revocation_sources == []


def test_a_chain_may_have_authorities_between() -> None:
    between = certify("between", root(), extensions=AUTHORITY)
    assert Chain.parse(chain(certify("deep", between), between, root()))


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ([], "key usage is to be there, and critical"),
        ([(usage("digital_signature"), False)], "key usage is to be there, and critical"),
        ([(usage("key_cert_sign"), True)], "its key usage is to be digitalSignature, and nothing else"),
        ([(usage("digital_signature", "content_commitment"), True)], "digitalSignature, and nothing else"),
        ([(usage("digital_signature", "key_cert_sign"), True)], "digitalSignature, and nothing else"),
        ([SIGNS, (CA, True)], "an authority's certificate does not sign artifacts"),
        ([SIGNS, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)], "a certificate for serverAuth"),
        ([SIGNS, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)], "a certificate for clientAuth"),
        ([SIGNS, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), True)], "a certificate for timeStamping"),
        ([SIGNS, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False)], "anyExtendedKeyUsage"),
        ([SIGNS, (x509.NameConstraints([x509.DNSName("x")], None), True)], "the critical extension 2.5.29.30 is not"),
    ],
)
def test_a_certificate_that_is_not_for_signing_is_refused(extensions: Extensions, words: str) -> None:
    assert words in refused(certify("bad", root(), extensions=extensions), root())


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ([CERTIFIES], "no authority: basicConstraints with CA is to be there, and critical"),
        ([CERTIFIES, (CA, False)], "no authority: basicConstraints with CA is to be there, and critical"),
        ([CERTIFIES, (x509.BasicConstraints(ca=False, path_length=None), True)], "no authority"),
        ([(CA, True)], "key usage is to be there, and critical"),
        ([(CA, True), SIGNS], "its key usage is to include keyCertSign"),
    ],
)
def test_an_authority_that_is_none_is_refused(extensions: Extensions, words: str) -> None:
    above = certify("above", extensions=extensions)
    assert words in refused(certify("below", above), above)


def test_a_path_that_is_too_long_is_refused() -> None:
    short = certify("short", extensions=[(x509.BasicConstraints(ca=True, path_length=0), True), CERTIFIES])
    between = certify("between", short, extensions=AUTHORITY)
    assert "path length 0, and 1 authorities follow below it" in refused(certify("deep", between), between, short)
    assert Chain.parse(chain(certify("near", short), short))


def test_certificates_that_do_not_belong_together_are_refused() -> None:
    other = certify("other root", extensions=AUTHORITY)
    namesake = certify("root", other, extensions=AUTHORITY)
    assert "not issued by certificate 'CN=other root" in refused(leaf(), other)
    assert "not issued by itself: the chain ends with no root" in refused(leaf())
    assert "not issued by" in refused(leaf(), namesake)
    assert "it signed itself, and yet others follow in the chain" in refused(leaf(), root(), root())
    assert "not issued by" in refused(root(), leaf())


def test_the_number_of_certificates_is_bounded() -> None:
    for wrong in ([], chain() * 6):
        with pytest.raises(FormatError, match="certificates: 1 to 10 are expected, got"):
            Chain.parse(wrong)
    with pytest.raises(FormatError, match="certificate 1: 16385 bytes, at most 16384 are read"):
        Chain.parse([b"x" * (16 * 1024 + 1)])


@pytest.mark.parametrize("kind", ["secp256k1", "Ed25519"])
def test_a_key_that_signs_nothing_here_is_told(kind: str) -> None:
    with pytest.raises(FormatError, match=r"an ECDSA key \(P-256, P-384, P-521\) or an RSA key"):
        _ = Chain.parse(chain(certify("odd", root(), kind=kind), root())).key


def test_every_certificate_must_be_valid() -> None:
    old = certify("old root", extensions=AUTHORITY, end=datetime(2026, 6, 1, tzinfo=UTC))
    with pytest.raises(
        FormatError, match=r"certificate 'CN=old root.*and not at 2027-01-01 00:00 UTC: look at the clock"
    ):
        Chain.parse(chain(certify("new", old), old)).check_times(NOW)


def test_the_root_is_not_asked_about() -> None:
    asking = certify("asking root", extensions=[*AUTHORITY, (chains.OCSP, False)])
    points = x509.CRLDistributionPoints([x509.DistributionPoint(
        [x509.UniformResourceIdentifier("http://crl.example")], None, None, None)])  # fmt: skip
    assert Chain.parse(chain(certify("quiet", asking), asking)).revocation_sources == []
    found = Chain.parse(chain(certify("listed", asking, extensions=[*LEAF, (points, False)]), asking))
    assert "CN=listed" in found.revocation_sources[0]
    alone = certify("alone", extensions=[*LEAF, (chains.OCSP, False)])
    assert len(Chain.parse(chain(alone)).revocation_sources) == 1


def test_certificates_are_read_from_pem_and_der() -> None:
    assert read_certificates(leaf().der, name="x") == [leaf().der]
    assert read_certificates(b"words\n" + leaf().pem + root().pem, name="x") == [leaf().der, root().der]
    for bad in (b"", b"rubbish", leaf().der + b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(FormatError, match=r"x: not a usable X.509 certificate"):
            read_certificates(bad, name="x")


def test_a_certificate_of_another_version_is_refused() -> None:
    version = b"\xa0\x03\x02\x01"  # [0] INTEGER, in front of the number
    with pytest.raises(FormatError, match=r"x: not a usable X.509 certificate: 3 is not a valid X509 version"):
        read_certificates(leaf().der.replace(version + b"\x02", version + b"\x03", 1), name="x")


def test_a_certificate_has_one_writing() -> None:
    many = (certify(str(number), root()) for number in range(64))
    even = next(each for each in many if each.certificate.signature[-1] % 2 == 0)  # a bit that could be left over
    at = len(even.der) - len(even.certificate.signature) - 1
    with pytest.raises(FormatError, match="its signature is no whole number of bytes"):
        read_certificates(even.der[:at] + b"\x01" + even.der[at + 1 :], name="x")


def test_a_trust_store_holds_authorities_and_what_signed_itself() -> None:
    check_anchor(root().der, name="x")
    check_anchor(certify("alone", extensions=[(CODE_SIGNING, False)]).der, name="x")
    with pytest.raises(
        FormatError, match=r"x: certificate 'CN=signer P-256.*neither an authority's certificate nor self"
    ):
        check_anchor(leaf().der, name="x")


@given(st.binary(max_size=100) | st.tuples(st.integers(0, len(leaf().der) - 1), st.integers(0, 255)).map(
    lambda change: leaf().der[: change[0]] + bytes([change[1]]) + leaf().der[change[0] + 1 :]))  # fmt: skip
def test_any_bytes_are_a_certificate_or_a_format_error(data: bytes) -> None:
    read_or_refused(lambda: read_certificates(data, name="x"), "x: ")
    read_or_refused(lambda: Chain.parse([data, root().der]).subject, "certificate")
