"""Inversions of several seeds: one after the other, or as many processes at once."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import multiprocessing

from unlearn.inversion.invert import invert

from .measure import Options, Result, ratios, spread_of, wait_for
from .subjects import NETWORKS, computing_of, inversion_of, settings

SEEDS = {"tiny": 2, "demo": 2, "paper": 4}
STEPS = {"tiny": 2, "demo": 10, "paper": 100}


def one(scale: str, device: torch.device, seed: int) -> float:
    """A few steps of one seed's inversion; the last loss."""
    cfg = settings(scale, f"inversion.steps={STEPS[scale]}")
    inversion = inversion_of(cfg, device, NETWORKS[scale], seed=seed)[0]
    loss = invert(inversion, device, computing=computing_of(cfg))[-1]["loss"]
    wait_for(device)
    return loss


def bench(options: Options) -> list[Result]:
    """Each way as a whole; starting the processes, once for a sweep's job, is told apart."""
    number, scale, device = SEEDS[options.scale], options.scale, options.device
    turn: list[float] = []
    at_once: list[float] = []
    losses: tuple[list[float], list[float]] = ([], [])
    starting = time.perf_counter()
    with Workers(number, scale, device) as workers:
        workers.run()  # warms up
        starting = time.perf_counter() - starting
        for seed in range(number):
            one(scale, device, seed)
        for _ in range(options.repeats):
            start = time.perf_counter()
            losses = ([one(scale, device, seed) for seed in range(number)], losses[1])
            turn.append(time.perf_counter() - start)
            start = time.perf_counter()
            losses = (losses[0], workers.run())
            at_once.append(time.perf_counter() - start)
    name, width, _ = NETWORKS[scale]
    threads = torch.get_num_threads()
    return [
        Result(
            f"{number} seeds' inversions of {STEPS[scale]} steps, {name} of width {width}",
            [
                {"way": f"in turn, {threads} threads", "seconds for all": spread_of(turn)},
                {
                    "way": f"{number} processes, {_share(number)} threads each",
                    "seconds for all": spread_of(at_once),
                    "times faster": spread_of(ratios(turn, at_once)),
                },
            ],
            {
                "seconds to start the processes and warm them up": starting,
                "largest difference of the last losses, relative": max(
                    abs(a - b) / abs(a) for a, b in zip(*losses, strict=True)
                ),
            },
        )
    ]


class Workers:
    """As many processes as seeds, which run theirs when told to; gone after the block."""

    def __init__(self, number: int, scale: str, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for seed in range(number):
            here, there = context.Pipe()
            settings = (there, scale, device, seed, _share(number))
            process = context.Process(target=_work, args=settings, daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join()

    def run(self) -> list[float]:
        """All seeds at once; their last losses."""
        for pipe in self.pipes:
            pipe.send("run")
        return [float(pipe.recv()) for pipe in self.pipes]


def _share(number: int) -> int:
    return max(1, torch.get_num_threads() // number)


def _work(pipe: Any, scale: str, device: torch.device, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(one(scale, device, seed))
