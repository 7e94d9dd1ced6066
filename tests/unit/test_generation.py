"""Generations: images at their locked digests, folders that never change, and the way back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from margo_agent.generation import Generation, Generations, project_name
from margo_agent.model import pinned, without_tag
from margo_oci.archive import Entry
from margo_oci.compose import Compose
from margo_oci.desired_state import Lock, Placed, build_layer
from margo_oci.errors import ApplyError, FormatError
from margo_oci.package import Archive
from tests.unit.scenes import DIGEST, ID, OTHER_DIGEST, component, deployment, lock

IMAGE = "registry.example/web:1"
LOCAL = f"registry.example/web:sha256-{DIGEST[7:]}"


class PaperCompose(Compose):
    """Says what a compose file means without asking Compose: its services are one, and its variables stand in it."""

    def template(self, folder: Path) -> dict[str, Any]:
        return {"services": {"web": {"image": IMAGE}}}

    def model(self, folder: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, Any]:
        assert (folder / "compose.yaml").exists()
        kept = {key: value for key, value in variables.items() if key != "MARGO_FILES"}
        return {"name": project, "services": {"web": {"image": IMAGE, "environment": kept}}}


def generations(root: Path) -> Generations:
    found = Generations(root, PaperCompose((), {}), "edge-17")
    if not found.has_component(DIGEST):
        found.add_component(DIGEST, Archive("hello", (Entry("compose.yaml", b"services: {}"),)))
    return found


def placed(**changes: Any) -> Placed:
    one = deployment(**changes)
    return Placed(deployment=one, layer=build_layer(one, lock()).descriptor, lock=lock())


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("busybox", "busybox"),
        ("busybox:1", "busybox"),
        ("localhost:5000/web", "localhost:5000/web"),
        ("localhost:5000/web:1", "localhost:5000/web"),
        ("registry.example/a/b:1", "registry.example/a/b"),
        (f"registry.example:5000/a/b:1@{DIGEST}", "registry.example:5000/a/b"),
        (f"web@{DIGEST}", "web"),
    ],
)
def test_a_name_is_left_without_tag_and_digest(image: str, name: str) -> None:
    assert without_tag(image) == name


def test_what_is_built_or_pulled_elsewhere_is_taken_out_and_the_rest_stays() -> None:
    service = {"image": IMAGE, "build": ".", "pull_policy": "always", "ports": ["80"], "labels": {"a": "b"}}
    model = {"services": {"web": service}, "volumes": {"data": {}}}
    found = pinned(model, lock(), device="edge-17", deployment=ID, component="web")
    assert found == {
        "services": {
            "web": {
                "image": LOCAL,
                "ports": ["80"],
                "labels": {
                    "a": "b",
                    "org.margo.device": "edge-17",
                    "org.margo.deployment": ID,
                    "org.margo.component": "web",
                },
            }
        },
        "volumes": {"data": {}},
    }
    assert service["build"] == "."


def test_a_workload_cannot_pass_for_another_by_its_labels() -> None:
    model = {"services": {"web": {"image": IMAGE, "labels": {"org.margo.deployment": "another"}}}}
    found = pinned(model, lock(), device="edge-17", deployment=ID, component="web")
    assert found["services"]["web"]["labels"]["org.margo.deployment"] == ID


@pytest.mark.parametrize(
    "image", ["registry.example/web:2", "registry.example/web", "", f"registry.example/web:1@{DIGEST}"]
)
def test_an_image_that_was_not_locked_is_refused(image: str) -> None:
    with pytest.raises(FormatError) as refused:
        pinned({"services": {"db": {"image": image}}}, lock(), device="edge-17", deployment=ID, component="web")
    assert str(refused.value) == f"services.db.image: {image or '(none)'} is not in the lock of this deployment"


def test_a_generation_holds_all_that_running_it_needs(tmp_path: Path) -> None:
    one = placed(parameters={"a": {"value": 1.5, "targets": [{"pointer": "A", "components": ["web"]}]}})
    generation = generations(tmp_path).prepare(one, lock())
    (part,) = generation.parts
    assert generation.images == {LOCAL: f"registry.example/web@{DIGEST}"}
    assert (part.name, part.project, part.wait, part.timeout_s) == ("web", project_name(ID, "web"), True, 300.0)
    assert json.loads(part.file.read_bytes())["services"]["web"]["environment"] == {"A": "1.5"}
    folder = part.file.parent.parent
    assert folder == tmp_path / "deployments" / ID / one.revision.removeprefix("sha256:")
    assert (folder / "deployment.yaml").read_bytes() == one.deployment.data
    assert (folder / "lock.json").read_text() == lock().to_json()
    assert {path.name for path in folder.iterdir()} == {"deployment.yaml", "generation.json", "lock.json", "parts"}


@pytest.mark.parametrize("name", ["lock", "generation", "deployment", "parts"])
def test_a_component_may_have_the_name_of_any_file(name: str, tmp_path: Path) -> None:
    one = placed(deploymentProfile={"type": "compose", "components": [component(name)]})
    generation = generations(tmp_path).prepare(one, lock())
    assert [part.name for part in generation.parts] == [name]
    assert json.loads(generation.parts[0].file.read_bytes())["services"]["web"]["image"] == LOCAL


def test_a_generation_is_made_once_and_opened_again(tmp_path: Path) -> None:
    one, found = placed(), generations(tmp_path)
    generation = found.prepare(one, lock())
    generation.parts[0].file.write_text("{}")
    assert found.prepare(one, lock()) == generation
    assert found.open(ID, one.revision) == generation
    assert generation.parts[0].file.read_text() == "{}"


def test_what_a_power_cut_left_half_made_is_made_anew(tmp_path: Path) -> None:
    one, found = placed(), generations(tmp_path)
    folder = tmp_path / "deployments" / ID / f".{one.revision.removeprefix('sha256:')}.new"
    folder.mkdir(parents=True)
    (folder / "half").touch()
    generation = found.prepare(one, lock())
    assert not (generation.parts[0].file.parent.parent / "half").exists()
    found.add_component(OTHER_DIGEST, Archive("hello", (Entry("compose.yaml", b"x"),)))
    assert found.has_component(OTHER_DIGEST)


def by_an_older_agent(generation: Generation) -> None:
    """Rewrite a generation as agents wrote it that had the engine pull by digest."""
    file = generation.parts[0].file.parent.parent / "generation.json"
    raw = json.loads(file.read_bytes())
    raw["parts"][0]["images"] = [f"registry.example/web@{DIGEST}"]
    file.write_text(json.dumps(raw))


def test_what_an_older_agent_installed_is_opened_as_it_is(tmp_path: Path) -> None:
    one, found = placed(), generations(tmp_path)
    by_an_older_agent(found.prepare(one, lock()))
    image = f"registry.example/web@{DIGEST}"
    assert found.open(ID, one.revision).images == {image: image}


def test_what_an_older_agent_prepared_is_made_anew(tmp_path: Path) -> None:
    one, found = placed(), generations(tmp_path)
    by_an_older_agent(found.prepare(one, lock()))
    assert list(found.prepare(one, lock()).images) == [LOCAL]


def test_an_unlocked_image_never_becomes_a_generation(tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match=f"component web: services.web.image: {IMAGE} is not in the lock"):
        generations(tmp_path).prepare(placed(), Lock(lock().components, {}))
    with pytest.raises(ApplyError, match=r"its generation sha256:.* is not usable"):
        generations(tmp_path).open(ID, placed().revision)


def test_a_model_that_nests_too_deeply_is_a_fault_of_its_component_alone(tmp_path: Path) -> None:
    class Deep(PaperCompose):
        def model(self, folder: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, Any]:
            deep: dict[str, Any] = {}
            for _ in range(100_000):
                deep = {"x": deep}
            return {"name": project, "services": {"web": {"image": IMAGE, "labels": deep}}}

    generations(tmp_path)
    with pytest.raises(ApplyError, match="component web: nested too deeply") as refused:
        Generations(tmp_path, Deep((), {}), "edge-17").prepare(placed(), lock())
    assert refused.value.code == "unfit"


def test_only_what_something_goes_back_to_is_kept(tmp_path: Path) -> None:
    found = generations(tmp_path)
    one, two = placed(), placed(deploymentProfile={"type": "compose", "components": [component("web", wait=False)]})
    found.prepare(one, lock())
    found.prepare(two, lock())
    found.drop_others(ID, [two.revision])
    assert found.open(ID, two.revision).parts[0].wait is False
    with pytest.raises(ApplyError, match="is not usable"):
        found.open(ID, one.revision)
    found.drop_others(ID, ())
    assert list((tmp_path / "deployments").iterdir()) == []


def test_nothing_was_there_and_nothing_is_dropped(tmp_path: Path) -> None:
    generations(tmp_path).drop_others(ID, ())


@pytest.mark.parametrize("text", ["", "rubbish", "{}", '{"name":"x","parts":[{}]}', '{"name":"x","parts":7}'])
def test_a_generation_that_went_bad_on_the_disk_is_an_error_that_can_be_handled(text: str, tmp_path: Path) -> None:
    """Whoever goes back to the last good version must hear that it is gone, whatever is wrong with it."""
    one, found = placed(), generations(tmp_path)
    folder = found.prepare(one, lock()).parts[0].file.parent.parent
    (folder / "generation.json").write_text(text)
    with pytest.raises(ApplyError, match="is not usable"):
        found.open(ID, one.revision)


@pytest.mark.parametrize(
    "more", [{"provider": {"type": "x"}}, {"volumes": [{"type": "image", "source": "y", "target": "/y"}]}]
)
def test_4_2_nothing_gets_round_the_lock(more: dict[str, Any]) -> None:
    model = {"services": {"web": {"image": IMAGE, **more}}}
    with pytest.raises(FormatError, match="it would get round the lock"):
        pinned(model, lock(), device="edge-17", deployment=ID, component="web")
