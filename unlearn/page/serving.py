"""Serving the page, on this machine alone."""

from __future__ import annotations

import os
from typing import Any

from unlearn.page import views
from unlearn.page.app import Page
from unlearn.page.desk import Desk
from unlearn.page.gate import HOSTS, Gate
from unlearn.page.uploads import MIB, Limits

try:
    import gradio as gr
    from starlette.middleware import Middleware
except ImportError:
    gr = Middleware = None

HOST = HOSTS[0]


def serve(desk: Desk, port: int | None) -> tuple[Any, str]:
    """Serve the page until ``close()`` of what is returned.

    Args:
        port: None takes the first free one from 7860.

    Returns:
        Gradio's ``Blocks``, and the page's address.
    """
    os.environ |= {
        "GRADIO_TEMP_DIR": str(desk.uploads),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ALLOWED_PATHS": "",
        "GRADIO_SHARE": "False",
    }
    limits = Limits()
    gate = Middleware(Gate, folder=desk.uploads, upload=limits.files * limits.bytes // 10)
    blocks = Page(desk).build()
    plain = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    _, address, _ = blocks.queue(api_open=False).launch(
        server_name=HOST, server_port=port, share=False, prevent_thread_lock=True, quiet=True,
        show_error=False, inbrowser=False, allowed_paths=[], max_file_size=limits.bytes + MIB,
        ssr_mode=False, pwa=False, mcp_server=False, run_history=False, enable_monitoring=False,
        strict_cors=True, footer_links=[], app_kwargs={"middleware": [gate]}, theme=plain,
        css=views.CSS,
    )  # fmt: skip
    return blocks, address
