"""Every YAML of conf/ composes and runs a few steps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf
from PIL import Image

from tests.helpers import PAPER, SHARED, TINY, errors, make_folder
from unlearn.baselines.finetune import Finetune
from unlearn.baselines.neutralized import Neutralized
from unlearn.baselines.steps import Finetuned
from unlearn.config import compose
from unlearn.config.checks import check
from unlearn.config.compose import CONF, resolve, settings
from unlearn.config.identity import known_by, relevant
from unlearn.config.ranges import RANGES
from unlearn.config.schema import TableConf
from unlearn.errors import UserError
from unlearn.models import list_models
from unlearn.relearning.intentions import INTENTIONS
from unlearn.relearning.intentions.neg import Neg
from unlearn.scenarios import SCENARIOS

ROOT = Path(__file__).parents[1]
Run = Callable[..., tuple[int, str, str]]


def names(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def test_hydra_finds_the_sweeper_that_the_configuration_names() -> None:
    known = {f"{s.__module__}.{s.__name__}" for s in Plugins.instance().discover(Sweeper)}
    assert TableConf()._target_ in known, "Hydra looks for plugins elsewhere: sweeps cannot start"


def test_no_private_part_of_a_library_is_imported() -> None:
    private = re.compile(
        r"^\s*(?:from|import) (?:hydra|omegaconf|torch|lightning\w*|pytorch_lightning|wandb)\b"
        r"(?:[\w.]*\._[a-z]| ?[\w.]* import _[a-z])",
        re.MULTILINE,
    )
    sources = [p for part in ("unlearn", "hydra_plugins") for p in (ROOT / part).rglob("*.py")]
    found = {str(p): m[0] for p in sources if (m := private.search(p.read_text()))}
    assert not found, "what a library does not document breaks when it moves"
    assert private.search("from hydra._internal.utils import x")
    assert private.search("from wandb.sdk import _x")


def test_every_registered_name_has_its_yaml() -> None:
    assert names("scenario") == SCENARIOS.list()
    assert names("intention") == INTENTIONS.list()


@pytest.mark.parametrize("scale", names("scale"))
@pytest.mark.parametrize("scenario", names("scenario"))
@pytest.mark.parametrize("intention", names("intention"))
def test_every_combination_composes(scale: str, scenario: str, intention: str) -> None:
    extra = ["scenario.class_name=x"] if scenario == "class_folder" else []
    cfg = resolve([f"scale={scale}", f"scenario={scenario}", f"intention={intention}", *extra])
    assert (cfg.scale, cfg.scenario.name, cfg.intention.name) == (scale, scenario, intention)
    if scenario != "own" and (intention != "cor" or scenario == "7noisymnist"):
        check(cfg)


def test_a_whole_class_is_what_the_scenario_forgets() -> None:
    def told(*overrides: str) -> bool:
        cfg = resolve(list(overrides))
        check(cfg)
        return cfg.filtration.whole_class

    assert told("scale=demo", "scenario=class_mnist")
    assert told("recipe=best", "scenario=truck_cifar10")
    assert told("recipe=fast", "scenario=truck_cifar10")
    assert not told("scale=demo", "scenario=7mnist")
    assert not told("recipe=best")
    assert not told("recipe=fast")
    assert not told("scenario=class_mnist")  # the paper's method is not told
    with pytest.raises(UserError, match=r"^filtration\.whole_class: true needs .*class_mnist"):
        told("scenario=7mnist", "filtration.whole_class=true")
    assert settings("paper", "filtration.whole_class=true").filtration.whole_class


def test_the_best_recipe_goes_by_what_is_given_of_d_e() -> None:
    def chosen(*overrides: str, recipe: str = "best") -> tuple[bool, int, float, str, float]:
        cfg = resolve([f"recipe={recipe}", "intention=neg", *overrides])
        check(cfg)
        r, neg = cfg.relearning, cfg.intention
        assert isinstance(neg, Neg)
        return cfg.filtration.knee, r.epochs, r.temperature, r.forget, neg.cutoff

    whole = ["scenario=class_mnist", "scenario.digit=9"]
    of_a_class, of_a_part = (True, 20, 4.0, "samples", 4.0), (True, 10, 4.0, "shots", 4.0)
    assert chosen(*whole) == chosen(*whole, "shot=1img") == of_a_class
    assert chosen("scenario=7mnist") == chosen("shot=2img") == of_a_part
    assert chosen(*whole, "filtration.whole_class=false") == of_a_part
    told = settings("paper", "recipe=best", "intention=neg", "filtration.whole_class=true")
    assert (told.relearning.epochs, told.relearning.forget) == (20, "samples")
    assert told.intention("neg") == Neg(form="ascent", cutoff=4.0)
    assert chosen("scenario=7mnist", "shot=1img") == (False, 10, 2.0, "samples", 10.0)
    assert chosen(recipe="fast") == (True, 10, 4.0, "shots", 4.0)
    forms = [resolve([f"recipe={r}", "intention=neg"]).intention for r in ("paper", "best", "fast")]
    assert [x.form for x in forms if isinstance(x, Neg)] == [
        "ascent",
        "neighbours",
        "complementary",
    ]
    for given in (whole, ["shot=1img"]):
        neg = resolve(["recipe=best", "intention=neg", *given]).intention
        assert isinstance(neg, Neg)
        assert neg.form == "ascent"


def test_the_best_recipe_inverts_at_the_papers_scale_as_at_the_small_one() -> None:
    paper, small = (resolve([f"scale={scale}", "recipe=best"]) for scale in ("paper", "small"))
    assert relevant(paper)["inversion"] == relevant(small)["inversion"]
    assert relevant(paper)["filtration"] == relevant(small)["filtration"]
    assert relevant(paper)["inversion"] != relevant(resolve([]))["inversion"]


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_the_best_recipe_corrects_a_part_of_a_class_by_three_generators(scale: str) -> None:
    def chosen(*overrides: str) -> tuple[int, int, float | None, float]:
        cfg = resolve([f"scale={scale}", "recipe=best", *overrides])
        check(cfg)
        inversion, relearning = cfg.inversion, cfg.relearning
        weights = relearning.average, relearning.forget_weight
        return inversion.generators, inversion.steps, *weights

    one = (1, 1500, None, 4.0)
    assert chosen("intention=cor") == (3, 500, 0.5, 16.0)
    assert chosen("intention=cor", "shot=1img") == one
    assert chosen("intention=neg") == chosen("intention=std") == one
    assert chosen("intention=cor", "inversion.generators=1")[0] == 1


def test_a_switch_that_came_later_and_is_off_keeps_earlier_runs() -> None:
    off, on = resolve([]), resolve(["relearning.teacher=view", "relearning.mixup=0.5"])
    later = (("relearning", "mixup"), ("inversion", "prior"), ("filtration", "knee"))
    for name, switch in later:
        assert switch in relevant(off)[name]
        assert switch not in known_by(off)[name]
    assert known_by(on)["relearning"]["mixup"] == 0.5
    assert {**relevant(off)["relearning"], "mixup": 0.5, "teacher": "view"} == (
        relevant(on)["relearning"]
    )
    assert known_by(off)["inversion"]["grid_every"] == 0
    fisher = [resolve(["baseline=fisher", f"baseline.images={n}"]) for n in ("null", 60)]
    assert "images" not in known_by(fisher[0])["baseline"]
    assert known_by(fisher[1])["baseline"]["images"] == 60
    assert known_by(off)["baseline"] is None


def test_the_paper_scale_is_the_papers() -> None:
    cfg = resolve(["scenario=7mnist", "intention=neg", "shot=0.03"])
    assert (cfg.model.name, cfg.model.width, cfg.model.norm) == ("preact_resnet18", 64, "batch")
    assert (cfg.training.epochs, cfg.training.lr, cfg.training.batch_size) == (20, 0.01, 128)
    assert (cfg.inversion.steps, cfg.inversion.batch_size) == (7000, 256)
    assert cfg.filtration.per_condition * 11 == 5500
    assert (cfg.relearning.epochs, cfg.relearning.lr) == (10, 1e-3)
    assert cfg.relearning.batchnorm == "train"
    assert cfg.inversion.squared
    truck = resolve(["scenario=truck_cifar10"])
    assert truck.augment.flip
    assert truck.inversion.width == 64


def test_every_ranged_key_exists_and_every_number_has_a_range() -> None:
    tree = yaml.safe_load((CONF / "scale" / "paper.yaml").read_text())
    for group in ("augment", "training", "inversion", "filtration", "relearning"):
        for key, value in tree[group].items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and key not in ("seed", "emphasis"):
                assert f"{group}.{key}" in RANGES, key
    check(resolve([]))


@pytest.mark.parametrize("intention", names("intention"))
@pytest.mark.parametrize("scenario", ["7noisymnist", "7mnist", "class_mnist"])
def test_every_scenario_and_intention_runs(cli: Run, scenario: str, intention: str) -> None:
    if intention == "cor" and scenario != "7noisymnist":
        pytest.skip("no correct label is known")
    status, _, err = cli(*TINY, f"scenario={scenario}", f"intention={intention}")
    assert status == 0, err
    hidden = (scenario, intention) == ("7noisymnist", "neg")
    assert ("a small network seldom answers the right label" in err) == hidden


@pytest.mark.parametrize("model", list_models())
@pytest.mark.parametrize("norm", ["layer", "instance"])
def test_every_model_runs_without_batchnorm(cli: Run, model: str, norm: str) -> None:
    words = [*TINY, f"model={model}", "model.width=4", f"model.norm={norm}"]
    # Without BatchNorm a few steps may teach too little for samples of D_e's label; then filtration
    # says so, on some processors. A stand-in for the samples needs none.
    status, _, err = cli(*words)
    assert status == 0 or errors(err)[-1].startswith("error: filtration: "), err
    assert "filtration: computing" in err
    status, _, err = cli(*words, "proxy=noise", "relearning.shot_copies=2")
    assert status == 0, err


LONGER = ["data=folder", "training.epochs=30", "training.batch_size=32", "inversion.steps=60"]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.mark.parametrize("scenario", ["truck_cifar10", "class_cifar10"])
def test_cifar10_as_a_folder_runs(cli: Run, tmp_path: Path, scenario: str) -> None:
    root = make_folder(tmp_path / "cifar", classes="0123456789", number=6, size=32)
    for split in ("train", "test"):
        for i, name in enumerate(CIFAR):
            (root / split / str(i)).rename(root / split / name)
    status, _, err = cli(*TINY, *LONGER, f"scenario={scenario}", f"data_dir={root}")
    assert status == 0, err


def test_full_mnist_runs_at_paper_scale_with_a_few_steps(cli: Run, full_mnist: Path) -> None:
    tiny = [x for x in TINY if x != "scale=demo"]
    few = [*tiny, "per_class=300", *PAPER, f"data_dir={full_mnist}"]
    status, _out, err = cli(*few, "scenario=7mnist")
    assert status == 0, err


def test_full_cifar10_from_jpeg(cli: Run, tmp_path: Path) -> None:
    archive = SHARED / "cifar10-jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip("the JPEG copy of CIFAR-10 is not at hand")
    import tarfile

    with tarfile.open(archive) as tar:
        members = [m for m in tar if m.isfile() and int(Path(m.name).stem) < 30]
        tar.extractall(tmp_path / "cifar", members, filter="data")
    with Image.open(next((tmp_path / "cifar").rglob("*.jpg"))) as image:
        assert image.size == (32, 32)
    few = [*TINY, *LONGER, f"data_dir={tmp_path / 'cifar'}"]
    status, _, err = cli(*few, "scenario=truck_cifar10")
    assert status == 0, err


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["scale=small", "recipe=best", "intention=neg", "seed=3", "seed=4"],
        ["scale=demo", "scenario=truck_cifar10", "intention.form=ascent", "shot=1img"],
        ["baseline=scrub", "inversion.weights={tar: 1}", "inversion.betas=[0.1,0.2]"],
        ["logger=[csv,tensorboard]", "model.width=16", "scenario.data.paper=mnist5k"],
    ],
)
def test_values_set_after_composing_give_what_hydra_composes(overrides: list[str]) -> None:
    quick, whole = compose._with_values(overrides), compose._composed(tuple(overrides))
    assert quick is not None
    assert OmegaConf.to_yaml(quick) == OmegaConf.to_yaml(whole)
    again = compose._with_values(overrides)
    assert again == quick
    assert again is not quick


@pytest.mark.parametrize(
    "override",
    ["sede=1", "seed=x", "relearning.lrr=1", "~seed", "+a=1", "scenario=foo", "seed=1,2"],
)
def test_what_hydra_refuses_it_refuses_in_its_words(override: str) -> None:
    said = []
    for way in (resolve, lambda words: compose.typed(compose._composed(tuple(words)))):
        with pytest.raises(Exception) as caught:
            way([override])
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


def test_a_setting_of_a_group_that_has_none_is_refused() -> None:
    said = r"baseline\.epochs: baseline has no settings as chosen; other choices: .*finetune, "
    with pytest.raises(UserError, match=said):
        resolve(["scale=demo", "baseline.epochs=7"])
    told = resolve(["baseline.epochs=7", "baseline=finetune"]).full_access
    assert isinstance(told, Finetune)
    assert told.epochs == 7


def test_methods_with_all_the_data_are_shortened_as_the_original_is() -> None:
    def epochs(*sets: str) -> tuple[int, int]:
        cfg = resolve(list(sets))
        assert isinstance(cfg.full_access, Finetuned | Neutralized)
        return cfg.full_access.epochs, cfg.training.epochs

    for name, whole in {"finetune": 10, "neggrad_plus": 10, "salun": 10, "neutralized": 5}.items():
        method = f"baseline={name}"
        long, short = epochs("scale=paper", method), epochs("scale=small", method)
        assert long[0] == whole
        assert short[0] / long[0] == short[1] / long[1]
        assert epochs("scale=small", method, "baseline.epochs=3")[0] == 3
