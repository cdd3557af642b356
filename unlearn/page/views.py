"""What is seen of a session, as HTML. Pictures are in the text itself: no file holds them."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from unlearn.page.desk import Desk
from unlearn.page.session import Made, Session
from unlearn.page.split import Split, share_in
from unlearn.page.work import PER_ROW, Job
from unlearn.runs.pictures import draw_knee, row_names
from unlearn.sweep.estimate import duration_in_words

# Samples on a page, and the largest side of a small picture in pixels.
ON_PAGE = 180
SIDE = 64
STAGES = {
    "reading": "reading",
    "inversion": "inversion: training the generator",
    "filtration": "filtration: refining and measuring the samples",
    "relearning": "relearning",
    "answers": "asking the model",
}
CSS = """
.gradio-container { width: 100% !important; max-width: 1080px !important; margin: auto !important; }
.tiles { display: flex; flex-wrap: wrap; gap: 6px; align-items: flex-start; }
.tiles img, .strip img { image-rendering: pixelated; display: block; }
.tiles figure { margin: 0; width: 76px; text-align: center; font-size: 12px; line-height: 1.3; }
.tiles figure img { width: 76px; height: 76px; object-fit: contain; border-radius: 4px; }
.tiles figcaption { overflow-wrap: anywhere; }
.tiles button { padding: 2px; margin: 0 !important; border: 2px solid transparent;
  border-radius: 4px; background: none; cursor: pointer; position: relative; }
