"""``unlearn page``: a page in the browser on which a model is repaired with a few images.

With the settings of a model, as for scenario=own, it is that one. Without, it is the demo's, which
is trained first if it is not in the store.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

from unlearn.errors import UserError
from unlearn.page import app, serving
from unlearn.page.desk import open_desk
from unlearn.program import program, tell

EXTRA = "pip install 'few-shot-unlearning[page]'"


def main(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C; returns the exit status.

    Raises:
        UserError: naming the setting that cannot be; if Gradio is not installed.
    """
    given = parser().parse_intermixed_args(list(arguments))
    for word in given.settings:
        if "=" not in word:
            raise UserError(word, "is no setting: KEY=VALUE")
    if not app.installed():
        raise UserError("page", f"needs Gradio, which is not installed: {EXTRA}")
    for name in ("httpx", "httpcore", "uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    desk = open_desk(given.settings)
    try:
        blocks, address = serving.serve(desk, given.port)
        tell(f"{address} (on this machine alone; Ctrl-C ends it)")
        try:
            while True:
                time.sleep(3600)
        finally:
            blocks.close(verbose=False)
    except OSError as error:
        raise UserError("--port", str(error)) from error
    finally:
        desk.close()


def parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    words = argparse.ArgumentParser(prog=program("page"), description=__doc__)
    words.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="model=, scale=, inversion.steps=, ..."
    )
    words.add_argument("--port", type=int, metavar="N", help="[the first free one from 7860]")
    return words
