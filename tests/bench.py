"""Speed and memory, measured side by side with `oras` (Python) and `skopeo` on one registry in one run.

`make bench` runs it. Whole commands are timed, in turn (ours, oras, skopeo, ours, …), and medians are compared as
ratios: these hold when the machine's speed drifts. Nothing here passes or fails.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import docker

from examples.images.build import build_all
from tests.integration.site import Site
from tests.interruption import interruptions
from tests.parts.engine import Engine, chosen_engine
from tests.parts.images import Images, web
from tests.parts.link import SlowLink
from tests.parts.oci_image import Layer, digest, push_image
from tests.parts.place import temporary_place
from tests.parts.registry import LocalRegistry

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "docs"
PROGRAMS = Path(sys.executable).parent
COUNT = 200
MANY = 1000
RUNS = 3
DELAY_S = 0.020
PASSES = 200
IMAGE_MIB = 500
LIMITED_MIB_S = 40

ORAS_PULL = """
import sys, time, logging; logging.disable(logging.CRITICAL)
from oras.provider import Registry
host, repository, folder, ca = sys.argv[1:]
start_s = time.monotonic()
Registry(host, tls_verify=ca).pull(f"{host}/{repository}", outdir=folder)
print(time.monotonic() - start_s)
"""
OUR_PULL = """
import sys, time, asyncio
from pathlib import Path
from datetime import UTC, datetime
from margo_oci import Access, Judge, Policy, PublicKey, Registry, Store, fetch, open_state, parse_reference
host, repository, folder, ca = sys.argv[1:]
async def pull():
    reference = parse_reference(f"{host}/{repository}")
    key = PublicKey.from_pem(Path("fleet.pub").read_bytes(), name="fleet.pub")
    judge = Judge(Policy([key]), lambda: datetime.now(UTC))
    async with Registry(lambda _: Access(ca_file=Path(ca))) as registry:
        await fetch(await open_state(registry, reference, judge), registry, reference, Store(Path(folder)))
Policy, Registry, fetch  # loaded before the clock starts, as oras is
start_s = time.monotonic()
asyncio.run(pull())
print(time.monotonic() - start_s)
"""
OUR_LAYER = """
import sys, time, asyncio
from pathlib import Path
from margo_oci import Access, Descriptor, Registry, Store, parse_reference
from margo_oci.transfer import pull_blob
host, digest, size, folder, ca = sys.argv[1:]
def resident_mib():
    return next(int(one.split()[1]) for one in open("/proc/self/status") if one.startswith("VmRSS")) / 1024
async def pull():
    layer, reference = Descriptor(media_type="a/b", digest=digest, size=int(size)), parse_reference(f"{host}/bench/big")
    async with Registry(lambda _: Access(ca_file=Path(ca))) as registry:
        await registry.ping(host)
        before_mib, start_s = resident_mib(), time.monotonic()
        work = asyncio.ensure_future(pull_blob(registry, reference, layer, Store(Path(folder)), limit_bytes=2**40))
        most_mib = before_mib
        while not work.done():
            await asyncio.wait({work}, timeout=0.02)
            most_mib = max(most_mib, resident_mib())
        work.result()
        print(time.monotonic() - start_s, most_mib - before_mib)
asyncio.run(pull())
"""
ORAS_PUSH = """
import sys, os, logging; logging.disable(logging.CRITICAL)
from oras.provider import Registry
host, repository, folder, ca = sys.argv[1:]
os.chdir(folder)
Registry(host, tls_verify=ca).push(f"{host}/{repository}", quiet=True,
                              files=[f"{name}:text/yaml" for name in sorted(os.listdir("."))])
"""


@dataclass
class Row:
    """One comparison: what was done over which link, and each tool's seconds."""

    what: str
    link: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median_s(self, tool: str) -> float:
        """The median of a tool's runs, in seconds."""
        return statistics.median(self.seconds[tool])

    def ratio(self, tool: str) -> float:
        """How many times as long as ours a tool takes."""
        return self.median_s(tool) / self.median_s("margo-oci")


