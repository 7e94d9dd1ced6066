"""Builds what a process needs out of its parts, each when it is asked for, and once."""

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from margo_agent.address import EngineUnavailable, find_engine
from margo_agent.applying import Applier
from margo_agent.cleaning import Cleaner
from margo_agent.clock import system_clock
from margo_agent.confidential import Secrets, agent_folder, can_give_files_away, kind_of_disk, secrets_folder
from margo_agent.config import AgentConfig
from margo_agent.correcting import Corrector
from margo_agent.crew import Crew
from margo_agent.engine import Engine
from margo_agent.gate import Gate
from margo_agent.gather import Gatherer
from margo_agent.generation import Generations
from margo_agent.given import GivenNames
from margo_agent.images import Images
from margo_agent.lookout import Lookout
from margo_agent.noticed import NoticedFile
from margo_agent.preview import Preview
from margo_agent.reconcile import Reconciler
from margo_agent.record import RecordFile
from margo_agent.room import Room, usage_of
from margo_agent.runtime import Runtime
from margo_agent.stepping import Stepper
from margo_agent.surroundings import Surroundings
from margo_agent.survey import Survey
from margo_agent.trusted import load_trusted
from margo_oci.compose import Compose, find_compose
from margo_oci.errors import FormatError
from margo_oci.pace import Pace
from margo_oci.registry import Registry
from margo_oci.store import Store

if TYPE_CHECKING:
    from margo_oci.jwe import PrivateKey

# What Compose is allowed to see of our environment: enough to find programs and the engine.
_FOR_COMPOSE = ("PATH", "HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR")


class Parts:
    """The parts of one process; `environment` is its own; `source` stands in for all registries.

    `on_stop` makes a stop that is asked for a matter of what it returns, which raises Stopped then; before it is
    called, a stop ends the process at once.
    """

    def __init__(
        self,
        config: AgentConfig,
        environment: Mapping[str, str],
        gate: Gate,
        on_stop: Callable[[], Callable[[], None]],
        source: Callable[[], Registry] | None = None,
    ) -> None:
        self.config = config
        self.environment = environment
        self.gate = gate
        self.record_file = RecordFile(config.state_dir / "record.json")
        self.store = Store(config.state_dir)
        self.given = GivenNames(config.state_dir / "images.json")
        self.pace = Pace(config.transfer.most_bytes_s, config.transfer.least_bytes_s)
        self._on_stop = on_stop
        self._source = source
        self._interruptions: list[Callable[[], None]] = []

    @functools.cached_property
    def _stopped(self) -> Callable[[], None]:
        """What raises Stopped once a stop is asked for; made once, else one that was asked for is forgotten."""
        return self._on_stop()

    def go_on(self) -> None:
        """Raise Interrupted if there is something better to do."""
        for interruption in self._interruptions:
            interruption()

    def registry(self) -> Registry:
        """Return a new reader of registries."""
        return self._source() if self._source else Registry(self.config.access, pace=self.pace)

    @property
    def keep_free_bytes(self) -> int:
        """How much of each disk is kept free."""
        return self.config.clean.kept_free_bytes(usage_of(self.config.state_dir)[0])

    @property
    def engine_address(self) -> str:
        """Where the engine is. Raises EngineUnavailable."""
        return find_engine(self.config.engine, self.environment)

    @functools.cached_property
    def engine(self) -> Engine:
        """The engine, which answers. Raises EngineUnavailable."""
        return Engine(self.engine_address)

    @functools.cached_property
    def compose(self) -> Compose:
        """Docker Compose. Raises EngineUnavailable if it is missing: that is no fault of what this device was sent."""
        try:
            command = find_compose()
        except FormatError as error:
            raise EngineUnavailable(str(error)) from None
        kept = {name: self.environment[name] for name in _FOR_COMPOSE if name in self.environment}
        return Compose(command, {**kept, "DOCKER_HOST": self.engine_address})

    @functools.cached_property
    def generations(self) -> Generations:
        """The folders of what runs. Raises EngineUnavailable."""
        return Generations(self.config.state_dir, self.compose, self.config.device, self.secrets)

    @functools.cached_property
    def secrets(self) -> Secrets:
        """Who opens and keeps secrets."""
        folder = secrets_folder(self.config.secrets_dir, self.environment)
        own = agent_folder(self.config.state_dir)
        return Secrets(folder, self._opening_keys, kind_of_disk, own, can_give_files_away())

    def _opening_keys(self) -> "Sequence[PrivateKey]":
        # Imported when there is a secret: X.509 is needed for nothing else.
        from margo_agent.device_identity import load_keys

        return load_keys(self.config)

    @functools.cached_property
    def images(self) -> Images:
        """Who brings images. Raises EngineUnavailable."""
        room = Room(
            state_dir=self.config.state_dir,
            keep_free_bytes=self.keep_free_bytes,
            free_up=self.cleaner().free_up,
        )
        return Images(
            engine=self.engine,
            registry=self.registry,
            store=self.store,
            room=room,
            given=self.given,
            go_on=self.go_on,
        )

    @functools.cached_property
    def runtime(self) -> Runtime:
        """Who brings generations up. Raises EngineUnavailable."""
        return Runtime(
            self.compose,
            self.engine,
            self.images,
            Surroundings(self.engine, self.config.device, lambda: self.record_file.load().installed).misfits,
            go_on=self.go_on,
            settle_s=self.config.apply.settle_s,
            place=self.generations.place,
        )

    def reconciler(self) -> Reconciler:
        """Build a pass. Raises FormatError for a key that cannot be used."""
        gatherer = Gatherer(
            config=self.config,
            trusted=load_trusted(self.config, system_clock()),
            registry=self.registry,
            store=self.store,
            record_file=self.record_file,
            generations=lambda: self.generations,
            survey=Survey(store=self.store, generations=lambda: self.generations, images=lambda: self.images),
        )
        return Reconciler(
            gatherer=gatherer,
            record_file=self.record_file,
            applier=lambda: self._applier(gatherer),
            preview=lambda: Preview(
                generations=self.generations, runtime=self.runtime, atomic=self.config.apply.atomic
            ),
        )

    def _applier(self, gatherer: Gatherer) -> Applier:
        lookout = Lookout(gatherer.newest, every_s=self.config.interval_s)
        self._interruptions = [self._stopped, lookout.check]
        stepper = Stepper(generations=self.generations, runtime=self.runtime, now=lambda: datetime.now(UTC))
        return Applier(
            record_file=self.record_file,
            generations=self.generations,
            crew=Crew(stepper=stepper),
            gate=self.gate,
            lookout=lookout,
            atomic=self.config.apply.atomic,
        )

    def cleaner(self) -> Cleaner:
        """Build what takes away what nothing needs."""
        return Cleaner(
            state_dir=self.config.state_dir,
            engine=lambda: self.engine,
            now_s=lambda: system_clock().now(self.record_file.load().time).timestamp(),
            after_s=self.config.clean.after_s,
            keep_free_bytes=self.keep_free_bytes,
            secrets=self.secrets,
        )

    def corrector(self) -> Corrector:
        """Build what looks for drift. With a hold, and with `drift: report`, nothing is touched."""
        self._interruptions = [self._stopped]
        held = self.gate.held
        reported = self.config.drift == "report"
        return Corrector(
            device=self.config.device,
            generations=self.generations,
            runtime=self.runtime,
            noticed_file=NoticedFile(self.config.state_dir / "drift.json"),
            given=self.given,
            leave="only reported: drift: report" if reported else "only reported: on hold" if held else "",
            held=held and not reported,
        )
