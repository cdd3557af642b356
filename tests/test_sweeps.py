"""Sweeps: their jobs, the launchers, failures, the plan, a kill."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from scripts import kill
from tests.helpers import CELL, TINY, errors
from unlearn import pipeline
from unlearn.config.compose import resolve
from unlearn.config.tables import load_table
from unlearn.errors import UserError
from unlearn.relearning.intentions.neg import Neg
from unlearn.scenarios import load_task
from unlearn.sweep import checked, estimate
from unlearn.sweep.checked import check_jobs, expand
from unlearn.sweep.estimate import stage_seconds
from unlearn.sweep.jobs import in_short
from unlearn.sweep.plan import keys_of, own_seconds

Run = Callable[..., tuple[int, str, str]]


def test_a_sweep_is_every_combination() -> None:
    jobs = expand(["intention=neg,cor", "seed=range(2)", "scale=demo"])
    assert [sorted(j) for j in jobs] == [
        sorted([f"intention={i}", f"seed={s}", "scale=demo"])
        for i in ("neg", "cor")
        for s in (0, 1)
    ]


def test_a_table_is_its_cells_with_its_seeds() -> None:
    table, jobs = load_table("table1"), expand(["experiment=table1", "scale=demo"])
    assert all("experiment=table1" in j and "scale=demo" in j for j in jobs)
    fixed = [
        c for c in table.cells() if {"baseline=original", "baseline=logit_mask"} & {*c.overrides}
    ]
    assert 0 < len(fixed) < len(table.cells())
    assert len(jobs) == 5 * (len(table.cells()) - len(fixed)) + len(fixed)
    assert len({tuple(j) for j in jobs}) == len(jobs)


@pytest.mark.parametrize(
    ("extra", "number"),
    [
        (["scenario=7mnist", "baseline=fisher"], 5),
        (["scenario=7mnist", "baseline=fisher,original", "seed=3"], 2),
        (["scenario=7mnist", "baseline=none", "intention=neg", "seed=0"], 2),
        (["scenario=7mnist", "baseline=none", "intention=neg", "shot=0.03", "seed=0"], 1),
    ],
)
def test_knobs_select_among_a_tables_cells(extra: list[str], number: int) -> None:
    jobs = expand(["experiment=table1", *extra])
    assert len(jobs) == number
    for job in jobs:
        assert "scenario=7mnist" in job


def test_other_settings_hold_for_all_cells() -> None:
    jobs = expand(["experiment=table6", "model.width=4", "model.norm=layer", "seed=0"])
    assert jobs
    assert all("model.width=4" in j and "model.norm=layer" in j for j in jobs)
    assert all(
        sum(o.startswith("model.width=") for o in j) == 1
        for j in expand(["experiment=fig4", "model.width=4"])
    )


def test_a_selection_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"experiment: table6 has no cell with scenario=7mnist"):
        expand(["experiment=table6", "scenario=7mnist"])


BAD = {
    "-m experiment=table9": ["experiment", "table1", "table8"],
    "experiment=table1": ["experiment", "-m"],
    "-m hydra.launcher.n_jobs=1,2 launcher=joblib": ["hydra.launcher.n_jobs", "one value"],
    "-m seed=interval(0,3)": ["seed", "no list of values"],
    "seed=0,1": ["seed", "-m", "'seed=\"0,1\"'"],
    "-m experiment=table1 shot=0": ["experiment", "shot=0"],
    "-m launcher=kubernetes": ["launcher", "joblib, ray, slurm"],
    "-m hydra/launcher=submitit_moon": ["launcher", "not installed", "[moon]"],
    "jobs=0": ["jobs", "from 1"],
    "threads=0": ["threads", "from 1"],
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(
    cli: Run, tmp_path: Path, arguments: str
) -> None:
    status, out, err = cli("scale=demo", *arguments.split())
    assert status == 2
    assert len(errors(err)) == 1
    assert "Traceback" not in err
    for word in BAD[arguments]:
        assert word in errors(err)[0]
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_jobs_that_differ_in_seed_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = []
    real = checked.resolve
    monkeypatch.setattr(checked, "resolve", lambda o: composed.append(o) or real(o))
    configs = check_jobs([["seed=0", "scale=demo"], ["seed=4", "scale=demo"], ["seed=x"]][:2], True)
    assert len(composed) == 1
    assert [c.seed for c in configs] == [0, 4]
    with pytest.raises(UserError, match="seed"):
        check_jobs([["seed=0"], ["seed=x"]], True)


@pytest.mark.parametrize(
    ("launcher", "methods"),
    [
        ("joblib", ["incompetent", "original"]),
        ("slurm_local", ["original"]),  # one job: each is a process, which takes long to start
        ("ray", ["original"]),
    ],
)
def test_every_launcher_runs_jobs(
    cli: Run, tmp_path: Path, launcher: str, methods: list[str]
) -> None:
    plugin = {"slurm_local": "submitit"}.get(launcher, launcher)
    if find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None:
        pytest.skip(f"the extra for launcher={launcher} is not installed")
    chosen = f"baseline={','.join(methods)}"
    status, _, err = cli("-m", *CELL, chosen, f"launcher={launcher}")
    assert status == 0, err
    assert f"{len(methods)} of {len(methods)} jobs finished" in err
    paths = sorted((tmp_path / "out").rglob("metrics.json"))
    assert [p.parents[1].name for p in paths] == methods


def test_a_failed_job_fails_alone_and_is_named(cli: Run, tmp_path: Path) -> None:
    status, _, err = cli("-m", *TINY, "relearning.lr=1e38,3e-3", "seed=0")
    assert status == 2
    assert "1 of 2 jobs finished" in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "relearning.lr=1e+38: relearning: " in last
    assert "NaN" in last
    (failure,) = (tmp_path / "out").rglob("error.json")
    assert "NaN" in json.loads(failure.read_text())["error"]
    assert json.loads(failure.read_text())["method"] == "ours"
    assert len(list((tmp_path / "out").rglob("metrics.json"))) == 1


def test_a_crashed_job_fails_alone_too(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline.load_task

    def broken(scenario, *rest):  # type: ignore[no-untyped-def]
        if scenario.name == "7mnist":
            raise ZeroDivisionError("of the test")
        return real(scenario, *rest)

    monkeypatch.setattr(pipeline, "load_task", broken)
    status, _, err = cli("-m", *CELL, "baseline=original", "scenario=7mnist,7noisymnist")
    assert status == 1
    assert "1 of 2 jobs finished" in err
    assert "ZeroDivisionError: of the test" in err.strip().splitlines()[-1]


def test_a_failure_is_forgotten_once_the_run_is_finished(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "evaluate", broken)
        assert cli(*CELL, "baseline=original")[0] == 1
    assert list((tmp_path / "out").rglob("error.json"))
    assert cli(*CELL, "baseline=original")[0] == 0
    assert not list((tmp_path / "out").rglob("error.json"))


def test_the_plan_says_what_is_finished_and_runs_nothing(cli: Run, tmp_path: Path) -> None:
    assert cli(*CELL, "baseline=original")[0] == 0
    before = sorted((tmp_path / "out").rglob("*"))
    status, out, _ = cli("-m", *CELL, "baseline=original,oracle,none", "--dry-run")
    assert status == 0
    assert sorted((tmp_path / "out").rglob("*")) == before
    lines = [line for line in out.splitlines() if "baseline=" in line]
    assert len(lines) == 3
    assert [("finished" in x, "to do" in x) for x in lines] == [
        (True, False),
        (False, True),
        (False, True),
    ]
    assert "3 jobs, 2 to do" in " ".join(out.split())


def test_the_plan_times_steps_with_each_jobs_threads(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed, before = [], torch.get_num_threads()

    def seconds(*_: object) -> dict[str, float]:
        timed.append(torch.get_num_threads())
        return {"training": 1.0, "original": 0.0}

    monkeypatch.setattr("unlearn.sweep.plan.stage_seconds", seconds)
    epochs = "training.epochs=3,4"
    assert cli("-m", *CELL, "baseline=original", "threads=3", epochs, "--dry-run")[0] == 0
    assert timed == [3, 3]
    assert torch.get_num_threads() == before


def test_a_plan_knows_which_stages_jobs_share() -> None:
    ours = [*CELL, "shot=0.5", "intention=neg"]
    known = dict(keys_of(resolve(ours)))
    assert list(known) == ["training", "inversion", "filtration", "relearning"]

    def shared(*overrides: str) -> list[str]:
        return [
            name for name, key in keys_of(resolve([*ours, *overrides])) if key == known.get(name)
        ]

    assert shared() == list(known)
    assert shared("device=cpu", "output_dir=elsewhere") == list(known)
    assert shared("relearning.temperature=3") == ["training", "inversion", "filtration"]
    assert shared("intention=std") == ["training", "inversion", "filtration"]
    assert shared("filtration.t_ent=0.6") == ["training", "inversion"]
    assert shared("seed=5") == ["training"]
    assert shared("shot=1.0") == ["training"]
    assert shared("baseline=oracle") == ["training"]
    assert shared("threads=3") == []
    assert shared("training.epochs=7") == []


def test_a_job_costs_what_no_other_job_has_paid() -> None:
    keys = [("training", "a"), ("inversion", "b")]
    costs = {"training": 8.0, "inversion": 4.0, "evaluation": 1.0}
    assert own_seconds(keys, costs, set()) == 13.0
    assert own_seconds(keys, costs, {"a"}) == 5.0
    assert own_seconds(keys, costs, {"a", "b"}) == 1.0


def test_jobs_are_named_by_what_tells_them_apart() -> None:
    assert in_short([["seed=0", "scale=demo"], ["seed=1", "scale=demo"]]) == ["seed=0", "seed=1"]
    assert in_short([["seed=0"]]) == ["seed=0"]
    # A name is never empty.
    assert in_short([["scale=demo"], ["scale=demo", "seed=1"]]) == ["job 1", "seed=1"]
    assert in_short([["seed=0"], ["seed=0"]]) == ["job 1", "job 2"]


@pytest.mark.parametrize(
    ("seconds", "share"),
    [({16: 0.032, 128: 0.064}, 0.0005), ({16: 1.6}, 0.1)],  # quick; slow, the real size untried
)
def test_the_estimate_times_steps_of_the_real_size_if_quick(
    seconds: dict[int, float], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_timed", lambda step, device: seconds[step()])
    found = estimate._share(lambda number: lambda: number, 16, 128, torch.device("cpu"))
    assert found == pytest.approx(share)


def test_the_estimate_counts_what_fresh_samples_cost() -> None:
    cfg = resolve(["scale=demo", "per_class=120", "inversion.batch_size=24", "model.width=4"])
    task = load_task(cfg.scenario, cfg.data, Path(cfg.data_dir), cfg.image_size, cfg.per_class)
    timed: dict[str, float] = {}

    def relearning() -> float:
        return stage_seconds(cfg, task, torch.device("cpu"), timed)["relearning"]

    stored = relearning()
    cfg.relearning.fresh = True  # a generated image, f_o's answer to it and to its augmented copy
    assert relearning() == pytest.approx(2 * stored)
    cfg.relearning.candidates = 2
    assert relearning() == pytest.approx(stored * (1 + (2 * 3 + 2) / 3))
    cfg.relearning.fresh, cfg.relearning.teacher = False, "view"
    assert relearning() == pytest.approx(stored * 4 / 3)
    cfg.relearning.adversarial = 0.1
    assert relearning() == pytest.approx(stored * 8 / 3)


def test_the_estimate_counts_every_generator_and_the_votes_of_their_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sets = ["scale=demo", "per_class=120", "inversion.batch_size=24", "model.width=4"]
    cfg = resolve([*sets, "intention=neg"])
    task = load_task(cfg.scenario, cfg.data, Path(cfg.data_dir), cfg.image_size, cfg.per_class)
    monkeypatch.setattr(estimate, "_timed", lambda step, device: 0.24)

    def found() -> dict[str, float]:
        return stage_seconds(cfg, task, torch.device("cpu"))

    one = found()
    cfg.inversion.generators = 3
    assert found() == one | {"inversion": pytest.approx(3 * one["inversion"])}
    cfg.intention = Neg(form="neighbours")  # f_o sees each sample once more
    more = pytest.approx(one["relearning"] * (1 + 1 / 3 / cfg.relearning.epochs))
    assert found()["relearning"] == more


def test_the_estimate_counts_an_inversion_only_where_there_is_one() -> None:
    sets = ["scale=demo", "per_class=120", "inversion.batch_size=24", "model.width=4"]
    for recipe, stages in (("paper", {"inversion"}), ("fast", set())):
        cfg = resolve([*sets, f"recipe={recipe}"])
        task = load_task(cfg.scenario, cfg.data, Path(cfg.data_dir), cfg.image_size, cfg.per_class)
        found = stage_seconds(cfg, task, torch.device("cpu"))
        assert set(found) == {"training", "relearning"} | stages


def test_the_distance_to_an_oracle_that_came_later(cli: Run, tmp_path: Path) -> None:
    """... is filled in by the same command, and what else the run found stays."""
    ours = [*CELL, "shot=0.5", "intention=std"]
    path = Path(cli(*ours)[1].strip().splitlines()[-1])
    before = json.loads(path.read_text())
    assert not [k for k in before["metrics"] if k.startswith(("oracle", "tug"))]
    oracle = cli(*CELL, "shot=1.0", "intention=std", "baseline=oracle")
    assert oracle[0] == 0
    assert cli(*ours)[0] == 0
    after = json.loads(path.read_text())
    gained = {
        k: after["metrics"].pop(k) for k in list(after["metrics"]) if k not in before["metrics"]
    }
    assert after == before
    theirs = json.loads(Path(oracle[1].strip().splitlines()[-1]).read_text())["metrics"]
    assert not [k for k in theirs if k.startswith(("oracle", "tug"))]
    d_r, d_e = (abs(before["metrics"][k] - theirs[k]) for k in ("D_r", "D_e"))
    assert gained["oracle_abs_D_r"] == pytest.approx(d_r)
    assert gained["oracle_abs_D_e"] == pytest.approx(d_e)
    on_train = [abs(before["metrics"][k] - theirs[k]) for k in ("train_D_r", "train_D_e")]
    factors = [1 - gap for gap in (*on_train, gained["oracle_abs_test"])]
    assert gained["tug_of_war"] == pytest.approx(math.prod(factors))
    assert 0 < gained["oracle_agreement"] <= 1
    assert 0 < gained["oracle_js"] < 0.7


def test_killed_and_started_again_a_sweep_ends_with_the_same_numbers(tmp_path: Path) -> None:
    """The short form of scripts/kill.py: one kill, in the second job."""

    def second_job(output: Path) -> bool:
        return bool(list(output.glob("runs/*/*/*/metrics.json")))

    result = kill.trial(["baseline=none", "intention=neg,cor"], 1, 0, tmp_path, second_job)
    assert result["jobs"] == 2
    assert result["rounds"][0]["wrong"] == []
    assert result["rounds"][0]["jobs_finished"] == 1


def test_the_kill_script_notices_what_goes_wrong(tmp_path: Path) -> None:
    good = kill.Left({"a": {"D_r": 1.0}}, {"a/x": b"1"}, {"0123"})
    other = kill.Left({"a": {"D_r": 0.5}}, {"a/x": b"2"}, {"0123"})
    empty = kill.Left({}, {}, set())
    assert kill.differences(good, empty, good, "original: computing (0123)") == []
    assert kill.differences(good, good, good, "finished before; ...") == []
    assert len(kill.differences(good, empty, other, "")) == 2
    assert len(kill.differences(good, good, good, "original: computing (0123)")) == 2


def test_jobs_take_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from unlearn.engine.device import pick_device, share_threads

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [str(pick_device("auto", n)) for n in range(4)] == [
        "cuda:0",
        "cuda:1",
        "cuda:2",
        "cuda:0",
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert str(pick_device("auto", 3)) == "cpu"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    threads = torch.get_num_threads()
    try:
        share_threads(None, 4)
        assert torch.get_num_threads() == 2
        share_threads(3, 4)
        assert torch.get_num_threads() == 3
        share_threads(None, 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
