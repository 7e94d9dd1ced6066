"""What counts as drift, and what puts it right."""

from dataclasses import replace
from typing import Any

import pytest

from margo_agent.drift import Finding, Mend, Remembered, Seen, Service, Sight, findings, mends, orphans, services_of
from tests.unit.scenes import DIGEST, ID, OTHER_DIGEST, OTHER_ID

WEB = Service(
    deployment=ID, component="shop", project="shop-1", name="web", image="web:1", hash="h1",
    networks=frozenset({"shop-1_default"}),
)  # fmt: skip
RUNNING = Seen(
    id="c1", name="shop-1-web-1", device="edge-17", deployment=ID, project="shop-1", service="web", status="running",
    hash="h1", networks=frozenset({"shop-1_default"}), settings={"name": "shop-1-web-1"},
)  # fmt: skip
NETWORKS = {"shop-1_default": "shop-1"}
KNOWN = {"c1": {"name": "shop-1-web-1"}}


def words(*containers: Seen, service: Service = WEB, stopped: frozenset[str] = frozenset(), **more: Any) -> list[str]:
    """What is found, in words."""
    sight = Sight(containers=containers, networks=more.pop("networks", NETWORKS), images=more.pop("images", {}))
    remembered = Remembered(settings=more.pop("settings", {}), images=more.pop("given", {}))
    return [one.words for one in findings([service], sight, remembered, stopped=stopped)]


def test_what_runs_as_it_should_is_no_finding() -> None:
    assert words(RUNNING) == words(RUNNING, settings=KNOWN) == []


def test_a_container_that_is_gone_is_missed() -> None:
    assert words() == ["service web: 0 of 1 containers are there"]
    assert words(RUNNING, service=replace(WEB, replicas=2)) == ["service web: 1 of 2 containers are there"]


def test_a_container_too_many_is_found() -> None:
    assert words(RUNNING, replace(RUNNING, id="c2")) == ["service web: 2 of 1 containers are there"]


@pytest.mark.parametrize(
    ("status", "exit_code", "found"),
    [("exited", 137, "exited with 137"), ("dead", 1, "exited with 1"), ("created", 0, "was never started")],
)
def test_a_container_that_does_not_run_is_found(status: str, exit_code: int, found: str) -> None:
    assert words(replace(RUNNING, status=status, exit_code=exit_code)) == [f"service web: {found}"]


def test_a_paused_container_is_found() -> None:
    assert words(replace(RUNNING, status="paused")) == ["service web: paused"]


def test_a_job_that_is_done_is_no_drift_unless_somebody_stopped_it() -> None:
    done = replace(RUNNING, status="exited", restart="on-failure")
    assert words(done) == []
    assert words(done, stopped=frozenset({"c1"})) == ["service web: stopped by hand"]


def test_what_is_wanted_for_ever_is_not_done_when_it_ends_well() -> None:
    assert words(replace(RUNNING, status="exited", restart="unless-stopped")) == ["service web: exited with 0"]


def test_a_crash_loop_is_the_business_of_its_restart_policy() -> None:
    assert words(replace(RUNNING, status="restarting", exit_code=3, restart="always")) == []


def test_a_new_container_of_another_model_is_found_and_one_that_was_good_is_not_asked_again() -> None:
    other = replace(RUNNING, hash="h2")
    assert words(other) == ["service web: was made from another model"]
    assert words(other, settings=KNOWN) == []


def test_what_was_set_by_hand_is_said() -> None:
    changed = replace(RUNNING, settings={"name": "mine", "Memory": "64"})
    assert words(changed, settings=KNOWN) == ["service web: Memory none -> 64, name shop-1-web-1 -> mine"]


def test_a_container_that_was_taken_out_of_its_network_is_found() -> None:
    cut = replace(RUNNING, networks=frozenset(), settings={"name": "shop-1-web-1"})
    known = {"c1": {"name": "shop-1-web-1", "networks": "shop-1_default"}}
    assert words(cut, settings=known) == ["service web: is not in network shop-1_default"]


