"""The documents are true: what they show is run, what they name exists, and they build."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import yaml

from examples.images.build import build_all
from margo_agent.config import load_config
from margo_oci import parse_deployment
from margo_oci.errors import FormatError
from margo_oci.trustconfig import load_trust_config
from tests.parts.certs import Authority
from tests.parts.engine import Engine
from tests.parts.registry import LocalRegistry

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS = ROOT / "docs" / "reference" / "commands.md"
WRITTEN_HOST = "127.0.0.1:5000"  # the registry as documents and examples name it
ANYTHING = "…"
MARK = "--- ended with"
GROUPS = "app|component|root|head|lock|identity(?= (?:init|csr|show))"
STORY_LIMIT_S = 180

AGENT = f"""
device: edge-17
source: {WRITTEN_HOST}/fleet/edge-17:latest
scopes: [edge-17]
trust: {{keys: [fleet.pub]}}
registries: {{"{WRITTEN_HOST}": {{plainHttp: true}}}}
stateDir: state
"""


@dataclass(frozen=True)
class Step:
    """A command of a document, and what it is said to print."""

    command: str
    expected: str


@dataclass(frozen=True)
class Shell:
    """A working folder with the programs of this environment, a registry and an engine."""

    folder: Path
    host: str
    environment: dict[str, str]

    def run(self, commands: Sequence[str]) -> list[tuple[int, str]]:
        """Run commands one after the other in one shell; return the status and output of each."""
        # Each command finds the status of the one before in $?, as at a prompt.
        parts = [f'back "$status"\n{command}\nstatus=$?\nprintf "\\n{MARK} %d\\n" "$status"\n' for command in commands]
        done = subprocess.run(
            ["bash", "-c", 'status=0\nback() { return "$1"; }\n' + "".join(parts)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=STORY_LIMIT_S,
            check=False,
        )
        pieces = re.split(rf"\n{MARK} (\d+)\n", done.stdout.decode(errors="replace"))
        return [(int(status), output) for output, status in zip(pieces[::2], pieces[1::2], strict=False)]

    def prepare(self, *commands: str) -> None:
        """Run what has to go well before a document's story begins."""
        for command, (status, output) in zip(commands, self.run(commands), strict=True):
            assert status == 0, f"$ {command}\n{output}"

    def follow(self, document: str) -> None:
        """Do what a document shows, and hold it against what it says comes of it."""
        steps = [step for block in runnable_blocks(ROOT / document) for step in steps_of(self.local(block))]
        assert steps, f"{document} shows nothing to run"
        results = self.run([step.command for step in steps])
        following = [*[step.command for step in steps[1:]], ""]
        for step, after, (status, output) in zip(steps, following, results, strict=True):
            story = f"{document} shows\n$ {step.command}\n{step.expected}\nbut it prints (status {status})\n{output}"
            assert status == 0 or after == "echo $?", story
            assert matches(step.expected, output), story

    def local(self, text: str) -> str:
        """Return a text with this registry in place of the one it names."""
        return text.replace(WRITTEN_HOST, self.host)


@pytest.fixture
def shell(tmp_path: Path, engine: Engine) -> Iterator[Shell]:
    """A folder with the examples, beside an empty registry; it holds the example images."""
    with LocalRegistry(tmp_path / "registry", "plain") as registry:
        folder = tmp_path / "checkout"
        (folder / "home").mkdir(parents=True)
        (folder / ".venv").symlink_to(sys.prefix)
        shell = Shell(folder, registry.host, environment(folder / "home", engine))
        copy_examples(folder / "examples", shell.local)
        build_all(registry.host, engine.docker_host)
        try:
            yield shell
        finally:
            take_down(engine)


