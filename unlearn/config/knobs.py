"""The knobs on top of the configuration, in words: the text of ``--help``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omegaconf import OmegaConf

from unlearn.config.compose import names, resolve
from unlearn.config.schema import COMPETITORS
from unlearn.data import SOURCES
from unlearn.engine.precision import PRECISIONS
from unlearn.program import program
from unlearn.relearning import INTENTIONS
from unlearn.scenarios import SCENARIOS

KNOBS: dict[str, tuple[str, Callable[[], Sequence[str]] | str]] = {
    "scenario": ("what was learnt and what must go", SCENARIOS.list),
    "intention": ("what the model shall answer on it instead", INTENTIONS.list),
    "baseline": (
        "another method, with the same information or with all the training data; none is ours",
        lambda: ["none", *COMPETITORS.list()],
    ),
    "proxy": ("what stands in for D~_r", lambda: names("proxy")),
    "shot": ("how much of D_e is given", "a share in (0, 1], or a number of images: 1img, 24img"),
    "seed": ("of shots, generator and relearning", "an integer from 0"),
    "scale": (
        "networks, data and lengths",
        lambda: names("scale"),
    ),
    "recipe": (
        "switches beside the scale's settings",
        lambda: names("recipe"),
    ),
    "data": ("where the images come from", SOURCES.list),
    "data_dir": ("folder of the images", "a folder; also the environment variable UNLEARN_DATA"),
    "output_dir": ("folder of the results", "a folder"),
    "device": ("where to compute", "auto, cpu, cuda, cuda:N"),
    "precision": ("of networks while they are trained", lambda: PRECISIONS),
    "compile": ("networks, by torch.compile, while they are trained", "true, false, auto"),
    "experiment": (
        "a table or figure of the paper, with -m",
        lambda: names("experiment"),
    ),
    "launcher": (
        "what runs a sweep's jobs",
        lambda: names("launcher"),
    ),
    "jobs": ("how many jobs of a sweep at once", "a whole number from 1"),
    "threads": ("CPU threads of a job; null: all, shared by the jobs at once", "from 1"),
    "track_predictions": ("follow the answers on D_e over the epochs", "true, false"),
    "logger": ("live tracking beside history.csv, one or [a,list]", lambda: names("logger")),
}


def usage() -> str:
    """The text of ``--help``."""
    defaults = {
        "scenario": "7noisymnist",
        "intention": "neg",
        "scale": "paper",
        "baseline": "none",
        "proxy": "inversion",
        "launcher": "basic",
        "recipe": "paper",
        "logger": "csv",
    }
    tree = OmegaConf.structured(resolve([]))
    lines = [
        "Few-shot unlearning: forget, or stop getting wrong, what a few images show.",
        "",
        *_commands(),
        "",
    ]
    for name, (what, allowed) in KNOBS.items():
        words = allowed if isinstance(allowed, str) else ", ".join(allowed())
        value = defaults[name] if name in defaults else OmegaConf.select(tree, name)
        lines.append(f"  {name:<17} {what} [{value}]: {words}")
    lines += [
        "",
        "Groups below, reached as inversion.steps=500: scenario, model, augment, training,",
        "inversion, filtration, relearning, intention. Their values: conf/scale/*.yaml, or",
        f"`{program()} --cfg job`.",
    ]
    return "\n".join(lines)


def _commands() -> list[str]:
    """What there is to type, and what it does."""
    forms = {
        "KEY=VALUE ...": "one run",
        "-m KEY=VALUE,VALUE ...": "a sweep: every combination",
        "-m experiment=table1": "every cell of a table",
        "plan ...": "nothing is run: the jobs, which are finished, how long the rest takes",
        "report ...": "the paper's tables and figures from finished runs",
        "evaluate ...": "finished runs measured again from their saved weights",
        "dashboard ...": "the W&B dashboard of a table's runs",
        "page ...": "a page in the browser: drop images, choose samples, get the repaired model",
    }
    start = program()
    lines = [f"  {start} {form:<24} {what}" for form, what in forms.items()]
    return [
        *lines,
        f"  {start} COMMAND --help{'':<9} its own options",
        "",
        "--dry-run and --evaluate are the same as plan and evaluate.",
    ]
