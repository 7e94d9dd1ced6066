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
        "https://:password@auth.example/token",
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
    assert "password" not in str(refused.value)


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


@pytest.mark.parametrize(
    "headers",
    [
        (f'Basic realm="x", {BEARER}',),
        (f'{BEARER}, Basic realm="x"',),
        ('Basic realm="x"', BEARER),
        (f'Negotiate YIIabc==, Digest realm="a, Basic b", nonce=n, {BEARER}',),
    ],
)
def test_of_several_challenges_a_token_is_preferred(headers: tuple[str, ...]) -> None:
    challenge = Challenge.parse(*headers)
    assert challenge.scheme == "bearer"
    assert challenge.parameters["realm"] == "https://auth.example/token"
    assert challenge.parameters["scope"] == "repository:a/b:pull"


def test_without_a_token_service_it_is_the_password() -> None:
    assert Challenge.parse("Negotiate", 'Digest realm="d", Basic realm="b"') == Challenge("basic", {"realm": "b"})


@pytest.mark.parametrize(
    "header",
    [
        "Bearer realm=https://auth.example/token,service=registry.example,scope=repository:a/b:pull",
        'bearer Realm = "https://auth.example/token" , SERVICE="registry.example",Scope="repository:a/b:pull"',
        r'Bearer realm="https://auth.example\/token",service="registry.example",scope="repository:a/b:pull"',
    ],
)
def test_parameters_may_stand_without_quotes_and_with_blanks(header: str) -> None:
    assert Challenge.parse(header).token_url(secure=True) == Challenge.parse(BEARER).token_url(secure=True)


def test_a_challenge_without_end_is_read_to_its_limit() -> None:
    assert Challenge.parse('Bearer realm="' * 100_000).scheme in ("", "bearer")


def test_an_identity_token_is_sent_in_a_form() -> None:
    asked = Challenge.parse(BEARER).token_request(Credentials("", "", "refresh me"), secure=True)
    assert (asked.method, asked.url) == ("POST", "https://auth.example/token")
    assert asked.body.decode() == (
        "grant_type=refresh_token&service=registry.example&scope=repository%3Aa%2Fb%3Apull"
        "&client_id=margo-oci&refresh_token=refresh+me"
    )
    assert "refresh" not in repr(asked)


@pytest.mark.parametrize(
    ("said", "life_s"),
    [("", 60.0), (',"expires_in":300', 300.0), (',"expires_in":-1', 60.0), (',"expires_in":"7"', 60.0),
     (',"expires_in":true', 60.0), (',"expires_in":1e9', 60.0), (',"expires_in":99999999999', 86400.0)],
)  # fmt: skip
def test_a_token_lives_as_long_as_its_service_says(said: str, life_s: float) -> None:
    assert token_of(f'{{"token":"abc"{said}}}'.encode()).life_s == life_s
