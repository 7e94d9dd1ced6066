"""What a deployment waits for (format 5.8)."""

from margo_oci.dependencies import needs_of

NAMES = {"1": "db", "2": "api", "3": "web", "4": "web"}


def test_5_8_a_deployment_names_what_it_needs_by_name_or_by_id() -> None:
    needs = needs_of(NAMES, {"1": [], "2": ["db"], "3": ["1", "api"]})
    assert needs.ids == {"1": frozenset(), "2": {"1"}, "3": {"1", "2"}}
    assert not needs.faults


def test_what_is_not_there_is_told() -> None:
    assert needs_of(NAMES, {"2": ["db", "cache"]}).faults == {"2": "dependsOn: 'cache' is no deployment of this state"}


def test_a_name_that_two_deployments_have_is_told() -> None:
    assert needs_of(NAMES, {"2": ["web"]}).faults == {"2": "dependsOn: 'web' names several deployments of this state"}


def test_who_waits_for_himself_is_told_the_way_round() -> None:
    needs = needs_of(NAMES, {"1": ["api"], "2": ["3"], "3": ["db"], "4": ["1"]})
    assert set(needs.faults) == {"1", "2", "3"}
    assert needs.faults["1"].startswith("dependsOn: it waits for itself: ")
    assert set(needs.faults["1"].rpartition(": ")[2].split(" -> ")) == {"db", "api", "web"}
    assert needs.ids == {"4": {"1"}}


def test_who_waits_for_himself_at_once_is_told() -> None:
    assert needs_of(NAMES, {"1": ["db"]}).faults == {"1": "dependsOn: it waits for itself: db -> db"}
