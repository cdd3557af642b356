"""The page without a browser: a person's steps, the line of jobs, uploads, the gate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import unlearn
from tests.helpers import (
    OWN,
    PAGE_SHAPE,
    TINY,
    desk_for,
    errors,
    quadrants,
    shots_of,
    small_net,
    taught,
    tiny,
    write_images,
)
from unlearn import NotSeparable, UserError
from unlearn.config.compose import resolve
from unlearn.data.shots import Wanted
from unlearn.filtration import Filtration
from unlearn.inversion import Inversion
from unlearn.page import app, views
from unlearn.page.desk import Choice, Desk, check_ours, open_desk
from unlearn.page.gate import Gate, Message
from unlearn.page.session import Session
from unlearn.page.split import Split
from unlearn.page.uploads import Dropped, Limits
from unlearn.page.work import Job

CLASSES = ["<b>up left", "up right", "down left", "${down} {{right}}"]
TARGET, RIGHT = 0, 3
CHOICE = Choice(TARGET, "neg")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return taught(small_net(), *PAGE_SHAPE).eval()


@pytest.fixture(scope="module")
def configs() -> dict[str, Any]:
    return {name: resolve([*OWN, f"intention={name}"]) for name in ("neg", "cor")}


@pytest.fixture
def desk(tmp_path: Path, network: nn.Module, configs: dict[str, Any]) -> Iterator[Desk]:
    desk = desk_for(network, configs, tmp_path, CLASSES)
    yield desk
    desk.close()


def drop(desk: Desk, images: Tensor, where: str) -> list[str]:
    """Images as files in the folder of the uploads."""
    return [str(p) for p in sorted(write_images(desk.uploads / where, images).iterdir())]


def finished(job: Job) -> Job:
    job.future.result(timeout=300)
    assert job.error is None, job.error
    return job


@pytest.mark.slow
def test_from_images_to_weights(desk: Desk, network: nn.Module, tmp_path: Path) -> None:
    shots, _ = shots_of(*PAGE_SHAPE)
    tests, _ = quadrants(8, *PAGE_SHAPE)
    session = Session(desk)
    assert session.add_shots(drop(desk, shots, "a")) == []
    finished(session.look())
    assert session.before["shots"].tolist() == [TARGET] * len(shots)
    finished(session.make_samples(CHOICE))
    made = session.made
    assert made is not None
    split = made.split
    first = split.order[0]
    split.toggle(first)
    marks = split.target_like()
    assert int((marks != split.proxy.target_like).sum()) == 1
    session.add_tests(drop(desk, tests, "b"))
    finished(session.relearn(CHOICE))
    repaired = session.repaired
    assert repaired is not None
    assert session.after["shots"].shape == session.before["shots"].shape
    assert len(session.after["tests"]) == len(session.before["tests"]) == len(tests)

    # The library call makes the same of the same marks, with the stages that the page kept.
    given = torch.cat([i[None] for i in session.shots.images]).float() / 255
    cfg, settings, _ = desk.settings("neg")
    store = Path(cfg.output_dir) / "store"
    kept = len(list(store.rglob("entry.json")))
    labels = [TARGET] * len(given)
    result = unlearn.forget(
        network, given, labels, "neg", settings=settings, store=store, target_like=marks
    )
    assert len(list(store.rglob("entry.json"))) == kept
    state = load_file(repaired.file)
    assert all(torch.equal(v, state[k]) for k, v in result.model.state_dict().items())
    assert list(result.stages) == ["inversion", "filtration", "by_hand", "relearning"]

    # Shown as text, whatever a class is called.
    seen = views.shots(session) + views.outcome(session) + views.tests(session)
    assert "&lt;b&gt;up left" in seen
    assert "<b>up left" not in seen
    assert "{" not in seen
    folder = session.folder
    session.close()
    assert not folder.exists()
    assert not list(desk.uploads.rglob("*.png"))


@pytest.mark.slow
def test_a_closed_tab_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    shots, _ = shots_of(*PAGE_SHAPE)
    first, second = Session(desk), Session(desk)
    first.add_shots(drop(desk, shots, "a"))
    first.make_samples(CHOICE)
    job = first.job
    assert job is not None
    while job.waiting:
        pass
    first.close()  # its work goes on
    finished(job)

    monkeypatch.setattr(Inversion, "make", None)
    monkeypatch.setattr(Filtration, "make", None)
    second.add_shots(drop(desk, shots, "b")[::-1])  # in another order
    finished(second.make_samples(CHOICE))
    assert second.made is not None


def test_the_split_moves_without_any_model(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    shots, _ = shots_of(*PAGE_SHAPE)
    session = Session(desk)
    session.add_shots(drop(desk, shots, "a"))
    finished(session.make_samples(CHOICE))
    assert session.made is not None
    split = session.made.split
    monkeypatch.setattr(nn.Module, "__call__", None)  # nothing is computed anew
    low, high, _ = split.range
    answered = split.proxy.probabilities.argmax(-1) == TARGET
    distances = split.proxy.distances
    assert distances[split.order].tolist() == sorted(distances[answered].tolist())
    for share in (0.0, 0.5, 1.0):
        split.move(low + share * (high - low))
        expected = answered & (distances < split.threshold)
        assert torch.equal(split.target_like(), expected)
        assert f"{int(expected.sum())} of {len(expected)}" in views.samples(split, 0)
    last = split.order[-1]
    split.toggle(last)
    split.move(low)
    assert not split.target_like().any()  # what was taken out stays out
    split.toggle(last)
    assert split.target_like().nonzero().tolist() == [[last]]
    kept = next(i for i in range(len(answered)) if not answered[i])
    with pytest.raises(UserError, match="target-like"):
        split.toggle(kept)
    split.reset()
    assert torch.equal(split.target_like(), split.proxy.target_like)


@pytest.mark.slow
def test_marks_by_hand_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (shots, labels) = taught(small_net(), *PAGE_SHAPE), shots_of(*PAGE_SHAPE)
    none = tiny()
    none = replace(none, filtration=replace(none.filtration, threshold=1e-9))

    def call(marks: Any) -> unlearn.Result:
        return unlearn.forget(
            model, shots, labels, settings=none, store=tmp_path, target_like=marks
        )

    with pytest.raises(NotSeparable) as caught:
        call(None)
    proxy = caught.value.proxy
    assert proxy is not None
    assert not proxy.target_like.any()
    number = len(proxy.distances)
    for wrong in ([True], [1] * number, [False] * number, [True] * number):
        with pytest.raises(UserError, match="target_like"):
            call(wrong)
    monkeypatch.setattr(Filtration, "make", None)  # the refused samples are in the store
    marks = proxy.probabilities.argmax(-1) == 0
    result = call(marks)
    assert result.proxy is not None
    assert torch.equal(result.proxy.target_like, marks)
    again = call(marks.numpy())
    assert again.stages == result.stages
    other = marks.clone()
    other[marks.nonzero()[0]] = False
    assert call(other).stages["relearning"] != result.stages["relearning"]


def test_one_computes_and_the_other_waits_and_sees_so(desk: Desk) -> None:
    one, other = Session(desk), Session(desk)
    begun, go = threading.Event(), threading.Event()

    def work(_: Job) -> None:
        begun.set()
        go.wait(60)

    busy = one._start("test", work)
    assert begun.wait(60)
    waiting = other.look()
    assert waiting.waiting
    assert "waiting: 1 job of others" in views.progress(other, waiting)
    for refused in (other.look, other.clear, lambda: other.add_shots([])):
        with pytest.raises(UserError, match="still work"):
            refused()
    other.stop()
    assert waiting.done
    third = other.look()
    assert not third.done
    other.close()
    assert third.future.cancelled()
    go.set()
    finished(busy)
    assert one.folder != other.folder
    assert not one.shots.names


def test_a_job_is_stopped_at_its_next_step(desk: Desk) -> None:
    session = Session(desk)
    begun = threading.Event()

    def work(job: Job) -> None:
        while True:
            job.at("inversion", 1, 2)
            begun.set()

    job = session._start("test", work)
    assert begun.wait(60)
    session.stop()
    job.future.result(timeout=60)
    assert job.error == "stopped; what is finished is kept"
    assert "stopped" in views.progress(session, job)


def test_what_is_asked_too_early_is_refused(desk: Desk) -> None:
    session = Session(desk)
    with pytest.raises(UserError, match="drop images"):
        session.make_samples(CHOICE)
    with pytest.raises(UserError, match="make samples"):
        session.relearn(CHOICE)
    with pytest.raises(UserError, match="no example"):
        session.take_example()
    with pytest.raises(UserError, match="intention"):
        desk.settings("std")


@pytest.mark.slow
def test_the_demos_model_and_its_images(tmp_path: Path) -> None:
    desk = open_desk([*TINY, f"output_dir={tmp_path}"])
    try:
        session = Session(desk)
        choice = session.take_example()
        assert choice == Choice(2, "cor", 7)
        assert len(session.shots) == 5
        finished(session.look())
        assert len(session.before["tests"]) == len(session.tests) == 24
        finished(session.make_samples(choice))
        assert session.made is not None
        session.made.split.toggle(session.made.split.order[0])
        finished(session.relearn(choice))
        assert session.repaired is not None
        assert load_file(session.repaired.file).keys() == desk.loaded.network.state_dict().keys()
    finally:
        desk.close()
    assert not desk.folder.exists()


# --- uploads


def test_uploads_are_limited_and_checked(tmp_path: Path) -> None:
    folder, outside = tmp_path / "uploads", tmp_path / "secret.png"
    folder.mkdir()
    Image.new("L", (8, 8)).save(outside)
    names = ["b.png", "a.png", "wide.png", "heavy.bmp", "text.png", "same.png", "more.png"]
    paths = [folder / name for name in names]
    for i, path in enumerate(paths[:2]):
        Image.new("L", (8, 8), 40 * i).save(path)
    Image.new("1", (200, 200)).save(paths[2])
    Image.new("RGB", (60, 60)).save(paths[3])
    paths[4].write_text("no image")
    paths[5].write_bytes(paths[0].read_bytes())
    Image.new("L", (8, 8), 200).save(paths[6])
    link = folder / "link.png"
    link.symlink_to(outside)
    dropped = Dropped(Wanted(1, (8, 8)), Limits(files=3, bytes=10_000, pixels=5000))
    tried = [*paths[:6], link, outside, folder / "gone.png", folder, paths[6], paths[0]]
    refused = dropped.add([str(p) for p in tried], folder)
    for word in ("200x200 pixels", "MiB", "no image", "there already", "gone"):
        assert any(word in line for line in refused), word
    assert len([line for line in refused if "only files that are dropped" in line]) == 3
    assert not any(str(tmp_path) in line for line in refused)
    assert dropped.names == ["a.png", "b.png", "more.png"]
    assert dropped.images.shape == (3, 1, 8, 8)
    assert dropped.images[:, 0, 0, 0].tolist() == [40, 0, 200]
    assert outside.exists()
    assert [p.name for p in folder.iterdir()] == ["link.png"]
    extra = folder / "extra.png"
    Image.new("L", (8, 8), 99).save(extra)
    assert "one too many" in dropped.add([str(extra)], folder)[0]
    assert not extra.exists()


# --- the gate


def asked(folder: Path, method: str, path: str, body: bytes = b"", **headers: str) -> Any:
    """What the gate lets through: None, or the status of its answer, and the headers."""
    sent: list[Message] = []
    seen: list[bytes] = []

    async def behind(_: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        seen.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    known = {"host": "127.0.0.1:7860", "content-length": str(len(body)), **headers}
    scope = {
        "type": "http", "method": method, "path": path,
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in known.items()],
    }  # fmt: skip
    asyncio.run(Gate(behind, folder, 1000)(scope, receive, send))
    assert seen in ([], [body])
    return sent[0]["status"], dict(sent[0]["headers"])


def test_only_the_pages_own_requests_pass(tmp_path: Path) -> None:
    def status(*given: Any, **headers: str) -> int:
        return int(asked(tmp_path, *given, **headers)[0])

    api = "/gradio_api"
    assert status("GET", "/") == status("GET", "/assets/x.js") == 200
    assert status("GET", "/", host="localhost:1") == 200
    assert status("GET", "/", host="evil.example") == 403
    assert status("GET", "/", host="127.0.0.1.evil.example:7860") == 403
    for shut in (
        "/runs",
        f"{api}/proxy=http://x",
        f"{api}/vibe-code",
        "/docs",
        f"{api}/stream/a/b",
    ):
        assert status("GET", shut) == 404, shut
    for shut in (f"{api}/run/predict", f"{api}/call/x", f"{api}/process_recording", "/"):
        assert status("POST", shut, b"{}") == 405, shut
    assert status("PUT", "/") == 405
    upload = f"{api}/upload"
    assert status("POST", upload, b"x" * 1000) == 200
    assert status("POST", upload, b"x" * 1001) == 413
    assert status("POST", upload, b"", content_length="") == 411
    _, headers = asked(tmp_path, "GET", "/")
    assert b"default-src 'self'" in headers[b"content-security-policy"]


def test_a_call_names_uploaded_files_alone(tmp_path: Path) -> None:
    join, inside = "/gradio_api/queue/join", tmp_path / "a" / "x.png"

    def call(path: object) -> int:
        body = b'{"data": [[{"path": %s, "meta": {"_type": "gradio.FileData"}}]]}'
        return int(asked(tmp_path, "POST", join, body % path)[0])  # type: ignore[operator]

    assert call(b'"%s"' % str(inside).encode()) == 200
    assert call(b'"%s/../../etc/passwd"' % str(tmp_path).encode()) == 403
    for path in (b'"/etc/passwd"', b'"x.png"', b'"http://example.com/x.png"', b"3", b"null"):
        assert call(path) == 403, path
    assert int(asked(tmp_path, "POST", join, b"no JSON")[0]) == 400


# --- the command


def test_without_gradio_one_line_says_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn.cli import main

    monkeypatch.setattr(app, "gr", None)
    assert main(["page", "scale=demo"]) == 2
    (line,) = errors(capfd.readouterr().err)
    assert "pip install 'few-shot-unlearning[page]'" in line
    assert main(["page", "nonsense"]) == 2
    assert "KEY=VALUE" in errors(capfd.readouterr().err)[0]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("scenario.shots=wrong", "scenario.shots"),
        ("scenario.label=3", "scenario.label"),
        ("baseline=delete", "baseline"),
        ("proxy=noise", "proxy"),
    ],
)
def test_what_the_page_asks_for_is_no_setting(given: str, key: str) -> None:
    with pytest.raises(UserError, match=key):
        check_ours(resolve(["scenario=own", given]))


def test_an_image_that_all_call_otherwise_leaves_no_samples() -> None:
    proxy = shape_of_a_proxy()
    split = Split(resolve(OWN).filtration, proxy, (2,))
    assert not split.movable
    assert split.order == []
    assert split.range[:2] == (0.0, 1.0)
    assert "calls no sample by your label" in views.samples(split, 0)


def shape_of_a_proxy() -> Any:
    from tests.helpers import sure_problem, written_proxy

    proxy = written_proxy(sure_problem())
    p = torch.zeros_like(proxy.probabilities)
    p[:, 1] = 1
    return replace(proxy, probabilities=p)
