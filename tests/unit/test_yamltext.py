"""YAML as we write it is read back the same, by our reader and by others."""

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.yamldoc import parse_yaml
from margo_oci.yamltext import write_yaml

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    [
        "yes",
        "No",
        "1e3",
        "0o17",
        "1.0",
        "null",
        "~",
        "2026-01-01",
        "1_000",
        "a: b",
        "a #b",
        "- a",
        "oci://a:1",
        " a",
        "é\x85",
    ]
)
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15, allow_subnormal=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_what_is_written_is_read_back_the_same(value: dict[str, Any]) -> None:
    data = write_yaml(value)
    assert parse_yaml(data, what="x.yaml").value == (value or {})
    assert data == write_yaml(value)


def test_others_read_the_same() -> None:
    value = {"a": ["yes", "1e3", 1.5, True, None, {"b": "x: y", "c": {}}], "d": {"e": [], "f": "1.20"}}
    assert yaml.safe_load(write_yaml(value)) == value
