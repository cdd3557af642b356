"""The page's widgets, by Gradio; what they do is in ``session``, what they show in ``views``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from unlearn.errors import UserError
from unlearn.page import views
from unlearn.page.desk import Choice, Desk
from unlearn.page.session import Session, most_frequent_label
from unlearn.page.work import Job
from unlearn.relearning import INTENTIONS

try:
    import gradio as gr
except ImportError:
    gr = None

# Every hour the server removes files older than a day that nobody asked for.
CACHE = (3600, 86400)
# Seconds between two looks at a job.
LOOK = 0.4
CLICKED = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-sample]');
  if (button) trigger('click', {sample: Number(button.dataset.sample)});
});
"""
Update = dict[Any, Any]


class Page:
    """The widgets of the page, and everybody's sessions by Gradio's number for the open tab."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.sessions = desk, dict[str, Session]()

    def session(self, request: Any) -> Session:
        """The session of the tab that asks."""
        known = request.session_hash
        if known not in self.sessions:
            self.sessions[known] = Session(self.desk)
        return self.sessions[known]

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        session = self.sessions.pop(request.session_hash, None)
        if session is not None:
            session.close()

    def build(self) -> Any:
        """The page.

        Returns:
            Gradio's ``Blocks``.
        """
        with gr.Blocks(
            title="Few-shot unlearning", analytics_enabled=False, delete_cache=CACHE
        ) as blocks:
            gr.Markdown("# Few-shot unlearning")
            gr.HTML(views.heading(self.desk))
            self._ask()
            self._split()
            self._repair()
            self._connect()
            blocks.unload(self.leave)
        return blocks

    # --- widgets

    def _ask(self) -> None:
        classes = [(name, i) for i, name in enumerate(self.desk.classes)]
        example = self.desk.example
        gr.Markdown("## 1. What must go")
        self.drop = gr.File(
            label="Drop images that the model gets wrong, or must forget", file_count="multiple",
            file_types=["image"], elem_id="drop", height=130,
        )  # fmt: skip
        with gr.Row():
            self.example = gr.Button("Take the demo's images", visible=example is not None)
            self.clear = gr.Button("Remove all images")
        self.refused = gr.HTML(visible=False)
        self.shots = gr.HTML(elem_id="shots", visible=False)
        with gr.Row():
            self.label = gr.Dropdown(
                classes, value=None, label="The model calls them, and must not", elem_id="label"
            )
            self.intention = gr.Radio(
                [(in_words(name), name) for name in self.desk.configs],
                value=self.desk.first, label="Instead it shall", elem_id="intention",
            )  # fmt: skip
            self.correct = gr.Dropdown(
                classes, value=None, label="What they are", elem_id="correct",
                visible=asks_correct(self.desk.first),
            )  # fmt: skip
        with gr.Row():
            self.make = gr.Button("Make samples", variant="primary", elem_id="make")
            self.stop = gr.Button("Stop", interactive=False, elem_id="stop")
        self.progress = gr.HTML(elem_id="making", visible=False)
        self.strips = gr.HTML(elem_id="strips", visible=False)

    def _split(self) -> None:
        with gr.Column(visible=False) as self.splitting:
            gr.Markdown("## 2. Which samples are like yours")
            self.knee = gr.HTML()
            self.threshold = gr.Slider(
                0, 1, value=0, label="Threshold: nearer samples are like yours",
                elem_id="threshold",
            )  # fmt: skip
            self.samples = gr.HTML(elem_id="samples", js_on_load=CLICKED)
            with gr.Row():
                self.back = gr.Button("Nearer", size="sm", elem_id="back")
                self.forth = gr.Button("Farther", size="sm", elem_id="forth")
                self.reset = gr.Button("As found by itself", size="sm", elem_id="reset")
            self.at = gr.State(0)

    def _repair(self) -> None:
        with gr.Column(visible=False) as self.repairing:
            gr.Markdown("## 3. Repair")
            self.relearn = gr.Button("Relearn", variant="primary", elem_id="relearn")
            self.relearning = gr.HTML(elem_id="relearning", visible=False)
            self.outcome = gr.HTML(visible=False)
            self.download = gr.DownloadButton(
                "Download the repaired weights", visible=False, elem_id="download"
            )
        gr.Markdown("## Test images")
        self.drop_tests = gr.File(
            label="Drop images to see what the model answers, before and after",
            file_count="multiple", file_types=["image"], elem_id="drop-tests", height=130,
        )  # fmt: skip
        self.refused_tests = gr.HTML(visible=False)
        self.tests = gr.HTML(visible=False)

    def _connect(self) -> None:
        """What happens at which click."""
        everything = [
            self.refused, self.shots, self.label, self.intention, self.correct, self.make,
            self.stop, self.progress, self.strips, self.splitting, self.knee, self.threshold,
            self.samples, self.at, self.back, self.forth, self.repairing, self.relearn,
            self.relearning, self.outcome, self.download, self.drop, self.drop_tests,
            self.refused_tests, self.tests, self.clear, self.example,
        ]  # fmt: skip
        choice = [self.label, self.intention, self.correct]
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        slow = {**quick, "concurrency_limit": None}
        self.drop.upload(self.on_drop, self.drop, everything, **slow)
        self.drop_tests.upload(self.on_tests, self.drop_tests, everything, **slow)
        self.example.click(self.on_example, None, everything, **slow)
        self.clear.click(self.on_clear, None, everything, **slow)
        self.intention.change(
            lambda name: gr.update(visible=asks_correct(name)), self.intention, self.correct, **slow
        )
        self.make.click(self.on_make, choice, everything, **slow)
        self.relearn.click(self.on_relearn, choice, everything, **slow)
        self.stop.click(self.on_stop, None, None, **slow)
        shown = [self.samples, self.at, self.back, self.forth, self.outcome]
        self.threshold.input(
            self.on_move, self.threshold, shown, trigger_mode="always_last", **slow
        )
        self.samples.click(self.on_sample, self.at, shown, trigger_mode="multiple", **slow)
        self.back.click(self.on_back, self.at, shown, **slow)
        self.forth.click(self.on_forth, self.at, shown, **slow)
        self.reset.click(self.on_reset, None, [*shown, self.threshold], **slow)

    # --- what is seen

    def view(self, session: Session) -> Update:
        """All that depends on the session, but for the split."""
        job, made, repaired = session.job, session.made, session.repaired
        idle = not session.busy
        relearning = job is not None and job.title == "relearning"
        said = views.progress(session, job)
        return {
            self.shots: text(views.shots(session)),
            self.progress: text("" if relearning else said),
            self.relearning: text(said if relearning else ""),
            self.strips: text(views.strips(views.grid_of(made, job), self.desk.classes)),
            self.splitting: gr.update(visible=made is not None),
            self.repairing: gr.update(visible=made is not None),
            self.outcome: text(views.outcome(session)),
            self.download: gr.update(
                visible=repaired is not None,
                value=None if repaired is None else str(repaired.file),
            ),
            self.tests: text(views.tests(session)),
            self.stop: gr.update(interactive=not idle),
            **{
                widget: gr.update(interactive=idle)
                for widget in (self.make, self.relearn, self.clear, self.example)
            },
        }

    def pages(self, session: Session, at: int) -> Update:
        """A page of the samples."""
        made = session.made
        if made is None:
            return {self.samples: ""}
        number = views.pages(made.split)
        at = max(0, min(at, number - 1))
        return {
            self.samples: views.samples(made.split, at),
            self.at: at,
            self.back: gr.update(visible=number > 1, interactive=at > 0),
            self.forth: gr.update(visible=number > 1, interactive=at + 1 < number),
            self.outcome: text(views.outcome(session)),
        }

    def split(self, session: Session) -> Update:
        """The samples with the slider, as filtration split them."""
        made = session.made
        if made is None:
            return {}
        split = made.split
        low, high, step = split.range
        slider = gr.update(
            minimum=low, maximum=high, step=step, value=split.shown,
            interactive=split.movable,
        )  # fmt: skip
        shown = self.pages(session, views.page_of_boundary(split))
        return {self.knee: views.knee(split), self.threshold: slider, **shown}

    def follow(self, session: Session, job: Job) -> Iterator[Update]:
        """Views of a job until it has ended."""
        while not job.done:
            yield self.view(session)
            time.sleep(LOOK)
        yield self.view(session)

    # --- what is done

    def on_drop(self, files: list[str] | None, request: gr.Request) -> Iterator[Update]:
        session = self.session(request)
        refused = said(lambda: session.add_shots(files or []))
        yield {**self.view(session), self.drop: None, self.refused: text(views.refusals(refused))}
        yield from self.looked(session)

    def on_tests(self, files: list[str] | None, request: gr.Request) -> Iterator[Update]:
        session = self.session(request)
        refused = said(lambda: session.add_tests(files or []))
        shown = {self.drop_tests: None, self.refused_tests: text(views.refusals(refused))}
        yield {**self.view(session), **shown}
        if not session.busy:
            yield from self.follow(session, session.look())

    def on_example(self, request: gr.Request) -> Iterator[Update]:
        session = self.session(request)
        try:
            choice = session.take_example()
        except UserError as error:
            yield {self.refused: trouble(error)}
            return
        yield {
            **self.view(session),
            self.label: choice.label,
            self.correct: choice.correct,
            self.refused: text(""),
        }
        yield from self.follow(session, session.look())

    def looked(self, session: Session) -> Iterator[Update]:
        """What the model answers on the images; the label is then chosen by itself."""
        if session.busy or not len(session.shots):
            return
        yield from self.follow(session, session.look())
        label = most_frequent_label(session.before.get("shots"))
        yield {self.label: label} if label is not None else {}

    def on_clear(self, request: gr.Request) -> Update:
        session = self.session(request)
        try:
            session.clear()
        except UserError as error:
            return {self.refused: trouble(error)}
        return {**self.view(session), self.refused: text(""), self.label: None}

    def on_make(
        self, label: int | None, intention: str, correct: int | None, request: gr.Request
    ) -> Iterator[Update]:
        session = self.session(request)
        try:
            job = session.make_samples(chosen(label, intention, correct))
        except UserError as error:
            yield {self.progress: trouble(error)}
            return
        yield from self.follow(session, job)
        if job.error is None:
            yield self.split(session)

    def on_relearn(
        self, label: int | None, intention: str, correct: int | None, request: gr.Request
    ) -> Iterator[Update]:
        session = self.session(request)
        try:
            job = session.relearn(chosen(label, intention, correct))
        except UserError as error:
            yield {self.relearning: trouble(error)}
            return
        yield from self.follow(session, job)

    def on_stop(self, request: gr.Request) -> None:
        self.session(request).stop()

    def on_move(self, threshold: float, request: gr.Request) -> Update:
        session = self.session(request)
        if session.made is None:
            return {}
        session.made.split.move(threshold)
        return self.pages(session, views.page_of_boundary(session.made.split))

    def on_sample(self, at: int, event: gr.EventData, request: gr.Request) -> Update:
        session = self.session(request)
        if session.made is None:
            return {}
        try:
            session.made.split.toggle(int(event.sample))
        except (AttributeError, TypeError, ValueError, UserError):
            return {}  # a click beside the samples
        return self.pages(session, at)

    def on_back(self, at: int, request: gr.Request) -> Update:
        return self.pages(self.session(request), at - 1)

    def on_forth(self, at: int, request: gr.Request) -> Update:
        return self.pages(self.session(request), at + 1)

    def on_reset(self, request: gr.Request) -> Update:
        session = self.session(request)
        if session.made is None:
            return {}
        session.made.split.reset()
        split = session.made.split
        return {
            self.threshold: split.shown,
            **self.pages(session, views.page_of_boundary(split)),
        }


def text(shown: str) -> Any:
    """HTML that takes no room where there is nothing to say."""
    return gr.update(value=shown, visible=bool(shown))


def in_words(intention: str) -> str:
    """An intention's name and meaning."""
    meaning = INTENTIONS[intention].meaning
    return f"{intention}: {meaning}" if meaning else intention


def asks_correct(intention: str) -> bool:
    """Whether an intention, by name, needs the right label."""
    return INTENTIONS[intention].needs_correct_label


def chosen(label: int | None, intention: str, correct: int | None) -> Choice:
    """What the widgets say.

    Raises:
        UserError: if something is missing.
    """
    if label is None:
        raise UserError("label", "choose what the model calls the images and must not")
    if asks_correct(intention) and correct is None:
        raise UserError("correct", "choose what the images are")
    return Choice(int(label), intention, None if correct is None else int(correct))


def trouble(error: UserError) -> Any:
    """What cannot be done, on the page."""
    return text(views.refusals([str(error)]))


def said(add: Callable[[], list[str]]) -> list[str]:
    """What is said of files."""
    try:
        return add()
    except UserError as error:
        return [str(error)]


def installed() -> bool:
    """Whether Gradio is."""
    return gr is not None
