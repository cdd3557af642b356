"""What a run says of itself, and finished runs that are measured again from their weights."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from tests.helpers import CELL, errors, make_folder
from unlearn import UserError
from unlearn.baselines import BASELINES
from unlearn.cli import main
from unlearn.config import resolve
from unlearn.config.saved import read_config
from unlearn.config.schema import COMPETITORS
from unlearn.engine.device import checkout
from unlearn.evaluation import MEASURES, ON_REQUEST, VERSION, Evidence, evaluate
from unlearn.relearning import INTENTIONS
from unlearn.runs import again, others
from unlearn.runs.record import Record, StageRecord
from unlearn.runs.run import PACKAGE, WEIGHTS, Run
from unlearn.runs.tracking import Tracker
from unlearn.scenarios import SCENARIOS
from unlearn.version import __version__

Command = Callable[..., tuple[int, str, str]]
KINDS = {"baseline=original", "baseline=incompetent", "baseline=oracle"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of three runs on the same images."""
    out = tmp_path_factory.mktemp("runs") / "out"
    kinds = ",".join(sorted(kind.split("=")[1] for kind in KINDS))
    torch.set_num_threads(1)
    words = [*CELL, f"baseline={kinds}", "intention=unt", "shot=1.0", f"output_dir={out}"]
    assert main(["-m", *words]) == 0
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of them, elsewhere than where they ran."""
    return Path(shutil.copytree(finished, tmp_path / "moved"))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = again.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, "\n".join(errors(err))

    return run


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], Any]:
    """Registers measures for one test."""
    monkeypatch.setattr(MEASURES, "_items", dict(MEASURES._items))
    return lambda name, measure: MEASURES.register(name)(measure)


def records(out: Path) -> dict[str, dict[str, Any]]:
    return {p.parents[1].name: json.loads(p.read_text()) for p in out.rglob("metrics.json")}


def folder_of(out: Path, method: str) -> Path:
    return next(p.parent for p in out.rglob("metrics.json") if p.parents[1].name == method)


def bytes_of(out: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".lock"}


# The configuration, read back.


def told(cfg: Any, folder: Path) -> Any:
    path = folder / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    return read_config(path)


NEEDS = {"class_folder": ["scenario.class_name='a: [b]'"]}


@pytest.mark.parametrize("name", SCENARIOS.list())
def test_every_scenario_is_read_back(name: str, tmp_path: Path) -> None:
    for scale in ("demo", "paper"):
        cfg = resolve([f"scenario={name}", f"scale={scale}", *NEEDS.get(name, [])])
        back = told(cfg, tmp_path)
        assert back == cfg
        assert type(back.scenario) is SCENARIOS[name]


@pytest.mark.parametrize("name", INTENTIONS.list())
def test_every_intention_is_read_back(name: str, tmp_path: Path) -> None:
    cfg = resolve([f"intention={name}", "recipe=best", "intention.scrub_epochs=7"])
    back = told(cfg, tmp_path)
    assert back == cfg
    assert type(back.intention) is INTENTIONS[name]
    assert back.intention.scrub_epochs == 7


@pytest.mark.parametrize("name", COMPETITORS.list())
def test_every_baseline_is_read_back(name: str, tmp_path: Path) -> None:
    cfg = resolve([f"baseline={name}", "scenario=class_mnist"])
    back = told(cfg, tmp_path)
    assert back == cfg
    assert type(back.baseline) is COMPETITORS[name]


@pytest.mark.parametrize(
    "word",
    [
        "shot=24img",
        "shot=1",
        "shot=1e-3",
        "compile=auto",
        "compile=true",
        "threads=3",
        "data_dir='a b/ü=$x'",
        "model.checkpoint=x.pt",
        "filtration.threshold=null",
        "inversion.betas=[0.5,0.9]",
        "logger=[wandb,tensorboard]",
    ],
)
def test_every_kind_of_value_is_read_back(word: str, tmp_path: Path) -> None:
    cfg = resolve([word])
    back = told(cfg, tmp_path)
    assert back == cfg
    key = word.split("=")[0]
    if "." not in key:
        assert type(getattr(back, key)) is type(getattr(cfg, key))


@pytest.mark.parametrize(
    "text", ["", "- 1", "a: [", "seed: 0\nsead: 1\n", "scenario: {name: 8mnist}", "scenario: 3"]
)
def test_a_configuration_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_config(tmp_path / "config.yaml")
    assert "\n" not in str(error.value)


# The record.


def test_a_record_says_what_made_it(finished: Path) -> None:
    commit, dirty = checkout()
    for method, said in records(finished).items():
        assert (said["commit"], said["dirty"]) == (commit, dirty)
        assert (said["threads"], said["precision"]) == (1, "float32")
        assert said["measured"] == VERSION
        assert said["measures"] == MEASURES.list()
        own = method.split("-")[0]
        assert set(said["stages"]) == {"training", own}
        for name, stage in said["stages"].items():
            assert stage["seconds"] >= 0
            assert stage["version"] >= 1
            entry = finished / "store" / name / stage["key"] / "entry.json"
            assert entry.is_file() or not BASELINES[name].stages
    keys = {said["stages"]["training"]["key"] for said in records(finished).values()}
    assert len(keys) == 1


def test_every_field_of_a_record_is_read_back(finished: Path, tmp_path: Path) -> None:
    read = Record.read(folder_of(finished, "incompetent"))
    assert read is not None
    full = replace(
        read,
        stages={"a": StageRecord("0" * 16, 3, 1.5)},
        commit=None,
        dirty=True,
        shot="5img",
        target_like=3,
        samples=9,
        threshold=0.1,
        predictions={"a": {"epoch": [1.0], "counts": [[1, 2]]}},
    )
    for record in (read, full):
        record.write(tmp_path)
        back = Record.read(tmp_path)
        assert back == record
        for field in fields(Record):
            assert type(getattr(back, field.name)) is type(getattr(record, field.name))


@pytest.mark.parametrize(
    "spoil",
    [
        *[
            lambda v, k=k: v.pop(k)
            for k in ("stages", "commit", "dirty", "threads", "precision", "measured", "measures")
        ],
        lambda v: v.update(stages={"training": {"key": "a"}}),
        lambda v: v.update(stages=None),
        lambda v: v.update(metrics=None),
        lambda v: v.update(config=[]),
        lambda v: v.update(seconds=3),
    ],
)
def test_an_older_or_damaged_record_is_no_finished_run(
    spoil: Callable[[dict], object], out: Path, command: Command
) -> None:
    folder = folder_of(out, "original")
    values = json.loads((folder / "metrics.json").read_text())
    spoil(values)
    (folder / "metrics.json").write_text(json.dumps(values))
    assert Record.read(folder) is None
    run = Run(replace(read_config(folder / "config.yaml"), output_dir=str(out)))
    assert run.folder == folder
    assert run.finished() is None
    status, _, err = command("--runs", folder)
    assert status == 1
    assert f"error: {folder}: metrics.json: " in err


def test_ones_own_checkpoint_is_no_stage(finished: Path, tmp_path: Path) -> None:
    weights = folder_of(finished, "original") / WEIGHTS
    words = [*CELL, "baseline=original", f"model.checkpoint={weights}"]
    assert main([*words, f"output_dir={tmp_path / 'own'}"]) == 0
    (said,) = records(tmp_path / "own").values()
    assert set(said["stages"]) == {"original"}
    known = records(finished)["original"]
    assert said["weights"] == known["weights"]
    assert said["metrics"]["D_r"] == known["metrics"]["D_r"]


def said_of(record: Record, folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Run(resolve([]), folder).say_found(record)
    (line,) = [r.getMessage() for r in caplog.records]
    assert str(folder) in line
    return line


def test_a_finished_run_of_other_code_is_said_to_be_so(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(finished, "original")
    read = Record.read(folder)
    assert read is not None
    here = replace(read, commit="1234567", dirty=False, measured=VERSION)

    def now(commit: str | None, dirty: bool, record: Record = here) -> str:
        monkeypatch.setattr("unlearn.runs.run.checkout", lambda: (commit, dirty))
        return said_of(record, folder, caplog)

    assert "code" not in now("1234567", False)
    assert "measured" not in now("1234567", False)
    other = now("89abcde", False)
    assert "by other code" in other
    assert "1234567" in other
    assert "89abcde" in other
    assert "maybe by other code" not in other
    assert "maybe by other code" in now("1234567", True)
    assert "maybe by other code" in now("1234567", False, replace(here, dirty=True))
    assert "by other code" in now(None, False)
    installed = replace(here, commit=None)
    assert "code" not in now(None, False, installed)
    older = replace(installed, versions={**here.versions, PACKAGE: "0.0.1"})
    assert f"version 0.0.1, commit None; now version {__version__}" in now(None, False, older)
    measured = now("1234567", False, replace(here, measured=VERSION + 1))
    assert f"measured by version {VERSION + 1} of the evaluation (now {VERSION}" in measured
    assert "code" not in measured


def test_what_does_not_depend_on_the_seed_is_measured_with_the_same_one() -> None:
    assert Run(resolve(["seed=4"])).seed == 4
    assert Run(resolve(["seed=4", "baseline=original"])).seed == 0


# Measured again.


def test_a_measure_that_was_added_reaches_finished_runs(
    out: Path, command: Command, added: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, entries = records(out), sorted((out / "store").rglob("entry.json"))
    stamps = [p.stat().st_mtime_ns for p in entries]

    def confidence(seen: Evidence) -> dict[str, float]:
        return {"confidence": float(seen.test.probabilities.amax(-1).mean())}

    def untrained(*_: object) -> None:
        raise AssertionError("trained")

    added("confidence", confidence)
    monkeypatch.setattr("unlearn.engine.fitting.Fit.run", untrained)
    monkeypatch.setattr("unlearn.engine.store.Store.get", untrained)
    around = out / "runs" / ".." / "runs"
    status, said, err = command("--runs", around, "--runs", out, "device=cpu")
    assert (status, err) == (0, "")
    assert sorted(said.split()) == sorted(map(str, out.rglob("metrics.json")))
    after = records(out)
    assert len(before) == len(after) == 3
    for method, now in after.items():
        then = before[method]
        assert 0 < now["metrics"].pop("confidence") <= 1
        assert now.pop("measures") == sorted([*then.pop("measures"), "confidence"])
        assert now["seconds"].pop("evaluation") != then["seconds"].pop("evaluation")
        assert now.pop("metrics") == pytest.approx(then.pop("metrics"))
        assert now == then
    assert sorted((out / "store").rglob("entry.json")) == entries
    assert [p.stat().st_mtime_ns for p in entries] == stamps
    assert not list(out.rglob("*.partial"))


def test_images_are_loaded_and_answered_once(
    out: Path, command: Command, added: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: calls.append(name) or function(*given)

    evaluation = sys.modules["unlearn.evaluation.evaluate"]
    monkeypatch.setattr(again, "load_task", counted("load", again.load_task))
    monkeypatch.setattr(evaluation, "outputs", counted("outputs", evaluation.outputs))
    added("more", counted("measure", lambda _: {}))
    added("yet more", counted("measure", lambda _: {}))
    assert command("--runs", out)[0] == 0
    assert calls == ["load", *3 * ["outputs", "outputs", "measure", "measure"]]


def test_only_some_measures(out: Path, command: Command, added: Any) -> None:
    before = records(out)
    added("one", lambda _: {"one": 1.0})
    added("two", lambda _: {"two": 2.0})
    assert command("--only", "one", "data_dir=data", "--runs", out)[0] == 0
    for method, now in records(out).items():
        then = before[method]
        assert now["metrics"].pop("one") == 1
        assert now["measures"] == sorted([*then["measures"], "one"])
        assert now["metrics"] == then["metrics"]
        assert now["seconds"] == then["seconds"]


def test_stale_runs_are_those_that_lack_something(out: Path, command: Command, added: Any) -> None:
    kept = bytes_of(out)
    status, said, _ = command("--stale", "--runs", out)
    assert (status, said) == (0, "")
    assert bytes_of(out) == kept
    folder = folder_of(out, "oracle-unt")
    record = Record.read(folder)
    assert record is not None
    replace(record, measured=VERSION - 1).write(folder)
    # Some of the measures do not make the others' numbers new ones.
    assert command("--stale", "--only", "norm", "--runs", out)[1].split() == [
        str(folder / "metrics.json")
    ]
    assert command("--stale", "--runs", out)[1].split() == [str(folder / "metrics.json")]
    assert command("--stale", "--runs", out)[1] == ""
    added("new", lambda _: {"new": 0.0})
    assert len(command("--stale", "--runs", out)[1].split()) == 3
    assert command("--stale", "--runs", out)[1] == ""


def test_the_distance_to_the_oracle_is_brought_up_to_date(out: Path, command: Command) -> None:
    folder, oracle = folder_of(out, "incompetent"), folder_of(out, "oracle-unt")
    record, theirs = Record.read(folder), Record.read(oracle)
    assert record is not None
    assert theirs is not None
    distances = {k: v for k, v in record.metrics.items() if k.startswith("oracle_")}
    assert len(distances) == 9
    for key in distances:
        del record.metrics[key]
    record.write(folder)
    # Numbers that other code measured, in both.
    theirs.metrics["D_r"] = 0.5
    theirs.write(oracle)
    assert command("--runs", out)[0] == 0
    again_ = records(out)["incompetent"]["metrics"]
    measured = {k: v for k, v in again_.items() if k.startswith("oracle_")}
    assert measured == pytest.approx(distances)


def test_runs_that_are_up_to_date_are_compared_with_an_oracle_that_was_not(
    out: Path, command: Command
) -> None:
    ours, oracle = (Record.read(folder_of(out, m)) for m in ("incompetent", "oracle-unt"))
    assert ours is not None
    assert oracle is not None
    right = ours.metrics["oracle_abs_D_r"]
    ours.metrics["oracle_abs_D_r"] = 0.123
    ours.write(folder_of(out, "incompetent"))
    replace(oracle, measured=0).write(folder_of(out, "oracle-unt"))
    said = command("--stale", "--runs", out)[1]
    assert said.split() == [str(folder_of(out, "oracle-unt") / "metrics.json")]
    assert records(out)["incompetent"]["metrics"]["oracle_abs_D_r"] == right


def refused(command: Command, out: Path, folder: Path, *more: str) -> str:
    """The line about the one run that cannot be measured, which is left as it was."""
    kept = bytes_of(folder)
    status, said, err = command("--runs", out, *more)
    assert status == 1
    assert bytes_of(folder) == kept
    assert len(said.split()) == 2
    (line,) = err.splitlines()
    assert line.startswith(f"error: {folder}: ")
    return line


def test_damaged_weights(out: Path, command: Command) -> None:
    folder = folder_of(out, "original")
    path = folder / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert WEIGHTS in refused(command, out, folder)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "not the weights that the run ended with" in refused(command, out, folder)
    save_file({k: v for k, v in load_file(path).items() if "mean" not in k}, path)
    assert WEIGHTS in refused(command, out, folder)
    path.unlink()
    assert WEIGHTS in refused(command, out, folder)


def test_settings_that_are_not_those_it_ran_with(out: Path, command: Command) -> None:
    path = folder_of(out, "original") / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("per_class: 120", "per_class: 119"))
    assert "config.yaml" in refused(command, out, path.parent)
    path.write_text(text.replace("per_class:", "per_clas:"))
    assert "config.yaml" in refused(command, out, path.parent)
    path.unlink()
    assert "config.yaml" in refused(command, out, path.parent)


def test_a_run_that_older_stages_made(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(out, "incompetent")
    run, record = again.found(folder, {})
    monkeypatch.setattr(BASELINES["incompetent"], "VERSION", 99)
    assert again.checked(run) == record
    assert Run(run.cfg, folder).record() is None


def test_a_measure_that_fails_costs_the_other_runs_nothing(
    out: Path, command: Command, added: Any
) -> None:
    def fragile(seen: Evidence) -> dict[str, float]:
        if calls.append(1) or len(calls) == 2:
            raise ValueError("no such\nthing")
        return {"fragile": 1.0}

    calls: list[int] = []
    added("fragile", fragile)
    status, said, err = command("--runs", out)
    assert (status, len(said.split())) == (1, 2)
    assert err.endswith("ValueError: no such thing")
    assert sum("fragile" in said["metrics"] for said in records(out).values()) == 2


def test_a_disk_that_is_full(out: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = bytes_of(out)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unlearn.engine.store.os.replace", full)
    status, said, err = command("--runs", out)
    assert (status, said) == (1, "")
    assert len(err.splitlines()) == 3
    assert {p: b for p, b in bytes_of(out).items() if p.suffix != ".partial"} == kept


def test_the_runs_lock_is_held(out: Path, command: Command, added: Any) -> None:
    def held(_: Evidence) -> dict[str, float]:
        free = []
        for path in out.rglob("*.lock"):
            if path.parent.parent.name != "store":
                try:
                    with FileLock(path).acquire(blocking=False):
                        free.append(path)
                except Timeout:
                    pass
        return {"free": len(free)}

    added("held", held)
    assert command("--runs", out)[0] == 0
    assert {said["metrics"]["free"] for said in records(out).values()} == {2}


def test_ones_own_images_that_moved_or_changed(tmp_path: Path, command: Command) -> None:
    data, out = make_folder(tmp_path / "data"), tmp_path / "out"
    words = ["scenario=class_folder", "scenario.class_name=b", "baseline=original", "image_size=16"]
    words = [*CELL, *words, f"data_dir={data}", f"output_dir={out}"]
    assert main(words) == 0
    (said,) = records(out).values()
    moved = data.rename(tmp_path / "elsewhere")
    status, _, err = command("--runs", out)
    assert status == 1
    assert "data_dir" in err
    assert len(err.splitlines()) == 1
    assert command("--runs", out, f"data_dir={moved}", "threads=1", "device=cpu")[0] == 0
    (after,) = records(out).values()
    assert after["metrics"] == said["metrics"]
    next(moved.rglob("*.png")).unlink()
    status, _, err = command("--runs", out, f"data_dir={moved}")
    assert status == 1
    assert "others than when it ran" in err
    assert records(out) == {"original": after}


def test_images_that_would_have_to_be_downloaded(out: Path, command: Command) -> None:
    # A run on all of MNIST, of which only the small sample is here.
    folder = folder_of(out, "original")
    cfg = read_config(folder / "config.yaml")
    cfg.data, cfg.data_dir = "mnist", str(out / "nowhere")
    with pytest.raises(UserError, match=r"data_dir: the images of mnist are not in"):
        again.Progress({}).task(cfg)
    assert not (out / "nowhere").exists()


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--runs", "nowhere"], "--runs"),
        (["--runs", "."], "--runs"),
        (["seed=1"], "seed"),
        (["data_dir"], "data_dir"),
        (["threads=0"], "threads"),
        (["threads=two"], "threads"),
        (["device=abacus"], "device"),
        (["--only", "accuracies"], "--only"),
        (["--references", "3"], "--references"),
    ],
)
def test_bad_input(
    words: list[str], key: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, said, err = command(*words)
    assert (status, said) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"error: {key}: ")
    if key == "--only":
        assert "did you mean 'accuracy'" in line
    assert not list(tmp_path.iterdir())


def test_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        again.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for word in ("--runs", "--stale", "--only", "data_dir", *MEASURES, *ON_REQUEST):
        assert word in text


# Measures that train networks.


def entries(out: Path) -> set[Path]:
    return set((out / "store" / "training").glob("*/entry.json"))


def test_measures_on_request_share_their_reference_models(out: Path, command: Command) -> None:
    before, kept = records(out), entries(out)
    words = ("--only", *ON_REQUEST, "--references", 2, "--runs", out)
    assert command(*words)[0] == 0
    assert len(entries(out) - kept) == 2
    after = records(out)
    for method, now in after.items():
        metrics = now["metrics"]
        assert set(now["measures"]) == {*before[method]["measures"], *ON_REQUEST}
        assert {k: metrics[k] for k in before[method]["metrics"]} == before[method]["metrics"]
        assert metrics["rmia_auc_low"] <= metrics["rmia_auc"] <= metrics["rmia_auc_high"]
        assert metrics["rmia_references"] == 2
        assert 0 <= metrics["relearn_steps"] <= 500
        assert 0 <= metrics["probe_D_e"] <= 1
        against = {"rmia_auc_less_oracle", "relearn_time", "probe_D_e_less_oracle"}
        assert (against <= set(metrics)) == (method == "incompetent")
    # The original is one of the runs: it knows D_e from the start.
    assert after["original"]["metrics"]["relearn_steps"] == 0


def test_reference_models_go_on_from_the_last_one(
    out: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, trained = entries(out), others.Training.make

    def interrupted(*given: Any) -> Any:
        if len(entries(out)) > len(kept):
            raise KeyboardInterrupt
        return trained(*given)

    folder, calls = folder_of(out, "incompetent"), []
    words = ("--only", "rmia", "--references", 2, "--runs", folder)
    before = bytes_of(folder)
    with monkeypatch.context() as patch:
        patch.setattr(others.Training, "make", interrupted)
        with pytest.raises(KeyboardInterrupt):
            command(*words)
    assert bytes_of(folder) == before
    assert len(entries(out) - kept) == 1
    monkeypatch.setattr(others.Training, "make", lambda *g: calls.append(1) or trained(*g))
    assert command(*words)[0] == 0
    assert len(calls) == 1


def test_an_original_that_is_not_kept(out: Path, command: Command) -> None:
    shutil.rmtree(out / "store")
    folder = folder_of(out, "incompetent")
    status, said, err = command("--only", "relearn_time", "--runs", folder)
    assert (status, said) == (1, "")
    assert "relearn_time: needs the original model" in err
    before = records(out)["incompetent"]
    assert command("--only", "answers", "--runs", folder)[0] == 0
    assert records(out)["incompetent"] == before


def test_loggers_show_what_was_measured_again(
    out: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, Record]] = []

    @contextmanager
    def fake(cfg: Any, folder: Path, identity: str) -> Iterator[Any]:
        track = Tracker()
        monkeypatch.setattr(track, "again", lambda record: shown.append((identity, record)))
        yield track

    monkeypatch.setattr(again, "tracker", fake)
    folder = folder_of(out, "incompetent")
    assert command("--only", "answers", "--runs", folder)[0] == 0
    assert shown == []
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("logger: {}", "logger: {some: {}}"))
    assert command("--only", "answers", "--runs", folder)[0] == 0
    record = Record.read(folder)
    assert record is not None
    assert shown == [(record.config_hash, record)]


def test_some_measures_of_a_model(finished: Path) -> None:
    run, _ = again.found(folder_of(finished, "original"), {})
    task = again.Progress({}).task(run.cfg)
    model = again.network_for(run.cfg, task).eval()
    some = evaluate(model, task, 0, ["norm"])
    assert some.measures == ["norm"]
    assert set(some.metrics) == {"norm_D_r", "norm_D_e", "norm_D_r_std", "norm_D_e_std"}
    with pytest.raises(UserError, match=r"measure: 'nrom' is not one of"):
        evaluate(model, task, 0, ["nrom"])
