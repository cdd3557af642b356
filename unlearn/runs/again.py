"""Measure finished runs again from their saved weights; no run is repeated.

For a measure that was added, or an evaluation that was changed, after the runs had finished. The
distances to the oracles are brought up to date too. What the runs say of the original model
(original_D_r, original_D_e) stays. Some measures train networks of their own and are computed
only if --only names them.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn.config import Config
from unlearn.config.saved import read_config
from unlearn.data import SOURCES
from unlearn.engine.device import pick_device, share_threads
from unlearn.engine.store import hash_of
from unlearn.errors import UserError, choices
from unlearn.evaluation import MEASURES, ON_REQUEST, VERSION, evaluate
from unlearn.evaluation.references import NUMBER
from unlearn.program import BAD_INPUT, complain, program, tell
from unlearn.runs.others import Company
from unlearn.runs.record import Record
from unlearn.runs.run import Run, network_for
from unlearn.runs.tracking import tracker
from unlearn.scenarios import Task, load_task

log = logging.getLogger(__name__)

PLACES = ("data_dir", "device", "threads")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure runs and print the paths of their ``metrics.json``.

    Returns:
        0; 1 if a run could not be measured, which is left as it was; 2 for bad input.
    """
    given = _parser().parse_intermixed_args(arguments)
    only = None if given.only is None else [word for word in given.only if "=" not in word]
    try:
        places = parse_places([*given.places, *(w for w in given.only or () if "=" in w)])
        known = [*MEASURES, *ON_REQUEST]
        for name in only or ():
            if name not in known:
                raise choices("--only", name, known)
        if given.references < 2 or given.references % 2:
            raise UserError("--references", f"{given.references} is not an even number from 2")
        folders = finished_folders(given.runs or [Path("outputs/runs")])
    except UserError as error:
        complain(str(error))
        return BAD_INPUT
    share_threads(places.pop("threads", None), 1)
    done = Progress(places, only, given.stale, company=Company(given.references))
    done.measure_all(folders)
    print(f"{done.measured} of {len(folders)} runs measured, {done.failed} failed", file=sys.stderr)
    return int(done.failed > 0)


def parse_places(overrides: Sequence[str]) -> dict[str, Any]:
    """Values of ``data_dir=``, ``device=`` and ``threads=``, on which no result depends.

    Raises:
        UserError: for any other setting, and for a value that cannot be.
    """
    found: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if key not in PLACES or not equals:
            raise UserError(
                key, f"a finished run keeps its settings, but for {'=, '.join(PLACES)}="
            )
        found[key] = value
    if "device" in found:
        pick_device(found["device"])
    if "threads" in found:
        if not found["threads"].isdecimal() or int(found["threads"]) < 1:
            raise UserError("threads", f"{found['threads']!r} is not a whole number from 1")
        found["threads"] = int(found["threads"])
    return found


