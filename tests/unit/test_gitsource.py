"""Documents out of a commit: what is there as plain files, and nothing that the repository would like to have run."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from margo_oci.desired_state import Origin, build_state
from margo_oci.errors import FormatError, RegistryError
from margo_oci.gitsource import GitSource, checked_out
from tests.unit.scenes import SCOPE, layer

AUTHOR = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}  # fmt: skip


class Repository:
    """A repository in a folder, as on a share; `environment` is that of whoever pushes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "plant.git"
        self.folder.mkdir()
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        """Run git in it."""
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env={**self.environment, **AUTHOR}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def commit(self, **files: str) -> str:
        """Write files (`_` is the folder's slash, `.yaml` is added), commit, and return the commit's id."""
        for name, text in files.items():
            file = self.folder / (name.replace("__", "/") + ".yaml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=x")
        return self.git("rev-parse", "HEAD")

    def taken(self, rev: str, path: str = "", url: str = "") -> tuple[Mapping[str, bytes], Origin]:
        """Return the files that a push would see, and the origin."""
        with checked_out(GitSource(url or str(self.folder), rev, path), self.environment) as there:
            files = {
                str(file.relative_to(there.folder)): file.read_bytes()
                for file in there.folder.rglob("*")
                if file.is_file()
            }
            return files, there.origin


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_2_9_a_branch_a_tag_and_a_commit_lead_to_the_commit_that_is_noted(repository: Repository) -> None:
    old = repository.commit(edge__pump="one")
    repository.git("tag", "v1")
    new = repository.commit(edge__pump="two")
    source = f"file://{repository.folder}"
    assert repository.taken("main", "edge") == ({"pump.yaml": b"two"}, Origin(new, source))
    assert repository.taken("v1", "edge") == ({"pump.yaml": b"one"}, Origin(old, source))
    assert repository.taken(old, "edge") == ({"pump.yaml": b"one"}, Origin(old, source))
    assert repository.taken("main", url=source)[0] == {"edge/pump.yaml": b"two"}


@pytest.mark.parametrize("length", [7, 12, 39])
def test_a_short_id_is_told_apart_from_a_branch_that_is_not_there(repository: Repository, length: int) -> None:
    short = repository.commit(pump="one")[:length]
    with pytest.raises(FormatError, match="the short id of a commit cannot be asked for: give all of its digits"):
        repository.taken(short)
    with pytest.raises(
        FormatError, match=r"plant\.git stable: no branch or tag is called so: a branch, a tag or a full"
    ):
        repository.taken("stable")


def test_2_9_an_annotated_tag_stands_for_its_commit(repository: Repository) -> None:
    commit = repository.commit(pump="one")
    repository.git("tag", "--annotate", "--message=x", "v1")
    assert repository.taken("v1")[1].revision == commit


def test_2_9_the_origin_is_in_the_annotations_of_the_manifest() -> None:
    origin = Origin("a" * 40, "https://git.example/plant.git")
    state = build_state([layer()], counter=1, scope=SCOPE, origin=origin)
    assert state.manifest.annotations["org.opencontainers.image.revision"] == "a" * 40
    assert state.manifest.annotations["org.opencontainers.image.source"] == "https://git.example/plant.git"
    assert state.origin == origin
    assert build_state([layer()], counter=1, scope=SCOPE).manifest.annotations.keys().isdisjoint(origin.annotations())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://robot:secret@git.example:8443/plant.git?token=secret#x", "https://git.example:8443/plant.git"),
        ("ssh://git@git.example/plant.git", "ssh://git.example/plant.git"),
        ("git@git.example:site/plant.git", "ssh://git.example/site/plant.git"),
        ("/mnt/share/plant", "file:///mnt/share/plant"),
    ],
)
def test_2_9_logins_are_not_published(url: str, shown: str) -> None:
    assert GitSource(url, "main").public_url == shown


@pytest.mark.parametrize(
    "url",
    ["--upload-pack=touch x", "-x", "ext::sh -c true", "ext::sh", "http://git.example/x", "git://git.example/x", "",
     "ssh://-oProxyCommand=x/y", "ssh://user@-oProxyCommand=x/y", "https:///x", "a b", "https://[x/y", "file\n"],
)  # fmt: skip
def test_what_git_could_take_for_something_else_is_refused(url: str) -> None:
    with pytest.raises(FormatError):
        GitSource(url, "main")


