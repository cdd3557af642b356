"""Tracking: what wandb and tensorboard are given, and that neither can cost a run its result."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from PIL import Image

from tests.helpers import TINY
from unlearn.cli import main
from unlearn.config.checks import check, loggers
from unlearn.config.compose import resolve
from unlearn.errors import UserError
from unlearn.runs import tracking

Run = Callable[..., tuple[int, str, str]]
TENSORBOARD = ["tensorboard"] if find_spec("tensorboard") else []
BLOCK = 1 << 15


@dataclass
class Told:
    """What one .wandb file would tell the server."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None


def told(path: Path) -> Told:
    """Read a .wandb file: a LevelDB log (7 bytes of its own first) of protobuf records."""
    from wandb.proto import wandb_internal_pb2 as pb

    data, at, part, found = path.read_bytes(), 7, b"", Told()
    while at < len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            add(pb.Record.FromString(part), found)
            part = b""
    return found


def add(record: Any, found: Told) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        found.run = record.run
        found.config = values(record.run.config.update)
    elif kind == "history":
        found.history.append(values(record.history.item))
    elif kind == "summary":
        found.summary.update(values(record.summary.update))
    elif kind == "metric":
        found.axes[record.metric.glob_name] = record.metric.step_metric
    elif kind == "exit":
        found.exit_code = record.exit.exit_code


def values(items: Any) -> dict[str, Any]:
    """Values by name; those of a nested one (an image, a table) as name.part."""
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}


def runs_in(folder: Path) -> list[Told]:
    wandb.teardown()  # so that all is written
    return [told(p) for p in sorted(folder.rglob("run-*.wandb"))]


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A machine that W&B does not know. W&B reads its environment once a session."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("API_KEY", "MODE", "PROJECT", "BASE_URL", "DIR"):
            patch.delenv(f"WANDB_{name}", raising=False)
        patch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
        patch.setenv("NETRC", str(tmp_path / "no-netrc"))
        wandb.teardown()
        yield patch
    wandb.teardown()


@pytest.fixture
def offline(no_account: pytest.MonkeyPatch) -> None:
    no_account.setenv("WANDB_MODE", "offline")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a sweep over two seeds, tracked by all there is."""
    out = tmp_path_factory.mktemp("tracked") / "out"
    chosen = f"logger=[{','.join(['csv', 'wandb', *TENSORBOARD])}]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.chdir(out.parent)
        wandb.teardown()
        assert main(["-m", *TINY, "seed=0,1", chosen, f"output_dir={out}"]) == 0
        assert wandb.run is None
        wandb.teardown()
    return out


@pytest.fixture(scope="module")
def run(sweep: Path) -> Told:
    """The sweep's second job: its original model came out of the store."""
    return told(next(sweep.glob("runs/*/*/*-seed1-*/wandb/*/run-*.wandb")))


@pytest.fixture(scope="module")
def folder(sweep: Path) -> Path:
    return next(p.parent for p in sweep.glob("runs/*/*/*-seed1-*/metrics.json"))


def losses_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = defaultdict(list)
    with (folder / "history.csv").open() as file:
        for row in csv.DictReader(file):
            name = f"{row['stage']}/{row['name']}"
            found[name].append((int(row["step"]), float(row["value"])))
    return found


def same_curve(found: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> None:
    assert [step for step, _ in found] == [step for step, _ in wanted]
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted])


@pytest.fixture
def stored(sweep: Path, tmp_path: Path) -> None:
    """Every stage of the sweep's jobs in the store, none of its runs."""
    shutil.copytree(sweep / "store", tmp_path / "out" / "store")


def test_two_jobs_of_one_process_are_two_runs(sweep: Path) -> None:
    runs = runs_in(sweep)
    hashes = {json.loads(p.read_text())["config_hash"] for p in sweep.rglob("metrics.json")}
    assert {r.run.run_id for r in runs} == hashes
    assert len(runs) == len(hashes) == 2
    assert [r.exit_code for r in runs] == [0, 0]
    assert {tag for r in runs for tag in r.run.tags} > {"seed=0", "seed=1"}


def test_wandb_run_says_what_it_is(run: Told, folder: Path) -> None:
    assert run.run.project == "few-shot-unlearning"
    assert (run.run.run_group, run.run.job_type) == ("7noisymnist", "ours")
    assert set(run.run.tags) == {"7noisymnist", "ours", "neg", "demo", "shot=5img", "seed=1"}
    assert run.run.display_name == "/".join(folder.parts[-3:])
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert {k: v for k, v in run.config.items() if k != "_wandb"} == written


def test_wandb_has_every_stages_losses_over_its_own_steps(run: Told, folder: Path) -> None:
    for name, wanted in losses_of(folder).items():
        stage = name.split("/")[0]
        found = [(row[f"{stage}/step"], row[name]) for row in run.history if name in row]
        same_curve(found, wanted)
        assert run.axes[f"{stage}/*"] == f"{stage}/step"