def finished_folders(roots: Sequence[Path]) -> list[Path]:
    """The folders of finished runs below some folders, at any depth.

    Raises:
        UserError: if a folder does not exist or holds no finished run.
    """
    found: dict[Path, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError("--runs", f"{root} is not a folder; runs are kept in OUTPUT_DIR/runs")
        folders = {p.parent.resolve(): p.parent for p in root.rglob("metrics.json")}
        if not folders:
            raise UserError("--runs", f"{root} holds no finished run (no metrics.json)")
        found |= folders
    return sorted(found.values())


@dataclass
class Progress:
    """Runs that are measured again.

    Attributes:
        places: settings that say where things are.
        only: names of measures; None is all that do not have to be named.
        stale: leave out the runs whose numbers are up to date.
        measured: how many have new numbers.
        failed: how many could not be measured.
        company: what the runs are compared with.
    """

    places: dict[str, Any]
    only: Sequence[str] | None = None
    stale: bool = False
    measured: int = 0
    failed: int = 0
    company: Company = field(default_factory=Company)
    _task: tuple[str, Task] | None = None

    def measure_all(self, folders: Sequence[Path]) -> None:
        """Measure the runs in some folders. Those on the same images follow each other."""
        runs = []
        for folder in folders:
            try:
                runs.append(found(folder, self.places))
            except UserError as error:
                self.complain(folder, str(error))
        compared = []
        without = [run for run, _ in runs if not run.cfg.scenario.needs_data]
        if without:
            log.info("left out: %d runs of one's own models; their data are not kept", len(without))
        runs = [pair for pair in runs if pair[0] not in without]
        for run, record in sorted(runs, key=lambda pair: task_key(pair[0].cfg)):
            if (self.stale and up_to_date(record)) or self.measured_now(run):
                compared.append(run)
        for run in compared:
            try:
                run.finished()  # its oracle may have been measured after it
                show(run)
            except (UserError, OSError) as error:
                self.complain(run.folder, str(error))

    def measured_now(self, run: Run) -> bool:
        """Measure a run, or say why it cannot be; what becomes of it costs the others nothing."""
        try:
            with run.locked():
                self.measure(run)
            tell(str(run.folder / "metrics.json"))
            self.measured += 1
            return True
        except (UserError, OSError) as error:
            self.complain(run.folder, str(error))
        except Exception as error:  # in a measure of one's own
            traceback.print_exc()
            self.complain(run.folder, f"{type(error).__name__}: {error}")
        return False

    def measure(self, run: Run) -> None:
        """Measure a run and write its numbers.

        Raises:
            UserError: if its images or its weights are not there, or not those it was made with.
            OSError: if it cannot be written.
        """
        record = checked(run)
        task, device = self.task(run.cfg), pick_device(run.cfg.device)
        model = network_for(run.cfg, task)
        try:
            model.load_state_dict(run.weights(record.weights))
        except RuntimeError as error:
            raise UserError("model", f"the weights do not fit it ({error})") from error
        others = self.company.of(run, record, task)
        seen = evaluate(model.to(device).eval(), task, run.seed, self.only, others)
        record.metrics.update(seen.metrics)
        record.measures = sorted({*record.measures, *seen.measures})
        if self.only is None:
            record.measured, record.seconds["evaluation"] = VERSION, seen.seconds
            run.keep_answers(seen.test.probabilities, task.test_forget)
        record.write(run.folder)

    def task(self, cfg: Config) -> Task:
        """A run's images, which the run before it may have had too.

        Raises:
            UserError: if they are not there.
        """
        key = task_key(cfg)
        if self._task is None or self._task[0] != key:
            self._task = None  # two at once may not fit into the memory
            data_dir = Path(cfg.data_dir)
            if not SOURCES[cfg.data]().here(data_dir):
                raise UserError("data_dir", f"the images of {cfg.data} are not in {cfg.data_dir!r}")
            task = load_task(cfg.scenario, cfg.data, data_dir, cfg.image_size, cfg.per_class)
            self._task = (key, task)
        return self._task[1]

    def complain(self, folder: Path, reason: str) -> None:
        """Say in one line why a run could not be measured."""
        self.failed += 1
        complain(f"{folder}: {' '.join(reason.split())}")


def found(folder: Path, places: dict[str, Any]) -> tuple[Run, Record]:
    """A finished run where it lies, maybe moved since it ran.

    Raises:
        UserError: if what it says of itself cannot be read.
    """
    record = Record.read(folder)
    if record is None:
        raise UserError("metrics.json", "damaged, or written by another version")
    cfg = replace(read_config(folder / "config.yaml"), **places)
    if folder.absolute().parents[2].name == "runs":  # where its oracle is looked for
        cfg.output_dir = str(folder.absolute().parents[3])
    return Run(cfg, folder), record


def show(run: Run) -> None:
    """Show a run's numbers of now by its loggers."""
    record = Record.read(run.folder)
    if run.cfg.logger and record is not None:
        with tracker(run.cfg, run.folder, record.config_hash) as track:
            track.again(record)


def checked(run: Run) -> Record:
    """What a run's ``metrics.json`` says, if settings and images are those that it ran with.

    Raises:
        UserError: if they are others, or the images are not there.
    """
    record = Record.read(run.folder)
    if record is None:
        raise UserError("metrics.json", "damaged, or written by another version")
    if json.loads(json.dumps(run.settings)) != record.config:
        raise UserError("config.yaml", "does not hold the settings that metrics.json names")
    versions = {name: stage.version for name, stage in record.stages.items()}
    if run.hash_for(versions) != record.config_hash:
        raise UserError(
            "data_dir",
            f"the images in {run.cfg.data_dir!r} (or an annotation, or a checkpoint) are gone, or "
            "others than when it ran",
        )
    return record


def up_to_date(record: Record) -> bool:
    """Whether a run has every registered measure's numbers, by the present evaluation."""
    return record.measured == VERSION and set(MEASURES) <= set(record.measures)


def task_key(cfg: Config) -> str:
    """Equal for runs on the same images."""
    return hash_of([asdict(cfg.scenario), cfg.data, cfg.data_dir, cfg.image_size, cfg.per_class])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("evaluate"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runs",
        action="append",
        type=Path,
        metavar="DIR",
        help="folder of runs, searched at any depth; may be repeated [outputs/runs]",
    )
    parser.add_argument(
        "--stale",
        action="store_true",
        help="only runs that lack a measure or were measured by another version",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="MEASURE",
        help=f"only these measures, of {', '.join(MEASURES)} [these]; "
        f"or {', '.join(ON_REQUEST)}, which train networks",
    )
    parser.add_argument(
        "--references",
        type=int,
        default=NUMBER,
        metavar="NUMBER",
        help=f"reference models of rmia, trained once and kept in the store [{NUMBER}]",
    )
    parser.add_argument(
        "places",
        nargs="*",
        metavar="KEY=VALUE",
        help="where things are now: data_dir=DIR, device=DEVICE, threads=NUMBER",
    )
    return parser