@pytest.mark.parametrize("rev", ["--output=x", "-", "main:x", "HEAD^", "a..b", "@{1}", "x@{1}", "", "a b", "a\n"])
def test_a_revision_is_a_name_or_an_id_and_nothing_else(rev: str) -> None:
    with pytest.raises(FormatError, match="a branch, a tag or a full commit id"):
        GitSource("https://git.example/x", rev)


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../b"])
def test_a_folder_stays_inside(path: str) -> None:
    with pytest.raises(FormatError, match="--path"):
        GitSource("https://git.example/x", "main", path)


@pytest.mark.parametrize("path", ["./edge", "edge/", "edge//", "edge/.", ".//edge"])
def test_a_folder_may_be_written_as_in_a_shell(repository: Repository, path: str) -> None:
    repository.commit(edge__pump="one")
    assert repository.taken("main", path)[0] == {"pump.yaml": b"one"}


def test_2_10_a_document_that_is_a_link_is_refused_and_others_are_left_out(repository: Repository) -> None:
    (repository.folder / "passwd").symlink_to("/etc/passwd")
    repository.commit(pump="one")
    assert repository.taken("main")[0] == {"pump.yaml": b"one"}
    (repository.folder / "evil.yaml").symlink_to("/etc/passwd")
    repository.commit()
    with pytest.raises(FormatError, match=r"evil\.yaml: is a link"):
        repository.taken("main")


def test_2_10_a_link_among_the_files_of_a_deployment_is_no_less_a_fault(repository: Repository) -> None:
    (repository.folder / "pump.files").mkdir()
    (repository.folder / "pump.files" / "secret").symlink_to("/etc/passwd")
    repository.commit(pump="one")
    with pytest.raises(FormatError, match=r"pump\.files/secret: is a link"):
        repository.taken("main")


def test_2_10_a_folder_of_files_that_is_a_link_does_not_just_stay_away(repository: Repository) -> None:
    (repository.folder / "pump.files").symlink_to("valve.files")
    repository.commit(pump="one")
    with pytest.raises(FormatError, match=r"pump\.files: is a link"):
        repository.taken("main")


def test_2_10_the_name_that_lfs_leaves_of_a_file_is_not_published_in_its_place(repository: Repository) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "1" * 64 + "\nsize 12345\n"
    for folder in ("pump.files", "films"):
        (repository.folder / folder).mkdir()
        (repository.folder / folder / "model.bin").write_text(pointer)
    repository.commit(pump="one")
    with pytest.raises(FormatError, match=r"pump\.files/model\.bin: is kept by Git LFS") as refused:
        repository.taken("main")
    assert len(refused.value.faults) == 1


def test_2_10_no_filter_of_the_repository_is_run(repository: Repository) -> None:
    repository.git("config", "--global", "filter.evil.smudge", "sh -c 'touch ran; cat'")
    (repository.folder / ".gitattributes").write_text("*.yaml filter=evil export-subst\n")
    repository.commit(pump="$Format:%H$")
    assert repository.taken("main")[0]["pump.yaml"] == b"$Format:%H$"
    assert not list(repository.folder.parent.rglob("ran"))


def test_2_10_a_submodule_is_not_fetched(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Repository(tmp_path / "other")
    other.commit(inner="x")
    repository.git("-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(other.folder), "sub")
    repository.commit(pump="one")
    assert sorted(repository.taken("main")[0]) == [".gitmodules", "pump.yaml"]


def test_what_is_not_there_is_said(repository: Repository, tmp_path: Path) -> None:
    repository.commit(pump="one")
    with pytest.raises(FormatError, match="it has no folder 'states'"):
        repository.taken("main", "states")
    with pytest.raises(RegistryError, match="does not appear to be a git repository"):
        repository.taken("main", url=str(tmp_path))


def test_too_much_is_refused_before_it_is_read(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("margo_oci.gitsource.ENTRY_LIMIT", 1)
    repository.commit(pump="one", valve="two")
    with pytest.raises(FormatError, match="name the folder with --path"):
        repository.taken("main")


def test_a_repository_that_does_not_answer_is_given_up(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("margo_oci.gitsource.FETCH_TIMEOUT_S", 0.0)
    repository.commit(pump="one")
    with pytest.raises(RegistryError, match="not done after 0 s"):
        repository.taken("main")


def test_without_git_it_is_said_what_else_helps(repository: Repository) -> None:
    repository.environment["PATH"] = "/nonexistent"
    with pytest.raises(FormatError, match="git is missing"):
        repository.taken("main")
