"""Format section 14: extra files and secrets, from the operator's folder to what is mounted on a device."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from margo_agent.confidential import Content, Secrets, kind_of_disk, secrets_folder
from margo_agent.generation import Generations
from margo_agent.model import sealed
from margo_agent.record import Record
from margo_agent.unready import Sealed, Unfit
from margo_cli.folder import read_deployments, read_files
from margo_oci.archive import Entry
from margo_oci.closure import Closure
from margo_oci.composereads import reads_only_the_archive
from margo_oci.content import Descriptor
from margo_oci.deployment import parse_deployment
from margo_oci.desired_state import build_file_layer, build_state, parse_state, revision_of
from margo_oci.errors import FormatError
from margo_oci.files import FILE_LAYER, SECRET_LAYER, ExtraFile, read_file_layer
from margo_oci.jwe import seal
from margo_oci.jwk import Recipient
from margo_oci.manifest import Manifest
from margo_oci.mounting import by_path, in_words, mounted
from margo_oci.registry import Registry
from tests.simulators.engine import SERVICE
from tests.simulators.plant import IMAGE, SOURCE, Device, Plant, ask, id_of
from tests.unit.scenes import (
    ID,
    OTHER_ID,
    SCOPE,
    as_yaml,
    document,
    hostile,
    layer,
    member,
    parameter,
)
from tests.unit.test_jwe import private

BELOW = "${MARGO_FILES}"
SECRET = b"open sesame, said nobody"
NEXT = b"another word altogether!"


def plain(path: str, data: bytes = b"allow all", **more: Any) -> ExtraFile:
    return ExtraFile(path, data, **more)


def secret(path: str, data: bytes = SECRET, *names: str) -> ExtraFile:
    """An encrypted file, for edge-17 unless others are named."""
    recipients = [Recipient(name, private(name).public_key()) for name in names or ["edge-17"]]
    return ExtraFile(path, seal(data, recipients), secret=True)


def states_folder(folder: Path, **files: bytes) -> Path:
    """hello.yaml, and files beside it: `a__b` is a/b, `_jwe` the ending."""
    (folder / "hello.files").mkdir(parents=True)
    (folder / "hello.yaml").write_bytes(as_yaml(document()))
    for name, data in files.items():
        path = folder / "hello.files" / name.replace("__", "/").replace("_jwe", ".jwe")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return folder


def layers_of(*files: ExtraFile, of: str = ID) -> Sequence[Descriptor]:
    return [layer(), *(build_file_layer(of, one).descriptor for one in files)]


def parsed(layers: Sequence[Descriptor]) -> Any:
    manifest = Manifest.build("application/vnd.org.margo.config.v1+json", layers, {
        "org.margo.ApplicationDeployment.version": "1", "org.margo.oci.scope": SCOPE,
    })  # fmt: skip
    return parse_state(manifest, what="state")


def refused(layers: Sequence[Descriptor]) -> str:
    with pytest.raises(FormatError) as error:
        parsed(layers)
    return str(error.value)


def test_14_1_the_files_beside_a_document_are_layers_in_the_order_of_their_paths(tmp_path: Path) -> None:
    folder = states_folder(tmp_path, z=b"1", conf__a=b"2", key_jwe=secret("x").data)
    (one,) = read_deployments(folder)
    assert [(file.path, file.secret) for file in one.files] == [("conf/a", False), ("key", True), ("z", False)]
    built = [build_file_layer(one.deployment.id, file).descriptor for file in reversed(one.files)]
    state = build_state([*built, layer()], counter=1, scope=SCOPE)
    titles = [one.annotations["org.opencontainers.image.title"] for one in state.manifest.layers]
    assert titles == [f"{ID}.yaml", "conf/a", "key", "z"]
    assert {one.annotations["org.margo.oci.deployment"] for one in state.manifest.layers} == {ID}
    assert [one.digest for one in parsed(state.manifest.layers).files[ID]] == [one.digest for one in built[::-1]]


def test_14_1_without_files_a_state_has_the_bytes_it_had_before() -> None:
    found = build_state([layer(OTHER_ID), layer()], counter=7, scope=SCOPE).manifest
    assert found.digest == "sha256:b1038e53f2583ca39e3077facae7cb557a55e73478c0c4b0456bf8228c678518"
    assert parsed(found.layers).files == {}


def test_14_1_a_folder_of_files_without_its_document_is_refused(tmp_path: Path) -> None:
    (states_folder(tmp_path) / "hello.files").rename(tmp_path / "helo.files")
    with pytest.raises(FormatError, match=r"helo.files: no helo.yaml beside it: rename the folder, or remove it"):
        read_deployments(tmp_path)


def test_14_1_links_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    folder = states_folder(tmp_path) / "hello.files"
    (folder / "shadow").symlink_to("/etc/shadow")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").touch()
    with pytest.raises(FormatError, match="only plain files go with a deployment"):
        read_files(folder)


def test_14_2_a_plain_file_is_an_archive_of_itself_and_stays_executable() -> None:
    built = build_file_layer(ID, plain("bin/run", b"#!/bin/sh", executable=True))
    assert built.descriptor.media_type == FILE_LAYER
    assert built == build_file_layer(ID, plain("bin/run", b"#!/bin/sh", executable=True))
    found = read_file_layer(built.descriptor, built.data, what="layer")
    assert found == plain("bin/run", b"#!/bin/sh", executable=True)


def test_14_2_a_secret_is_its_own_layer_as_it_is() -> None:
    file = secret("db/password")
    built = build_file_layer(ID, file)
    assert (built.descriptor.media_type, built.data) == (SECRET_LAYER, file.data)
    assert read_file_layer(built.descriptor, built.data, what="layer") == file


@pytest.mark.parametrize("inside", [("b",), ("a", "b"), (), ("../a",)])
def test_14_2_an_archive_with_something_else_in_it_is_refused(inside: Sequence[str]) -> None:
    data = hostile(*(member(name) for name in inside))
    at = Descriptor.of(data, FILE_LAYER, build_file_layer(ID, plain("a")).descriptor.annotations)
    with pytest.raises(FormatError, match="layer: "):
        read_file_layer(at, data, what="layer")


def test_14_3_files_are_bounded_before_any_is_fetched() -> None:
    many = [plain(f"{n}") for n in range(257)]
    assert "257 of them, at most 256 are read" in refused(layers_of(*many))
    with pytest.raises(FormatError, match=r"big: 90\d* bytes as a layer, at most 8388608"):
        build_file_layer(ID, plain("big", bytes(9_000_000)))
    large = [plain(f"{n}", bytes(8_000_000)) for n in range(5)]
    assert "at most 33554432 are read" in refused(layers_of(*large))
    at = build_file_layer(ID, secret("x")).descriptor
    grown = replace(at, size=3_000_000)
    assert "3000000 bytes as a layer, at most 2097152" in refused([layer(), grown])


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a\\b", "a\nb", "", "./a", "a//b", "a/", "x" * 300, "x.jwe", "a\u202eb"],
)  # fmt: skip
def test_14_4_a_path_that_is_unsafe_or_not_plain_is_refused(path: str) -> None:
    data = hostile(member("a"))
    at = Descriptor.of(data, FILE_LAYER, {"org.margo.oci.deployment": ID, "org.opencontainers.image.title": path})
    assert "path" in refused([layer(), at])
    with pytest.raises(FormatError, match="path"):
        build_file_layer(ID, plain(path))


@pytest.mark.parametrize(
    "paths", [("a", "a"), ("A", "a"), ("a", "a/b"), ("stra\u00dfe", "STRASSE"), ("\u00e9", "e\u0301")]
)
def test_14_4_paths_that_meet_are_refused(paths: Sequence[str], tmp_path: Path) -> None:
    words = refused(layers_of(*(plain(path) for path in paths)))
    assert any(why in words for why in ("the same path on some disks", "is there twice", "lies below the file"))


def test_14_4_a_file_and_an_encrypted_one_of_its_name_meet(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"key is there twice: with and without \.jwe"):
        read_deployments(states_folder(tmp_path, key=b"1", key_jwe=secret("key").data))


def test_14_5_a_file_of_no_deployment_of_the_state_is_refused() -> None:
    assert f"a file of deployment '{OTHER_ID}', which is not in this state" in refused(
        layers_of(plain("a"), of=OTHER_ID)
    )
    bare = Descriptor.of(b"x", FILE_LAYER)
    assert "a file of deployment '(none)'" in refused([layer(), bare])


def test_14_6_a_revision_covers_the_files() -> None:
    one = layer()
    files = [build_file_layer(ID, plain("a")).descriptor]
    others = [
        [build_file_layer(ID, plain("a", b"deny all")).descriptor],
        [build_file_layer(ID, plain("b")).descriptor],
        [*files, build_file_layer(ID, plain("b")).descriptor],
        [build_file_layer(ID, plain("a", executable=True)).descriptor],
    ]
    assert len({revision_of(one), revision_of(one, files), *(revision_of(one, other) for other in others)}) == 6
    assert parsed([one, *files]).revision_of(one) == revision_of(one, files)


def compose(text: str) -> list[str]:
    return [str(one) for one in reads_only_the_archive([Entry("hello/compose.yaml", text.encode())])]


@pytest.mark.parametrize(
    "more",
    [
        "services: {web: {env_file: '${MARGO_FILES}/app.env'}}",
        "services: {web: {volumes: ['${MARGO_FILES}/conf:/etc/conf:ro', '${MARGO_FILES}:/all']}}",
        "services: {web: {volumes: [{type: bind, source: '${MARGO_FILES}/conf', target: /x}]}}",
        "secrets: {key: {file: '${MARGO_FILES}/key'}}\nconfigs: {c: {file: '${MARGO_FILES}/a/c'}}",
    ],
)
def test_14_7_a_compose_file_names_files_of_its_deployment(more: str) -> None:
    assert compose(more) == []


@pytest.mark.parametrize(
    "more",
    [
        "services: {web: {env_file: '${MARGO_FILES}/../x'}}",
        "services: {web: {env_file: '$MARGO_FILES/x'}}",
        "services: {web: {env_file: '${MARGO_FILES}/$X'}}",
        "services: {web: {extends: {file: '${MARGO_FILES}/x.yaml', service: a}}}",
        "services: {web: {volumes: ['${MARGO_FILES}/../record.json:/x']}}",
        "services: {web: {volumes: ['${MARGO_FILES}x/a:/x']}}",
        "services: {web: {volumes: ['${MARGO_FILES:-/}:/x']}}",
        "services: {web: {volumes: ['${OTHER:-${MARGO_FILES}/../..}:/x']}}",
        "services: {web: {volumes: [{type: bind, source: '/a${MARGO_FILES}', target: /x}]}}",
        "secrets: {key: {file: '${MARGO_FILES}/../key'}}",
        "secrets: {key: {file: ./key}}",
        "configs: {c: {file: '${MARGO_FILES:-..}/c'}}",
    ],
)
def test_14_7_a_compose_file_gets_nowhere_else_by_them(more: str) -> None:
    assert compose(more) != []


def model(**service: Any) -> dict[str, Any]:
    return {"services": {"web": {"image": "web", **service}}}


def bind(source: str) -> dict[str, Any]:
    return {"type": "bind", "source": source, "target": "/x", "bind": {"create_host_path": True}}


def mount(given: dict[str, Any], *files: ExtraFile) -> dict[str, Any]:
    return mounted(given, "/f", by_path(files), lambda use: f"/placed/{use.path or 'all'}{use.owner}")


def test_14_7_what_is_used_is_mounted_read_only_at_its_place() -> None:
    given = {
        **model(volumes=[bind("/f/conf"), bind("/f"), bind("/data")]),
        "configs": {"c": {"file": "/f/conf/a"}, "other": {"content": "x"}},
        "secrets": {"key": {"name": "p_key", "file": "/f/key"}},
    }
    found = mount(given, plain("conf/a"), secret("key"))
    assert [one["source"] for one in found["services"]["web"]["volumes"]] == ["/placed/conf", "/placed/all", "/data"]
    assert found["services"]["web"]["volumes"][0] == {
        "type": "bind", "source": "/placed/conf", "target": "/x", "read_only": True,
        "bind": {"create_host_path": False},
    }  # fmt: skip
    assert found["configs"]["c"] == {"file": "/placed/conf/a"}
    assert found["secrets"]["key"]["file"] == "/placed/key"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (model(volumes=[bind("/f/b")]), r"services.web.volumes\[0\]: \$\{MARGO_FILES\}/b is not among the files"),
        ({**model(), "configs": {"c": {"file": "/f/conf"}}}, r"configs.c.file: .*/conf is not .*: that is a folder"),
        ({**model(), "secrets": {"c": {"file": "/f/c"}}}, r"secrets.c.file: \$\{MARGO_FILES\}/c is not among"),
        (model(environment={"WHERE": "/f/conf"}), r"services.web.environment.WHERE: .* is a folder of the device"),
        (model(command=["cat", "/f/conf/a"]), r"services.web.command\[1\]: "),
        ({**model(), "volumes": {"x": {"driver_opts": {"device": "/f"}}}}, "volumes.x.driver_opts.device"),
    ],
)
def test_14_7_what_is_not_there_or_no_use_is_refused_by_name(given: dict[str, Any], why: str) -> None:
    with pytest.raises(FormatError, match=why):
        mount(given, plain("conf/a"))
    with pytest.raises(FormatError, match="of this deployment: it has none"):
        mount(model(volumes=[bind("/f")]))


def test_14_7_no_parameter_sets_it() -> None:
    raw = document(parameters={"a": parameter("/", "MARGO_FILES")})
    with pytest.raises(FormatError, match="'MARGO_FILES' steers the container tools"):
        parse_deployment(as_yaml(raw), what="hello.yaml")


def with_files(*names: str, **services: Sequence[str]) -> dict[str, Any]:
    """A Compose file whose services mount files."""
    mounts = {name: [{"type": "bind", "source": f"{BELOW}/{path}", "target": f"/{path}"} for path in paths]
              for name, paths in services.items()}  # fmt: skip
    recipe = {"image": IMAGE, "environment": {"RECIPE": "${RECIPE}"}}
    return {
        "services": {name: {**recipe, "volumes": volumes} for name, volumes in mounts.items()}
        | {SERVICE: {**recipe, "secrets": [{"source": name} for name in names]}},
        "secrets": {name: {"name": name, "file": f"{BELOW}/{name}"} for name in names},
    }


def plant_with(folder: Path, *names: str, **services: Sequence[str]) -> Plant:
    plant = Plant(folder / "state", compose=with_files(*names, **services))
    plant.device.identity = [private("edge-17")]
    return plant


def containers(plant: Plant) -> dict[str, str]:
    return {one.container.service: one.container.id for one in plant.device.engine.all.values()}


def mounts(plant: Plant, service: str) -> list[str]:
    (file,) = plant.device.folder.glob(f"deployments/*/{current(plant)}/parts/pump.json")
    return [one["source"] for one in json.loads(file.read_bytes())["services"][service].get("volumes") or ()]


def current(plant: Plant) -> str:
    return plant.device.record.installed[id_of("pump")].revision.removeprefix("sha256:")


def publish(plant: Plant, counter: int, *files: ExtraFile, recipe: str = "a") -> str:
    plant.publish(plant.workload("pump", recipe, files=files), counter=counter)
    return plant.device.once().outcome


def in_memory(plant: Plant) -> list[bytes]:
    return sorted(path.read_bytes() for path in plant.device.secrets.folder.rglob("*") if path.is_file())


def test_14_8_only_who_uses_a_changed_file_is_made_anew(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, web=["conf"], other=["policy"])
    assert publish(plant, 1, plain("conf/a", b"1"), plain("policy", b"p"), plain("unused", b"u")) == "applied"
    before = containers(plant)
    assert Path(mounts(plant, "web")[0], "a").read_bytes() == b"1"
    assert publish(plant, 2, plain("conf/a", b"2"), plain("policy", b"p"), plain("unused", b"new")) == "applied"
    after = containers(plant)
    assert {name for name in before if before[name] != after[name]} == {"web"}
    assert Path(mounts(plant, "web")[0], "a").read_bytes() == b"2"
    assert Path(mounts(plant, "web")[0], "a").stat().st_mode & 0o777 == 0o644
    assert len(list((plant.device.folder / "files" / id_of("pump")).iterdir())) == 2


def test_14_8_nothing_but_what_was_placed_for_it_is_mounted_of_the_agents_folders() -> None:
    given = {"services": {"web": {"volumes": [bind("/state/files/x/1"), bind("/state/files/y/2")]}}}
    with pytest.raises(FormatError, match="/state/files/y/2 is a path of the agent itself"):
        sealed(given, archive="/state/components/1", private="/state", placed={"/state/files/x/1"})


@pytest.mark.parametrize("device", ["/state", "/state/trust.json", "/x/../state/components/1", "//state/identity"])
@pytest.mark.parametrize("kind", [{"type": "none", "o": "bind"}, {"type": "bind"}, {"o": "rbind"}])
def test_8_9_a_volume_is_no_way_into_the_agents_folders(device: str, kind: dict[str, str]) -> None:
    given = {**model(), "volumes": {"data": {"driver_opts": {**kind, "device": device}}}}
    with pytest.raises(FormatError, match=r"volumes.data.driver_opts.device: is a path of the agent itself"):
        sealed(given, archive="/state/components/1", private="/state")


@pytest.mark.parametrize("path", ["/proc/1/root/state", "/proc/self/cwd", "/proc/7/task/8/fd/3", "/x/../proc/1/root"])
def test_8_9_a_process_is_no_way_into_the_agents_folders(path: str) -> None:
    for given in (model(volumes=[bind(path)]), {**model(), "volumes": {"data": {"driver_opts": {"device": path}}}}):
        with pytest.raises(FormatError, match="leads elsewhere by way of a process"):
            sealed(given, archive="/state/components/1", private="/state")


def test_8_9_other_volumes_and_paths_are_left_as_they_are() -> None:
    given = {
        **model(volumes=[bind("/proc"), bind("/proc/1/stat"), bind("/stately"), {"type": "volume", "source": "a"}]),
        "volumes": {"a": None, "b": {"driver_opts": {"type": "nfs", "device": ":/state"}}, "c": {"driver": "x"}},
    }
    assert sealed(given, archive="/state/components/1", private="/state") == given


def test_14_7_a_device_refuses_what_is_not_there_and_touches_nothing(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, web=["conf"])
    assert publish(plant, 1, plain("conf/a")) == "applied"
    before = containers(plant)
    assert publish(plant, 2, plain("other")) == "failed"
    (one,) = plant.device.once().deployments
    assert "${MARGO_FILES}/conf is not among the files of this deployment" in one.error
    assert (one.code, containers(plant)) == ("unfit", before)


def test_14_12_a_secret_for_another_device_stops_nothing(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    assert publish(plant, 1, secret("key")) == "applied"
    before = containers(plant)
    plant.publish(plant.workload("pump", "a", files=[secret("key", NEXT, "edge-18")]), counter=2)
    (one,) = plant.device.once().deployments
    assert (one.code, one.state) == ("secret", "failed")
    assert "key: encrypted for" in one.error
    assert "margo-agent identity show" in one.error
    assert (containers(plant), in_memory(plant)) == (before, [SECRET])
    assert plant.device.record.failed == {}
    assert publish(plant, 3, secret("key", NEXT, "edge-18", "edge-17")) == "applied"
    assert in_memory(plant) == [NEXT]


def test_14_12_a_device_without_an_identity_says_how_to_get_one(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    plant.device.identity = []
    plant.publish(plant.workload("pump", "a", files=[secret("key")]), counter=1)
    (one,) = plant.device.once().deployments
    assert one.code == "secret"
    assert "margo-agent identity init" in one.error
    plant.device.identity = [private("edge-17")]
    assert plant.device.once().outcome == "applied"


def test_14_12_what_cannot_be_written_now_stops_nothing_and_is_tried_again(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    assert publish(plant, 1, plain("key")) == "applied"
    before = containers(plant)
    plant.device.secrets.folder.touch()  # no folder can be made there
    plant.publish(plant.workload("pump", "a", files=[secret("key")]), counter=2)
    (one,) = plant.device.once().deployments
    assert (one.code, one.error[-20:]) == ("secret", "; nothing was changed"[-20:])
    assert "a secret could not be written" in one.error
    assert (containers(plant), plant.device.record.failed) == (before, {})
    plant.device.secrets.folder.unlink()
    assert plant.device.once().outcome == "applied"
    assert in_memory(plant) == [SECRET]


def test_14_12_what_was_changed_is_refused_by_name(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    raw = json.loads(secret("key").data)
    broken = ExtraFile("key", json.dumps({**raw, "tag": "AAAAAAAAAAAAAAAAAAAAAA"}).encode(), secret=True)
    assert publish(plant, 1, broken) == "failed"
    (one,) = plant.device.once().deployments
    assert "key: its content or its header was changed" in one.error


def test_14_13_secrets_are_kept_in_memory_alone(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    plant.device.memory_is = "ext4"
    plant.publish(plant.workload("pump", "a", files=[secret("key")]), counter=1)
    (one,) = plant.device.once().deployments
    assert one.code == "secret"
    assert "is on ext4, not in memory: name a folder on a tmpfs" in one.error
    plant.device.memory_is = "ramfs"
    assert plant.device.once().outcome == "applied"
    folder = plant.device.secrets.folder
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir(), *folder.glob("*/*"))} == {0o700}


def test_14_13_a_folder_of_secrets_is_closed_however_deep_it_goes(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "memory", list, lambda _: "tmpfs", "agent")
    secrets.write(secrets.folder_of(ID) / "all", {"a/b/c/key": Content(SECRET), "top": Content(SECRET)}, "")
    folders = [path for path in secrets.folder.rglob("*") if path.is_dir()]
    assert {path.name for path in folders} >= {"all", "a", "b", "c"}
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_14_13_a_service_says_whom_its_copy_of_a_secret_belongs_to() -> None:
    given = {
        **model(secrets=[{"source": "key", "uid": "999", "mode": "0440"}, {"source": "c", "gid": "7"}]),
        "secrets": {"key": {"name": "p_key", "file": "/f/key"}, "c": {"file": "/f/plain"}},
    }
    found = mount(given, secret("key"), plain("plain"))
    assert found["services"]["web"]["secrets"] == [
        {"source": "key-999-0", "target": "/run/secrets/key"}, {"source": "c", "gid": "7"},
    ]  # fmt: skip
    assert found["secrets"]["key-999-0"] == {"name": "p_key-999-0", "file": "/placed/key999:0"}
    with pytest.raises(FormatError, match="uid and gid: numbers up to 2147483647 are expected"):
        mount({**given, **model(secrets=[{"source": "key", "uid": "root"}])}, secret("key"), plain("plain"))


def test_14_13_a_copy_for_somebody_takes_no_name_that_the_author_gave_to_another_secret() -> None:
    given = {
        **model(secrets=[{"source": "key", "uid": "999"}, {"source": "key-999-0"}]),
        "secrets": {"key": {"file": "/f/key"}, "key-999-0": {"file": "/f/other"}},
    }
    with pytest.raises(FormatError, match=r"secrets.key-999-0: so the copy of key for 999:0 is called"):
        mount(given, secret("key"), secret("other"))


@pytest.mark.parametrize("number", ["2147483648", "4294967295", "9999999999"])
def test_14_13_a_number_that_is_no_user_is_refused_by_name(number: str) -> None:
    for owner in ("uid", "gid"):
        given = {**model(secrets=[{"source": "key", owner: number}]), "secrets": {"key": {"file": "/f/key"}}}
        with pytest.raises(FormatError, match=f"secrets.key: uid and gid: numbers up to 2147483647 .*{number}"):
            mount(given, secret("key"))


def test_14_13_what_cannot_be_given_away_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    keeper = Secrets(folder, lambda: [private("edge-17")], lambda _: "tmpfs", "agent", can_give=True)
    with pytest.raises(Sealed, match="a secret could not be written"):
        keeper.write(folder / ID / "x", {"": Content(SECRET)}, "9999999999:0")
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_14_13_who_cannot_give_files_away_says_so_before_anything_is_touched(tmp_path: Path) -> None:
    keeper = Secrets(tmp_path, lambda: [private("edge-17")], lambda _: "tmpfs", "agent")
    with pytest.raises(Unfit, match=r"wanted for the user 999:0, .* root with CAP_CHOWN"):
        keeper.check(["999:0", ""])


def test_14_13_the_kind_of_a_disk_is_what_the_kernel_says(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 2 0:99 / /a rw - ext4 x rw\n3 2 {device >> 8}:{device & 255} / /b rw - tmpfs tmpfs rw\n")
    assert kind_of_disk(Path("/proc")) == "proc"
    mounts.write_text("rubbish\n")
    assert kind_of_disk(tmp_path, mounts) == ""
    with pytest.raises(Sealed, match="an unknown file system"):
        Secrets(tmp_path / "a" / "b", tuple, lambda _: "", "agent").check()


def test_14_13_without_a_word_secrets_go_where_a_service_has_its_memory() -> None:
    assert secrets_folder(None, {"RUNTIME_DIRECTORY": "/run/margo-agent:/run/x"}) == Path("/run/margo-agent/secrets")
    assert secrets_folder(Path("/mnt/m"), {"RUNTIME_DIRECTORY": "/run/margo-agent"}) == Path("/mnt/m")
    assert secrets_folder(None, {}) == Path("/run/margo-agent/secrets")


def test_14_13_a_folder_that_others_made_is_not_used(tmp_path: Path) -> None:
    keeper = Secrets(tmp_path / "memory", lambda: [private("edge-17")], lambda _: "tmpfs", "agent")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "memory").symlink_to("elsewhere")
    with pytest.raises(Sealed, match="memory is no folder of the agent's own user"):
        keeper.write(tmp_path / "memory" / ID / "x", {"": Content(SECRET)}, "")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_waits_is_applied_when_it_may_be_whatever_was_restored_meanwhile(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key", web=["conf"])
    assert publish(plant, 1, secret("key"), plain("conf/a")) == "applied"
    plant.device.hold = "shift change"
    assert publish(plant, 2, secret("key", NEXT), plain("conf/a", b"deny")) == "waiting"
    plant.device.restore()
    assert in_memory(plant) == [SECRET]
    plant.device.hold = ""
    assert plant.device.once().outcome == "applied"
    assert in_memory(plant) == [NEXT]


def test_14_14_on_the_disk_is_nothing_but_what_is_encrypted(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key", web=["conf"])
    assert publish(plant, 1, secret("key"), plain("conf/a"), secret("conf/b", NEXT)) == "applied"
    assert in_memory(plant) == sorted([SECRET, NEXT, b"allow all"])
    files = [path for path in plant.device.folder.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET in path.read_bytes() or NEXT in path.read_bytes()] == []


def test_14_14_a_name_tells_nobody_what_is_in_a_secret(tmp_path: Path) -> None:
    one = Secrets(tmp_path, lambda: [private("a")], lambda _: "tmpfs", "agent")
    other = Secrets(tmp_path, lambda: [private("b")], lambda _: "tmpfs", "agent")
    assert one.name(b"1234") == one.name(b"1234")
    assert len({one.name(b"1234"), one.name(b"1235"), other.name(b"1234")}) == 3


def test_14_14_an_environment_is_no_place_for_a_secret() -> None:
    words = in_words("env file /f/db.env not found: stat /f/db.env: no such file", "/f", by_path([secret("db.env")]))
    assert words.startswith("env file ${MARGO_FILES}/db.env not found")
    assert "it is encrypted, and an environment stands on the disk" in words
    assert "encrypted" not in in_words("env file /f/a not found", "/f", by_path([secret("db.env")]))


def test_14_15_a_changed_secret_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key", web=["conf"])
    assert publish(plant, 1, secret("key"), plain("conf/a")) == "applied"
    before = containers(plant)
    assert publish(plant, 2, secret("key", SECRET, "edge-17", "edge-18"), plain("conf/a")) == "applied"
    assert containers(plant) == before
    assert publish(plant, 3, secret("key", NEXT), plain("conf/a")) == "applied"
    after = containers(plant)
    assert in_memory(plant) == [NEXT]
    assert {name for name in before if before[name] != after[name]} == {SERVICE}


def test_14_15_after_a_restart_what_is_missing_is_placed_again(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key", web=["conf"])
    assert publish(plant, 1, secret("key"), plain("conf/a")) == "applied"
    shutil.rmtree(plant.device.secrets.folder)
    shutil.rmtree(plant.device.folder / "files")
    shutil.rmtree(plant.device.folder / "blobs")
    assert plant.device.restore().outcome != "failed"
    assert in_memory(plant) == [SECRET]
    assert Path(mounts(plant, "web")[0], "a").read_bytes() == b"allow all"


def test_14_15_what_is_put_right_finds_its_secrets(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    assert publish(plant, 1, secret("key")) == "applied"
    shutil.rmtree(plant.device.secrets.folder)
    plant.device.engine.change(containers(plant)[SERVICE], status="exited", exit_code=1)
    assert plant.device.correct().outcome == "applied"
    assert in_memory(plant) == [SECRET]


def test_14_15_the_way_back_opens_the_old_secret_again(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    assert publish(plant, 1, secret("key")) == "applied"
    plant.device.engine.spoiled = {"bad"}
    assert publish(plant, 2, secret("key", NEXT), recipe="bad") == "failed"
    assert plant.device.engine.running == {"pump": "a"}
    assert in_memory(plant) == [SECRET]


def test_14_15_what_a_device_can_no_longer_open_is_told_and_stops_nothing(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    assert publish(plant, 1, secret("key")) == "applied"
    shutil.rmtree(plant.device.secrets.folder)
    plant.device.identity = [private("another")]
    report = plant.device.restore()
    assert report.outcome == "failed"
    assert "and not for this device" in report.message
    plant.device.identity = [private("another"), private("edge-17")]
    assert plant.device.restore().outcome != "failed"


def test_14_15_secrets_go_with_their_deployment(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key", web=["conf"])
    assert publish(plant, 1, secret("key"), plain("conf/a")) == "applied"
    plant.publish(counter=2)
    assert plant.device.once().outcome == "applied"
    assert in_memory(plant) == []
    assert list((plant.device.folder / "files").iterdir()) == []


class Killed(BaseException):
    """The power goes."""


def killed_at(plant: Plant, monkeypatch: pytest.MonkeyPatch, room: type, name: str) -> None:
    """Do a pass that ends where something is called."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(room, name, die)
        with pytest.raises(Killed):
            plant.device.once()


