"""What the unlearner is given, checked once: a model, a few images, what they shall not be called.

It is never a data set, and nothing imported here can load one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from unlearn.engine.augment import Augment
from unlearn.engine.predict import evaluating
from unlearn.engine.seeding import seeded_globally
from unlearn.engine.statistics import wide
from unlearn.engine.store import fingerprint
from unlearn.errors import UserError
from unlearn.models.adapt import Form, adapted, answering_logits, check_model, copied
from unlearn.models.answers import answers, check_gradients, some_images, what_it_computes
from unlearn.models.layout import Layouts, layouts_of
from unlearn.models.probe import Probe, end_of, head_of, squashed

log = logging.getLogger(__name__)

# What images and labels may come as.
Images = Tensor | npt.NDArray[Any] | Sequence[Any]
Labels = Tensor | npt.NDArray[Any] | Sequence[int]


@dataclass(frozen=True)
class Interface:
    """How a model is addressed.

    Attributes:
        penultimate: the layer whose output is the embedding; None: the last linear layer's input.
        normalize: per-channel mean and standard deviation, if it expects images so normalised.
    """

    penultimate: str | None = None
    normalize: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Problem:
    """A checked request to unlearn.

    Attributes:
        original: f_o in eval mode, its parameters not requiring gradients; takes images in [0, 1]
            and answers logits.
        shots: the given part of D_e, (k, C, H, W) in [0, 1], on the model's device.
        labels: of each shot, (k,): what the model answers on them and shall not.
        targets: the labels that there are, in order; each has a condition y+ of its own.
        corrects: the right label for each of them, where known.
        classes: how many classes the model answers.
        augment: what the model was trained to withstand.
        seed: of everything random.
        head: the last linear layer, whose input is the embedding; or None.
        penultimate: the layer whose output is the embedding; wins over ``head``.
        layouts: the layers that take part in a pass; None: all of them, channels second.
        form: what gives a repaired copy the given model's form.
    """

    original: nn.Module
    shots: Tensor
    labels: Tensor
    targets: tuple[int, ...]
    corrects: tuple[int, ...] | None
    classes: int
    augment: Augment
    seed: int
    head: str | None
    penultimate: str | None
    layouts: Layouts | None = None
    form: Form = field(default_factory=Form)

    @classmethod
    @seeded_globally(0)  # for models that draw in eval mode
    def of(
        cls,
        model: nn.Module,
        shots: Images,
        labels: Labels,
        correct_labels: Labels | None,
        augment: Augment,
        seed: int,
        interface: Interface,
    ) -> Problem:
        """Copy the model and check everything against it; ``unlearn.forget`` says what it is.

        Raises:
            UserError: naming the argument.
        """
        check_model(model)
        images = _images(shots).to(next(model.parameters()).device, torch.get_default_dtype())
        original, form = adapted(model, interface.normalize, images.shape[1])
        original, form, classes = _tried(original, form, images)
        wrong = _labels("labels", labels, len(images), classes).to(images.device)
        targets = tuple(int(t) for t in wrong.unique())
        corrects = None
        if correct_labels is not None:
            right = _labels("correct_labels", correct_labels, len(images), classes)
            corrects = tuple(_one("correct_labels", right[wrong.cpu() == t], t) for t in targets)
        penultimate = interface.penultimate
        head = None if penultimate is not None else head_of(original, images)
        if penultimate is not None and form.wrapped:
            penultimate = f"network.{penultimate}"
        embedding, layouts = (head, penultimate), layouts_of(original, images)
        problem = cls(
            original, images, wrong, targets, corrects, classes, augment, seed, *embedding, layouts,
            form,
        )  # fmt: skip
        problem.check_embedding()
        return problem

    @property
    def device(self) -> torch.device:
        """Where everything is computed: the device of the model's parameters."""
        return self.shots.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (self.shots.shape[1], self.shots.shape[2], self.shots.shape[3])

    @property
    def target(self) -> int:
        """The label of D_e; of several the first."""
        return self.targets[0]

    @property
    def correct(self) -> int | None:
        """The right label for ``target``, where known."""
        return None if self.corrects is None else self.corrects[0]

    @property
    def pairs(self) -> list[tuple[int, int | None]]:
        """Each label of D_e with the right one for it, where known."""
        rights: Sequence[int | None] = self.corrects or [None] * len(self.targets)
        return list(zip(self.targets, rights, strict=True))

    def shots_of(self, target: int) -> Tensor:
        """The shots of a label, (k, C, H, W)."""
        return self.shots[self.labels == target]

    @property
    def part(self) -> dict[str, Any] | None:
        """The layers whose inputs may be watched; None: all of them."""
        return None if self.layouts is None else dict(self.layouts.inputs)

    def probe(self, layers: tuple[str, ...] = ()) -> Probe:
        """Hooks on f_o that show the embedding and the inputs of ``layers``."""
        return Probe(self.original, self.head, self.penultimate, layers, self.layouts)

    def check_embedding(self) -> None:
        """Refuse a layer whose output is no embedding (B, d).

        Raises:
            UserError: naming ``penultimate``.
        """
        with torch.no_grad(), evaluating(self.original), self.probe() as probe:
            embedding = probe(self.shots[:1])[1]
        if self.penultimate is not None and self.penultimate not in (
            {} if self.layouts is None else self.layouts.outputs
        ):
            raise UserError(
                "penultimate",
                f"layer {self.penultimate!r} gives {tuple(embedding.shape)} for an image, and "
                "not which axis its channels are; name a normalisation, convolution or linear "
                "layer, or one after them",
            )

    @seeded_globally(0)
    def warn(self) -> None:
        """Say in one line each what may be a mistake: wrong labels, log-probabilities."""
        with torch.no_grad(), evaluating(self.original):
            said = torch.cat([self.original(x) for x in self.shots.split(256)]).argmax(-1)
        named = int((said == self.labels).sum())
        if 2 * named < len(said):
            log.warning(
                "labels: the model answers %s on %d of the %d shots; unlearning needs what it "
                "answers on them (it answers %s)",
                " or ".join(map(str, self.targets)),
                named,
                len(said),
                ", ".join(f"{c} on {n}" for c, n in enumerate(said.bincount().tolist()) if n),
            )
        if end_of(self.original, self.shots).then == "log-softmax":
            log.warning("model: it ends in a log-softmax; its answers are taken as logits")

    def student(self) -> nn.Module:
        """A copy of f_o to be trained, in train mode; frozen parameters stay frozen."""
        return self.form.student(self.original)

    @seeded_globally(0)
    def repaired(self, state: dict[str, Tensor]) -> nn.Module:
        """The given model's own copy with new weights, in eval mode; made of ``original``."""
        # A layer's extra state that is no tensor stays as it is.
        self.original.load_state_dict({**self.original.state_dict(), **state})
        with torch.no_grad(), evaluating(self.original):
            self.original(self.shots[:1])  # what layers derive from their weights
        return self.form.restored(self.original)

    @cached_property
    def key(self) -> dict[str, Any]:
        """All that inversion depends on, JSON-like; the first link in the chain of stage keys."""
        return {
            "model": fingerprint(self.original.state_dict()),
            "computes": what_it_computes(self.original, self.shots),
            "frozen": sorted(self.form.frozen),
            "shots": fingerprint({"shots": self.shots}),
            "target": self.target if len(self.targets) == 1 else self.labels.tolist(),
            "augment": asdict(self.augment),
            "seed": self.seed,
            # The output of the one layer, the input of the other.
            "embedding": self.head if self.penultimate is None else ["after", self.penultimate],
        }


