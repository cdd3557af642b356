"""Live tracking of a run beside its history.csv: Weights & Biases, TensorBoard.

A tracker shows; it never decides. One that fails is left out with a line of warning, and the run
goes on with its csv.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from unlearn.config import Config, loggers, method_of, relevant
from unlearn.runs.record import Record

log = logging.getLogger(__name__)

PROJECT = "few-shot-unlearning"
RESULTS = "results"
COLUMNS = ["scenario", "method", "intention", "metric", "original", "unlearned"]
GRID = re.compile(r"samples-(\d+)")  # SampleGrid's, with the step of the inversion


class Sink(ABC):
    """One place where a run can be watched."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Losses of a stage after so many of its own steps, named STAGE/LOSS."""

    @abstractmethod
    def pictures(self, paths: Mapping[str, Path], step: int | None = None) -> None:
        """PNG files by name; those of a stage are named STAGE/PICTURE and have its step."""

    @abstractmethod
    def result(self, metrics: Mapping[str, Any]) -> None:
        """What metrics.json holds."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """End of the run."""


class WandbSink(Sink):
    """A W&B run of its own, online or offline. The same job again continues its run.

    Raises:
        wandb.Error: without a key and online, or if the server cannot be reached.
    """

    def __init__(self, cfg: Config, folder: Path, identity: str) -> None:
        found = wandb.setup(wandb.Settings(silent=True)).settings
        online = found.mode not in ("offline", "dryrun", "disabled")
        if online and not wandb.login(prompt=False, verify=False):
            raise wandb.errors.UsageError("no key; wandb login, or WANDB_MODE=offline")
        self.run = wandb.init(
            project=found.project or PROJECT,
            id=identity,
            resume="allow",
            reinit="create_new",  # never the run of another job in this process
            name="/".join(folder.parts[-3:]),
            group=cfg.experiment or cfg.scenario.name,
            job_type=method_of(cfg),
            tags=tags(cfg),
            config=asdict(cfg),
            dir=str(folder),
            settings=wandb.Settings(console="off", silent=True, finish_timeout=600),
        )
        self._stages: set[str] = set()
        if found.mode != "disabled":
            log.info("wandb: %s", self.run.url if online else Path(self.run.dir).parent)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, **self._axes(values, step)})

    def pictures(self, paths: Mapping[str, Path], step: int | None = None) -> None:
        shown = {name: wandb.Image(str(path)) for name, path in paths.items()}
        self.run.log({**shown, **self._axes(paths, step)})

    def result(self, metrics: Mapping[str, Any]) -> None:
        self.run.log(
            {**flat(metrics), RESULTS: wandb.Table(columns=[*COLUMNS], data=rows(metrics))}
        )

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))

    def _axes(self, names: Mapping[str, Any], step: int | None) -> dict[str, int]:
        """Every stage counts its own steps: trainers start at 0, W&B's own step only grows."""
        if step is None:
            return {}
        stages = {name.split("/")[0] for name in names}
        for stage in stages - self._stages:
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._stages |= stages
        return {f"{stage}/step": step for stage in stages}