def test_a_network_that_is_gone_is_found_for_what_runs_in_it() -> None:
    assert words(RUNNING, networks={}) == ["service web: network shop-1_default is gone"]
    assert words(replace(RUNNING, status="exited"), networks={}) == []


def test_an_image_name_that_leads_elsewhere_is_found() -> None:
    given = {"web:1": DIGEST}
    assert words(RUNNING, images={"web:1": DIGEST}, given=given) == []
    assert words(RUNNING, images={"web:1": OTHER_DIGEST}, given=given) == [
        f"service web: its image name leads to {OTHER_DIGEST[:19]}"
    ]
    assert words(RUNNING, images={"web:1": ""}) == ["service web: its image is gone"]


def test_a_container_of_no_service_in_our_project_is_an_orphan() -> None:
    stray = replace(RUNNING, id="c2", name="stray", service="other")
    assert words(RUNNING, stray) == ["container stray is of no service of it"]


MODEL = {
    "networks": {"default": {"name": "shop-1_default"}, "outer": None},
    "services": {
        "web": {"image": "web:1", "networks": {"default": None, "outer": None}, "deploy": {"replicas": 3}},
        "off": {"image": "web:1", "scale": 0},
        "aside": {"image": "web:1", "network_mode": "service:web"},
        "reader": {"image": "web:1", "volumes_from": ["web:ro"]},
    },
}


def test_a_model_says_what_should_run() -> None:
    services = {one.name: one for one in services_of(ID, "shop", "shop-1", MODEL, {"web": "h1", "aside": "h2"})}
    assert services["web"] == replace(WEB, replicas=3, networks=frozenset({"shop-1_default", "outer"}))
    assert services["off"].replicas == 0
    assert (services["aside"].hash, services["aside"].shares) == ("", {"web"})
    assert services["reader"].shares == {"web"}


def finding(kind: Any, service: str) -> Finding:
    return Finding(deployment=ID, kind=kind, words="", project="shop-1", service=service)


def test_only_what_changed_gets_new_containers_and_who_shares_with_it_goes_along() -> None:
    services = services_of(ID, "shop", "shop-1", MODEL, {})
    assert mends([finding("changed", "reader"), finding("stopped", "off")], services) == {
        "shop-1": Mend(["reader"], ["off"])
    }
    assert mends([finding("missing", "web")], services) == {"shop-1": Mend(["aside", "reader"], ["web"])}
    assert mends([finding("paused", "web"), finding("image", "web")], services) == {}


def strays(sight: Sight, **projects: str) -> list[str]:
    return [one.words for one in orphans(sight, "edge-17", {ID}, projects)]


def test_what_carries_our_device_and_no_deployment_that_is_known_is_an_orphan() -> None:
    stray = replace(RUNNING, id="c2", name="stray", deployment=OTHER_ID, project="x-2", networks=frozenset({"x-2_n"}))
    sight = Sight(containers=[RUNNING, stray], networks={**NETWORKS, "x-2_n": "x-2"})
    assert strays(sight) == [
        "container stray is of no deployment of this device",
        "network x-2_n is of no deployment of this device",
    ]


def test_what_another_device_has_is_never_an_orphan_nor_a_network_it_is_in() -> None:
    ours = replace(RUNNING, id="c2", name="stray", deployment=OTHER_ID, project="x-2", networks=frozenset({"x-2_n"}))
    theirs = replace(ours, id="c3", device="edge-18")
    unnamed = replace(ours, id="c4", device="", project="y", networks=frozenset())
    sight = Sight(containers=[ours, theirs, unnamed], networks={"x-2_n": "x-2", "foreign": "z", "bridge": ""})
    assert strays(sight) == ["container stray is of no deployment of this device"]


def test_an_empty_network_of_a_project_that_was_ours_is_an_orphan() -> None:
    sight = Sight(containers=[], networks={"x-2_n": "x-2", "shop-1_default": "shop-1", "y_n": "y"})
    assert strays(sight, **{"x-2": OTHER_ID, "shop-1": ID}) == ["network x-2_n is of no deployment of this device"]