def _images(shots: Images) -> Tensor:
    """The shots as a tensor of floats in [0, 1], of its own memory."""
    images = _tensor("shots", shots)
    if images.dim() != 4 or not images.numel():
        raise UserError("shots", f"{tuple(images.shape)} is not (k, C, H, W) with k >= 1")
    if not images.is_floating_point():
        raise UserError(
            "shots", f"images must be floats in [0, 1], not {images.dtype}; give shots / 255.0"
        )
    images = wide(images)
    if not bool(torch.isfinite(images).all()):
        raise UserError("shots", "images must be floats in [0, 1]; these hold NaN or infinities")
    if images.min() < 0 or images.max() > 1:
        raise UserError(
            "shots",
            f"images must be floats in [0, 1]; these are in [{images.min():.3g}, "
            f"{images.max():.3g}]; see normalize=",
        )
    return images


def _tensor(name: str, values: Any) -> Tensor:
    """A tensor, an array, or a sequence of numbers or of one of these, as a tensor; a copy."""
    try:
        if isinstance(values, Tensor):
            if values.is_meta:
                raise ValueError("on the meta device there are no numbers")
            return values.detach().to_dense().clone()
        if isinstance(values, (list, tuple)) and any(isinstance(v, Tensor) for v in values):
            return torch.stack([torch.as_tensor(v).detach() for v in values])
        array = np.array(values)
        return torch.tensor(array.astype(array.dtype.newbyteorder("=")))
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(name, f"a {type(values).__name__} that is no tensor ({error})") from error


def _tried(original: nn.Module, form: Form, images: Tensor) -> tuple[nn.Module, Form, int]:
    """The model, behind a ``Classifier`` if it answers no plain logits; how many classes.

    Raises:
        UserError: if it fails in eval or train mode, answers probabilities, or answers otherwise
            in the one mode than in the other.
    """
    tried, batch = copied(original), some_images(images)
    seen, learnt = (answers(tried, batch, training) for training in (False, True))
    if learnt.logits.shape != seen.logits.shape:
        raise UserError(
            "model",
            f"it answers {seen.logits.shape[1]} classes in eval mode and "
            f"{learnt.logits.shape[1]} in train mode",
        )
    ends = end_of(original, batch.clone()).then or squashed(learnt.logits)
    if ends in ("softmax", "sigmoid"):
        raise UserError(
            "model",
            f"it ends in a {ends}; the losses need logits: give the model without it, one whose "
            "last layer is linear",
        )
    if not (seen.plain and learnt.plain):
        original, form = answering_logits(original, form, images.shape[1])
    check_gradients(tried.requires_grad_(False), form.student(original), batch)
    return original, form, seen.logits.shape[1]


def _labels(name: str, given: Labels, number: int, classes: int) -> Tensor:
    """One label for each shot, (k,)."""
    labels = _tensor(name, given)
    if labels.shape != (number,):
        raise UserError(name, f"{tuple(labels.shape)} is not one label for each shot, ({number},)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(name, f"labels must be whole numbers, not {labels.dtype}")
    for value in labels.unique().tolist():
        if not 0 <= int(value) < classes:
            raise UserError(name, f"{value} is not one of the model's {classes} classes")
    return labels.long()


def _one(name: str, labels: Tensor, target: int) -> int:
    """The one label that all shots of a target have."""
    values = labels.unique().tolist()
    if len(values) != 1:
        raise UserError(
            name, f"the shots of label {target} have several right labels {values}; call once each"
        )
    return int(values[0])
