"""The page in a real browser, from upload to download.

Needs Gradio, Playwright and Chromium: pip install '.[page]' playwright, and Debian's chromium.
UNLEARN_SCREENSHOTS names a folder that gets a picture of every state.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import (
    OWN,
    PAGE_SHAPE,
    desk_for,
    quadrants,
    shots_of,
    small_net,
    taught,
    write_images,
)
from unlearn.config.compose import resolve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
CLASSES = ["up left", "up right", "down left", "down right"]
WAIT = 300_000  # milliseconds, for a machine with other work


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the page of a small network is served; its uploads are in ``page/uploads``."""
    pytest.importorskip("gradio", reason="Gradio is not installed (extra page)")
    from unlearn.page.serving import serve

    network = taught(small_net(), *PAGE_SHAPE).eval()
    more = ["inversion.steps=60", "filtration.per_condition=30", "filtration.threshold=null"]
    names = ("neg", "cor")
    configs = {name: resolve([*OWN, *more, f"intention={name}"]) for name in names}
    desk = desk_for(network, configs, tmp_path, CLASSES)
    blocks, address = serve(desk, None)
    yield address
    blocks.close(verbose=False)
    desk.close()
    assert not desk.folder.exists()


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, args=FLAGS, timeout=WAIT,
            viewport={"width": 1120, "height": 1400},
        )  # fmt: skip
        context.set_default_timeout(WAIT)
        yield context
        context.close()


def look(page: Any, name: str) -> None:
    """Keep a picture of the page, if somebody wants it."""
    if folder := os.environ.get("UNLEARN_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_from_upload_to_download(address: str, context: Any, tmp_path: Path) -> None:
    shots, _ = shots_of(*PAGE_SHAPE)
    wrong = sorted(write_images(tmp_path / "wrong", shots).iterdir())
    tests = sorted(write_images(tmp_path / "test", quadrants(8, *PAGE_SHAPE)[0]).iterdir())
    page, hosts = context.new_page(), set[str]()
    page.on("request", lambda r: hosts.add(r.url.split("/")[2] if "//" in r.url else "data"))
    page.goto(address)
    page.locator("#make").wait_for()
    look(page, "1-empty")

    page.locator("#drop input[type=file]").set_input_files(wrong)
    said = page.locator("#shots-said")
    said.get_by_text(f"{len(wrong)} images; the model answers up left").wait_for()
    look(page, "2-dropped")
    page.locator("#make").click()
    page.locator("#strips img").first.wait_for()
    look(page, "3-making")
    page.locator("#split-said").wait_for()
    page.locator("#make:not([disabled])").wait_for()
    look(page, "4-samples")

    text = page.locator("#split-said").inner_text()
    (number,) = re.findall(r"of the (\d+) samples", text)
    slider = page.locator("#threshold input[type=range]")
    seconds = []
    for key, marked in (("Home", "0"), ("End", number)):
        start = time.perf_counter()
        slider.press(key)
        page.wait_for_function(
            "n => document.querySelector('#split-said').innerText.startsWith(n + ' of')",
            arg=marked,
        )
        seconds.append(time.perf_counter() - start)
    print("seconds until the new split was seen:", [round(s, 2) for s in seconds])
    look(page, "5-all-in")
    page.locator("#reset").click()
    first = page.locator("#samples button").first
    taken = first.get_attribute("aria-pressed")
    first.click()
    page.locator(
        f"#samples button.hand[aria-pressed={'true' if taken == 'false' else 'false'}]"
    ).wait_for()
    look(page, "6-by-hand")

    page.locator("#relearn").click()
    page.locator("#outcome").wait_for()
    page.locator("#drop-tests input[type=file]").set_input_files(tests)
    page.locator("#tests figcaption", has_text="→").first.wait_for()
    assert page.locator("#tests figcaption").count() == len(tests)
    look(page, "7-repaired")
    with page.expect_download() as download:
        page.locator("#download").click()
    file = tmp_path / "repaired.safetensors"
    download.value.save_as(file)
    network = small_net()
    network.load_state_dict(load_file(file))
    assert all(bool(torch.isfinite(v).all()) for v in network.state_dict().values())

    other = context.new_page()
    other.goto(address)
    other.locator("#make").wait_for()
    assert other.locator("#shots img, #strips img, #tests img").count() == 0
    for path in ("/etc/passwd", str(wrong[0])):
        assert context.request.get(f"{address}gradio_api/file={path}").status == 403
    assert hosts <= {address.split("/")[2], "data"}
    assert len(list((tmp_path / "page" / "uploads").glob("session-*"))) == 1
    page.close()
    end = time.monotonic() + 60
    while list((tmp_path / "page" / "uploads").rglob("*.*")) and time.monotonic() < end:
        other.wait_for_timeout(200)
    assert not list((tmp_path / "page" / "uploads").rglob("*.*"))
