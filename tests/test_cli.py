"""The command line: what it writes, what it refuses, how it goes on after a kill."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from tests.copies import start
from tests.helpers import CELL, OTHER_PROCESSES, PAPER, TINY, make_folder
from unlearn.cli import main
from unlearn.errors import UserError
from unlearn.sweep.checked import check_jobs, expand

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]


def metrics_of(out: str) -> dict:
    return json.loads(Path(out.strip().splitlines()[-1]).read_text())


def test_a_run_writes_what_it_promises(cli: Run, tmp_path: Path) -> None:
    status, out, err = cli(*TINY, "per_class=null", "intention=cor", "shot=0.3", "seed=1")
    assert status == 0, err
    metrics = metrics_of(out)
    assert {
        k: metrics[k] for k in ("scenario", "method", "intention", "shot", "shots", "seed")
    } == {
        "scenario": "7noisymnist",
        "method": "ours",
        "intention": "cor",
        "shot": 0.3,
        "shots": 14,
        "seed": 1,
    }
    assert metrics["scale"] == "demo"
    both = ("D_r", "D_e")
    attacks = ("balanced_accuracy", "auc", "tpr_at_1_fpr")
    shares = {f"{kind}{d}" for kind in ("", "train_", "original_", "asr_") for d in both}
    shares |= {f"mia_{d}_{a}" for d in both for a in attacks}
    norms = {f"norm_{d}{s}" for d in both for s in ("", "_std")}
    answers = {f"answers_{when}_{c}" for when in ("before", "after") for c in range(10)}
    assert set(metrics["metrics"]) == shares | norms | answers
    assert all(0 <= metrics["metrics"][k] <= 1 for k in shares)
    assert all(metrics["metrics"][k] > 0 for k in norms)
    assert metrics["config"]["inversion"]["steps"] == 25
    assert metrics["classes"] == [str(d) for d in range(10)]
    stages = {"training", "inversion", "filtration", "relearning", "evaluation"}
    assert set(metrics["seconds"]) == stages
    assert metrics["hardware"].startswith("CPU")
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "before" in out
    assert "after" in out
    folder = Path(out.strip().splitlines()[-1]).parent
    assert metrics["config_hash"] in folder.name
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["inversion"]["steps"] == 25
    assert config["seed"] == 1
    assert load_file(folder / "unlearned.safetensors")
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert {r["stage"] for r in rows} == {"training", "inversion", "relearning"}
    for name in ("samples", "samples-000010", "filtration", "knee", "overview", "shots"):
        with Image.open(folder / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 100
            assert len(picture.convert("L").getcolors(1 << 16)) > 5
    assert not list(folder.rglob("*.partial"))
    for stage in ("training", "inversion", "filtration", "relearning"):
        assert len(list((tmp_path / "out" / "store" / stage).glob("*/entry.json"))) == 1


def test_the_same_command_again_finds_the_result(cli: Run) -> None:
    first = cli(*TINY)
    path = Path(first[1].strip().splitlines()[-1])
    stamp = path.stat().st_mtime_ns
    status, out, err = cli(*TINY)
    assert status == 0
    assert "finished before" in err
    assert path.stat().st_mtime_ns == stamp
    assert out.strip().splitlines()[-1] == str(path)


def test_the_same_command_gives_the_same_numbers(cli: Run, tmp_path: Path) -> None:
    one = metrics_of(cli(*TINY)[1])
    (tmp_path / "out").rename(tmp_path / "old")
    two = metrics_of(cli(*TINY)[1])
    assert one["metrics"] == two["metrics"]
    assert one["threshold"] == two["threshold"]
    states = [
        load_file(next((tmp_path / d).glob("runs/*/*/*/unlearned.safetensors")))
        for d in ("old", "out")
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_run_says_where_the_label_stays(cli: Run) -> None:
    words = [*TINY, "scenario=class_mnist", "scenario.digit=1", "per_class=100"]
    words += ["training.epochs=4", "intention=neg"]
    said = "most shots still get their label"
    status, _, err = cli(*words, "relearning.lr=1e-9")
    assert status == 0, err
    assert f"{said}; intention=neg or cor" in err
    status, _, err = cli(*words, "baseline=ascent", "baseline.lr=1e-9", "baseline.steps=1")
    assert status == 0, err
    assert said in err
    assert "relearning.forget_weight" not in err
    status, _, err = cli(*words, "baseline=ascent", "baseline.lr=0.1", "baseline.steps=50")
    assert status == 0, err
    assert said not in err


def test_runs_share_stages(cli: Run, tmp_path: Path) -> None:
    status, out, err = cli("-m", *TINY, "intention=neg,std", "seed=0,1")
    assert status == 0, err
    assert len([line for line in out.splitlines() if line.endswith("metrics.json")]) == 4
    store = tmp_path / "out" / "store"
    count = {s.name: len(list(s.glob("*/entry.json"))) for s in store.iterdir()}
    assert count == {"training": 1, "inversion": 2, "filtration": 2, "relearning": 4}


@pytest.mark.parametrize(
    ("started", "said"),
    [
        ("/venv/bin/unlearn", "unlearn"),
        ("run.py", "python run.py"),
        ("/x/unlearn/__main__.py", "python -m unlearn"),
    ],
)
def test_usage_says_how_it_was_started(
    started: str, said: str, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    out = cli("--help")[1]
    for command in ("KEY=VALUE", "-m", "plan", "report", "evaluate", "dashboard"):
        assert f"  {said} {command}" in out
    assert f"`{said} --cfg job`" in out
    with pytest.raises(SystemExit):
        main(["report", "--help"])


def test_hydras_own_options(cli: Run) -> None:
    status, out, err = cli("--cfg", "job", "scale=demo")
    assert status == 0, err
    assert "inversion:" in out
    assert cli("--info", "defaults", "scale=demo")[0] == 0
    assert "shot: 3\n" in cli("--cfg", "job", "shot=3")[1]  # shown, though it could not be run
    for typo in ("scenario=7mnst", "baseline.epochs=7", "sede=1"):
        status, _, err = cli("-c", "job", typo)
        assert status == 2
        assert err.startswith(f"error: {typo.partition('=')[0]}: ")
        assert err.count("\n") == 1
    assert cli("--cfg", "job", "-m", "seed=0")[2].startswith("error: -m: ")


@pytest.mark.parametrize("words", [["plan"], ["--dry-run"]])
def test_a_plan_of_one_run(cli: Run, tmp_path: Path, words: list[str]) -> None:
    status, out, err = cli(*words, *TINY)
    assert status == 0, err
    assert "1 jobs, 1 to do" in " ".join(out.split())
    assert not (tmp_path / "out").exists()


def test_help_shows_the_knobs(cli: Run) -> None:
    status, out, _ = cli("--help")
    assert status == 0
    for knob in ("scenario", "intention", "shot", "seed", "scale", "data_dir", "output_dir"):
        line = next(x for x in out.splitlines() if x.strip().startswith(f"{knob} "))
        assert ":" in line
    assert "7noisymnist" in out
    assert "cor, neg, std, unt" in out


BAD = {
    "scenario=7mnst": ["scenario", "7mnist", "7noisymnist"],
    "intention=forget": ["intention", "cor, neg, std, unt"],
    "scale=huge": ["scale", "demo, paper"],
    "inversion.stesp=3": ["inversion.stesp", "inversion.steps"],
    "shots=3": ["shots", "shot"],
    "+foo=1": ["foo", "scenario"],
    "inversion.steps=many": ["inversion.steps", "int"],
    "inversion.steps=0": ["inversion.steps", "from 1"],
    "inversion.weights.bn=-1": ["inversion.weights.bn", "from 0"],
    "seed=0.5": ["seed", "int"],
    "shot=0": ["shot", "(0, 1]"],
    "shot=-1": ["shot", "(0, 1]"],
    "shot=1.5": ["shot", "(0, 1]"],
    "shot=0img": ["shot", "24img"],
    "shot=9999img": ["shot", "45"],
    "scenario=7mnist intention=cor": ["intention", "7noisymnist", "neg, std, unt"],
    "scenario=class_mnist scenario.digit=10": ["scenario.digit", "0 to 9"],
    "scenario=class_mnist scenario.digit=-1": ["scenario.digit", "0 to 9"],
    "scenario=class_folder": ["scenario.class_name"],
    "model=vgg": ["model", "preact_resnet18, python, small_cnn"],
    "data=imagenet": ["data", "cifar10, folder, mnist, mnist5k"],
    "device=tpu7": ["device", "auto, cpu, cuda"],
    "relearning.batchnorm=off": ["relearning.batchnorm", "train, frozen"],
    "relearning.schedule=onecycle": ["relearning.schedule", "constant, cosine"],
    "relearning.mixup=1.5": ["relearning.mixup", "0 to 1"],
    "relearning.mixup=0.5": ["relearning.mixup", "teacher=view"],
    "relearning.adversarial=0.1": ["relearning.adversarial", "teacher=view"],
    "relearning.adversarial_forget=0.1": ["relearning.adversarial_forget", "adversarial above 0"],
    "intention.form=maybe": ["intention.form", "ascent, complementary, second"],
    "model.checkpoint=nowhere.pt": ["model.checkpoint", "nowhere.pt"],
    "data=mnist data_dir=nowhere": ["data_dir", "UNLEARN_DATA", "mnist5k"],
    "scenario=truck_cifar10 data_dir=nowhere": ["data_dir", "UNLEARN_DATA"],
    "shot": ["shot: needs a value"],
    "reprot": ["'reprot'", "did you mean 'report'"],
    "--dryrun": ["--dryrun", "--dry-run"],
    "--config-dir elsewhere": ["--config-dir"],
    "=3": ["'=3'", "KEY=VALUE"],
    "~seed": ["seed", "needs a value"],
    "scenario=3": ["scenario", "7mnist"],
    "seed=[1]": ["seed", "int"],
    "data_dir=": ["data_dir", "needs a folder"],
    "-m intention=neg,cor scenario=7mnist": ["intention", "7noisymnist"],
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(
    cli: Run, tmp_path: Path, arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def offline(*_: object, **__: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    status, out, err = cli("scale=demo", *arguments.split())
    assert status == 2
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert err.strip().splitlines()[-1] == lines[0]
    assert "Traceback" not in err
    for word in BAD[arguments]:
        assert word in lines[0]
    assert out == ""
    assert list(tmp_path.iterdir()) == []


NAMES = [
    "/a/epoch=3",
    "/a/My Pictures (2020)",
    "äpfel",
    "a,b",
    "[a]",
    "{a}",
    "{a:1}",
    "a#b",
    "a;b & c",
    "a'b",
    'a"b',
    'a\\"b\\',
    "${HOME}/a",
    "/a/${b",
    "$a{b}",
    "range(3)",
    "f(x)",
    "null",
    "表",
    "a!b^c`d",
    "1_000",
    "1e5",
    "true",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_name_that_the_grammar_does_not_take_bare(name: str, sweep: bool) -> None:
    """The error names the key, and what it says to type means that name."""
    if sweep and name in ("a,b", "range(3)", "[a]"):
        pytest.skip("says something else in a sweep")
    assert told(name, sweep) == name


def told(name: str, sweep: bool) -> str:
    """What ``output_dir`` is if the advice of the error about ``name`` is followed."""
    with pytest.raises(UserError) as caught:
        check_jobs(expand([f"output_dir={name}"]) if sweep else [[f"output_dir={name}"]], sweep)
    line = str(caught.value)
    assert line.startswith("output_dir: ")
    assert "quote it" in line
    (advised,) = shlex.split(line.partition("quote it")[2].partition(": ")[2])
    jobs = expand([advised]) if sweep else [[advised]]
    return check_jobs(jobs, sweep)[0].output_dir


def test_only_what_needs_quotes_in_a_sweep_gets_them() -> None:
    with pytest.raises(UserError, match=r"""'output_dir="a\(1\)",b c,"ä"'$"""):
        expand(["output_dir=a(1),b c,ä"])
    jobs = expand(['output_dir="a(1)",b c,"ä"'])
    assert [c.output_dir for c in check_jobs(jobs, True)] == ["a(1)", "b c", "ä"]


def test_a_home_that_no_shell_has_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert told("~/out", sweep=False) == "/home/somebody/out"


def test_a_run_in_a_folder_with_such_a_name(cli: Run, tmp_path: Path) -> None:
    name = "epoch=3 (2020), ${x} äpfel"
    escaped = name.replace("${", r"\${")
    where = f'output_dir="{tmp_path / escaped}"'
    for sweep in ([], ["-m"]):
        assert main([*sweep, *CELL, "baseline=original", where]) == 0
    assert len(list((tmp_path / name).rglob("metrics.json"))) == 1


def test_other_processes_of_a_job_are_not_heeded(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OTHER_PROCESSES.items():
        monkeypatch.setenv(name, value)
    status, _, err = cli(*TINY)
    assert status == 0, err
    assert {name: os.environ.get(name) for name in OTHER_PROCESSES} == OTHER_PROCESSES


FOLDER = [x for x in TINY if x != "shot=5img"] + [
    "scenario=class_folder",
    "scenario.class_name=b",
    "shot=0.5",
    "training.epochs=25",
]


def test_ones_own_folder(cli: Run, tmp_path: Path) -> None:
    make_folder(tmp_path / "mine")
    status, out, err = cli(*FOLDER, f"data_dir={tmp_path / 'mine'}")
    assert status == 0, err
    metrics = metrics_of(out)
    assert metrics["shots"] == 4
    assert metrics["data"] == "folder"
    Image.new("RGB", (16, 16)).save(tmp_path / "mine" / "train" / "b" / "more.png")
    again = metrics_of(cli(*FOLDER, f"data_dir={tmp_path / 'mine'}")[1])
    assert again["config_hash"] != metrics["config_hash"]


@pytest.mark.parametrize("damage", ["unreadable", "cut", "one class", "no test", "other classes"])
def test_a_folder_that_cannot_be_used(cli: Run, tmp_path: Path, damage: str) -> None:
    root = make_folder(tmp_path / "mine", classes="b" if damage == "one class" else "ab")
    bad = root / "train" / "b" / "3.png"
    word = {"one class": "one class", "no test": "test", "other classes": "different"}.get(damage)
    if damage == "unreadable":
        bad.write_text("no picture")
    elif damage == "cut":
        bad.write_bytes(bad.read_bytes()[:60])
    elif damage == "no test":
        (root / "test").rename(tmp_path / "elsewhere")
    elif damage == "other classes":
        (root / "test" / "b").rename(root / "test" / "c")
    status, _, err = cli(*FOLDER, f"data_dir={root}")
    assert status == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: data_dir: ")
    assert (word or str(bad)) in last
    assert not (tmp_path / "out").exists()
    status, _, err = cli(*FOLDER, f"data_dir={root}", "scenario.class_name=zebra")
    assert status == 2


def test_nan_names_stage_and_step_and_keeps_what_was_finished(cli: Run, tmp_path: Path) -> None:
    status, _, err = cli(*TINY, "relearning.lr=1e38")
    assert status == 2
    assert "error: relearning: " in err.strip().splitlines()[-1]
    assert "step" in err.strip().splitlines()[-1]
    assert list((tmp_path / "out" / "store" / "filtration").glob("*/entry.json"))
    assert not list((tmp_path / "out").rglob("metrics.json"))
    assert cli(*TINY, "training.lr=1e38")[0] == 2


def test_nothing_target_like_keeps_the_pictures(cli: Run, tmp_path: Path) -> None:
    status, _, err = cli(*TINY, "filtration.threshold=0")
    assert status == 2
    last = err.strip().splitlines()[-1]
    assert "filtration.threshold" in last
    assert "knee plot" in last
    assert {p.name for p in (tmp_path / "out").rglob("*.png")} >= {"filtration.png", "knee.png"}


def test_ones_own_checkpoint(cli: Run, tmp_path: Path) -> None:
    first = cli(*TINY)[1]
    path = Path(first.strip().splitlines()[-1]).parent / "unlearned.safetensors"
    status, out, err = cli(*TINY, f"model.checkpoint={path}")
    assert status == 0, err
    ours, before = metrics_of(first)["metrics"], metrics_of(out)["metrics"]
    assert before["original_D_r"] == ours["D_r"]
    assert before["original_D_e"] == ours["D_e"]


def test_paper_scale_on_a_cpu_says_how_long_it_takes(cli: Run) -> None:
    tiny = [x for x in TINY if x != "scale=demo"]
    status, _, err = cli(*tiny, "data=mnist5k", *PAPER)
    assert status == 0, err
    line = next(x for x in err.splitlines() if "no GPU" in x)
    assert "scale=demo" in line


def with_threads(number: int, words: list[str]) -> int:
    torch.set_num_threads(number)
    return main(words)


def test_killed_at_two_stages_it_goes_on_to_the_same_numbers(tmp_path: Path, cli: Run) -> None:
    status, out, err = cli(*TINY)
    assert status == 0, err
    wanted = metrics_of(out)
    killed = tmp_path / "killed"
    words = [*TINY, f"output_dir={killed}"]
    for stage in ("inversion", "relearning"):
        process = start(tmp_path / stage, with_threads, torch.get_num_threads(), words)
        said = tmp_path / stage / "err"
        while process.is_alive():
            if f"{stage}: computing" in said.read_text():
                process.kill()
                break
            time.sleep(0.01)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, said.read_text()
        assert not list(killed.rglob("metrics.json"))
    assert main(words) == 0
    found = json.loads(next(killed.rglob("metrics.json")).read_text())
    assert found["metrics"] == wanted["metrics"]
    assert found["config_hash"] == wanted["config_hash"]
    for kept in ("training", "inversion", "filtration", "relearning"):
        names = [
            [p.name for p in (d / "store" / kept).iterdir() if p.is_dir()]
            for d in (killed, tmp_path / "out")
        ]
        assert names[0] == names[1]


def test_two_commands_side_by_side_share_one_run(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    words = [*TINY, f"output_dir={tmp_path / 'o'}"]
    processes = [start(folder, with_threads, 1, words) for folder in folders]
    for process in processes:
        process.join(200)
    texts = [((f / "out").read_text(), (f / "err").read_text()) for f in folders]
    assert [p.exitcode for p in processes] == [0, 0], texts
    paths = {out.strip().splitlines()[-1] for out, _ in texts}
    assert len(paths) == 1
    computed = sum(err.count("inversion: computing") for _, err in texts)
    assert computed == 1
