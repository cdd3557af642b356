"""Tracking: what wandb and tensorboard are given, and that neither can cost a run its result."""

from __future__ import annotations

import csv
import json
import shutil
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
import wandb
import yaml
from PIL import Image
from pytorch_lightning.loggers.logger import DummyLogger

from tests.helpers import TINY, errors
from unlearn.cli import main
from unlearn.config.checks import check, check_loggers
from unlearn.config.compose import CONF, resolve
from unlearn.errors import UserError
from unlearn.runs import tracking
from unlearn.runs.record import Record

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
    elif kind == "config":
        found.config.update(values(record.config.update))
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


def record_of(**values: Any) -> Record:
    """The record of a run that says nothing but some values."""
    nothing: dict[str, Any] = {f.name: {} for f in fields(Record)}
    nothing |= dict.fromkeys(("target_like", "samples", "threshold", "predictions"))
    return Record(**{**nothing, "shots": 1, **values})


def test_stages_from_the_store_are_shown_at_the_end(tmp_path: Path, offline: None) -> None:
    grid = Image.new("RGB", (4, 4))
    grid.save(tmp_path / "samples-000010.png")
    with opened(tmp_path) as track:
        track.log_metrics({"training/loss": 3.0}, 1)
        history = {"training": [{"step": 1, "loss": 3.0}], "inversion": [{"step": 5, "loss": 1.0}]}
        track.finish(record_of(metrics={"D_r": 0.5}), history, tmp_path)
    (run,) = runs_in(tmp_path)
    assert (run.exit_code, run.summary["D_r"]) == (0, 0.5)
    shown = [row for row in run.history if "inversion/step" in row]
    assert [row["inversion/step"] for row in shown] == [5, 10]
    assert shown[0]["inversion/loss"] == 1
    assert "inversion/samples.path" in shown[1]
    assert len([row for row in run.history if "training/loss" in row]) == 1


class Broken(DummyLogger):
    """Fails at the second line; notes that it was closed."""

    lines, closed = 0, ""

    def log_metrics(self, *_: Any, **__: Any) -> None:
        self.lines += 1
        if self.lines == 2:
            raise OSError("disk full")

    def log_image(self, *_: Any, **__: Any) -> None:
        raise AssertionError("was left out")

    def finalize(self, status: str) -> None:
        self.closed = status
        raise OSError("disk still full")


def test_a_tracker_that_breaks_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    track, broken = tracking.Tracker(), Broken()
    Image.new("RGB", (4, 4)).save(tmp_path / "overview.png")
    track.open("broken", lambda: broken, {})
    assert track
    history = {"inversion": [{"step": i, "loss": 1.0} for i in range(4)]}
    track.finish(record_of(), history, tmp_path)
    assert (broken.lines, broken.closed) == (2, "failed")
    assert not track
    assert [r.message for r in caplog.records] == [
        "logger: broken failed (disk full); the run goes on with csv"
    ]


class Mute(DummyLogger):
    """Refuses the settings."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        raise ValueError("too many")


def test_a_tracker_that_breaks_at_the_start_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    track = tracking.Tracker()
    track.open("mute", Mute, {"seed": 0})
    assert not track
    assert [r.message for r in caplog.records] == [
        "logger: mute failed (too many); the run goes on with csv"
    ]


class Plain(DummyLogger):
    """A logger as others write them: it notes what it is told."""

    told: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, place: str, tags: list[str], depth: dict[str, Any]) -> None:
        super().__init__()
        assert type(tags) is list
        self.told[:] = [("made", place, tags, depth)]

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.told.append(("settings", params["seed"], params["scenario"]["name"]))

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.told.append(("numbers", metrics, step))

    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        self.told.append(("picture", key, Path(images[0]).name, step))

    def finalize(self, status: str) -> None:
        self.told.append(("end", status))


YAML = f"""# @package logger.plain
_target_: {__name__}.Plain
requires: {{json: json}}
place: ${{run.folder}}/${{run.hash}}
tags: ${{run.tags}}
depth:
  group: ${{run.group}}
  method: ${{run.method}}
