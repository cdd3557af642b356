"""Tables in instalments: what fits into a budget of time, the rest at the next call.

    python scripts/reproduce.py --tables table1 table5 --budget 9m scale=demo seed=0

For a machine that is lent for minutes. Jobs run one after another in this process, those first that
are finished soonest; one that would not fit into what is left gives way to one that does, and if
none does, single stages are computed, which the store keeps. When the time is over the process ends
within 5 seconds, the same on Ctrl-C and SIGTERM; the same command goes on from there. Several
processes share the work; each ends when all of it is done.

Exit status: 0 all is finished; 1 what is not finished has failed; 2 bad input; 3 the budget ended
first; 130 interrupted.
"""

# ruff: noqa: E402

from __future__ import annotations

import time

START = time.monotonic()  # the imports below take seconds of the budget

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn.budget import Deadline, Job, Work, distinct
from unlearn.cli import attempt, check_jobs, complain, expand, speak
from unlearn.errors import UserError
from unlearn.estimate import in_words
from unlearn.experiments import list_experiments
from unlearn.jobs import in_short
from unlearn.machine import share_threads
from unlearn.plan import Estimates
from unlearn.settings import register
from unlearn.store import write_bytes

FINISHED, FAILED, BAD_INPUT, UNFINISHED, INTERRUPTED = 0, 1, 2, 3, 130
LARGEST = 200_000  # bytes of a file that is handed out
SHOWN = 10  # unfinished jobs that are named


def main(arguments: Sequence[str] | None = None, start: float | None = None) -> int:
    """Run what fits; ``start`` is when the budget began, of ``time.monotonic``."""
    given = parser().parse_intermixed_args(arguments)
    # A list of tables takes the overrides behind it too.
    tables = [t for t in given.tables if "=" not in t]
    overrides = [t for t in given.tables if "=" in t] + given.overrides
    speak()
    try:
        seconds = seconds_of(given.budget)
        register()
        deadline = Deadline(seconds, time.monotonic() if start is None else start, UNFINISHED)
        work = None
        with deadline:
            work = prepare(tables, overrides, deadline, given.out, given.pictures, given.done)
            work.run()
    except UserError as error:
        complain(str(error))
        return BAD_INPUT
    if work is None:
        complain("the time was over before the jobs were known")
        return INTERRUPTED if deadline.interrupted else UNFINISHED
    return report(work)


def prepare(
    tables: Sequence[str],
    overrides: list[str],
    deadline: Deadline,
    out: Path | None,
    pictures: bool,
    elsewhere: Sequence[Path],
) -> Work:
    """Check all jobs of the tables before any is run.

    Raises:
        UserError: for whatever is wrong with one of them.
    """
    lists = expand([f"experiment={','.join(tables)}", *overrides])
    configs = check_jobs(lists, multirun=True)
    share_threads(configs[0].threads, configs[0].jobs)

    def keep(job: Job, metrics: dict[str, Any]) -> None:
        if out is not None:
            hand_out(job, metrics, out, pictures)

    jobs = distinct(in_short(lists), configs)
    return Work(
        jobs, deadline, Estimates(configs, elsewhere), attempt, keep, finished_in(elsewhere)
    )


def report(work: Work) -> int:
    """Say what was done and what is left; returns the exit status."""
    for job in work.jobs:
        if job.folder in work.failed:
            complain(f"{job.words}: {work.failed[job.folder]}")
    print(
        f"{len(work.done)} of {len(work.jobs)} wanted runs finished; "
        f"{work.deadline.used:.0f} of {work.deadline.seconds:.0f} seconds used"
    )
    left = work.open
    costs = [work.seconds(job, now=True) for job in left]
    for job, cost in list(zip(left, costs, strict=True))[:SHOWN]:
        print(f"left: {job.words}, about {'?' if cost is None else in_words(cost)}")
    if len(left) > SHOWN:
        print(f"left: {len(left) - SHOWN} more")
    if left:
        known = [cost for cost in costs if cost is not None]
        print(f"in all about {in_words(sum(known))}, and {len(left) - len(known)} not timed")
    sys.stdout.flush()
    if work.deadline.interrupted:
        return INTERRUPTED
    return UNFINISHED if left else FAILED if work.failed else FINISHED


def hand_out(job: Job, metrics: dict[str, Any], out: Path, pictures: bool) -> None:
    """Copy a run's small results, under names that say what they are."""
    name = "-".join(job.folder.parts[-3:])
    content = {k: v for k, v in metrics.items() if k != "path"}
    files = {f"{name}.json": (json.dumps(content, indent=1) + "\n").encode()}
    if pictures:
        found = sorted((job.folder / "pictures").glob("*.png"))
        files |= {f"{name}-{path.name}": path.read_bytes() for path in found}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            if len(data) > LARGEST:
                complain(f"--out: {file} is left out, {len(data)} bytes are more than {LARGEST}")
            else:
                write_bytes(out / file, data)
    except OSError as error:
        raise UserError("--out", f"cannot be written ({error})") from error


def finished_in(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What other machines finished: metrics by configuration hash.

    Raises:
        UserError: if a folder does not exist.
    """
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError("--done", f"{folder} is not a folder")
        for path in sorted(folder.rglob("*.json")):
            try:
                content = json.loads(path.read_text())
                if "metrics" in content:
                    found[str(content["config_hash"])] = content
            except (OSError, ValueError, KeyError, TypeError):
                continue  # no run's
    return found


def seconds_of(text: str) -> int:
    """``90s``, ``9m``, ``1h30m`` in seconds.

    Raises:
        UserError: for anything else.
    """
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    hours, minutes, seconds = (int(p or 0) for p in parts.groups()) if parts else (0, 0, 0)
    if not (total := 3600 * hours + 60 * minutes + seconds):
        raise UserError("--budget", f"{text!r} is not a time like 90s, 9m, 1h or 1h30m")
    return total


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tables",
        nargs="+",
        metavar="NAME",
        default=list_experiments(),
        help="such as table1 fig4 [all]",
    )
    parser.add_argument("--budget", required=True, metavar="TIME", help="90s, 9m, 1h, 1h30m")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to copy the finished runs' metrics"
    )
    parser.add_argument("--pictures", action="store_true", help="copy their pictures too")
    parser.add_argument(
        "--done",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="what --out left on another machine: not run again; may be repeated",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for run.py -m")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(start=START))
