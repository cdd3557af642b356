"""One's own model and a few images; there is no D."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from unlearn.data import Images, Pair, Source
from unlearn.data.base import digests
from unlearn.data.reading import printable
from unlearn.data.shots import (
    Wanted,
    class_folders,
    contents,
    file_hash,
    image_files,
    labelled,
    read_images,
)
from unlearn.engine.store import hash_of
from unlearn.errors import UserError, did_you_mean
from unlearn.models import Loaded
from unlearn.scenarios.base import SCENARIOS, Scenario, Task

log = logging.getLogger(__name__)

SHOTS, LABEL, CORRECT = "scenario.shots", "scenario.label", "scenario.correct"
CLASSES, TEST, FORGET = "scenario.classes", "scenario.test", "scenario.test_forget"
SHOWN = 8


@dataclass(frozen=True)
class OwnTask:
    """What is given beside the model.

    Attributes:
        classes: names of the model's classes; their numbers where no names are known.
        shots: uint8 (k, C, H, W).
        labels: what the model answers on them and shall not, (k,).
        correct: what they are, (k,); None where it is not known.
        test: images of all classes with their labels; None without.
        forget: uint8 (m, C, H, W), more images like the shots; None without.
        forget_labels: the label that counts as accurate on each of them, (m,).
        said: what was taken for what, in one line.
    """

    classes: list[str]
    shots: Tensor
    labels: Tensor
    correct: Tensor | None
    test: Images | None
    forget: Tensor | None
    forget_labels: Tensor | None
    said: str


@SCENARIOS.register("own")
@dataclass
class Own(Scenario):
    """A trained model, a few images of what it must forget, and nothing else.

    Attributes:
        shots: a folder, an image or a list of them.
        label: the name or number of the class that the model answers on them; for several labels
            a list of them, each the name of a folder in ``shots``, or a mapping from the folder's
            name to the label.
        correct: the right class, for intention ``cor``; of several labels a list or a mapping.
        classes: a file with a class's name on each line, in the model's order.
        test: a folder of test images, in a folder for each class.
        test_forget: more images like the shots, as they are given.
    """

    needs_data: ClassVar[bool] = False
    knows_correct: ClassVar[bool] = True
    may_be_whole_class: ClassVar[bool] = True
    shots: Any = None
    label: Any = None
    correct: Any = None
    classes: str | None = None
    test: str | None = None
    test_forget: Any = None

    def task(self, pair: Pair, source: Source) -> Task:
        raise UserError("scenario", "own has no training data")

    def check(self) -> None:
        for key, value, example in (
            (SHOTS, self.shots, "FOLDER"),
            (LABEL, self.label, "NAME or NUMBER"),
        ):
            if value is None or value == []:
                raise UserError(key, f"needs a value: {key}={example}")
        self.files()
        if self.test is not None:
            class_folders(self.test, TEST)
        if self.test_forget is not None:
            _groups(self.test_forget, self.label, FORGET)
        self.names()

    def files(self) -> dict[str, list[str]]:
        """The files of the shots, by the name of their label's folder; of one label by none.

        Raises:
            UserError: if there are none.
        """
        return _groups(self.shots, self.label, SHOTS)

    def given(self) -> int:
        """How many images of D_e are given."""
        return sum(map(len, self.files().values()))

    def names(self) -> list[str] | None:
        """The names of the classes in ``classes``; None without it.

        Raises:
            UserError: if it cannot be read.
        """
        if self.classes is None:
            return None
        try:
            lines = Path(os.path.expanduser(self.classes)).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise UserError(
                CLASSES, f"'{printable(self.classes)}' cannot be read ({error})"
            ) from error
        names = [line.strip() for line in lines if line.strip()]
        if len(names) != len(set(names)):
            twice = next(n for n in names if names.count(n) > 1)
            raise UserError(CLASSES, f"{twice!r} stands in it twice")
        return names

    def identity(self) -> str:
        """The contents of all the files that are named."""
        held: dict[str, Any] = {SHOTS: {n: contents(f, SHOTS) for n, f in self.files().items()}}
        if self.test is not None:
            folders = class_folders(self.test, TEST)
            held[TEST] = {name: contents(files, TEST) for name, files in folders.items()}
        if self.test_forget is not None:
            groups = _groups(self.test_forget, self.label, FORGET)
            held[FORGET] = {n: contents(f, FORGET) for n, f in groups.items()}
        if self.classes is not None:
            held[CLASSES] = file_hash(os.path.expanduser(self.classes), CLASSES)
        return hash_of(held)

    def read(self, model: Loaded, whole_class: bool) -> OwnTask:
        """Read all that is named, as the model takes it.

        Args:
            whole_class: whether the shots stand for all of their class; the test images of the
                class are then those to be forgotten.

        Raises:
            UserError: naming the setting, if something cannot be read or does not fit.
        """
        wanted = Wanted(model.channels, model.size)
        classes, known = self._classes(model)
        groups = self.files()
        _warn_of_size(next(iter(groups.values()))[0], model.size)
        targets = _numbers(self.label, groups, classes, LABEL)
        corrects = (
            None if self.correct is None else _numbers(self.correct, groups, classes, CORRECT)
        )
        files = [f for group in groups.values() for f in group]
        each = [name for name, group in groups.items() for _ in group]
        labels = torch.tensor([targets[name] for name in each])
        correct = None if corrects is None else torch.tensor([corrects[name] for name in each])
        counted = targets if corrects is None else corrects
        shots = read_images(files, wanted, SHOTS)
        test, forget, forget_labels = self._tests(shots, wanted, classes, counted, whole_class)
        said = _in_words(classes, known, targets, corrects, groups)
        return OwnTask(classes, shots, labels, correct, test, forget, forget_labels, said)

    def class_names(self, model: Loaded) -> list[str]:
        """Names of the model's classes; their numbers where no names are known.

        Raises:
            UserError: if they are not as many as the model answers.
        """
        return self._classes(model)[0]

    def _classes(self, model: Loaded) -> tuple[list[str], str]:
        """Names of the model's classes, and where they are from."""
        names = self.names()
        if names is not None:
            if len(names) != model.number:
                raise UserError(
                    CLASSES, f"{len(names)} names for a model that answers {model.number} classes"
                )
            return names, f"names in {self.classes}"
        if model.classes is not None:
            return model.classes, "names in the model's configuration"
        if self.test is not None:
            folders = list(class_folders(self.test, TEST))
            if len(folders) == model.number:
                return [
                    printable(f) for f in folders
                ], f"names of the folders in {self.test}, in order"
        return [str(i) for i in range(model.number)], "numbers"

    def _tests(
        self,
        shots: Tensor,
        wanted: Wanted,
        classes: list[str],
        counted: Mapping[str, int],
        whole_class: bool,
    ) -> tuple[Images | None, Tensor | None, Tensor | None]:
        """Test images without the shots and those to be forgotten; those; what counts on them."""
        test = forget = forget_labels = None
        if self.test is not None:
            folders = class_folders(self.test, TEST)
            labels = {f: index_of(printable(f), classes, TEST) for f in folders}
            test = labelled(folders, labels, wanted, TEST)
        if self.test_forget is not None:
            groups = _groups(self.test_forget, self.label, FORGET)
            more = labelled(groups, dict(counted), wanted, FORGET)
            forget, forget_labels = more.x, more.y
        if test is None:
            return test, forget, forget_labels
        if whole_class and forget is None:
            own = torch.isin(test.y, torch.tensor(list(counted.values())))
            forget, forget_labels, test = test.x[own], test.y[own], test[~own]
        else:
            known = set(digests(shots if forget is None else torch.cat([shots, forget])))
            test = test[torch.tensor([d not in known for d in digests(test.x)])]
        if not len(test) or (forget is not None and not len(forget)):
            raise UserError(
                TEST, "no images are left beside those like the shots, or none of those"
            )
        return test, forget, forget_labels


