"""Kill a sweep at random moments, start it again, and compare with an undisturbed one.

    python scripts/kill.py --rounds 10 [--seed 0] [OVERRIDE ...]

Each round starts the same sweep of tiny runs in an empty folder, sends SIGKILL to all its
processes at a random moment once a stage is finished, and runs the same command again. Then every
number and every weight must equal the undisturbed sweep's, bit for bit; what was finished at the
kill must have been skipped, and no stage that was in the store computed again. Prints one JSON
object; the exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

RUN = Path(__file__).resolve().parents[1] / "run.py"
# A whole run in a few seconds; the tests use it too.
TINY = [
    line
    for line in Path(__file__).with_name("tiny.txt").read_text().splitlines()
    if not line.startswith("#")
]
SWEEP = ["baseline=none,oracle", "intention=neg,cor", "seed=0,1"]
# What an interrupted run may say differently.
INCIDENTAL = ("seconds", "finished")


@dataclass
class Left:
    """What a sweep has left: numbers by run, files by run, names of the store's entries."""

    metrics: dict[str, Any]
    files: dict[str, bytes]
    stages: set[str]


def command(overrides: list[str], output: Path) -> list[str]:
    """The sweep's command line."""
    return [sys.executable, str(RUN), "-m", *TINY, *overrides, f"output_dir={output}"]


def look(output: Path) -> Left:
    """Read what lies in an output folder."""
    metrics, files = {}, {}
    for path in sorted(output.glob("runs/*/*/*/metrics.json")):
        run = str(path.parent.relative_to(output))
        content = json.loads(path.read_text())
        for stage in content["stages"].values():
            del stage["seconds"]
        metrics[run] = {k: v for k, v in content.items() if k not in INCIDENTAL}
        for file in sorted(path.parent.glob("*.safetensors")):
            files[f"{run}/{file.name}"] = file.read_bytes()
    entries = output.glob("store/*/*/entry.json")
    return Left(metrics, files, {e.parent.name for e in entries})


def whole(overrides: list[str], output: Path) -> tuple[str, float]:
    """Run the sweep to its end; returns its standard error and its seconds.

    Raises:
        RuntimeError: if it fails.
    """
    start = time.perf_counter()
    done = subprocess.run(command(overrides, output), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the sweep failed ({done.returncode}): {done.stderr[-2000:]}")
    return done.stderr, time.perf_counter() - start


def killed(overrides: list[str], output: Path, due: Callable[[float], bool]) -> None:
    """Start the sweep and kill its whole process group when ``due``, by the seconds so far."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command(overrides, output),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        if due(time.perf_counter() - start):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(0.02)


def is_due(due: Callable[[Path], bool] | None, output: Path, after: float, seconds: float) -> bool:
    """Whether to kill after so many seconds."""
    return due(output) if due else seconds >= after


def differences(wanted: Left, at_kill: Left, found: Left, said: str) -> list[str]:
    """What the second start got wrong; ``said`` is its standard error."""
    wrong = []
    if found.metrics != wanted.metrics:
        wrong.append("other numbers")
    if found.files != wanted.files:
        wrong.append("other weights or answers")
    again = set(re.findall(r": computing \((\w+)\)", said)) & at_kill.stages
    if again:
        wrong.append(f"computed again: {sorted(again)}")
    if said.count("finished before") < len(at_kill.metrics):
        wrong.append("a finished job was not skipped")
    return wrong


def trial(
    overrides: list[str],
    rounds: int,
    seed: int,
    folder: Path,
    due: Callable[[Path], bool] | None = None,
) -> dict[str, Any]:
    """The undisturbed sweep, then ``rounds`` killed ones, each compared with it.

    Args:
        due: when to kill, by what lies in the output folder; None is a random moment.
    """
    draw = random.Random(seed)
    started = time.time()
    _, seconds = whole(overrides, folder / "undisturbed")
    wanted = look(folder / "undisturbed")
    entries = (folder / "undisturbed").glob("store/*/*/entry.json")
    first = min(entry.stat().st_mtime for entry in entries) - started
    results = []
    for number in range(rounds):
        output = folder / f"killed-{number}"
        # Before the first stage there is nothing to lose.
        after = draw.uniform(first, seconds)
        killed(overrides, output, partial(is_due, due, output, after))
        at_kill = look(output)
        said, _ = whole(overrides, output)
        wrong = differences(wanted, at_kill, look(output), said)
        results.append(
            {
                "killed_after": round(after, 2),
                "jobs_finished": len(at_kill.metrics),
                "stages_finished": len(at_kill.stages),
                "wrong": wrong,
            }
        )
        print(results[-1], file=sys.stderr, flush=True)
    return {"jobs": len(wanted.metrics), "seconds": round(seconds, 1), "rounds": results}


def main() -> int:
    """Run the trial; 0 if every round ended as the undisturbed sweep did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", default=SWEEP)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = trial(arguments.overrides, arguments.rounds, arguments.seed, Path(folder))
    print(json.dumps(result, indent=1))
    return int(any(r["wrong"] for r in result["rounds"]))


if __name__ == "__main__":
    sys.exit(main())