class TensorBoardSink(Sink):
    """Event files in the run's folder, under ``tensorboard``."""

    def __init__(self, cfg: Config, folder: Path, identity: str) -> None:
        self.config = relevant(cfg)
        self.logger = TensorBoardLogger(folder, name="tensorboard", version="")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(dict(values), step)

    def pictures(self, paths: Mapping[str, Path], step: int | None = None) -> None:
        for name, path in paths.items():
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self.logger.experiment.add_image(name, pixels, step, dataformats="HWC")

    def result(self, metrics: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(self.config, flat(metrics), 0)

    def close(self, failed: bool) -> None:
        self.logger.finalize("failed" if failed else "success")


SINKS: dict[str, type[WandbSink] | type[TensorBoardSink]] = {
    "wandb": WandbSink,
    "tensorboard": TensorBoardSink,
}


class Tracker(Logger):
    """A Lightning logger that hands on to every sink; false where there is none.

    Sent to another process it has none: what a job over several devices logs there is shown at
    the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sinks: dict[str, Sink] = {}
        self._live: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.sinks)

    @property
    def name(self) -> str:
        return PROJECT

    @property
    def version(self) -> None:
        return None

    def open(self, name: str, make: Callable[[], Sink]) -> None:
        """Add a sink, or say why it cannot be."""
        # Whatever a tracker raises (no key, no server, no disk), the run's result comes first.
        try:
            self.sinks[name] = make()
        except Exception as error:
            _left_out(name, error)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Losses of a stage, named STAGE/LOSS, after so many of its own steps."""
        self._live |= {name.split("/")[0] for name in metrics}
        self._each(lambda sink: sink.scalars(metrics, step or 0))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the sinks know the configuration from the start."""

    def log_image(self, key: str, images: Sequence[str | Path], step: int | None = None) -> None:
        """The first of the PNG files, as Lightning's WandbLogger would take it."""
        self._each(lambda sink: sink.pictures({key: Path(images[0])}, step))

    def finish(
        self,
        record: Record,
        history: Mapping[str, Sequence[Mapping[str, float]]],
        pictures: Path,
    ) -> None:
        """Show the result of a run.

        Args:
            record: the content of metrics.json.
            history: the losses of every stage; of those that were not seen live (they came out
                of the store, or of other processes) all is shown now.
            pictures: the folder of the run's PNG files.
        """
        found = {path: GRID.fullmatch(path.stem) for path in sorted(pictures.glob("*.png"))}
        for stage in [stage for stage in history if stage not in self._live]:
            for row in history[stage]:
                losses = {f"{stage}/{k}": v for k, v in row.items() if k != "step"}
                self.log_metrics(losses, int(row["step"]))
            for path, grid in found.items():
                if grid and stage == "inversion":
                    self.log_image("inversion/samples", [path], int(grid[1]))
        last = {f"pictures/{path.stem}": path for path, grid in found.items() if not grid}
        self._each(lambda sink: sink.pictures(last))
        self._each(lambda sink: sink.result(record.plain()))

    def close(self, failed: bool) -> None:
        """End of the run, for every sink."""
        self._each(lambda sink: sink.close(failed))
        self.sinks = {}

    def _each(self, act: Callable[[Sink], None]) -> None:
        for name, sink in list(self.sinks.items()):
            try:
                act(sink)
            except Exception as error:
                del self.sinks[name]
                _left_out(name, error)
                with suppress(Exception):
                    sink.close(failed=True)


@contextmanager
def tracker(cfg: Config, folder: Path, identity: str) -> Iterator[Tracker]:
    """Where a run can be watched, open for one job and closed after it, whatever becomes of it.

    Args:
        cfg: a checked configuration; ``logger`` names the sinks.
        folder: the run's folder, which exists.
        identity: the run's config hash.
    """
    track = Tracker()
    for name in loggers(cfg):
        track.open(name, partial(SINKS[name], cfg, folder, identity))
    failed = True
    try:
        yield track
        failed = False
    finally:
        track.close(failed)


def tags(cfg: Config) -> list[str]:
    """What a run is found by, less what it does not depend on."""
    every = {"intention", "shot", "seed"}
    uses = every if cfg.baseline is None else cfg.baseline.uses
    knobs = {
        "intention": cfg.intention.name,
        "shot": f"shot={cfg.shot}",
        "seed": f"seed={cfg.seed}",
    }
    found = [cfg.scenario.name, method_of(cfg), cfg.scale]
    return found + [tag for knob, tag in knobs.items() if knob in uses]


def flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of metrics.json under flat names, seconds as ``seconds/STAGE``."""
    seconds = metrics["seconds"]
    found = {
        **metrics["metrics"],
        **{f"still_target_{k}": v for k, v in metrics["still_target"].items()},
        **{f"seconds/{k}": v for k, v in seconds.items()},
        "seconds/total": sum(seconds.values()),
        **{k: metrics.get(k) for k in ("shots", "target_like", "samples", "threshold")},
    }
    return {k: float(v) for k, v in found.items() if v is not None}


def rows(metrics: Mapping[str, Any]) -> list[list[Any]]:
    """The unlearned model against the original, one row a metric, under ``COLUMNS``."""
    values = metrics["metrics"]
    run = [metrics["scenario"], metrics["method"], metrics["intention"] or ""]
    return [
        [*run, name, values.get(f"original_{name}"), value]
        for name, value in values.items()
        if not name.startswith("original_")
    ]


def _left_out(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    log.warning("logger: %s failed (%s); the run goes on with csv", name, reason)
