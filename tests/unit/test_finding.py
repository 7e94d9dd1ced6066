"""A device that follows heads: what a pass costs, what it refuses by name, and how it recovers when keys are lost."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from margo_oci.ceremony import Change
from margo_oci.content import canonical_json
from margo_oci.head import sign_head
from tests.simulators.faults import answers
from tests.simulators.plant import SCOPE, SOURCE
from tests.unit.headed import HEAD_TAG, HeadedPlant, headed_plant
from tests.unit.scenes import key
from tests.unit.trusted import DAY, NOW, YEAR, head_of, role, root, rotated


@pytest.fixture
def plant(tmp_path: Path) -> HeadedPlant:
    return headed_plant(tmp_path)


def refused(plant: HeadedPlant, *, running: str = "a") -> str:
    """Do a pass that is refused; return the reason. What runs goes on."""
    report = plant.device.once()
    assert report.outcome == "refused", report
    assert plant.device.engine.running == {"pump": running}
    assert report.message
    return report.reason


# What it costs


def test_an_unchanged_pass_is_one_request_without_a_body(plant: HeadedPlant) -> None:
    report = plant.device.once()
    assert (report.outcome, report.requests, report.bytes_in) == ("unchanged", 1, 0)
    assert (report.head_version, report.head_expires) == (1, "2026-11-28T12:00:00Z")


def test_a_renewed_head_is_one_request(plant: HeadedPlant) -> None:
    plant.issue()
    report = plant.device.once()
    assert (report.outcome, report.requests, report.head_version) == ("unchanged", 1, 2)
    assert plant.device.once().bytes_in == 0


def test_a_changed_state_is_two_requests_before_its_layers(plant: HeadedPlant) -> None:
    plant.release("b", 2)
    plant.sim.forget()
    report = plant.device.once()
    assert (report.outcome, report.head_version, report.head_expires) == ("applied", 2, "2026-11-28T12:00:00Z")
    asked = [one.path for one in plant.sim.requests]
    assert asked[0].endswith(f"manifests/{HEAD_TAG}")
    assert asked[1].endswith(f"manifests/{plant.published}")
    assert "blobs" in asked[2]
    assert plant.device.engine.running == {"pump": "b"}


def test_a_release_without_a_head_is_not_offered(plant: HeadedPlant) -> None:
    plant.publish(plant.workload("pump", "b"), counter=2)
    assert plant.device.once().outcome == "unchanged"


def test_the_chain_of_roots_is_looked_at_daily(plant: HeadedPlant) -> None:
    plant.wait(DAY)
    report = plant.device.once()
    assert [one.path.rpartition("/")[2] for one in plant.sim.requests] == ["trust", HEAD_TAG]
    assert (report.outcome, report.requests) == ("unchanged", 2)
    assert plant.device.once().requests == 1


# What is refused


def test_freeze_an_expired_head_is_stale_and_what_runs_goes_on(plant: HeadedPlant) -> None:
    plant.wait(6 * DAY)
    assert plant.device.once().stale == ""
    plant.wait(DAY)
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "freeze")
    assert "somebody holds newer ones back" in report.stale
    assert plant.device.engine.running == {"pump": "a"}


def test_freeze_is_told_although_the_registry_cannot_be_reached(plant: HeadedPlant) -> None:
    plant.wait(8 * DAY)
    del plant.sim.repositories[SOURCE.repository].tags[HEAD_TAG]
    report = plant.device.once()
    assert (report.outcome, bool(report.stale)) == ("unreachable", True)


def test_freeze_is_told_and_no_refusal_where_that_is_wanted(plant: HeadedPlant) -> None:
    plant.device.freshness = "warn"
    plant.wait(8 * DAY)
    report = plant.device.once()
    assert (report.outcome, bool(report.stale)) == ("unchanged", True)


def test_freeze_an_expired_head_is_never_newly_accepted_not_even_with_warn(plant: HeadedPlant) -> None:
    plant.release("b", 2)
    plant.device.freshness = "warn"
    plant.wait(8 * DAY)
    assert refused(plant) == "freeze"


def test_freeze_is_found_without_a_clock_by_the_time_the_kernel_counts(plant: HeadedPlant) -> None:
    plant.device.now = datetime(1970, 1, 1, tzinfo=UTC)
    assert plant.device.once().outcome == "unchanged"
    plant.device.uptime_s += 7 * DAY.total_seconds()
    assert refused(plant) == "freeze"


def test_freeze_after_a_restart_without_a_clock_the_count_goes_on_from_the_last_head(plant: HeadedPlant) -> None:
    plant.device.now, plant.device.boot, plant.device.uptime_s = datetime(1970, 1, 1, tzinfo=UTC), "second boot", 5.0
    assert plant.device.once().outcome == "unchanged"
    plant.device.uptime_s = 7 * DAY.total_seconds()
    assert refused(plant) == "freeze"


def test_rollback_an_older_head_is_refused(plant: HeadedPlant) -> None:
    older = plant.tag(HEAD_TAG)
    plant.release("b", 2)
    assert plant.device.once().outcome == "applied"
    plant.put_back(HEAD_TAG, older)
    assert refused(plant, running="b") == "rollback"


def test_rollback_an_older_head_is_called_so_although_it_expired_meanwhile(plant: HeadedPlant) -> None:
    older = plant.tag(HEAD_TAG)
    plant.wait(6 * DAY)
    plant.release("b", 2)
    assert plant.device.once().outcome == "applied"
    plant.wait(2 * DAY)
    plant.put_back(HEAD_TAG, older)
    assert refused(plant, running="b") == "rollback"


def test_wrong_scope_another_devices_head_is_refused(plant: HeadedPlant) -> None:
    plant.publish(plant.workload("pump", "b"), counter=2, scope="edge-18")
    del plant.sim.repositories[SOURCE.repository].tags[HEAD_TAG]
    plant.issue()
    assert refused(plant) == "wrong-scope"


def test_wrong_key_a_head_by_a_stranger_is_refused(plant: HeadedPlant) -> None:
    mine = plant.root
    plant.root = root(heads=role("stranger"))
    plant.publish(plant.workload("pump", "b"), counter=2)
    plant.issue(signer="stranger", version=9)
    plant.root = mine
    assert refused(plant) == "wrong-key"


def test_a_head_without_the_releases_signature_is_refused(plant: HeadedPlant) -> None:
    """Whoever has the head key alone cannot make a device run anything."""
    mine = plant.root
    plant.root = root(releases=role("stranger"))
    plant.publish(plant.workload("pump", "b"), counter=2, key=key("stranger"))
    plant.issue()
    plant.root = mine
    assert refused(plant) == "wrong-key"


def test_a_renewed_head_without_the_releases_signature_is_refused_as_well(plant: HeadedPlant) -> None:
    mine = plant.root
    plant.root = root(releases=role("stranger"))
    digest = plant.published
    state = plant.publish(plant.workload("pump", "a"), counter=1, key=key("stranger"))
    assert state.manifest.digest == digest
    plant.issue()
    plant.root = mine
    assert refused(plant) == "wrong-key"


def test_mix_and_match_a_head_that_says_something_else_of_its_release_is_refused(plant: HeadedPlant) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.put_head(sign_head(head_of(state, version=2, counter=9), plant.root, [key("head")]), state)
    assert refused(plant) == "mix-and-match"


def test_mix_and_match_a_head_with_another_length_is_refused(plant: HeadedPlant) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.put_head(sign_head(head_of(state, version=2, length=7), plant.root, [key("head")]), state)
    assert refused(plant) == "mix-and-match"


def test_mix_and_match_a_stolen_head_key_does_not_lower_the_counter_that_is_remembered(plant: HeadedPlant) -> None:
    """A head for the release that runs, with a lower counter: older releases would be let in after it."""
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.issue()
    assert plant.device.once().outcome == "applied"
    plant.put_head(sign_head(head_of(state, version=3, counter=1), plant.root, [key("head")]), state)
    assert refused(plant, running="b") == "mix-and-match"
    assert plant.device.record.accepted[SCOPE].counter == 2


def test_another_manifest_in_place_of_the_one_a_head_names_is_refused(plant: HeadedPlant) -> None:
    older = plant.sim.repositories[SOURCE.repository].manifests[plant.published]
    plant.release("b", 2)
    plant.sim.repositories[SOURCE.repository].manifests[plant.published] = older
    assert refused(plant) == "digest-mismatch"


def test_head_unsigned_a_head_without_signatures_is_refused(plant: HeadedPlant) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    document = json.loads(sign_head(head_of(state, version=2), plant.root, [key("head")]))
    plant.put_head(canonical_json(document | {"signatures": []}), state)
    assert refused(plant) == "head-unsigned"


def test_version_reused_two_heads_with_one_version_are_refused(plant: HeadedPlant) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.put_head(sign_head(head_of(state, version=1), plant.root, [key("head")]), state)
    assert refused(plant) == "version-reused"


def test_fast_forward_a_version_far_above_is_refused(plant: HeadedPlant) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.put_head(sign_head(head_of(state, version=2_000_000), plant.root, [key("head")]), state)
    assert refused(plant) == "fast-forward"


def test_malformed_something_else_under_the_heads_tag_is_refused(plant: HeadedPlant) -> None:
    plant.put_back(HEAD_TAG, plant.published)
    assert refused(plant) == "malformed"


def test_a_head_that_is_gone_changes_nothing(plant: HeadedPlant) -> None:
    del plant.sim.repositories[SOURCE.repository].tags[HEAD_TAG]
    assert plant.device.once().outcome == "unreachable"
    assert plant.device.engine.running == {"pump": "a"}


def test_root_unsigned_a_root_that_somebody_made_up_is_refused(plant: HeadedPlant) -> None:
    forged = rotated(root(), "a", "b", head=Change(add=[key("stranger").public], remove=["head"]))
    document = json.loads(forged)
    document["signatures"] = [{**one, "sig": "00" * 70} for one in document["signatures"]]
    plant.put_roots(plant.root.data, canonical_json(document))
    plant.wait(DAY)
    assert refused(plant) == "root-unsigned"


def test_an_expired_root_accepts_nothing_new(plant: HeadedPlant) -> None:
    plant.wait(YEAR + DAY)
    assert refused(plant) == "root-expired"


# How it recovers


def test_a_lost_head_key_is_replaced_without_touching_the_device(plant: HeadedPlant) -> None:
    plant.rotate(head=Change(add=[key("head2").public], remove=["head"]))
    plant.publish(plant.workload("pump", "b"), counter=2)
    plant.issue(signer="head2", version=1)
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


def test_a_lost_release_key_is_replaced_without_touching_the_device(plant: HeadedPlant) -> None:
    plant.rotate(release=Change(add=[key("second").public], remove=["fleet"]))
    plant.publish(plant.workload("pump", "b"), counter=2, key=key("second"))
    plant.issue()
    assert plant.device.once().outcome == "applied"


def test_the_same_state_by_a_new_head_key_is_no_news(plant: HeadedPlant) -> None:
    plant.rotate(head=Change(add=[key("head2").public], remove=["head"]))
    plant.issue(signer="head2", version=1)
    report = plant.device.once()
    assert (report.outcome, report.head_version) == ("unchanged", 1)
    assert [(one.action, one.state) for one in report.deployments] == [("keep", "installed")]


def test_the_same_workloads_as_another_release_are_news(plant: HeadedPlant) -> None:
    plant.release("a", 2)
    report = plant.device.once()
    assert (report.outcome, report.counter) == ("applied", 2)
    assert [one.action for one in report.deployments] == ["keep"]


def test_fast_forward_is_undone_by_a_new_head_key(plant: HeadedPlant) -> None:
    plant.issue(version=1_000_000)
    assert plant.device.once().head_version == 1_000_000
    plant.rotate(head=Change(add=[key("head2").public], remove=["head"]))
    plant.publish(plant.workload("pump", "b"), counter=2)
    plant.issue(signer="head2", version=2)
    assert plant.device.once().outcome == "applied"
    assert plant.device.once().head_version == 2


def test_a_clock_pushed_ahead_by_a_stolen_head_key_comes_back_with_a_new_key(plant: HeadedPlant) -> None:
    plant.device.now = datetime(1970, 1, 1, tzinfo=UTC)
    plant.issue(at=NOW + 300 * DAY)
    assert plant.device.once().head_version == 2
    plant.rotate(head=Change(add=[key("head2").public], remove=["head"]))
    plant.publish(plant.workload("pump", "b"), counter=2)
    plant.issue(signer="head2", version=1, at=NOW)
    assert plant.device.once().outcome == "applied"


def test_a_new_root_is_kept_even_if_what_follows_is_refused(plant: HeadedPlant) -> None:
    plant.rotate(head=Change(add=[key("head2").public], remove=["head"]))
    plant.wait(DAY)
    assert refused(plant) == "wrong-key", "the head there was signed by the key that is gone"
    kept = plant.device.record.root
    assert kept
    assert kept.data == plant.root.data.decode()


def test_a_record_with_a_head_is_read_back_as_it_was(plant: HeadedPlant) -> None:
    record = plant.device.record
    assert record.accepted[SCOPE].head
    assert plant.device.record_file.load() == record


def test_a_head_from_the_last_second_there_is_stops_nothing_for_good(plant: HeadedPlant) -> None:
    """Whoever stole the head key wants no time after it: the device still looks for roots, and recovers."""
    end = datetime(9999, 12, 31, 23, 59, 58, tzinfo=UTC)
    state = plant.publish(plant.workload("pump", "a"), counter=1)
    last = head_of(state, version=2, issued=end, expires=end + timedelta(seconds=1))
    document = sign_head(last, plant.root, [key("head")])
    plant.put_head(document, state)
    plant.device.once()
    plant.device.uptime_s += 10
    assert plant.device.once().outcome == "refused"
    plant.rotate(head=Change(add=[key("head2").public], remove=["head"]))
    later = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.put_head(sign_head(head_of(later, version=1), plant.root, [key("head2")]), later)
    assert plant.device.once().outcome == "applied"


def test_without_a_head_nothing_new_is_no_answer(plant: HeadedPlant) -> None:
    """After a head key was taken away: the state itself under the head's tag must not pass for "nothing new"."""
    plant.rotate(head=Change(add=[key("head2").public], remove=["head"]))
    plant.wait(DAY)
    assert refused(plant) == "wrong-key"
    plant.put_back(HEAD_TAG, plant.published)
    assert refused(plant) == "malformed"
    assert refused(plant) == "malformed"


