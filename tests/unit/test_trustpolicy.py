"""Notary's trust policy: what it may say, and what a person is told about everything else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.errors import FormatError
from margo_oci.subjects import Subject, parse_subject
from margo_oci.trustpolicy import TrustPolicy, parse_trust_policy
from tests.unit.chains import REPOSITORY, authorities, document, root, statement
from tests.unit.scenes import read_or_refused
from tests.unit.test_content import JSON


def policy(*statements: dict[str, Any]) -> TrustPolicy:
    return parse_trust_policy(document(*statements))


def faults(*statements: dict[str, Any]) -> str:
    with pytest.raises(FormatError) as refused:
        policy(*statements)
    return str(refused.value)


def subject(text: str) -> Subject:
    return parse_subject(text, at="x")


def test_authorities_are_what_the_stores_hold_by_scheme() -> None:
    raw = policy(statement(trustStores=["ca:a", "ca:b", "signingAuthority:c"]))
    assert raw.stores == ["ca:a", "ca:b", "signingAuthority:c"]
    found = raw.authorities(REPOSITORY, {"ca:a": [b"1"], "ca:b": [b"2"], "signingAuthority:c": [b"3"]})
    assert found.knows("notary.x509", [b"x", b"2"])
    assert not found.knows("notary.x509", [b"3"])
    assert found.knows("notary.x509.signingAuthority", [b"3"])
    assert not found.knows("other", [b"1"])


def test_an_empty_store_is_told() -> None:
    empty: list[dict[str, list[bytes]]] = [{}, {"ca:fleet": []}]
    for stores in empty:
        with pytest.raises(FormatError, match="trust policy 'states': trust store ca:fleet: no certificates are there"):
            policy(statement()).authorities(REPOSITORY, stores)


def test_a_repository_without_a_statement_is_told() -> None:
    with pytest.raises(FormatError, match=r"trust policy: no statement has the registry scope reg.example/fleet"):
        policy(statement()).statement_for("reg.example/fleet")


def test_levels_and_overrides_say_what_is_enforced() -> None:
    assert set(authorities().actions.values()) == {"enforce"}
    loose = authorities(level="permissive", override={"expiry": "enforce", "revocation": "skip"})
    assert loose.actions == {
        "integrity": "enforce", "authenticity": "enforce", "authenticTimestamp": "log", "expiry": "enforce",
        "revocation": "skip"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": 1}, "trustPolicies[0]: unknown field 'extra'"),
        ({"name": ""}, "trustPolicies[0]: name is missing"),
        ({"name": ...}, "trustPolicies[0]: name is missing"),
        ({"registryScopes": ...}, "registryScopes: a list of text is expected"),
        ({"registryScopes": []}, "registryScopes: repositories are expected, or '*' alone"),
        ({"registryScopes": ["*", "a.b/c"]}, "registryScopes: repositories are expected, or '*' alone"),
        ({"registryScopes": ["reg.example/*"]}, "'reg.example/*': a whole repository is expected (host/repository)"),
        ({"registryScopes": ["reg.example"]}, "'reg.example': a whole repository is expected (host/repository)"),
        ({"registryScopes": ["reg.example/a:1"]}, "'reg.example/a:1': a whole repository is expected"),
        ({"registryScopes": [REPOSITORY, REPOSITORY]}, f"registry scope '{REPOSITORY}' stands twice"),
        ({"signatureVerification": ...}, "signatureVerification: an object with a level is expected"),
        ({"level": "lax"}, "level 'lax': one of strict, permissive, audit, skip is expected"),
        ({"level": []}, "level []: one of strict"),
        ({"override": []}, "override: an object is expected"),
        ({"override": {"integrity": "log"}}, "override: 'integrity': one of authenticity, authenticTimestamp, expiry"),
        ({"override": {"expiry": "skip"}}, "override: expiry: 'skip': enforce, log (revocation: or skip)"),
        ({"override": {"revocation": "no"}}, "override: revocation: 'no': enforce, log (revocation: or skip)"),
        ({"override": {"revocation": {}}}, "override: revocation: {}: enforce, log"),
        ({"verifyTimestamp": "never"}, "verifyTimestamp 'never': always or afterCertExpiry is expected"),
        ({"trustStores": ...}, "trustStores and trustedIdentities are expected"),
        ({"trustStores": ["fleet"]}, "trustStores: 'fleet': ca:NAME, signingAuthority:NAME or tsa:NAME is expected"),
        ({"trustStores": ["ca:../x"]}, "trustStores: 'ca:../x': ca:NAME"),
        ({"trustStores": ["key:x"]}, "trustStores: 'key:x': ca:NAME"),
        ({"trustedIdentities": []}, "trustStores and trustedIdentities are expected"),
        ({"trustedIdentities": ["*", "x509.subject: C=DE, ST=BW, O=x"]}, "'*' stands alone or not at all"),
        ({"trustedIdentities": ["CN=x"]}, "trustedIdentities: 'CN=x': x509.subject: C=…, ST=…, O=… is expected"),
        ({"trustedIdentities": ["x509.subject: C=DE, O=x"]}, "ST is missing: C, ST and O at least are expected"),
        ({"trustedIdentities": ["x509.subject: C=DE, ST=BW, O=x", "x509.subject: O=x, C=DE, ST=BW, OU=y"]},
         "another of the identities says the same"),
        ({"level": "skip"}, "level skip goes with no trustStores and no trustedIdentities"),
        ({"level": "skip", "override": {"expiry": "log"}}, "override: an object is expected, and none with level skip"),
    ],
)  # fmt: skip
def test_a_statement_that_is_not_just_so_is_refused(changes: dict[str, Any], words: str) -> None:
    assert words in faults(statement(**changes))


def test_every_fault_is_told_at_once() -> None:
    text = faults(statement(name="a", level="x"), statement(name="b", registryScopes=[]), statement(), statement())
    begins = [line.removeprefix("trustpolicy.json: ")[:20] for line in text.splitlines()]
    assert begins == ["trustPolicies[0] 'a'", "trustPolicies[1] 'b'", "name 'states' stands", "registry scope 'reg."]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "version None: '1.0' is expected"),
        ({"version": "2.0", "trustPolicies": []}, "version '2.0': '1.0' is expected"),
        ({"version": "1.0"}, "trustPolicies: a list with at least one policy is expected"),
        ({"version": "1.0", "trustPolicies": []}, "trustPolicies: a list with at least one policy is expected"),
        ({"version": "1.0", "trustPolicies": [1]}, "trustPolicies[0]: an object is expected"),
        ({"version": "1.0", "trustPolicies": [], "globalPolicy": 1}, "unknown field 'globalPolicy'"),
    ],
)
def test_a_document_that_is_none_is_refused(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_trust_policy(json.dumps(raw).encode(), what="p.json")
    assert str(refused.value) == f"p.json: {words}"


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("C=DE, ST=BW, O=example.org", {"C": "DE", "ST": "BW", "O": "example.org"}),
        (" C = DE,ST= BW ,O=a b ", {"C": "DE", "ST": "BW", "O": "a b"}),
        ("C=DE,S=BW,O=x", {"C": "DE", "ST": "BW", "O": "x"}),
        (r"C=DE,ST=BW,O=Acme\, Inc.", {"C": "DE", "ST": "BW", "O": "Acme, Inc."}),
        (r"C=DE,ST=BW,O=a\2c\20\c3\a4", {"C": "DE", "ST": "BW", "O": "a, ä"}),
        (r"C=DE,ST=BW,O=a\\,CN=b\+\"", {"C": "DE", "ST": "BW", "O": "a\\", "CN": 'b+"'}),
        (r"C=DE,ST=BW,O=a\ ", {"C": "DE", "ST": "BW", "O": "a "}),
        ("C=DE,ST=BW,O=a=b,1.2.3=x", {"C": "DE", "ST": "BW", "O": "a=b", "1.2.3": "x"}),
    ],
)
def test_names_are_read_as_rfc_4514_writes_them(text: str, attributes: dict[str, str]) -> None:
    assert subject(text).attributes == attributes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "x: '': NAME=value is expected, with commas between"),
        ("C=DE,ST=BW,O=", "x: 'O=': NAME=value is expected"),
        ("C=DE,ST=BW,O=x,", "x: '': NAME=value is expected"),
        ("C=DE;ST=BW;O=x", "x: 'C=DE;ST=BW;O=x': NAME=value is expected"),
        ("C=DE+OU=x,ST=BW,O=x", "NAME=value is expected"),
        ('C=DE,ST=BW,O="x"', "NAME=value is expected"),
        ("C=DE,ST=BW,O=#1234", "NAME=value is expected"),
        ("C=DE,ST=BW,O=a\\x", "NAME=value is expected"),
        (r"C=DE,ST=BW,O=\ff", "not UTF-8"),
        ("C=DE,ST=BW,O=x,C=US", "x: C stands twice"),
        ("C=DE,ST=BW,S=BW,O=x", "x: ST stands twice"),
        ("CN=x", "x: C, ST, O is missing"),
    ],
)
def test_what_is_no_name_is_told(text: str, words: str) -> None:
    with pytest.raises(FormatError) as refused:
        subject(text)
    assert words in str(refused.value)


def test_a_name_covers_every_name_that_has_all_of_it() -> None:
    wanted = subject("C=DE,ST=BW,O=x")
    assert wanted.covers(subject("C=DE,ST=BW,O=x,CN=y"))
    assert not wanted.covers(subject("C=DE,ST=BY,O=x,CN=y"))
    assert not wanted.covers(subject("C=DE,ST=BW,O=X"))
    assert not subject("C=DE,ST=BW,O=x,CN=y").covers(wanted)


FIELDS = ["name", "registryScopes", "signatureVerification", "level", "override", "trustStores", "trustedIdentities"]
CHANGED = st.builds(lambda key, value: document(statement(**{key: value})), st.sampled_from(FIELDS), JSON)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | CHANGED)
def test_any_bytes_are_a_policy_or_a_format_error(data: bytes) -> None:
    def read() -> object:
        return parse_trust_policy(data, what="trust policy").authorities(REPOSITORY, {"ca:fleet": [root().der]})

    read_or_refused(read, "trust policy")


@given(st.text(alphabet='CSTO=, \\+#"ab2', max_size=40))
def test_any_text_is_a_name_or_a_format_error(text: str) -> None:
    read_or_refused(lambda: subject(text), "x: ")