def test_wandb_has_the_result(run: Told, folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    for name, value in metrics["metrics"].items():
        assert run.summary[name] == value
    assert run.summary["still_target_after"] == metrics["still_target"]["after"]
    assert run.summary["seconds/total"] == pytest.approx(sum(metrics["seconds"].values()))
    path = next(folder.glob("wandb/*/files")) / run.summary["results.path"]
    table = json.loads(path.read_text())
    assert table["columns"] == tracking.COLUMNS
    shown = {row[3]: row[4:] for row in table["data"]}
    values = metrics["metrics"]
    assert shown["D_r"] == [values["original_D_r"], values["D_r"]]
    assert shown["D_e"] == [values["original_D_e"], values["D_e"]]


def test_wandb_has_the_pictures(run: Told, folder: Path) -> None:
    files = next(folder.glob("wandb/*/files"))
    for name in ("shots", "samples", "filtration", "knee", "overview"):
        kept = files / run.summary[f"pictures/{name}.path"]
        assert kept.read_bytes() == (folder / "pictures" / f"{name}.png").read_bytes()
    grids = [row for row in run.history if "inversion/samples.path" in row]
    assert [row["inversion/step"] for row in grids] == [10, 20]
    assert not any(name.startswith("pictures/samples-") for name in run.summary)


@pytest.mark.skipif(not TENSORBOARD, reason="the extra tensorboard is not installed")
def test_tensorboard_has_losses_result_and_pictures(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    for name, wanted in losses_of(folder).items():
        same_curve([(e.step, e.value) for e in events.Scalars(name)], wanted)
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert {k: events.Scalars(k)[0].value for k in metrics} == pytest.approx(metrics)
    images = events.Tags()["images"]
    assert {"inversion/samples", "pictures/overview", "pictures/knee"} <= set(images)


def test_a_failed_job_ends_its_run(cli: Run, tmp_path: Path, offline: None) -> None:
    status, _, err = cli(*TINY, "training.lr=1e38", "logger=wandb")
    assert status == 2
    assert "error: training: " in err
    (run,) = runs_in(tmp_path / "out")
    assert run.exit_code == 1
    assert "D_r" not in run.summary


def test_without_a_key_one_line_and_csv(cli: Run, tmp_path: Path, stored: None) -> None:
    status, _, err = cli(*TINY, "logger=wandb")
    assert status == 0
    said = [line for line in err.splitlines() if "wandb" in line.lower()]
    assert len(said) == 1
    assert "wandb login" in said[0]
    assert "csv" in said[0]
    assert list((tmp_path / "out").rglob("history.csv"))
    assert not list((tmp_path / "out").rglob("*.wandb"))


def test_none_leaves_only_the_csv(cli: Run, stored: None, offline: None) -> None:
    status, out, err = cli(*TINY, "logger=none")
    assert status == 0, err
    folder = Path(out.strip().splitlines()[-1]).parent
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"pictures"}
    assert (folder / "history.csv").stat().st_size > 100


def opened(tmp_path: Path, identity: str = "0123456789abcdef") -> Any:
    folder = tmp_path / "7noisymnist" / "ours-neg" / identity
    folder.mkdir(parents=True, exist_ok=True)
    return tracking.tracker(resolve(["logger=wandb"]), folder, identity)


def test_the_same_job_again_continues_its_run(tmp_path: Path, offline: None) -> None:
    with pytest.raises(KeyboardInterrupt), opened(tmp_path):
        raise KeyboardInterrupt
    with opened(tmp_path) as track:
        track.log_metrics({"inversion/loss": 1.0}, 3)
    killed, whole = runs_in(tmp_path)
    assert killed.run.run_id == whole.run.run_id == "0123456789abcdef"
    assert [killed.exit_code, whole.exit_code] == [1, 0]


def test_no_server_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(**_: Any) -> None:
        raise wandb.errors.CommError("no\nserver")

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "init", unreachable)
    with opened(tmp_path) as track:
        assert not track
        track.log_metrics({"inversion/loss": 1.0}, 1)
    assert [r.message for r in caplog.records] == [
        "logger: wandb failed (no server); the run goes on with csv"
    ]


def test_what_other_processes_logged_is_shown_at_the_end(tmp_path: Path, offline: None) -> None:
    grid = Image.new("RGB", (4, 4))
    grid.save(tmp_path / "samples-000010.png")
    with opened(tmp_path) as track:
        there = pickle.loads(pickle.dumps(track))
        assert not there
        there.log_metrics({"inversion/loss": 1.0}, 5)
        track.log_metrics({"training/loss": 3.0}, 1)
        history = {"training": [{"step": 1, "loss": 3.0}], "inversion": [{"step": 5, "loss": 1.0}]}
        result = {"scenario": "7mnist", "method": "ours", "intention": None, "seconds": {}}
        track.finish({**result, "metrics": {"D_r": 0.5}, "still_target": {}}, history, tmp_path)
    (run,) = runs_in(tmp_path)
    assert (run.exit_code, run.summary["D_r"]) == (0, 0.5)
    shown = [row for row in run.history if "inversion/step" in row]
    assert [row["inversion/step"] for row in shown] == [5, 10]
    assert shown[0]["inversion/loss"] == 1
    assert "inversion/samples.path" in shown[1]
    assert len([row for row in run.history if "training/loss" in row]) == 1