def test_a_head_in_another_wrapping_is_not_written_down_again(plant: HeadedPlant) -> None:
    manifest = json.loads(plant.sim.repositories[SOURCE.repository].manifests[plant.tag(HEAD_TAG)])
    plant.sim.put_manifest(SOURCE.repository, HEAD_TAG, canonical_json(manifest | {"annotations": {"a": "b"}}))
    before = plant.device.record
    assert plant.device.once().outcome == "unchanged"
    assert plant.device.record == before


def test_a_chain_that_cannot_be_had_is_looked_for_hourly(plant: HeadedPlant) -> None:
    plant.wait(DAY)
    plant.sim.fail(answers(500), on="manifests/trust", times=99)
    assert [plant.device.once().requests for _ in range(2)] == [2, 1]
    plant.wait(timedelta(hours=1))
    assert plant.device.once().requests == 2


def test_the_given_root_in_another_writing_is_the_same_root(plant: HeadedPlant) -> None:
    plant.device.root = plant.device.root + b"\n"
    assert plant.device.once().outcome == "unchanged"
    assert plant.device.record.accepted[SCOPE].head


def test_looking_ahead_keeps_nothing(plant: HeadedPlant) -> None:
    plant.release("b", 2)
    before = plant.device.record
    assert plant.device.plan().outcome == "applied"
    assert plant.device.record == before
