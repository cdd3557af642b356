"""How cost grows: filtration with the samples, a step of inversion with shots and with classes."""

from __future__ import annotations

from .measure import Cell, Options, Result, in_turns, seconds_of, spread_of
from .stages import filtration
from .subjects import NETWORKS, computing_of, inversion_of, settings, step_of

SAMPLES = {"tiny": [1, 2], "demo": [25, 100, 400], "paper": [125, 500, 2000]}
SHOTS = {"tiny": [1, 3], "demo": [1, 30, 300], "paper": [1, 30, 300, 3000]}
CLASSES = {"tiny": [2, 5], "demo": [2, 10, 100], "paper": [2, 10, 100]}


def bench(options: Options) -> list[Result]:
    """Three tables, each from the smallest on."""
    return [by_samples(options), by_shots(options), by_classes(options)]


def by_samples(options: Options) -> Result:
    """A round of filtration."""
    ways = {}
    for number in SAMPLES[options.scale]:
        cfg = settings(options.scale, f"filtration.per_condition={number}")
        stage = filtration(cfg, options.scale, options.device)
        ways[str(number)] = lambda stage=stage: stage.run([])
    times = in_turns(ways, options.repeats, options.device)
    return Result(
        "Filtration, one round, by samples for each condition",
        [{"samples": n, "seconds": spread_of(seconds)} for n, seconds in times.items()],
    )


def by_shots(options: Options) -> Result:
    """D_e's statistics are taken once, when an inversion is set up."""
    return _steps(options, "shots", SHOTS[options.scale])


def by_classes(options: Options) -> Result:
    """The batch stays as it is, or is as large as the classes need."""
    return _steps(options, "classes", CLASSES[options.scale])


def _steps(options: Options, what: str, numbers: list[int]) -> Result:
    ways, start, batch = {}, {}, {}
    for number in numbers:
        cfg = settings(options.scale)
        c = cfg.inversion
        c.batch_size = max(c.batch_size, number + 1) if what == "classes" else c.batch_size
        batch[str(number)] = c.batch_size

        def make(number: int = number, cfg=cfg):  # type: ignore[no-untyped-def]
            return inversion_of(cfg, options.device, NETWORKS[options.scale], **{what: number})[0]

        module = make()
        start[str(number)] = [seconds_of(make, options.device) for _ in range(2)]
        ways[str(number)] = step_of(module, 0, computing_of(cfg), options.device)
    times = in_turns(ways, options.repeats, options.device)
    rows: list[dict[str, Cell]] = [
        {
            what: n,
            "batch": batch[n],
            "ms to set up": spread_of([1000 * s for s in start[n]]),
            "ms a step": spread_of([1000 * s for s in seconds]),
        }
        for n, seconds in times.items()
    ]
    return Result(f"A step of inversion, by {what}", rows)
