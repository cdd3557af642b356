"""The house: short functions, one direction of imports, public interfaces, runnable examples."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

import unlearn
from unlearn.config.compose import resolve
from unlearn.config.schema import COMPETITORS, Config
from unlearn.forget import Settings
from unlearn.relearning import INTENTIONS
from unlearn.scenarios import SCENARIOS
from unlearn.training import TrainingConfig

PACKAGE = Path(unlearn.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LINES = 400
LONGEST = 60
PARAMETERS = 8
# What users call may have as many as they need.
PUBLIC_CALLS = {"forget"}
# Functions that hand on a library's own arguments.
LIBRARIES_ARGUMENTS = {"unlearn.engine.fitting.trainer_on"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    """The module that a file is."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def functions() -> list[tuple[str, Function]]:
    """Every function of the package with its place."""
    return [
        (f"{name_of(path)}:{node.lineno} {node.name}", node)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, Function)
    ]


def imported(node: ast.AST) -> Iterator[str]:
    """Modules, and what is taken from them, that an import names."""
    if isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{a.name}" for a in node.names)
    elif isinstance(node, ast.Import):
        yield from (a.name for a in node.names)


def at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Statements that run when a module is imported: not those of functions, nor types' alone."""
    for node in body:
        if isinstance(node, Function):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from at_import(getattr(node, part, []))


def module_named(name: str, known: set[str]) -> str | None:
    """The module of the package that an imported name is, or is in."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


@cache
def graph(lazy: bool) -> dict[str, set[str]]:
    """Which modules of the package each one imports; ``lazy``: within functions too."""
    known = {name_of(path) for path in FILES}
    found: dict[str, set[str]] = {}
    for path in FILES:
        nodes = ast.walk(tree_of(path)) if lazy else at_import(tree_of(path).body)
        names = {module_named(n, known) for node in nodes for n in imported(node)}
        found[name_of(path)] = {n for n in names if n and n != name_of(path)}
    return found


# --- functions and files


def test_no_function_takes_more_than_eight_arguments() -> None:
    long = []
    for place, node in functions():
        a = node.args
        given = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        given = [x for x in given if x not in ("self", "cls")]
        if len(given) > PARAMETERS and node.name not in PUBLIC_CALLS:
            long.append(f"{place}: {len(given)}")
    assert long == []


def test_every_parameter_is_typed() -> None:
    untyped = [
        f"{place}: {x.arg}"
        for place, node in functions()
        for x in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if x.annotation is None and x.arg not in ("self", "cls")
    ]
    assert untyped == []


def test_no_dictionaries_of_arguments_are_handed_on() -> None:
    """A function that takes ``**how`` hides what it takes; ``**_`` only ignores it."""
    taking = [
        place.split(":")[0] + "." + node.name
        for place, node in functions()
        if node.args.kwarg is not None and not node.args.kwarg.arg.startswith("_")
    ]
    assert set(taking) <= LIBRARIES_ARGUMENTS


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{place}: {(node.end_lineno or 0) - node.lineno + 1}"
        for place, node in functions()
        if length(node) > LONGEST
    ]
    assert long == []


def length(node: Function) -> int:
    """Lines of a function without its docstring."""
    lines = (node.end_lineno or 0) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


@pytest.mark.parametrize("folder", ["unlearn", "tests", "scripts", "hydra_plugins"])
def test_modules_are_short(folder: str) -> None:
    allowed = LINES if folder != "tests" else 1000
    counts = {
        str(p.relative_to(ROOT)): len(p.read_text().splitlines())
        for p in (ROOT / folder).rglob("*.py")
    }
    assert {p: n for p, n in counts.items() if n > allowed} == {}


def test_private_parts_of_libraries_are_used_in_one_file_only() -> None:
    users: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            for name in imported(node):
                parts = name.split(".")
                ours = parts[0] in ("unlearn", "__future__")
                if not ours and any(p.startswith("_") for p in parts):
                    users.setdefault(name_of(path), []).append(name)
    assert len(users) <= 1, users


# --- imports

# A module may import its own layer and those before it.
LAYERS = [
    ["version", "errors", "registry", "program", "signals"],
    ["engine"],
    ["models"],
    ["problem"],
    ["inversion"],
    ["filtration"],
    ["standins"],
    ["relearning"],
    ["methods"],
    ["forget"],
    ["data"],
    ["scenarios"],
    ["training"],
    ["baselines"],
    ["evaluation"],
    ["config"],
    ["runs"],
    ["sweep"],
    ["repair"],
    ["pipeline"],
    ["report"],
    ["page"],
    ["cli", "__main__"],
]
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}


def part_of(module: str) -> str:
    """The part of the package that a module is in."""
    return module.split(".")[1] if "." in module else ""


def test_every_part_of_the_package_has_its_layer() -> None:
    assert {part_of(m) for m in graph(lazy=True)} - {""} == set(DEPTH)


def test_imports_follow_the_data() -> None:
    back = [
        f"{module} imports {other}"
        for module, others in graph(lazy=False).items()
        for other in others
        if part_of(module) and part_of(other) and DEPTH[part_of(other)] > DEPTH[part_of(module)]
    ]
    assert back == []


def test_no_circular_imports() -> None:
    edges, done = graph(lazy=True), set[str]()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in edges[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_no_test_file_imports_another() -> None:
    others = [
        f"{path.name} imports {name}"
        for path in TESTS
        for node in ast.walk(tree_of(path))
        for name in imported(node)
        if name.startswith("tests.test_")
    ]
    assert others == []


# --- examples and defaults


@pytest.mark.parametrize("module", [m for p in FILES if (m := name_of(p)) != "unlearn.__main__"])
def test_examples_in_docstrings_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.fixture(scope="module")
def paper() -> Config:
    return resolve(["scale=paper", "scenario=7noisymnist"])


@pytest.mark.parametrize("group", ["augment", "inversion", "filtration", "relearning"])
def test_the_library_calls_defaults_are_the_papers(paper: Config, group: str) -> None:
    assert asdict(getattr(Settings(), group)) == asdict(getattr(paper, group))


def test_the_trainings_defaults_are_the_papers(paper: Config) -> None:
    assert asdict(TrainingConfig()) == asdict(paper.training)
    assert Settings().precision == paper.networks


@pytest.mark.parametrize("name", list(INTENTIONS))
def test_the_intentions_defaults_are_the_papers(name: str) -> None:
    composed = resolve(["scale=paper", "scenario=7noisymnist", f"intention={name}"]).intention
    assert asdict(INTENTIONS[name]()) == asdict(composed)
    assert Settings().intention(name) == composed


def test_no_one_asks_which_scenario_intention_or_method_it_is() -> None:
    """A new one would be forgotten there: what differs is said by its class."""
    kinds = [r[name] for r in (SCENARIOS, INTENTIONS, COMPETITORS) for name in r]
    names = {c.__name__ for kind in kinds for c in kind.__mro__ if c is not object}
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("isinstance", "issubclass")
        and {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)} & names
    ]
    assert not found
