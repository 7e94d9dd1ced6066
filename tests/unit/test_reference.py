"""References as people write them, and as container engines understand images."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.errors import FormatError
from margo_oci.reference import DOCKER_HUB, Reference, parse_image, parse_reference
from tests.unit.scenes import DIGEST


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:5000/fleet/edge-17", Reference("localhost:5000", "fleet/edge-17", "latest")),
        ("localhost/a:1", Reference("localhost", "a", "1")),
        ("oci://registry.example/a/b:1.0.0_x", Reference("registry.example", "a/b", "1.0.0_x")),
        ("[::1]:5000/a:t", Reference("[::1]:5000", "a", "t")),
        ("10.0.0.1/a", Reference("10.0.0.1", "a", "latest")),
        (f"registry.example/a@{DIGEST}", Reference("registry.example", "a", "", DIGEST)),
        (f"registry.example/a:t@{DIGEST}", Reference("registry.example", "a", "t", DIGEST)),
    ],
)
def test_a_reference_is_taken_apart(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it starts with a registry, as in localhost:5000/fleet/edge-17:latest"),
        ("fleet/edge-17", "it starts with a registry"),
        ("https://registry.example/a", "it starts with a registry"),
        ("registry.example", "it starts with a registry"),
        ("user@registry.example/a", "it starts with a registry"),
        ("registry.example:/a", "it starts with a registry"),
        ("registry.example /a", "it starts with a registry"),
        ("registry.example\n/a", "it starts with a registry"),
        ("registry.example/", "'' is no repository name (lower case, a-z 0-9 . _ - /)"),
        ("registry.example/A", "'A' is no repository name"),
        ("registry.example/a//b", "'a//b' is no repository name"),
        ("registry.example/../b", "'../b' is no repository name"),
        ("registry.example/a\n", "is no repository name"),
        ("registry.example/" + "a" * 256, "is no repository name"),
        ("registry.example/a:", "'' is no tag"),
        ("registry.example/a:-t", "'-t' is no tag"),
        ("registry.example/a:t/../u", "'t/../u' is no tag"),
        ("registry.example/a:" + "t" * 129, "is no tag"),
        ("registry.example/a@sha256:12", "'sha256:12' is no digest (sha256:<64 hex>)"),
        (f"registry.example/a@{DIGEST.upper()}", "is no digest"),
    ],
)
def test_what_is_no_reference_is_told_by_its_part(text: str, message: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_reference(text)
    assert str(refused.value).startswith("reference ")
    assert message in str(refused.value)


def test_an_at_sign_promises_a_digest() -> None:
    with pytest.raises(FormatError, match="'' is no digest"):
        parse_reference("registry.example/a@")


def test_a_digest_says_what_is_meant_and_the_tag_does_not() -> None:
    reference = parse_reference(f"registry.example/a:t@{DIGEST}")
    assert reference.target == DIGEST
    assert str(reference) == f"registry.example/a:t@{DIGEST}"


def test_the_same_repository_at_another_place() -> None:
    reference = parse_reference("registry.example/a:t")
    assert str(reference.at("u")) == "registry.example/a:u"
    assert str(reference.at(DIGEST)) == f"registry.example/a@{DIGEST}"
    assert str(reference.at(DIGEST).at("u")) == "registry.example/a:u"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("busybox", f"{DOCKER_HUB}/library/busybox:latest"),
        ("busybox:1.36", f"{DOCKER_HUB}/library/busybox:1.36"),
        ("grafana/grafana:11", f"{DOCKER_HUB}/grafana/grafana:11"),
        ("docker.io/busybox", f"{DOCKER_HUB}/library/busybox:latest"),
        ("docker.io/grafana/grafana", f"{DOCKER_HUB}/grafana/grafana:latest"),
        ("index.docker.io/library/busybox", f"{DOCKER_HUB}/library/busybox:latest"),
        ("localhost:5000/web:2", "localhost:5000/web:2"),
        ("localhost/web", "localhost/web:latest"),
        (f"busybox@{DIGEST}", f"{DOCKER_HUB}/library/busybox@{DIGEST}"),
        (f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b:1@{DIGEST}"),
    ],
)
def test_an_image_is_found_where_an_engine_would_look(image: str, expected: str) -> None:
    assert str(parse_image(image)) == expected


@given(st.text() | st.from_regex(r"[a-z.:\[\]]{1,9}/[a-zA-Z0-9._:@/-]{0,20}"))
def test_any_text_is_a_reference_or_a_format_error(text: str) -> None:
    for parse in (parse_reference, parse_image):
        try:
            reference = parse(text)
        except FormatError:
            continue
        assert parse_reference(str(reference)) == reference
