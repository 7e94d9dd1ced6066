"""Documents that are edited in place: what changes is changed, all else stays as its author wrote it."""

from typing import Any

import pytest

from margo_oci.editing import comments_of, edited
from margo_oci.yamldoc import parse_yaml

TEXT = """\
# the line in hall 3
id: 'x'   # never change
metadata: {name: hello}

spec:
  # who greets
  parameters:
    greeting:
      value: "Hello # not a comment"  # since May
      targets:
      - {pointer: GREETING, components: [web]}
    # the port
    port: {value: 80}  # low
    note: |
      # text
      more
  last: 1
# the end
"""


def value() -> Any:
    return parse_yaml(TEXT.encode(), what="x").value


def now(wanted: dict[str, Any]) -> str:
    data = edited(TEXT.encode(), wanted, what="x")
    assert data is not None
    return data.decode()


def test_a_value_is_changed_where_it_stands() -> None:
    wanted = value()
    wanted["spec"]["parameters"]["greeting"]["value"] = "Good morning"
    wanted["spec"]["parameters"]["port"]["value"] = 8080
    wanted["spec"]["parameters"]["note"] = "short"
    assert now(wanted) == TEXT.replace('"Hello # not a comment"', "Good morning").replace("80}", "8080}").replace(
        "|\n      # text\n      more\n", "short\n"
    )


def test_what_is_new_stands_below_and_what_is_gone_leaves_no_line() -> None:
    wanted = value()
    wanted["spec"]["parameters"]["site"] = {"value": "Ulm", "targets": [{"pointer": "SITE"}]}
    del wanted["spec"]["parameters"]["greeting"]
    wanted["new"] = [1, 2]
    lines = TEXT.replace('    greeting:\n      value: "Hello # not a comment"  # since May\n', "")
    lines = lines.replace("      targets:\n      - {pointer: GREETING, components: [web]}\n", "")
    site = "    site:\n      value: Ulm\n      targets:\n        - pointer: SITE\n"
    assert now(wanted) == lines.replace("      more\n", f"      more\n{site}").replace(
        "  last: 1\n", "  last: 1\nnew: [1, 2]\n"
    )


@pytest.mark.parametrize(
    ("text", "wanted", "after"),
    [
        ("a: 1 # c", {"a": 1, "b": 2}, "a: 1 # c\nb: 2\n"),
        ("a: # c\n- 1\n- 2 # d\n", {"a": [1]}, "a: # c\n- 1\n"),
        ("a: # c\n- 1\n", {"a": [1, {"b": 2}]}, "a: # c\n- 1\n- b: 2\n"),
        ("a: {b: 1} # c\n", {"a": {"d": 2}}, "a: {d: 2} # c\n"),
        ("a: # c\n  b: 1\n", {"a": {}}, "a: # c\n  {}\n"),
        ("a:\nb: 1 # c\n", {"a": "x", "b": 1}, "a: x\nb: 1 # c\n"),
        ("a: 1 # c\r\nb: 2\r\n", {"a": True, "b": 2}, "a: true # c\r\nb: 2\r\n"),
        ("\ufeffa: 1 # c\n", {"a": 1.0}, "\ufeffa: 1.0 # c\n"),
        ("a: é # ü\nb: 2\n", {"a": "é", "b": 3}, "a: é # ü\nb: 3\n"),
    ],
)
def test_blocks_lists_and_what_stands_on_one_line_are_edited(text: str, wanted: dict[str, Any], after: str) -> None:
    assert edited(text.encode(), wanted, what="x") == after.encode()


def test_what_cannot_be_edited_is_left_to_the_one_who_asks() -> None:
    assert edited(b"a: # c\n- b\n", {"a": "x", "c": 1}, what="x") is None


def test_comments_are_told_from_text_that_looks_like_one() -> None:
    assert sorted(comments_of(TEXT.encode())) == [
        "# low", "# never change", "# since May", "# the end", "# the line in hall 3", "# the port", "# who greets",
    ]  # fmt: skip
    assert not comments_of(b"a: b#c\nd: '# e'\nf: |\n  # g\n")
