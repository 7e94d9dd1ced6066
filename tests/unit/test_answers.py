"""What a registry's answers say besides their content, and how that may stand in a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.answers import next_page, retry_after_s
from margo_oci.errors import RegistryError, said, shown

ASKED = "https://registry.example/v2/fleet/edge-17/tags/list?n=2"


@pytest.mark.parametrize(
    ("retry_after", "date", "wait_s"),
    [
        ("7", "", 7.0),
        ("Sat, 01 Aug 2026 12:02:00 GMT", "Sat, 01 Aug 2026 12:00:00 GMT", 120.0),
        ("Sat, 01 Aug 2026 11:00:00 GMT", "Sat, 01 Aug 2026 12:00:00 GMT", 0.0),
        ("Sat, 01 Aug 2099 12:00:00 GMT", "Sat, 01 Aug 2026 12:00:00 GMT", 3600.0),
        ("Sat, 01 Aug 2026 12:02:00 GMT", "", None),
        ("Sat, 01 Aug 2026 12:02:00 GMT", "yesterday", None),
        ("Sat, 99 Aug 2026 12:02:00 GMT", "Sat, 01 Aug 2026 12:00:00 GMT", None),
        ("soon", "Sat, 01 Aug 2026 12:00:00 GMT", None),
        ("", "", None),
    ],
)
def test_how_long_to_wait_may_be_a_date(retry_after: str, date: str, wait_s: float | None) -> None:
    assert retry_after_s({"Retry-After": retry_after, "Date": date}) == wait_s


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_wait_is_a_bounded_one_or_none(retry_after: str, date: str) -> None:
    wait_s = retry_after_s({"Retry-After": retry_after, "Date": date})
    assert wait_s is None or 0 <= wait_s <= 3600


@pytest.mark.parametrize(
    ("link", "page"),
    [
        ("/v2/fleet/edge-17/tags/list?n=2&last=b", "https://registry.example/v2/fleet/edge-17/tags/list?n=2&last=b"),
        ("?n=2&last=b", "https://registry.example/v2/fleet/edge-17/tags/list?n=2&last=b"),
        ("https://registry.example/x", "https://registry.example/x"),
        ("https://Registry.Example:443/x", "https://Registry.Example:443/x"),
    ],
)
def test_a_next_page_is_relative_to_the_one_before(link: str, page: str) -> None:
    assert next_page(link, asked=ASKED) == page


@given(st.text(max_size=60))
def test_any_next_page_is_at_the_same_registry_or_refused(link: str) -> None:
    try:
        page = next_page(link, asked=ASKED)
    except RegistryError:
        return
    assert page.lower().startswith(("https://registry.example/", "https://registry.example:443/"))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://cdn.example/blob?X-Amz-Signature=secret&x=y", "https://cdn.example/blob"),
        ("https://me:secret@cdn.example/blob", "https://cdn.example/blob"),
        ("url: /v2/x?token=secret (Caused by y)", "url: /v2/x (Caused by y)"),
        ("what is this?", "what is this?"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(address: str, words: str) -> None:
    assert shown(address) == words


def test_words_from_outside_are_one_printable_line_of_bounded_length() -> None:
    assert said("a\x1b[31mb\r\n\u202ec") == "a [31mb c"
    assert len(said("x" * 10_000)) == 300
    assert len(shown("x" * 10_000)) == 300