class Bench:
    """The scene, and the commands that are timed in it."""

    def __init__(self, place: Path, registry: LocalRegistry, engine: Engine, environment: Mapping[str, str]) -> None:
        self.place = place
        self.registry = registry
        self.engine = engine
        self.environment = environment
        self.ca = str(registry.ca_file)
        self.rows: list[Row] = []
        self.grown_mib: dict[str, float] = {}

    def run(self, *command: str, cache: str = "cache") -> str:
        """Run a command; return what it printed."""
        environment = {**self.environment, "XDG_CACHE_HOME": str(self.place / cache)}
        done = subprocess.run(command, cwd=self.place, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)[:200]} ended with {done.returncode}\n{done.stderr}")
        return done.stdout

    def oci(self, *arguments: str, cache: str = "cache") -> str:
        """Run margo-oci."""
        return self.run(str(PROGRAMS / "margo-oci"), *arguments, "--ca-file", self.ca, cache=cache)

    def compare(self, what: str, link: str, tools: Mapping[str, Callable[[int], float | None]]) -> None:
        """Time the tools in turn; one that returns seconds has measured itself."""
        row = Row(what, link, {tool: [] for tool in tools})
        for number in range(RUNS):
            for tool, work in tools.items():
                start_s = time.monotonic()
                measured_s = work(number)
                row.seconds[tool].append(measured_s or time.monotonic() - start_s)
        self.rows.append(row)
        print("  ".join([f"{what}, {link}:", *(f"{tool} {row.median_s(tool):.2f} s" for tool in tools)]), flush=True)

    def pulls(self, host: str, link: str) -> None:
        """First pull, and the pull after 1 of COUNT documents changed."""
        old, new = (f"{host}/fleet/edge-17:{tag}" for tag in ("latest-counter-1", "latest-counter-2"))

        def ours(number: int, reference: str, cache: str) -> None:
            folder = self.fresh(f"ours-{number}")
            self.oci("pull", reference, "-o", str(folder), "--key", "fleet.pub", cache=cache)

        def oras(number: int, reference: str) -> None:
            repository = reference.partition("/")[2]
            self.run(sys.executable, "-c", ORAS_PULL, host, repository, str(self.fresh(f"oras-{number}")), self.ca)

        def skopeo(number: int, reference: str, *, fresh: bool) -> None:
            name = f"skopeo-{_slug(link)}-{number}"
            self.skopeo(reference, f"oci:{self.fresh(name) if fresh else self.place / name}:state")

        def skopeo_dir(number: int, reference: str) -> None:
            folder = self.fresh(f"skopeo-dir-{number}")
            folder.mkdir()
            self.skopeo(reference, f"dir:{folder}")

        def transfer(script: str) -> float:
            repository = old.partition("/")[2]
            return float(self.run(sys.executable, "-c", script, host, repository, str(self.fresh("transfer")), self.ca))

        self.compare(f"first pull of {COUNT} layers", link, {
            "margo-oci": lambda number: ours(number, old, f"cache-{link}-{number}"),
            "oras": lambda number: oras(number, old),
            "skopeo": lambda number: skopeo(number, old, fresh=True),
            "skopeo dir": lambda number: skopeo_dir(number, old),
        })  # fmt: skip
        self.compare(f"the same {COUNT}, the transfer alone", link, {
            "margo-oci": lambda _: transfer(OUR_PULL),
            "oras": lambda _: transfer(ORAS_PULL),
        })  # fmt: skip
        self.compare(f"pull, 1 of {COUNT} changed", link, {
            "margo-oci": lambda number: ours(number, new, f"cache-{link}-{number}"),
            "oras": lambda number: oras(number, new),
            "skopeo": lambda number: skopeo(number, new, fresh=False),
        })  # fmt: skip

    def pushes(self, host: str, link: str) -> None:
        """Push COUNT documents to a repository that has none of them."""

        def ours(number: int) -> None:
            reference = f"{host}/bench/ours-{_slug(link)}-{number}"
            self.oci("push", "states", reference, "--key", "fleet.key", "--scope", "edge-17")

        def oras(number: int) -> None:
            folder = str(self.place / "states")
            self.run(
                sys.executable, "-c", ORAS_PUSH, host, f"bench/oras-{_slug(link)}-{number}:latest", folder, self.ca
            )

        self.compare(f"push of {COUNT} deployments", link, {"margo-oci": ours, "oras": oras})

    def one_changed(self, host: str, link: str, count: int) -> None:
        """Push `count` deployments of which one changed; oras has to push all."""
        folder = self.place / f"many-{_slug(link)}"
        write_states(folder, host, count)
        self.push_changed(folder, host, "first")

        def ours(number: int) -> None:
            self.push_changed(folder, host, f"v{number}")

        def oras(number: int) -> None:
            name = f"bench/oras-{folder.name}-{number}:latest"
            self.run(sys.executable, "-c", ORAS_PUSH, host, name, str(folder), self.ca)

        self.compare(f"push, 1 of {count} changed", link, {"margo-oci": ours, "oras": oras})

    def push_changed(self, folder: Path, host: str, value: str, *more: str) -> None:
        """Change one parameter of one deployment in `folder`, and push them all."""
        first = folder / "d000.yaml"
        first.write_text(re.sub("value: .*", f"value: {value}", first.read_text()))
        self.oci("push", str(folder), f"{host}/fleet/{folder.name}", "--key", "fleet.key", "--scope", "edge-17", *more)

    def requests_of_a_push(self) -> str:
        """Say how many requests such a push takes."""
        asked = {}
        for more in ((), ("--no-sig-tag",)):
            self.registry.forget()
            self.push_changed(self.place / "many-direct", self.registry.host, f"counted{len(more)}", *more)
            asked[" ".join(more) or "with all signatures"] = len(self.registry.requests())
        counted = ", ".join(f"{count} ({how})" for how, count in asked.items())
        words = "one for the component and one for its image among them"
        return f"A push of {MANY} deployments of which one changed takes {counted} requests, {words}."

    def unchanged(self, host: str, link: str) -> None:
        """One pass of the agent with nothing new; the others have to ask for everything again."""
        config = self.agent_config(host, f"agent-{link}.yaml")
        self.run(str(PROGRAMS / "margo-agent"), "once", "--config", str(config))

        def ours(_: int) -> None:
            self.run(str(PROGRAMS / "margo-agent"), "once", "--config", str(config))

        def skopeo(number: int) -> None:
            self.skopeo(f"{host}/fleet/idle:latest", f"oci:{self.place / f'skopeo-{_slug(link)}-{number}'}:state")

        self.compare("nothing new", link, {"margo-oci": ours, "skopeo": skopeo})

    def large(self, host: str, link: str, blob: tuple[str, int]) -> None:
        """One large layer onto the disk, and the image it is of into the engine."""

        def layer(_: int) -> float:
            folder = str(self.fresh("layer"))
            seconds, mib = self.run(
                sys.executable, "-c", OUR_LAYER, host, blob[0], str(blob[1]), folder, self.ca
            ).split()
            self.grew(f"a layer, {link}", float(mib))
            return float(seconds)

        def skopeo_layer(_: int) -> None:
            folder = self.fresh("skopeo-layer")
            folder.mkdir()
            self.skopeo(f"{host}/bench/big:1", f"dir:{folder}")

        config = self.agent_config(host, f"large-{len(self.rows)}.yaml", source="fleet/large")

        def image(_: int) -> float:
            self.forget_image()
            shutil.rmtree(self.place / f"state-{_slug(config.name)}", ignore_errors=True)
            seconds, mib = self.watched(str(PROGRAMS / "margo-agent"), "once", "--config", str(config), "-o", "json")
            self.grew(f"an image, {link}", mib)
            return seconds

        def skopeo_image(_: int) -> None:
            self.forget_image()
            daemon = ["--dest-daemon-host", self.environment["DOCKER_HOST"]]
            self.skopeo(f"{host}/bench/big:1", "docker-daemon:bench/big:1", *daemon)

        what = f"{IMAGE_MIB} MiB"
        self.compare(f"a layer of {what}", link, {"margo-oci": layer, "skopeo": skopeo_layer})
        self.compare(f"an image of {what}, into the engine", link, {"margo-oci": image, "skopeo": skopeo_image})

    def grew(self, what: str, mib: float) -> None:
        """Note how much memory something took besides; the most counts."""
        self.grown_mib[what] = max(self.grown_mib.get(what, 0.0), mib)

    def watched(self, *command: str) -> tuple[float, float]:
        """Run a pass; return the seconds until its images were there, and how many MiB it grew while they came."""
        first_mib = most_mib = 0.0
        with subprocess.Popen(
            command, cwd=self.place, env=dict(self.environment), stdout=subprocess.PIPE, text=True
        ) as once:
            assert once.stdout
            while once.poll() is None:
                if first_mib or _large_part_in(self.place):
                    most_mib = max(most_mib, resident_mib(once.pid))
                    first_mib = first_mib or most_mib
                time.sleep(0.02)
            report = json.loads(once.stdout.read())
        if report["outcome"] != "applied":
            raise RuntimeError(str(report))
        return sum(report["seconds"][step] for step in ("resolve", "verify", "fetch", "prepare")), most_mib - first_mib

    def forget_image(self) -> None:
        """Remove the large image, and what runs of it, from the engine."""
        with closing(docker.DockerClient(base_url=self.environment["DOCKER_HOST"], timeout=300)) as client:
            for container in client.containers.list(all=True):
                container.remove(force=True)
            for image in client.images.list():
                if any("bench/big" in tag for tag in image.tags):
                    client.images.remove(str(image.id), force=True)

    def skopeo(self, reference: str, to: str, *more: str) -> None:
        """Run skopeo copy."""
        self.run(
            "skopeo", "copy", "--quiet", "--src-cert-dir", str(self.place / "certs"), f"docker://{reference}", to, *more
        )

    def agent_config(
        self, host: str, name: str, trust: str = "{keys: [fleet.pub]}", source: str = "fleet/idle"
    ) -> Path:
        """Write the configuration of a device that follows `source` over `host`, and has all else over it as well."""
        config = self.place / name
        access = dict.fromkeys((host, self.registry.host), f'caFile: "{self.ca}"')
        if host != self.registry.host:
            access[self.registry.host] += f', mirrors: ["{host}"]'
        hosts = ", ".join(f'"{one}": {{{how}}}' for one, how in access.items())
        config.write_text(
            f"device: edge-17\nsource: {host}/{source}:latest\nscopes: [edge-17]\ntrust: {trust}\n"
            f"registries: {{{hosts}}}\ninterval: 1h\nstateDir: state-{_slug(name)}\n"
        )
        return config

    def issue_heads(self) -> str:
        """Make a root, and a head for fleet/idle; return the configuration's part `trust` that asks for it."""
        program = str(PROGRAMS / "margo-oci")
        for name in ("holder", "head"):
            self.run(program, "keygen", "--name", name, "--no-password")
        self.run(program, "root", "init", "-o", "1.root.json", "--root-key", "holder.pub", "--root-threshold", "1",
                 "--head-key", "head.pub", "--release-key", "fleet.pub")  # fmt: skip
        self.run(program, "root", "sign", "1.root.json", "--key", "holder.key")
        state = f"{self.registry.host}/fleet/idle:latest"
        self.oci("head", "issue", state, "--root", "1.root.json", "--key", "head.key", "--scope", "edge-17")
        return "{mode: head+release, root: 1.root.json}"

    def idle_memory(self, config: Path) -> tuple[float, float, int]:
        """Return the idle loop's resident memory after its first and after PASSES passes, in MiB."""
        self.run(str(PROGRAMS / "margo-agent"), "once", "--config", str(config))
        agent = subprocess.Popen(
            [str(PROGRAMS / "margo-agent"), "run", "--config", str(config)],
            cwd=self.place, env=dict(self.environment), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            time.sleep(3)
            first = resident_mib(agent.pid)
            self.registry.forget()
            for _ in range(PASSES):
                agent.send_signal(1)  # SIGHUP: look now
                time.sleep(0.05)
            time.sleep(1)
            return first, resident_mib(agent.pid), len(self.registry.requests())
        finally:
            agent.terminate()
            agent.wait(10)

    def fresh(self, name: str) -> Path:
        """Return a folder that is not there."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        return self.place / name


def _slug(link: str) -> str:
    return link.replace(" ", "")


def resident_mib(pid: int) -> float:
    """Return VmRSS of a process; one that just ended has none."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next((line for line in lines if line.startswith("VmRSS")), "VmRSS: 0 kB").split()[1]) / 1024


def write_states(folder: Path, host: str, count: int, component: str = "hello") -> None:
    """Write documents of about 1.5 kB that all use one component."""
    folder.mkdir(exist_ok=True)
    padding = "\n".join(f"    # {'note ' * 12}{line}" for line in range(14))
    for number in range(count):
        (folder / f"d{number:03}.yaml").write_text(
            f"id: 00000000-0000-4000-8000-{number:012}\nmetadata: {{name: d{number:03}, namespace: bench}}\n"
            "spec:\n  applicationId: bench\n  deploymentProfile:\n    type: compose\n    components:\n"
            f"      - name: {component}\n        properties:\n"
            f"          {{repository: 'oci://{host}/components/{component}', revision: 1.0.0}}\n"
            f"  parameters:\n{padding}\n    greeting:\n      value: one\n"
            f"      targets: [{{pointer: GREETING, components: [{component}]}}]\n"
        )


def publish_large(bench: Bench) -> tuple[str, int]:
    """Push an image with one large layer and a state that runs it; return the layer's digest and size."""
    host = bench.registry.host
    layer = Layer.random(IMAGE_MIB * 2**20, "large")
    push_image(bench.registry, "bench/big", "1", [layer, Layer.base()])
    (bench.place / "large").mkdir()
    (bench.place / "large" / "compose.yaml").write_text(
        f"services:\n  big:\n    image: {host}/bench/big:1\n    network_mode: none\n"
    )
    bench.oci("component", "push", "large", f"{host}/components/large:1.0.0")
    write_states(bench.place / "large-state", host, 1, component="large")
    bench.oci("push", "large-state", f"{host}/fleet/large", "--key", "fleet.key", "--scope", "edge-17")
    return digest(layer.data), len(layer.data)


def _large_part_in(place: Path) -> bool:
    return any(file.stat().st_size > 2**20 for file in place.glob("state-large-*/ingest/*"))


@contextmanager
def scene() -> Iterator[Bench]:
    """Set up registry, engine, keys, and two releases of a state with COUNT deployments."""
    with ExitStack() as stack:
        place = stack.enter_context(temporary_place())
        registry = stack.enter_context(LocalRegistry(place / "registry", "tls"))
        engine = stack.enter_context(chosen_engine(place / "engine"))
        environment = {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}:/usr/sbin",
            "HOME": str(place),
            "DOCKER_HOST": engine.docker_host,
            "DOCKER_CONFIG": str(engine.docker_config),
            "LANG": "C.UTF-8",
        }
        bench = Bench(place, registry, engine, environment)
        (place / "certs").mkdir()
        shutil.copy(bench.ca, place / "certs" / "ca.crt")
        build_all(registry.host, engine.docker_host)
        shutil.copytree(ROOT / "examples/components/hello", place / "hello")
        compose = place / "hello" / "compose.yaml"
        compose.write_text(compose.read_text().replace("127.0.0.1:5000", registry.host))
        bench.run(str(PROGRAMS / "margo-oci"), "keygen", "--name", "fleet", "--no-password")
        bench.oci("component", "push", "hello", f"{registry.host}/components/hello:1.0.0")
        write_states(place / "idle", registry.host, 1)
        bench.oci("push", "idle", f"{registry.host}/fleet/idle", "--key", "fleet.key", "--scope", "edge-17")
        write_states(place / "states", registry.host, COUNT)
        for greeting in ("one", "two"):
            changed = place / "states" / "d000.yaml"
            changed.write_text(changed.read_text().replace("value: one", f"value: {greeting}"))
            bench.oci("push", "states", f"{registry.host}/fleet/edge-17", "--key", "fleet.key", "--scope", "edge-17")
        yield bench


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| what | link | margo-oci | oras | skopeo | skopeo dir |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        others = [
            f"{row.median_s(t):.2f} s ({row.ratio(t):.1f}×)" if t in row.seconds else ""
            for t in ("oras", "skopeo", "skopeo dir")
        ]
        lines.append(f"| {row.what} | {row.link} | {row.median_s('margo-oci'):.2f} s | {' | '.join(others)} |")
    return "\n".join(lines)


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw the ratios."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "margo-oci"
    import matplotlib.pyplot as plt

    bars = [
        (f"{row.what}\n{row.link}", tool, row.ratio(tool))
        for row in rows
        for tool in row.seconds
        if tool != "margo-oci"
    ]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(bars) + 1))
    colours = {"oras": "#4477aa", "skopeo": "#cc7733", "skopeo dir": "#bbaa55"}
    for place, (_, tool, ratio) in enumerate(reversed(bars)):
        axes.barh(place, ratio, color=colours[tool])
        axes.text(ratio * 1.05, place, f"{tool} {ratio:.1f}×", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in reversed(bars)], fontsize=7)
    axes.set_xscale("log")
    axes.set_xlim(0.5, max(ratio for _, _, ratio in bars) * 3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times as long as margo-oci (log scale; right of the line margo-oci is faster)", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def memories(bench: Bench) -> str:
    """Measure the idle loop in both modes, and say it."""
    lines = []
    for mode, trust in (("release", "{keys: [fleet.pub]}"), ("head+release", bench.issue_heads())):
        config = bench.agent_config(bench.registry.host, f"agent-{mode.partition('+')[0]}.yaml", trust)
        first, last, looks = bench.idle_memory(config)
        lines.append(
            f"Idle agent, mode `{mode}`: {first:.1f} MiB resident after its first look, "
            f"{last:.1f} MiB after {looks} more."
        )
    return "\n".join(lines)


def larges(bench: Bench, registry: tuple[str, int]) -> str:
    """Measure one large layer and image, direct and over a limited link, and say how much memory that took."""
    blob = publish_large(bench)
    bench.large(bench.registry.host, "direct", blob)
    with SlowLink(*registry, DELAY_S, LIMITED_MIB_S * 2**20) as limited:
        bench.large(limited.host, f"40 ms, {LIMITED_MIB_S} MiB a second", blob)
    grown = ", ".join(f"{mib:.1f} MiB for {what}" for what, mib in bench.grown_mib.items())
    return f"While {IMAGE_MIB} MiB come, a process grows by {grown}."


def interrupted(bench: Bench) -> str:
    """Measure how long a service is away when its parameter changes, and say it."""
    (bench.place / "interruption").mkdir()
    site = Site(bench.place / "interruption", bench.registry, bench.engine)
    Images(bench.engine.docker_host, bench.registry.host).push("images/web", "1.0", web())
    agents_s, by_hand_s = interruptions(site, f"{bench.registry.host}/images/web:1.0", 2 * RUNS + 1)
    site.take_down()
    return (
        f"A service whose parameter changes is away for {agents_s:.2f} s when the agent does it, "
        f"for {by_hand_s:.2f} s with `docker compose up` by hand."
    )


def main() -> None:
    """Measure, print, and write docs/benchmarks.md with its plot."""
    with scene() as bench, SlowLink("127.0.0.1", int(bench.registry.host.rpartition(":")[2]), DELAY_S) as slow:
        links = {"direct": bench.registry.host, "40 ms": f"127.0.0.1:{slow.port}"}
        for link, host in links.items():
            bench.pulls(host, link)
            bench.pushes(host, link)
            bench.unchanged(host, link)
            bench.one_changed(host, link, MANY if link == "direct" else COUNT)
        memory = (
            f"{bench.requests_of_a_push()}\n\n{memories(bench)}\n\n{larges(bench, slow.target)}\n\n{interrupted(bench)}"
        )
    print(f"\n{table(bench.rows)}\n\n{memory}")
    plot(bench.rows, DOCUMENTS / "benchmarks.svg")
    (DOCUMENTS / "benchmarks.md").write_text(PAGE.format(table=table(bench.rows), memory=memory, runs=RUNS))
    raw = {f"{row.what}, {row.link}": row.seconds for row in bench.rows}
    print(json.dumps(raw))


PAGE = """# Benchmarks

`make bench` measures this on your machine: whole commands against one registry (CNCF distribution 2.8 over TLS) in one
run, in turn, the median of {runs}. "40 ms" goes through a proxy that adds 40 ms to each round trip. The figures in
brackets say how many times as long as `margo-oci` another tool takes for the same layers; look at those, not at the
seconds.

{table}

{memory}

![ratios](benchmarks.svg)

What is compared: `margo-oci pull` (it also verifies the signature and every byte, and parses every document),
`oras` for Python (`Registry.pull`, `Registry.push`), and `skopeo copy` into an OCI layout, which fetches six at a time
and keeps layers it has, and into a folder (`dir:`), one after the other. "The transfer alone" leaves out starting
Python and loading modules, on both sides.
`margo-oci push` also resolves and locks what the deployments lead to, and signs. "Nothing new" is a whole
`margo-agent once`. The large layer goes into a file (`dir:` for skopeo), the large image through `margo-agent once`
until the engine has it, and with skopeo into the same engine (`docker-daemon:`).
"""


if __name__ == "__main__":
    main()