.tiles button img { width: 50px; height: 50px; object-fit: contain; }
.tiles button.in { border-color: #d92626; }
.tiles button.hand::after { content: ""; position: absolute; right: 1px; top: 1px; width: 10px;
  height: 10px; border-radius: 50%; background: #2563eb; border: 1px solid white; }
.tiles button:focus-visible { outline: 2px solid #2563eb; }
.strip { display: grid; grid-template-columns: minmax(40px, max-content) 1fr; gap: 2px 10px;
  align-items: center; font-size: 13px; }
.strip span { max-width: 160px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.strip img { height: 40px; max-width: 100%; }
.bar { height: 10px; border-radius: 5px; background: #d1d5db; overflow: hidden; margin-top: 6px; }
.bar div { height: 100%; background: #2563eb; }
.note { font-size: 14px; line-height: 1.5; }
.bad { color: #b91c1c; }
.dark .bad { color: #fca5a5; }
.changed { font-weight: 600; }
.knee img { max-width: 100%; border-radius: 4px; }
"""


def esc(text: object) -> str:
    """Text that is nothing but text, in HTML and in Gradio's templates."""
    safe = html.escape(str(text))
    return safe.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def picture(pixels: Image.Image) -> str:
    """A picture as the source of an ``img``."""
    held = BytesIO()
    pixels.save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def small(image: Tensor) -> str:
    """An image, uint8 (C, H, W), as a small picture."""
    pixels = image.permute(1, 2, 0).numpy()
    shown = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    shown.thumbnail((SIDE, SIDE))
    return picture(shown)


def shots(session: Session) -> str:
    """The images that show what must go, and what the model answers on them."""
    dropped = session.shots
    if not len(dropped):
        return ""
    tiles = "".join(
        f'<figure><img alt="{esc(name)}" src="{small(image)}"></figure>'
        for name, image in zip(dropped.names, dropped.images, strict=True)
    )
    said = f"{len(dropped)} image{'s' if len(dropped) > 1 else ''}"
    seen = session.before.get("shots")
    if seen is not None and len(seen) == len(dropped):
        said += f"; the model answers {counted(seen, session.desk.classes)}"
    return f'<p class="note" id="shots-said">{said}</p><div class="tiles">{tiles}</div>'


def counted(answers: Tensor, classes: Sequence[str]) -> str:
    """How often each class is answered, the most frequent first."""
    found = Counter(answers.tolist()).most_common(6)
    return ", ".join(f"{esc(classes[c])} \u00d7{number}" for c, number in found)


def refusals(lines: Sequence[str]) -> str:
    """Why files were not taken."""
    shown = "<br>".join(esc(line) for line in lines[:8])
    more = f"<br>and {len(lines) - 8} more" if len(lines) > 8 else ""
    return f'<p class="note bad">{shown}{more}</p>' if lines else ""


def progress(session: Session, job: Job | None) -> str:
    """How far a job has come; of one that has ended, only what went wrong."""
    if job is None:
        return ""
    if job.done:
        return f'<p class="note bad">{esc(job.error)}</p>' if job.error else ""
    if job.waiting:
        ahead = session.desk.line.ahead(job)
        said = f"{ahead} jobs of others come" if ahead > 1 else "1 job of others comes"
        return f'<p class="note">waiting: {said} first</p>' if ahead else ""
    said = STAGES.get(job.stage, esc(job.stage) or "beginning")
    share = job.step / job.steps if job.steps else 0.0
    if job.steps:
        said += f", step {job.step} of {job.steps}"
    if job.left is not None and job.left > 2:
        said += f", about {duration_in_words(job.left)} left"
    bar = f'<div class="bar"><div style="width: {100 * share:.1f}%"></div></div>'
    return f'<p class="note" id="progress">{said}</p>{bar}'


def strips(grid: Tensor | None, classes: Sequence[str]) -> str:
    """Generated images, a row for each condition, (conditions * PER_ROW, C, H, W) in [0, 1]."""
    if grid is None:
        return ""
    pixels = (grid * 255).round().to(torch.uint8)
    names = row_names(list(classes), len(pixels) // PER_ROW)
    rows = []
    for name, images in zip(names, pixels.split(PER_ROW), strict=True):
        gap = images.new_full((*images.shape[1:3], 2), 255)
        row = torch.cat([torch.cat([image, gap], 2) for image in images], 2)
        rgb = row.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
        shown = Image.fromarray(rgb)
        most = PER_ROW * (SIDE + 2)
        if shown.width > most:
            shown.thumbnail((most, SIDE))
        called = "like yours" if name.startswith("y+") else name
        rows.append(f'<span title="{esc(called)}">{esc(called)}</span>')
        rows.append(f'<img alt="samples of {esc(called)}" src="{picture(shown)}">')
    return f'<div class="strip">{"".join(rows)}</div>'


@lru_cache(maxsize=8)
def knee(split: Split) -> str:
    """The sorted distances; drawn once."""
    figure: Figure = draw_knee(split.proxy)
    figure.set_size_inches(7, 2.6)
    held = BytesIO()
    figure.savefig(held, format="png", bbox_inches="tight")
    source = base64.b64encode(held.getvalue()).decode()
    return f'<div class="knee"><img alt="distances" src="data:image/png;base64,{source}"></div>'


@lru_cache(maxsize=4 * ON_PAGE)
def sample_picture(split: Split, sample: int) -> str:
    """A sample as a small picture."""
    return small(split.proxy.images[sample])


def pages(split: Split) -> int:
    """How many pages the samples that may be target-like fill."""
    return max(1, -(-len(split.order) // ON_PAGE))


def page_of_boundary(split: Split) -> int:
    """The page, from 0, on which the threshold lies."""
    return min(max(0, split.boundary - 1) // ON_PAGE, pages(split) - 1)


def samples(split: Split, page: int) -> str:
    """A page of samples, nearest first; those that are target-like framed."""
    like = split.target_like()
    first = page * ON_PAGE
    shown = split.order[first : first + ON_PAGE]
    buttons = []
    for sample in shown:
        taken = bool(like[sample])
        kind = f"{'in' if taken else 'out'}{' hand' if sample in split.chosen else ''}"
        title = f"distance {float(split.proxy.distances[sample]):.4g}"
        buttons.append(
            f'<button type="button" data-sample="{sample}" class="{kind}" '
            f'aria-pressed="{str(taken).lower()}" title="{title}">'
            f'<img alt="{title}" src="{sample_picture(split, sample)}"></button>'
        )
    said = f"<b>{share_in(like)}</b> are like yours (framed in red); the others are kept."
    if split.order:
        said += f" Shown: {first + 1} to {first + len(shown)} of the {len(split.order)} samples "
        said += "that the model calls by your label, the nearest first. Click one to take it in or "
        said += "out."
    else:
        said += " The model calls no sample by your label."
    if split.chosen:
        said += f" {len(split.chosen)} chosen by hand (blue dot)."
    return f'<p class="note" id="split-said">{said}</p><div class="tiles">{"".join(buttons)}</div>'


def outcome(session: Session) -> str:
    """What the repaired model answers on the shots, and how far it agrees with the given one."""
    repaired = session.repaired
    if repaired is None:
        return ""
    lines = []
    seen = [answers.get("shots") for answers in (session.before, session.after)]
    if seen[0] is not None and seen[1] is not None:
        before, after = (counted(s, session.desk.classes) for s in seen if s is not None)
        lines.append(f"Your images were answered {before}; now <b>{after}</b>.")
    lines.append(
        f"On the generated samples that are kept both models agree: {repaired.agreement:.1%}. "
        "This is no accuracy: drop test images below."
    )
    made = session.made
    if made is not None and not torch.equal(repaired.marks, made.split.target_like()):
        lines.append("The split has changed since; relearn to use it.")
    lines += [esc(line) for line in repaired.said]
    return f'<p class="note" id="outcome">{"<br>".join(lines)}</p>'


def tests(session: Session) -> str:
    """The test images with both answers."""
    classes, dropped = session.desk.classes, session.tests
    before, after = (answers.get("tests") for answers in (session.before, session.after))
    tiles = []
    for i, (name, image) in enumerate(zip(dropped.names, dropped.images, strict=True)):
        texts = [
            esc(classes[int(seen[i])]) if seen is not None and len(seen) == len(dropped) else "…"
            for seen in (before, after)
        ]
        kind = ' class="changed"' if "…" not in texts and texts[0] != texts[1] else ""
        said = " → ".join(texts if session.repaired is not None else texts[:1])
        tiles.append(
            f'<figure><img alt="{esc(name)}" title="{esc(name)}" src="{small(image)}">'
            f"<figcaption{kind}>{said}</figcaption></figure>"
        )
    return f'<div class="tiles" id="tests">{"".join(tiles)}</div>' if tiles else ""


def heading(desk: Desk) -> str:
    """The model at hand, in a line."""
    cfg = desk.configs[desk.first]
    file = "" if cfg.model.file is None else f", {Path(cfg.model.file).name}"
    scale = f"Settings: scale={cfg.scale}."
    return (
        f'<p class="note">{esc(cfg.model.name + file)}: {esc(desk.loaded.said)}. {esc(scale)}</p>'
    )


def grid_of(made: Made | None, job: Job | None) -> Tensor | None:
    """The samples to show: those of the job at work, else the finished ones."""
    if job is not None and not job.done and job.grid is not None:
        return job.grid
    return None if made is None else made.grid
