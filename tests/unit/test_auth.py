"""How a registry is told who asks, as rules."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.auth import Challenge, Credentials, token_of
from margo_oci.errors import RegistryError

BEARER = 'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull"'


def test_a_bearer_challenge_leads_to_its_token_service() -> None:
    challenge = Challenge.parse(BEARER)
    assert challenge.scheme == "bearer"
    assert challenge.token_url(secure=True) == (
        "https://auth.example/token?service=registry.example&scope=repository%3Aa%2Fb%3Apull"
    )


def test_a_realm_may_have_a_query_of_its_own() -> None:
    challenge = Challenge.parse('Bearer realm="https://auth.example/token?account=x",service="s"')
    assert challenge.token_url(secure=True) == "https://auth.example/token?account=x&service=s"


def test_what_the_challenge_does_not_name_is_not_asked_for() -> None:
    challenge = Challenge.parse('bearer realm="https://auth.example/token",error="invalid_token"')
    assert challenge.token_url(secure=True) == "https://auth.example/token?"


@pytest.mark.parametrize(
    ("header", "scheme"),
    [('Basic realm="registry"', "basic"), ("BASIC", "basic"), (BEARER, "bearer"), ("", ""), ("Negotiate abc", ""),
     ("Digest x=1", ""), ("Bearerrealm=x", "")],
)  # fmt: skip
def test_the_scheme_is_one_that_registries_speak(header: str, scheme: str) -> None:
    assert Challenge.parse(header).scheme == scheme


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "auth.example/token",
        "//auth.example/token",
        "ftp://auth.example/token",
        "file:///etc/passwd",
        "https://",
        "https:///token",
        "https://user@auth.example/token",
        "https://user:password@auth.example/token",
        "https://[",
        "https://[::1",
        "https://auth.example]",
        "https://[v1.x/token",
    ],
)
def test_an_address_that_is_no_token_service_is_not_asked(realm: str) -> None:
    with pytest.raises(RegistryError) as refused:
        Challenge("bearer", {"realm": realm}).token_url(secure=False)
    assert str(refused.value).startswith("the registry names a token service that is not used: ")
    assert "user" not in str(refused.value)


def test_a_registry_with_tls_cannot_lead_to_a_token_service_without() -> None:
    challenge = Challenge.parse('Bearer realm="http://auth.example/token"')
    with pytest.raises(RegistryError, match=r"names a token service that is not used: 'http://auth.example/token'"):
        challenge.token_url(secure=True)
    assert challenge.token_url(secure=False) == "http://auth.example/token?"


@given(st.text() | st.text(max_size=40).map(lambda text: f'Bearer realm="https://{text}",service="{text}"'))
def test_any_header_is_a_challenge_whose_service_is_asked_or_not(header: str) -> None:
    challenge = Challenge.parse(header)
    for secure in (True, False):
        with contextlib.suppress(RegistryError):
            assert challenge.token_url(secure=secure).lower().startswith(("https://", "http://"))


@pytest.mark.parametrize(
    ("body", "token"),
    [(b'{"token":"abc"}', "abc"), (b'{"access_token":"abc"}', "abc"), (b'{"token":"a","access_token":"b"}', "a")],
)
def test_a_token_is_found_under_both_its_names(body: bytes, token: str) -> None:
    assert token_of(body).value == token


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "the token service answered nonsense: token: not usable JSON"),
        (b"[]", "the token service answered nonsense: token: a JSON object is expected"),
        (b" " * 65537, "the token service answered nonsense: token: 65537 bytes, at most 65536 are read"),
        (b"{}", "the token service answered without a token"),
        (b'{"token":7}', "the token service answered without a token"),
        (b'{"token":"a\\nX-Evil: 1"}', "the token service answered without a token"),
        ('{"token":"ä"}'.encode(), "the token service answered without a token"),
    ],
)
def test_an_answer_without_a_usable_token_is_told(body: bytes, message: str) -> None:
    with pytest.raises(RegistryError) as refused:
        token_of(body)
    assert str(refused.value).startswith(message)


def test_credentials_are_sent_and_never_shown() -> None:
    credentials = Credentials("user", "pass:wörd")
    assert credentials.basic == "Basic dXNlcjpwYXNzOnfDtnJk"
    assert "wörd" not in repr(credentials)
    assert "wörd" not in str([credentials])
