"""How a pass over something wrong must end: said so, and everything as it was on a `running_plant`."""

from margo_oci.content import digest_of
from tests.simulators.plant import Plant


def assert_refused(plant: Plant, reason: str, message: str, *, counter: int = 1) -> None:
    """A pass refuses, for this reason and in these words; `counter` is the highest one accepted."""
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", reason)
    assert message in report.message
    assert report.exit_code == 4
    assert_untouched(plant, counter=counter)


def assert_unreachable(plant: Plant, message: str, *, counter: int = 1) -> None:
    """A pass gives up until the next one, in these words."""
    report = plant.device.once()
    assert report.outcome == "unreachable"
    assert message in report.message
    assert report.exit_code == 3
    assert_untouched(plant, counter=counter)


def assert_untouched(plant: Plant, *, counter: int = 1) -> None:
    """What ran runs, the engine was asked for nothing, and no more was accepted than that."""
    assert plant.device.engine.running == {"pump": "a"}
    assert plant.device.engine.log == []
    assert plant.device.counter == counter
    assert_clean(plant)


def assert_clean(plant: Plant) -> None:
    """The store holds only what it says it does, and nothing half."""
    assert [digest for digest, data in plant.device.blobs.items() if digest_of(data) != digest] == []
    assert plant.device.parts == []