class Broken(tracking.Sink):
    """Fails at the second line; notes that it was closed."""

    lines, closed = 0, False

    def scalars(self, values: Any, step: int) -> None:
        self.lines += 1
        if self.lines == 2:
            raise OSError("disk full")

    def pictures(self, paths: Any, step: int | None = None) -> None:
        raise AssertionError("was left out")

    def result(self, metrics: Any) -> None:
        raise AssertionError("was left out")

    def close(self, failed: bool) -> None:
        self.closed = failed
        raise OSError("disk still full")


def test_a_tracker_that_breaks_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    track, broken = tracking.Tracker(), Broken()
    track.open("broken", lambda: broken)
    assert track
    history = {"inversion": [{"step": i, "loss": 1.0} for i in range(4)]}
    track.finish({}, history, tmp_path)
    assert (broken.lines, broken.closed) == (2, True)
    assert not track
    assert [r.message for r in caplog.records] == [
        "logger: broken failed (disk full); the run goes on with csv"
    ]


def test_a_baselines_tags_leave_out_what_it_does_not_depend_on() -> None:
    cfg = resolve(["baseline=original", "scale=demo"])
    assert tracking.tags(cfg) == ["7noisymnist", "original", "demo"]


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ("none", []),
        ("csv", []),
        ("wandb", ["wandb"]),
        ("[wandb]", ["wandb"]),
        ("[csv,wandb]", ["wandb"]),
        ("[wandb,tensorboard]", ["wandb", "tensorboard"]),
    ],
)
def test_loggers(chosen: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loggers.__globals__, "find_spec", lambda _: "there")
    assert loggers(resolve([f"logger={chosen}"])) == wanted


@pytest.mark.parametrize(
    "chosen", ["wand", "[wandb,mlflow]", "[wandb,wandb]", "[none,csv]", "[]", "3", "null", "{a:1}"]
)
def test_wrong_loggers(chosen: str) -> None:
    with pytest.raises(UserError, match=r"^logger: .*wandb, tensorboard, csv"):
        check(resolve([f"logger={chosen}"]))


def test_tensorboard_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loggers.__globals__, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"few-shot-unlearning\[tensorboard\]"):
        check(resolve(["logger=[wandb,tensorboard]"]))


@pytest.fixture
def dashboard() -> Any:
    pytest.importorskip("wandb_workspaces", reason="the extra dashboards is not installed")
    from unlearn.report import dashboard

    return dashboard


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def shown_by(panels: list[Any]) -> set[str]:
    """Every name that panels ask runs for."""
    names: set[str] = set()
    for panel in panels:
        kind = type(panel).__name__
        if kind == "LinePlot":
            names |= {*panel.y, *({panel.x} - {"Step"})}
        elif kind == "BarPlot":
            names |= {metric.name for metric in panel.metrics}
        elif kind == "MediaBrowser":
            names |= set(panel.media_keys)
        else:
            names.add(panel.table_name)
    return names


def test_dashboard_shows_what_runs_log(dashboard: Any, run: Told, no_network: None) -> None:
    logged = {name.split(".")[0] for row in run.history for name in row}
    view = dashboard.workspace("me", "p", "table1")
    for section in view.sections:
        names = shown_by(section.panels)
        assert names - set(dashboard.TO_ORACLE) <= logged, section.name
    names = {section.name for section in view.sections}
    assert {"Results", "Losses: inversion", "Losses: relearning", "Sample grids", "Seconds"} < names
    every = {name for s in view.sections for name in shown_by(s.panels)}
    losses = {name for name in logged if name.split("/")[0] in dashboard.LOSSES}
    assert losses <= every, "a loss that no panel shows"
    assert {"D_r", "D_e", "results", "inversion/samples", "seconds/total"} <= every


def test_dry_run_prints_both_specs(
    dashboard: Any, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboard.main(["--entity", "me", "--group", "table1", "--dry-run"]) == 0
    specs = json.loads(capsys.readouterr().out)
    live = specs["workspace"]["spec"]["section"]
    text = [b for b in specs["report"]["spec"]["blocks"] if b["type"] == "panel-grid"]
    runsets = [live["runSets"][0], *(b["metadata"]["runSets"][0] for b in text)]
    for runset in runsets:
        (only,) = runset["filters"]["filters"]
        assert (only["key"]["name"], only["op"], only["value"]) == ("group", "=", "table1")
    wanted = [len(s["panels"]) for s in live["panelBankConfig"]["sections"]]
    assert [len(b["metadata"]["panelBankSectionConfig"]["panels"]) for b in text] == wanted
    for section in live["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            if panel["viewType"] == "Bar Chart":
                assert panel["config"]["groupBy"] == "jobType"


def test_dashboard_without_a_key(
    dashboard: Any, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboard.main(["--entity", "me", "--group", "table1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "wandb login" in err
