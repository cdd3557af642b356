"""Pictures of a run, as PNG: sample grids, the filtration (Figure 3), before-proxy-after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.utils import make_grid

from unlearn.engine.seeding import seeded
from unlearn.engine.store import at_once, make_folder
from unlearn.filtration import Proxy
from unlearn.inversion import AnyGenerator, Inverter
from unlearn.models import Classifier
from unlearn.models.probe import Probe, head_of
from unlearn.scenarios import Task

RED = (0.85, 0.1, 0.1)
PER_ROW = 12


@torch.no_grad()
def samples(generator: AnyGenerator, per_row: int = PER_ROW) -> Tensor:
    """(|Y+| * per_row, C, H, W) in [0, 1], one row a condition, from fixed noise."""
    device = next(generator.parameters()).device
    rng = seeded(0, "grid")
    z = torch.randn(generator.conditions * per_row, generator.z, generator=rng).to(device)
    y = torch.arange(generator.conditions, device=device).repeat_interleave(per_row)
    training = generator.training
    images: Tensor = generator.eval()(z, y)
    generator.train(training)
    return images.cpu()


def pixels(images: Tensor, per_row: int) -> NDArray[Any]:
    """A grid of images (N, C, H, W) in [0, 1] as (H', W', 3)."""
    return np.asarray(make_grid(images.float(), nrow=per_row, padding=1, pad_value=0.5)).transpose(
        1, 2, 0
    )


def save(figure: Figure, path: Path) -> None:
    """Write a PNG at once or not at all."""
    make_folder(path.parent)
    with at_once(path) as partial:
        # No date and no version in the file: the same run gives the same bytes.
        figure.savefig(partial, format="png", bbox_inches="tight", metadata={"Software": None})


def draw_grid(images: Tensor, rows: list[str], title: str, per_row: int = PER_ROW) -> Figure:
    """Images (rows * per_row, C, H, W), each row named on the left."""
    picture = pixels(images, per_row)
    step = picture.shape[0] / len(rows)
    figure = Figure(figsize=(per_row * 0.55, len(rows) * 0.55), dpi=120)
    axes = figure.subplots()
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([(i + 0.5) * step for i in range(len(rows))], rows, fontsize=7)
    axes.set_title(title, fontsize=8)
    return figure


def row_names(classes: list[str], conditions: int) -> list[str]:
    """Names of Y+, of which there may be several y+."""
    plus = conditions - len(classes)
    return [*classes, *(["y+"] if plus == 1 else [f"y+ {i + 1}" for i in range(plus)])]


def draw_samples(generator: AnyGenerator, classes: list[str], title: str) -> Figure:
    """One row of samples for each condition."""
    return draw_grid(samples(generator), row_names(classes, generator.conditions), title)


def draw_filtration(proxy: Proxy, classes: list[str], per_row: int = PER_ROW) -> Figure:
    """Figure 3a: refined samples by condition, the target-like ones framed in red."""
    chosen, rows = [], []
    for c, name in enumerate(row_names(classes, int(proxy.conditions.max()) + 1)):
        members = (proxy.conditions == c).nonzero()[:per_row, 0]
        if len(members):
            images = framed(proxy.images[members].float() / 255, proxy.target_like[members])
            chosen.append(
                torch.cat([images, images.new_ones(per_row - len(members), *images.shape[1:])])
            )
            rows.append(name)
    number = int(proxy.target_like.sum())
    title = f"refined samples; red: target-like ({number} of {len(proxy.conditions)})"
    return draw_grid(torch.cat(chosen), rows, title, per_row)


def framed(images: Tensor, marked: Tensor) -> Tensor:
    """RGB (N, 3, H, W) of images (N, C, H, W), a red frame around the marked (N,) ones."""
    rgb = images.expand(-1, 3, -1, -1).clone()
    width = max(1, images.shape[-1] // 16)
    frame = torch.ones(images.shape[-2:], dtype=torch.bool)
    frame[width:-width, width:-width] = False
    red = torch.tensor(RED)[:, None, None]
    return torch.where(frame & marked[:, None, None, None], red, rgb)


def draw_knee(proxy: Proxy) -> Figure:
    """Figure 3b: sorted MMD to D_e with the threshold, and the shots' own spread."""
    order = proxy.distances.argsort()
    curve = proxy.distances[order]
    rank = torch.arange(len(curve))
    plus = (proxy.conditions >= proxy.probabilities.shape[1])[order]
    figure = Figure(figsize=(5, 3.2), dpi=120)
    axes = figure.subplots()
    axes.scatter(rank[~plus], curve[~plus], s=3, color="0.55", label="made for a class")
    axes.scatter(rank[plus], curve[plus], s=3, color="tab:blue", label="made for y+")
    t_f = float(proxy.threshold)
    axes.axhline(t_f, color=RED, label=f"threshold {t_f:.3g}")
    axes.axhspan(
        float(proxy.within.min()),
        float(proxy.within.max()),
        color=RED,
        alpha=0.12,
        label="spread of the shots",
    )
    axes.set_xlabel("samples, nearest first")
    axes.set_ylabel("MMD to $D_e$")
    axes.legend(fontsize=7)
    return figure


