"""Taking steps side by side, each in its turn."""

from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from margo_agent.plan import Step


def in_turn(
    steps: Sequence[Step], before: Callable[[Step], Set[Step]], take: Callable[[Step], Any], *, at_once: int
) -> None:
    """Take every step, after those of them that are `before` it, at most `at_once` side by side.

    After the first error nothing more is begun; it is raised when those under way have ended. Steps that wait for each
    other in a circle are taken in their order, when nothing else is left.
    """
    waiting = list(steps)
    running: dict[Future[Any], Step] = {}
    with ThreadPoolExecutor(at_once, thread_name_prefix="step") as pool:
        while waiting or running:
            while len(running) < at_once and (step := _startable(waiting, running.values(), before)):
                waiting.remove(step)
                running[pool.submit(take, step)] = step
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                del running[done]
                done.result()


def _startable(waiting: Sequence[Step], running: Iterable[Step], before: Callable[[Step], Set[Step]]) -> Step | None:
    ahead = {*waiting, *running}
    free = (step for step in waiting if not before(step) & ahead - {step})
    return next(free, waiting[0] if waiting and len(ahead) == len(waiting) else None)
