"""Live tracking of a run beside its history.csv, by Lightning's loggers: conf/logger/*.yaml.

A logger shows; it never decides. One that fails is left out with a line of warning, and the run
goes on with its csv.
"""

from __future__ import annotations

import logging
import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial, singledispatch
from pathlib import Path
from typing import Any, cast

import numpy as np
import wandb
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from unlearn.config import Config, method_of
from unlearn.runs.record import Record

log = logging.getLogger(__name__)

PROJECT = "few-shot-unlearning"
RESULTS = "results"
COLUMNS = ["scenario", "method", "intention", "metric", "original", "unlearned"]
GRID = re.compile(r"samples-(\d+)")  # SampleGrid's, with the step of the inversion


class View:
    """What a Lightning logger shows of a run: losses, settings, result, and pictures if it can.

    A logger with more to it has a view of its own, found by ``view``.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def start(self, config: dict[str, Any]) -> None:
        """The settings of the run."""
        self.logger.log_hyperparams(config)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Losses of a stage after so many of its own steps, named STAGE/LOSS."""
        self.logger.log_metrics(dict(values), step)

    def pictures(self, paths: Mapping[str, Path], step: int | None = None) -> None:
        """PNG files by name; those of a stage are named STAGE/PICTURE and have its step."""
        show = getattr(self.logger, "log_image", None)
        for name, path in paths.items():
            if show is not None:
                show(name, [str(path)], step=step)

    def result(self, record: Record) -> None:
        """The run's numbers; their step is none of a stage's."""
        self.logger.log_metrics(flat(record))

    def close(self, failed: bool) -> None:
        """End of the run."""
        self.logger.finalize("failed" if failed else "success")


class WandbView(View):
    """A W&B run of its own, online or offline.

    Raises:
        wandb.Error: without a key and online, or if the server cannot be reached.
    """

    def __init__(self, logger: WandbLogger) -> None:
        super().__init__(logger)
        found = wandb.setup(wandb.Settings(silent=True)).settings
        online = found.mode not in ("offline", "dryrun", "disabled")
        if online and not wandb.login(prompt=False, verify=False):
            raise wandb.errors.UsageError("no key; wandb login, or WANDB_MODE=offline")
        self.run: Any = logger.experiment
        self._stages: set[str] = set()
        if found.mode != "disabled":
            log.info("wandb: %s", self.run.url if online else Path(self.run.dir).parent)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics({**values, **self._axes(values, step)})

    def pictures(self, paths: Mapping[str, Path], step: int | None = None) -> None:
        shown = {name: wandb.Image(str(path)) for name, path in paths.items()}
        self.run.log({**shown, **self._axes(paths, step)})

    def result(self, record: Record) -> None:
        table = wandb.Table(columns=[*COLUMNS], data=rows(record))
        self.run.log({**flat(record), RESULTS: table})

    def close(self, failed: bool) -> None:
        super().close(failed)
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


class TensorBoardView(View):
    """Its settings and its result are shown together, in the tab of hyperparameters."""

    def __init__(self, logger: TensorBoardLogger) -> None:
        super().__init__(logger)
        self.board = logger
        self.config: dict[str, Any] = {}

    def start(self, config: dict[str, Any]) -> None:
        self.config = config

    def pictures(self, paths: Mapping[str, Path], step: int | None = None) -> None:
        for name, path in paths.items():
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self.board.experiment.add_image(name, pixels, step, dataformats="HWC")

    def result(self, record: Record) -> None:
        self.board.log_hyperparams(self.config, flat(record), 0)


@singledispatch
def view(logger: Logger) -> View:
    """The view of a logger, by its class."""
    return View(logger)


view.register(WandbLogger, WandbView)
view.register(TensorBoardLogger, TensorBoardView)