def test_14_15_a_removal_is_not_recorded_before_its_secrets_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = plant_with(tmp_path, "key")
    assert publish(plant, 1, secret("key")) == "applied"
    plant.publish(counter=2)
    killed_at(plant, monkeypatch, Generations, "keep_placed")
    assert plant.device.record.deployments == {id_of("pump")}
    assert plant.device.once().outcome == "applied"
    assert in_memory(plant) == []


def left_by_a_kill(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave secrets, and the folder of a generation, of a deployment that the record does not have."""
    plant.publish(plant.workload("pump", "a", files=[secret("key")]), counter=1)
    killed_at(plant, monkeypatch, Record, "begin")
    assert (in_memory(plant), plant.device.record.deployments) == ([SECRET], set())
    assert (plant.device.folder / "deployments" / id_of("pump")).is_dir()


def test_14_15_what_a_power_cut_left_of_a_deployment_that_is_not_recorded_is_cleaned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = plant_with(tmp_path, "key")
    left_by_a_kill(plant, monkeypatch)
    (plant.device.folder / "files" / OTHER_ID).mkdir(parents=True)
    plant.device.cleaner().clean()
    assert in_memory(plant) == []
    assert not (plant.device.folder / "files" / OTHER_ID).exists()


def test_14_15_what_a_power_cut_left_goes_with_the_next_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = plant_with(tmp_path, "key")
    left_by_a_kill(plant, monkeypatch)
    plant.publish(counter=2)
    assert plant.device.once().outcome == "applied"
    assert in_memory(plant) == []


def test_14_15_what_a_power_cut_left_of_a_revision_that_was_withdrawn_goes_with_the_next_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = plant_with(tmp_path, "key")
    first, second = (plant.workload("pump", "a", files=[secret("key", word)]) for word in (SECRET, NEXT))
    plant.publish(first, counter=1)
    assert plant.device.once().outcome == "applied"
    plant.publish(second, counter=2)
    killed_at(plant, monkeypatch, Record, "begin")
    assert in_memory(plant) == sorted([SECRET, NEXT])
    plant.publish(first, counter=3)
    assert plant.device.once().outcome == "applied"
    assert in_memory(plant) == [SECRET]


def test_14_15_what_a_power_cut_left_goes_with_a_restore_and_what_is_used_stays(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    assert publish(plant, 1, secret("key")) == "applied"
    plant.device.secrets.write(plant.device.secrets.folder_of(OTHER_ID) / "x", {"": Content(NEXT)}, "")
    assert plant.device.restore().outcome != "failed"
    assert in_memory(plant) == [SECRET]
    plant.device.cleaner().clean()
    assert in_memory(plant) == [SECRET]


def test_14_15_agents_that_share_a_folder_leave_each_others_secrets_alone(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, "key")
    assert publish(plant, 1, secret("key")) == "applied"
    other = Device(tmp_path / "other", plant.sim, plant.key.public)
    other.identity = [private("edge-17")]
    assert other.secrets.folder == plant.device.secrets.folder
    plant.publish(counter=2)
    assert other.once().outcome == "applied"
    other.cleaner().clean()
    assert in_memory(plant) == [SECRET]


def test_a_bundle_and_a_copy_have_the_files_of_a_state(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    workload = plant.workload("pump", "a", files=[plain("conf/a"), secret("key")])
    plant.publish(workload, counter=1)

    async def taken(registry: Registry) -> set[str]:
        node = await Closure(registry).take(SOURCE)
        return {one.digest for one in node.blobs}

    assert {one.descriptor.digest for one in workload.layers} <= ask(plant.sim, taken)


def test_a_file_that_went_bad_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, web=["conf"])
    built = plant.workload("pump", "a", files=[plain("conf/a")])
    plant.publish(built, counter=1)
    assert plant.device.once().outcome == "applied"
    spoiled = built.layers[1].descriptor.digest
    kept, blob = sorted(
        plant.device.folder.rglob(spoiled.removeprefix("sha256:")), key=lambda one: "blobs" in one.parts
    )
    kept.unlink()
    shutil.rmtree(plant.device.folder / "files")
    assert plant.device.restore().outcome != "failed"
    assert Path(mounts(plant, "web")[0], "a").read_bytes() == b"allow all"
    blob.write_bytes(b"rotten")
    shutil.rmtree(plant.device.folder / "files")
    report = plant.device.restore()
    assert report.outcome == "failed"
    assert "conf/a: went bad on this disk" in report.message