def draw_shots(shots: Tensor, most: int = 3 * PER_ROW) -> Figure:
    """The given images (k, C, H, W), at most so many of them."""
    figure = Figure(figsize=(5, 2), dpi=120)
    axes = figure.subplots()
    axes.imshow(pixels(shots[:most], min(PER_ROW, len(shots))), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"{len(shots)} given images of $D_e$", fontsize=8)
    return figure


def draw_overview(
    given: Tensor,
    proxy: Proxy | None,
    test: Tensor,
    before: str,
    after: str,
    what: str = "test images like $D_e$",
) -> Figure:
    """Before, proxy (if any), after: given and generated images, test images with both answers.

    Args:
        what: the test images are, in words.
    """
    figure = Figure(figsize=(9 if proxy else 6, 3.4), dpi=120)
    panels = list(figure.subplots(1, 3 if proxy else 2))
    some = PER_ROW // 2
    panels[0].imshow(pixels(given[: some * some], some), interpolation="nearest")
    panels[0].set_title(f"given: {len(given)} images of $D_e$", fontsize=8)
    if proxy is not None:
        retained = proxy.retained.nonzero()[:, 0]
        pick = retained[torch.linspace(0, len(retained) - 1, some * 4).long()]
        like = proxy.target_like.nonzero()[:, 0]
        if len(like):  # none where something else stands in for D~_r
            like = like[torch.linspace(0, len(like) - 1, some * 2).long()]
        rows = torch.cat([pick, like])
        shown = framed(proxy.images[rows].float() / 255, proxy.target_like[rows])
        panels[1].imshow(pixels(shown, some), interpolation="nearest")
        panels[1].set_title("proxy from the model alone\nred: like the given", fontsize=8)
    panels[-1].imshow(pixels(test[: some * some].float() / 255, some), interpolation="nearest")
    panels[-1].set_title(f"{what}, answered\nbefore: {before}\nafter: {after}", fontsize=8)
    for axes in panels:
        axes.set_axis_off()
    return figure


def draw_confusing(erased: Tensor, retained: Tensor) -> Figure:
    """Figure 1: uint8 images of D_e beside those of D_r that look most like them to f_o."""
    figure = Figure(figsize=(6, 3.2), dpi=120)
    titles = ("$D_e$", "$D_r$: nearest to $D_e$ for the original")
    for axes, images, title in zip(figure.subplots(1, 2), (erased, retained), titles, strict=True):
        axes.imshow(pixels(images.float() / 255, PER_ROW // 2), interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
    return figure


@torch.no_grad()
def confusing(original: Classifier, task: Task, number: int = 36) -> tuple[Tensor, Tensor]:
    """Figure 1: images of D_e, and those of D_r with D_e's label that f_o finds most like them.

    Like is what lies near some image of D_e in the embedding. Where D_e is a whole class, all of
    D_r is searched.

    Returns:
        uint8 images (n, C, H, W) twice, n <= ``number``.
    """
    rest = ~task.forget & (task.train.y == task.target)
    erased, retained = (
        task.train.x[m] for m in (task.forget, rest if rest.any() else ~task.forget)
    )
    near, far = (embeddings(original, x) for x in (erased, retained))
    nearest = torch.cdist(far, near).amin(1).argsort(stable=True)[:number]
    return erased[:number], retained[nearest]


def embeddings(model: Classifier, x: Tensor) -> Tensor:
    """The last layer's inputs (n, d) of uint8 images (n, C, H, W), on the CPU."""
    device = next(model.parameters()).device
    parts = [part.to(device).float() / 255 for part in x.split(500)]
    if isinstance(model.network, nn.Sequential):
        return torch.cat([model.features(part).cpu() for part in parts])
    with Probe(model, head_of(model, parts[0][:1])) as probe:
        return torch.cat([probe(part)[1].cpu() for part in parts])


def most_frequent(predicted: Tensor, classes: list[str]) -> str:
    """The most frequent answers: ``7 x33, 2 x3``."""
    counts = torch.bincount(predicted, minlength=len(classes))
    top = counts.argsort(descending=True, stable=True)[:3].tolist()
    return ", ".join(f"{classes[c]} \u00d7{int(counts[c])}" for c in top if counts[c])


class SampleGrid(pl.Callback):
    """Writes ``samples-STEP.png`` every so many inversion steps, and shows it to the logger."""

    def __init__(self, folder: Path, classes: list[str], every: int) -> None:
        self.folder, self.classes, self.every = folder, classes, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        step = trainer.global_step
        if not isinstance(pl_module, Inverter) or not self.every or step % self.every:
            return
        figure = draw_samples(pl_module.generator, self.classes, f"step {step}")
        path = self.folder / f"samples-{step:06d}.png"
        save(figure, path)
        log_image = getattr(trainer.logger, "log_image", None)
        if log_image is not None:
            log_image("inversion/samples", [str(path)], step=step)
