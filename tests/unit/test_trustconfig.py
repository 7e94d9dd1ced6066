"""Whom to trust, as people write it down."""

from pathlib import Path

import pytest

from margo_oci.errors import FormatError
from margo_oci.identity import Identity
from margo_oci.keys import generate
from margo_oci.trustconfig import ComponentRule, Sources, TrustConfig, load_trust_config


def read(folder: Path, text: str) -> TrustConfig:
    file = folder / "policy.yaml"
    file.write_text(text)
    return load_trust_config(file)


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(FormatError) as refused:
        read(folder, text)
    return [fault.removeprefix(f"{folder}/policy.yaml:") for fault in refused.value.faults]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("fleet", "second", "vendor"):
        (tmp_path / f"{name}.pub").write_bytes(generate(None)[1])
    return tmp_path


def test_several_keys_and_how_many_of_them(folder: Path) -> None:
    config = read(folder, "trust: {keys: [fleet.pub, second.pub], threshold: 2}\n")
    policy = config.sources.load("registry.example/fleet/edge-17", scopes=["edge-17"])
    assert ([key.name for key in policy.keys], policy.threshold) == (["fleet.pub", "second.pub"], 2)
    assert (config.mode, list(policy.scopes)) == ("release", ["edge-17"])


def test_a_threshold_that_is_never_reached_is_told_when_it_is_loaded(folder: Path) -> None:
    with pytest.raises(FormatError, match="threshold 2: 1 to 1"):
        read(folder, "trust: {keys: [fleet.pub], threshold: 2}\n").sources.load("a/b")


def test_the_first_rule_that_fits_says_whose_component_it_must_be(folder: Path) -> None:
    config = read(
        folder,
        "trust:\n  keys: [fleet.pub]\n  components:\n"
        '    - {repositories: ["registry.example/vendor/*"], keys: [vendor.pub]}\n'
        '    - {repositories: ["registry.example/*"], keys: [second.pub]}\n',
    )
    names = {
        name: [file.name for file in sources.keys] if sources else None
        for name in ("registry.example/vendor/a/b", "registry.example/other", "elsewhere.example/vendor/a")
        for sources in [config.component_sources(name)]
    }
    assert list(names.values()) == [["vendor.pub"], ["second.pub"], None]


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("[::1]:5000/vendor/*", "[::1]:5000/vendor/a", True),
        ("registry.example/*", "Registry.Example/vendor/a", True),
        ("*", "anything.example/a", True),
        ("registry.example/vendor/*", "registry.example/vendor", False),
        ("registry.example/a?c", "registry.example/abc", False),
    ],
)
def test_in_a_pattern_only_the_star_is_special(pattern: str, name: str, fits: bool) -> None:
    assert ComponentRule([pattern], Sources()).fits(name) is fits


@pytest.mark.parametrize(
    "pattern", ["oci://r.example/a/*", "r.example", "r.example/a:1.0", "r.example/a@sha256:1", "a b/c"]
)
def test_a_pattern_that_could_fit_nothing_is_told(pattern: str, folder: Path) -> None:
    text = f'trust: {{keys: [fleet.pub], components: [{{repositories: ["{pattern}"], keys: [vendor.pub]}}]}}'
    assert "host/repository, without oci:// and tag, is expected" in faults(folder, text)[0]


def test_every_file_that_decides_who_counts_is_named(folder: Path) -> None:
    (folder / "notary").mkdir()
    (folder / "notary" / "trustpolicy.json").touch()
    text = "trust: {keys: [fleet.pub], notary: notary, identities: [{subject: a, issuer: b}], trustedRoot: root.json}\n"
    found = [str(file.relative_to(folder)) for file in read(folder, text).sources.files]
    assert found == ["fleet.pub", "notary/trustpolicy.json", "root.json"]


def test_identities_come_with_what_they_are_checked_with(folder: Path) -> None:
    text = "trust: {identities: [{subject: ci@example.org, issuer: 'https://i.example'}], trustedRoot: root.json}\n"
    sources = read(folder, text).sources
    assert sources.identities == (Identity("ci@example.org", "https://i.example"),)
    assert sources.trusted_root == folder / "root.json"


def test_with_heads_the_root_names_the_keys(folder: Path) -> None:
    config = read(folder, "trust: {mode: head+release, root: root.json, freshness: warn, chain: r.example/trust}\n")
    assert (config.mode, config.root, config.freshness) == ("head+release", folder / "root.json", "warn")
    assert str(config.chain) == "r.example/trust:trust"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x: 1", "1: trust: is missing"),
        ("trust: []", "1: trust: a map is expected"),
        ("trust: {}", "1: trust.keys: a list with at least one entry is expected, as in [fleet.pub]"),
        ("trust: {keys: fleet.pub}", "1: trust.keys: a list of text is expected"),
        ("trust: {keys: [a.pub], tresold: 2}", "1: trust.tresold: unknown: did you mean threshold?"),
        ("trust: {keys: [a.pub], threshold: 0}", "1: trust.threshold: a whole number from 1 to 64 is expected, got 0"),
        ("trust: {keys: [a.pub], root: r.json}", "1: trust.root: goes with mode: head+release"),
        ("trust: {keys: [a.pub], mode: any}", "1: trust.mode: one of release, head+release is expected, got 'any'"),
        ("trust: {mode: head+release}", "1: trust.root: is missing"),
        ("trust: {mode: head+release, root: r, keys: [a]}", "1: trust.keys: with mode: head+release"),
        ("trust: {identities: [{subject: a, issuer: b}]}", "1: trust.trustedRoot: is missing: identities"),
        ("trust: {identities: [a], trustedRoot: r, keys: [a]}", "1: trust.identities: a list of {subject:"),
        ("trust: {keys: [a.pub], components: x}", "1: trust.components: a list is expected"),
        ("trust: {keys: [a.pub], components: [1]}", "1: trust.components.0: a map is expected"),
        ("trust: {mode: head+release, root: r, chain: x}", "1: trust.chain: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(text: str, expected: str, tmp_path: Path) -> None:
    assert any(fault.startswith(expected) for fault in faults(tmp_path, text)), faults(tmp_path, text)


def test_a_key_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(FormatError, match=r"gone.pub: No such file or directory"):
        read(folder, "trust: {keys: [gone.pub]}\n").sources.load("a/b")
    with pytest.raises(FormatError, match=r"policy.yaml: No such file or directory"):
        load_trust_config(folder / "gone" / "policy.yaml")