"""


def test_a_tracker_is_one_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = Path(shutil.copytree(CONF, tmp_path / "conf"))
    (conf / "logger" / "plain.yaml").write_text(YAML)
    monkeypatch.setattr("unlearn.config.compose.CONF", conf)
    cfg = resolve(["logger=[csv,plain]", "scale=demo", "logger.plain.depth.method=mine"])
    check(cfg)
    Image.new("RGB", (4, 4)).save(tmp_path / "knee.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "samples-000020.png")
    with tracking.tracker(cfg, tmp_path, "0a") as track:
        track.log_metrics({"training/loss": 3.0}, 7)
        track.finish(record_of(metrics={"D_r": 0.5}), {"inversion": []}, tmp_path)
    tags = ["7noisymnist", "ours", "demo", "neg", "shot=0.03", "seed=0"]
    numbers = {"D_r": 0.5, "seconds/total": 0.0, "shots": 1.0, "is_oracle": 0.0}
    assert Plain.told == [
        ("made", f"{tmp_path}/0a", tags, {"group": "7noisymnist", "method": "mine"}),
        ("settings", 0, "7noisymnist"),
        ("numbers", {"training/loss": 3.0}, 7),
        ("picture", "inversion/samples", "samples-000020.png", 20),
        ("picture", "pictures/knee", "knee.png", None),
        ("numbers", numbers, None),
        ("end", "success"),
    ]


def test_lightnings_csv_logger_needs_nothing_of_ours(tmp_path: Path) -> None:
    words = ["_target_=pytorch_lightning.loggers.CSVLogger", "save_dir=${run.folder}", "name=own"]
    cfg = resolve([f"+logger.own.{word}" for word in words])
    check(cfg)
    with tracking.tracker(cfg, tmp_path, "0a") as track:
        track.log_metrics({"training/loss": 3.0}, 7)
        track.finish(record_of(metrics={"D_r": 0.5}), {}, tmp_path)
    (path,) = tmp_path.glob("own/*/metrics.csv")
    rows = list(csv.DictReader(path.open()))
    assert (rows[0]["training/loss"], rows[0]["step"], rows[1]["D_r"]) == ("3.0", "7", "0.5")


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
def test_loggers(chosen: str, wanted: list[str]) -> None:
    assert list(resolve([f"logger={chosen}"]).logger) == wanted


@pytest.mark.parametrize("chosen", ["wand", "[wandb,mlflow]"])
def test_wrong_loggers(chosen: str, cli: Run, tmp_path: Path) -> None:
    status, _, err = cli(f"logger={chosen}")
    assert status == 2
    (line,) = errors(err)
    assert line.startswith("error: logger: ")
    assert "csv, none, tensorboard, wandb" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("3", "logger.own: needs _target_"),
        ("{_target_: ''}", "logger.own: needs _target_"),
        ("{_target_: absent_package.Logger}", "pip install absent_package"),
        ("{_target_: pytorch_lightning.loggers.Logge}", "there is no such class"),
        (
            "{_target_: builtins.dict, requires: {absent_package: its-name}}",
            "pip install 'its-name'",
        ),
    ],
)
def test_a_logger_that_cannot_be_made(node: str, words: str, cli: Run, tmp_path: Path) -> None:
    status, _, err = cli(f"+logger.own={node}")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert words in err
    assert not (tmp_path / "out").exists()


def test_tensorboard_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check_loggers.__globals__, "find_spec", lambda _: None)
    with pytest.raises(
        UserError, match=r"^logger.tensorboard: .*few-shot-unlearning\[tensorboard\]"
    ):
        check(resolve(["logger=[tensorboard,wandb]"]))


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
        elif kind == "ScatterPlot":
            names |= {panel.x.name, panel.y.name, panel.z.name}
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
        later = {*dashboard.TO_ORACLE, *dashboard.ON_REQUEST}
        assert names - later <= logged, section.name
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


def test_dashboard_without_its_extra(
    dashboard: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dashboard, "ws", None)
    assert dashboard.main(["--entity", "me", "--group", "table1", "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "few-shot-unlearning[dashboards]" in err