def environment(home: Path, engine: Engine) -> dict[str, str]:
    """Nothing of this machine's settings but where programs are."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "TMPDIR") if name in os.environ}
    return kept | {
        "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "DOCKER_HOST": engine.docker_host,
        "DOCKER_CONFIG": str(engine.docker_config),
    }


def copy_examples(folder: Path, local: Callable[[str], str]) -> None:
    """Copy the examples, with another registry in them."""
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in folder.rglob("*.yaml"):
        file.write_text(local(file.read_text()))


def take_down(engine: Engine) -> None:
    """Remove what a document left running: its port is needed again."""
    with closing(docker.DockerClient(base_url=engine.docker_host)) as client:
        for container in client.containers.list(all=True, filters={"label": "org.margo.deployment"}):
            container.remove(force=True, v=True)


def runnable_blocks(document: Path) -> list[str]:
    """Return the blocks that are marked to be run."""
    return re.findall(r"^<!-- run -->\n```console\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


def steps_of(block: str) -> list[Step]:
    """Return the commands of a console block, here documents included, with their output."""
    steps: list[Step] = []
    for prompt in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        first, _, rest = prompt.partition("\n")
        if "<<'END'" in first:
            body, _, rest = rest.partition("END\n")
            first = f"{first}\n{body}END"
        steps.append(Step(first, rest.strip("\n")))
    return steps


def matches(expected: str, output: str) -> bool:
    """Tell whether the output is as shown; `…` stands for anything, alone on a line for any lines."""
    lines = [
        r"(?:[^\n]*\n)*?" if line == ANYTHING else re.escape(line).replace(ANYTHING, "[^\n]*") + r" *\n"
        for line in expected.splitlines()
    ]
    text = output.strip("\n")
    return re.fullmatch("".join(lines), f"{text}\n" if text else "") is not None


@pytest.mark.parametrize(
    ("expected", "output", "fits"),
    [
        ("", "", True),
        ("", "something\n", False),
        ("a … c", "a b c\n", True),
        ("a …", "b c\n", False),
        ("a\n…", "a\nb\nc\n", True),
        ("a\n…", "a\n", True),
        ("a\n…\nd", "a\nb\nc\n", False),
    ],
)
def test_what_is_shown_is_held_against_what_is_printed(expected: str, output: str, fits: bool) -> None:
    assert matches(expected, output) is fits


def test_the_first_success_of_the_readme_is_one(shell: Shell) -> None:
    shell.follow("README.md")


def test_publishing_is_as_written(shell: Shell) -> None:
    push = f"margo-oci component push examples/components/hello {shell.host}/components/hello:1.0.0 --plain-http"
    shell.prepare("mkdir states", "cp examples/states/edge-17/hello.yaml states", push)
    shell.follow("docs/publishing.md")


def test_heads_and_ceremonies_are_as_written(shell: Shell) -> None:
    push = f"margo-oci component push examples/components/hello {shell.host}/components/hello:1.0.0 --plain-http"
    shell.prepare("mkdir states", "cp examples/states/edge-17/hello.yaml states", push)
    shell.follow("docs/heads.md")


def test_components_are_as_written(shell: Shell) -> None:
    shell.prepare("cp -r examples/components/hello .")
    shell.follow("docs/components.md")


def test_the_way_of_a_vendor_is_as_written(shell: Shell) -> None:
    (shell.folder / "agent.yaml").write_text(shell.local(AGENT))
    shell.prepare("cp examples/components/hello/compose.yaml .")
    shell.follow("docs/vendors.md")


def test_signing_and_attaching_are_as_written(shell: Shell) -> None:
    keys = [f"margo-oci keygen --name {name} --no-password" for name in ("vendor", "second", "hsm", "sbom")]
    push = f"margo-oci component push examples/components/hello {shell.host}/components/hello:1.0.0 --plain-http"
    shell.prepare(push, *keys)
    shell.follow("docs/signing.md")


@pytest.mark.parametrize("having", ["trustedRoot:", "components:"])
def test_the_trust_of_the_signing_page_is_accepted(tmp_path: Path, having: str) -> None:
    (tmp_path / "agent.yaml").write_text(yaml_block("docs/signing.md", having))
    assert load_trust_config(tmp_path / "agent.yaml").mode == "release"


def test_a_device_is_as_written(shell: Shell) -> None:
    (shell.folder / "agent.yaml").write_text(shell.local(AGENT))
    shell.prepare(
        "mkdir states",
        "cp examples/states/edge-17/hello.yaml states",
        f"margo-oci component push examples/components/hello {shell.host}/components/hello:1.0.0 --plain-http",
        "margo-oci keygen --name fleet --no-password",
        f"margo-oci push states {shell.host}/fleet/edge-17 --key fleet.key --scope edge-17 --plain-http",
        "margo-agent once --config agent.yaml",
    )
    shell.follow("docs/device.md")


def test_every_block_that_is_marked_is_run() -> None:
    marked = {
        str(file.relative_to(ROOT)) for file in DOCUMENTS if re.search("^<!-- run", file.read_text(), re.MULTILINE)
    }
    assert marked == {"README.md", "docs/components.md", "docs/device.md", "docs/heads.md", "docs/publishing.md",
                      "docs/signing.md", "docs/vendors.md"}  # fmt: skip
    for document in marked:
        text = (ROOT / document).read_text()
        assert len(runnable_blocks(ROOT / document)) == text.count("<!-- run"), f"{document}: a mark without its block"


def yaml_block(document: str, having: str) -> str:
    """Return the YAML block of a document that has `having` in it."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)
    found: str = next(block for block in blocks if having in block)
    return found