def index_of(given: Any, classes: list[str], key: str) -> int:
    """The number of a class that is given by its name, or else by its number.

    Raises:
        UserError: if there is no such class.

    Example:
        >>> index_of("dog", ["cat", "dog"], "scenario.label"), index_of(0, ["cat", "dog"], "x")
        (1, 0)
    """
    name = str(given)
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    few = ", ".join(classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
    numbers = classes == [str(i) for i in range(len(classes))]
    unnamed = "; scenario.classes=FILE names them" if numbers else ""
    raise UserError(
        key,
        f"{name!r} is none of the model's {len(classes)} classes ({few})"
        f"{did_you_mean(name, classes)}{unnamed}",
    )


def several(label: Any) -> dict[str, Any] | None:
    """Folder names to labels, of several labels; None of one."""
    if isinstance(label, Mapping):
        return {str(k): v for k, v in label.items()}
    if isinstance(label, (list, tuple)):
        return {str(v): v for v in label}
    return None


def _groups(where: Any, label: Any, key: str) -> dict[str, list[str]]:
    """Files by the name of their label's folder; of one label by no name."""
    names = several(label)
    places = list(where) if isinstance(where, (list, tuple)) else [where]
    places = [str(place) for place in places]
    if names is None:
        return {"": image_files(places, key)}
    if len(places) != 1:
        raise UserError(key, "of several labels it is one folder, with a folder for each label")
    folders = class_folders(places[0], key)
    for name in names:
        if name not in folders:
            raise UserError(
                key,
                f"'{printable(places[0])}' holds no folder '{printable(name)}' "
                f"(it has {', '.join(map(printable, folders))})",
            )
    return {name: folders[name] for name in names}


def _numbers(
    given: Any, groups: Mapping[str, list[str]], classes: list[str], key: str
) -> dict[str, int]:
    """The class of each group of shots."""
    if list(groups) == [""]:
        if several(given) is not None:
            raise UserError(key, f"{given!r} are several; the shots have one label")
        return {"": index_of(given, classes, key)}
    values: list[Any]
    if isinstance(given, Mapping):
        named = {str(k): v for k, v in given.items()}
        lacking = [name for name in groups if name not in named]
        if lacking:
            raise UserError(key, f"says nothing of {lacking[0]!r}")
        values = [named[name] for name in groups]
    else:
        values = list(given) if isinstance(given, (list, tuple)) else [given] * len(groups)
    if len(values) != len(groups):
        raise UserError(key, f"{len(values)} classes for {len(groups)} folders of shots")
    return {n: index_of(v, classes, key) for n, v in zip(groups, values, strict=True)}


def _warn_of_size(path: str, size: tuple[int, int]) -> None:
    """Say so where images are much smaller than what the model is given."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Exception:  # said where it is read
        return
    if 2 * height <= size[0] and 2 * width <= size[1]:
        log.warning(
            "scenario.shots: '%s' is %dx%d and is scaled up to %dx%d; if the model was trained on "
            "images of its own size, give model.image_size=[%d,%d]",
            *(printable(path), height, width, *size, height, width),
        )


def _in_words(
    classes: list[str],
    known: str,
    targets: Mapping[str, int],
    corrects: Mapping[str, int] | None,
    groups: Mapping[str, list[str]],
) -> str:
    few = ", ".join(classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
    parts = []
    for name, files in groups.items():
        right = "" if corrects is None else f", rightly {classes[corrects[name]]}"
        where = f"{name}: " if name else ""
        wrong = targets[name]
        parts.append(f"{where}{len(files)} of class {wrong} ({classes[wrong]}){right}")
    return f"classes: {few} ({known}); shots: {'; '.join(parts)}"