class Tracker(Logger):
    """A Lightning logger that hands on to several, each left out when it fails.

    Attributes:
        views: by name, of those that work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[str, View] = {}
        self._live: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.views)

    @property
    def name(self) -> str:
        return PROJECT

    @property
    def version(self) -> None:
        return None

    def open(self, name: str, make: Callable[[], Logger], config: dict[str, Any]) -> None:
        """Add a logger, or say why it cannot be.

        Args:
            config: the settings of the run.
        """
        # Whatever a logger raises (no key, no server, no disk), the run's result comes first.
        try:
            self.views[name] = view(make())
        except Exception as error:
            _left_out(name, error)
        else:
            self._each(lambda shown: shown.start(config), [name])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Losses of a stage, named STAGE/LOSS, after so many of its own steps."""
        self._live |= {name.split("/")[0] for name in metrics}
        self._each(lambda shown: shown.scalars(metrics, step or 0))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: a stage's module has none beside the run's, which are shown already."""

    def log_image(self, key: str, images: Sequence[str | Path], step: int | None = None) -> None:
        """The first of the PNG files, as Lightning's WandbLogger would take it."""
        self._each(lambda shown: shown.pictures({key: Path(images[0])}, step))

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
        self._each(lambda shown: shown.pictures(last))
        self._each(lambda shown: shown.result(record))

    def again(self, record: Record) -> None:
        """Show the result of a finished run once more, after it was measured again."""
        self._each(lambda shown: shown.result(record))

    def close(self, failed: bool) -> None:
        """End of the run, for every logger."""
        self._each(lambda shown: shown.close(failed))
        self.views = {}

    def _each(self, act: Callable[[View], None], names: Sequence[str] | None = None) -> None:
        for name in list(self.views if names is None else names):
            shown = self.views[name]
            try:
                act(shown)
            except Exception as error:
                del self.views[name]
                _left_out(name, error)
                with suppress(Exception):
                    shown.close(failed=True)


@contextmanager
def tracker(cfg: Config, folder: Path, identity: str) -> Iterator[Tracker]:
    """Where a run can be watched, open for one job and closed after it, whatever becomes of it.

    Args:
        cfg: a checked configuration; ``logger`` holds the settings of each.
        folder: the run's folder, which exists.
        identity: the run's config hash.
    """
    track = Tracker()
    run, config = described(cfg, folder, identity), asdict(cfg)
    for name, node in cfg.logger.items():
        track.open(name, partial(made, node, run), config)
    failed = True
    try:
        yield track
        failed = False
    finally:
        track.close(failed)


def described(cfg: Config, folder: Path, identity: str) -> dict[str, Any]:
    """What conf/logger/*.yaml may ask of a run, as ``${run.folder}``."""
    return {
        "project": PROJECT,
        "folder": str(folder),
        "hash": identity,
        "name": "/".join(folder.parts[-3:]),
        "group": cfg.experiment or cfg.scenario.name,
        "method": method_of(cfg),
        "tags": tags(cfg),
    }


def made(node: Mapping[str, Any], run: Mapping[str, Any]) -> Logger:
    """The Lightning logger of a node of conf/logger."""
    wanted = {k: v for k, v in node.items() if k != "requires"}
    tree = OmegaConf.to_container(OmegaConf.create({"run": run, "logger": wanted}), resolve=True)
    return cast(Logger, instantiate(cast(dict[str, Any], tree)["logger"], _convert_="all"))


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


def flat(record: Record) -> dict[str, float]:
    """The numbers of a record under flat names, seconds as ``seconds/STAGE``."""
    found = {
        **record.metrics,
        **{f"still_target_{k}": v for k, v in record.still_target.items()},
        **{f"seconds/{k}": v for k, v in record.seconds.items()},
        "seconds/total": sum(record.seconds.values()),
        "shots": record.shots,
        "target_like": record.target_like,
        "samples": record.samples,
        "threshold": record.threshold,
        "is_oracle": record.method == "oracle",
    }
    return {k: float(v) for k, v in found.items() if v is not None}


def rows(record: Record) -> list[list[Any]]:
    """The unlearned model against the original, one row a metric, under ``COLUMNS``."""
    run = [record.scenario, record.method, record.intention or ""]
    return [
        [*run, name, record.metrics.get(before(name)), value]
        for name, value in record.metrics.items()
        if not name.startswith(("original_", "answers_before_"))
    ]


def before(name: str) -> str:
    """The metric of the original that goes with one of the unlearned model."""
    if name.startswith("answers_after_"):
        return name.replace("_after_", "_before_", 1)
    return f"original_{name}"


def _left_out(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    log.warning("logger: %s failed (%s); the run goes on with csv", name, reason)