def test_the_configuration_of_the_device_page_is_accepted(tmp_path: Path) -> None:
    for name in ("fleet.pub", "registry-password"):
        (tmp_path / name).touch()
    Authority.create(tmp_path).ca_file.rename(tmp_path / "plant-ca.pem")
    text = yaml_block("docs/device.md", "stateDir").replace("/etc/margo-agent", str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text(text.replace("/var/lib/margo-agent", str(tmp_path / "state")))
    done = subprocess.run(
        [str(Path(sys.prefix) / "bin" / "margo-agent"), "status", "--config", str(config)],
        env={"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{tmp_path}/no.sock"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("edge-17  registry.example/fleet/edge-17:latest  no state accepted yet")


def test_every_key_of_the_configuration_stands_on_the_device_page(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "device.md").read_text()
    config = tmp_path / "config.yaml"
    config.write_text("zzz: 1\napply: {zzz: 1}\nclean: {zzz: 1}\nlog: {zzz: 1}\n")
    with pytest.raises(FormatError) as caught:
        load_config(config)
    listed = re.findall(r"unknown: one of (.*)", str(caught.value))
    assert len(listed) == 4
    for key in {name for names in listed for name in names.split(", ")}:
        assert re.search(rf"`(\w+\.)?{key}[`.:]", text), key


def test_the_deployment_of_the_publishing_page_is_accepted() -> None:
    text = yaml_block("docs/publishing.md", "applicationId")
    deployment = parse_deployment(text.encode(), what="docs/publishing.md")
    assert deployment.environment("hello") == {"GREETING": "Good morning, line 1"}


def test_the_component_of_the_components_page_is_the_example() -> None:
    shown = yaml_block("docs/components.md", "services:").replace("registry.example", WRITTEN_HOST)
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "examples/components/hello/compose.yaml").read_text())


def test_the_commands_page_is_what_the_programs_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_commands.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_command_and_option_that_is_named_exists() -> None:
    known = sections(COMMANDS.read_text())
    missing = [
        f"{file.relative_to(ROOT)}: {command} {option}".strip()
        for file in DOCUMENTS
        if file != COMMANDS
        for command, options in named_commands(file.read_text())
        for option in ("", *options)
        if command not in known or option not in known[command]
    ]
    assert missing == []


def sections(text: str) -> dict[str, str]:
    """Return each command of the commands page with its help text."""
    parts = re.split(r"^##+ (margo-[a-z ]+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def named_commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands in a document's code, each with its options."""
    code = re.findall(r"`([^`\n]+)`|^(?:\$ | {4,})(.*)$", text, re.MULTILINE)
    for line in (inline or shown for inline, shown in code):
        for program, words in re.findall(r"\b(margo-oci|margo-agent)((?: [^ |&;`#]+)+)", line):
            names = re.match(rf"(?: (?:{GROUPS}))? [a-z]+(?= |$)", words)
            if names:
                yield program + names[0], re.findall(r" (--[a-z-]+)", words)


def test_links_between_files_lead_somewhere() -> None:
    dead = [
        f"{file.relative_to(ROOT)}: {link}"
        for file in DOCUMENTS
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text())
        if "://" not in link and not (file.parent / link).exists()
    ]
    assert dead == []


def test_the_documents_build_and_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list((ROOT / "docs").rglob("*.md")))
    elsewhere = [
        f"{page.name}: {tag}"
        for page in pages
        for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", page.read_text())
        if re.search(r"=['\"]?(?:https?:)?//", tag)
    ]
    assert elsewhere == []
