"""What `make fuzz` feeds, kept: every seed and every finding is answered, and answered soon."""

import json
import re
import time
import tracemalloc
from pathlib import Path
from random import Random

import pytest

from margo_agent.config import load_config
from margo_oci.archive import unpack
from margo_oci.deployment import parse_deployment
from margo_oci.errors import FormatError
from margo_oci.trustpolicy import IDENTITY_LIMIT, parse_trust_policy
from tests.fuzz.engine import FINDINGS, SEEDS, TIME_LIMIT_S, inputs_of, outcome
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import BY_NAME, TARGETS
from tests.unit.chains import IDENTITY, document, statement

NAMES = [target.name for target in TARGETS]


@pytest.mark.parametrize("name", NAMES)
def test_every_kept_input_is_read_or_refused_in_time(name: str) -> None:
    for file in [*inputs_of(SEEDS, name), *inputs_of(FINDINGS, name)]:
        data, began = file.read_bytes(), time.process_time()
        assert outcome(BY_NAME[name], data), file
        assert time.process_time() - began < 5 * TIME_LIMIT_S, file  # other work may go on beside the tests


@pytest.mark.parametrize("name", [name for name in NAMES if name != "agent-config"])
def test_every_target_reads_one_of_its_seeds(name: str) -> None:
    assert "read" in [outcome(BY_NAME[name], file.read_bytes()) for file in inputs_of(SEEDS, name)]


def test_every_folder_of_inputs_belongs_to_a_target() -> None:
    folders = {folder.name for kept in (SEEDS, FINDINGS) for folder in kept.iterdir() if folder.is_dir()}
    assert folders - set(NAMES) == set()


def test_every_finding_is_told_in_a_line() -> None:
    told = set(re.findall(r"`([a-z-]+/[^`/]+)`", (FINDINGS / "README.md").read_text()))
    assert {f"{file.parent.name}/{file.name}" for file in FINDINGS.glob("*/*")} == told


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_makes_the_same_inputs_and_each_is_answered(name: str) -> None:
    seeds = [file.read_bytes() for file in inputs_of(SEEDS, name)]
    chances = Random(7), Random(7)  # noqa: S311  (chance that can be repeated is what is wanted)
    made, again = ([mutated(BY_NAME[name], seeds, chance) for _ in range(10)] for chance in chances)
    if name != "certificates":  # they sign themselves anew, and signatures differ
        assert made == again
    for data in made:
        assert outcome(BY_NAME[name], data)


def test_a_scope_twice_among_very_many_is_found_at_once() -> None:
    scopes = [f"reg.example/{number}" for number in range(20_000)]
    with pytest.raises(FormatError, match=r"registry scope 'reg\.example/7' stands twice"):
        parse_trust_policy(document(statement(registryScopes=[*scopes, "reg.example/7"])))


def test_9_17_a_statement_has_at_most_so_many_identities() -> None:
    many = [f"{IDENTITY}, CN={number}" for number in range(IDENTITY_LIMIT + 1)]
    with pytest.raises(FormatError, match="257 identities, at most 256 are read"):
        parse_trust_policy(document(statement(trustedIdentities=many)))
    parse_trust_policy(document(statement(trustedIdentities=many[:-1])))


def test_very_many_wrong_components_are_told_without_naming_all_others_each_time() -> None:
    components = [{"name": f"c{number}"} for number in range(2000)]
    targets = [{"pointer": "A", "components": ["x"] * 2000}]
    spec = {"deploymentProfile": {"components": components}, "parameters": {"p": {"value": 1, "targets": targets}}}
    with pytest.raises(FormatError) as refused:
        parse_deployment(json.dumps({"spec": spec}).encode(), what="x.yaml")
    assert max(len(fault) for fault in refused.value.faults) < 300


def test_very_deep_paths_take_no_more_memory_than_the_archive_has() -> None:
    data = (FINDINGS / "archive" / "very-deep").read_bytes()
    tracemalloc.start()
    try:
        unpack(data, what="archive")
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_path_with_a_nul_is_no_path(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_bytes((FINDINGS / "agent-config" / "nul-in-a-path").read_bytes())
    with pytest.raises(FormatError, match=r"stateDir: text is expected, got 'a\\x00b'"):
        load_config(file)


def test_the_kept_inputs_are_small() -> None:
    size = sum(file.stat().st_size for file in Path(SEEDS).glob("*/*")) + sum(
        file.stat().st_size for file in FINDINGS.glob("*/*")
    )
    assert size < 2 * 1024 * 1024
