"""Image classifiers of Hugging Face's transformers, from a local folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from unlearn.engine.store import hash_of, make_folder, writing
from unlearn.errors import UserError
from unlearn.models.checkpoint import checkpoint_identity, load_checkpoint
from unlearn.models.origin import ORIGINS, AnyModel, Size, Told, Trained, installed
from unlearn.models.saving import FileWeights, Weights

SAFE, PICKLED, INDEX = "model.safetensors", "pytorch_model.bin", ".index.json"
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")


@ORIGINS.register("huggingface")
@dataclass
class HuggingFace(AnyModel):
    """An image classifier of transformers; nothing is downloaded.

    Attributes:
        folder: with ``config.json`` and the weights, as ``save_pretrained`` leaves it;
            ``checkpoint`` may name it too, or other weights for it.
    """

    folder: str | None = None

    @property
    def file(self) -> str | None:
        return (
            None if self.checkpoint is None or Path(self.checkpoint).is_dir() else self.checkpoint
        )

    def check(self) -> None:
        super().check()
        installed("transformers", "huggingface")
        self._config()

    def fresh(self, channels: int, classes: int, size: Size) -> nn.Module:
        transformers = installed("transformers", "huggingface")
        config = transformers.AutoConfig.from_pretrained(self._place(), local_files_only=True)
        config.num_labels, config.num_channels = classes, channels
        if hasattr(config, "image_size"):
            config.image_size = size[0] if size[0] == size[1] else list(size)
        try:
            made = transformers.AutoModelForImageClassification.from_config(config)
        except Exception as error:  # whatever its configuration lacks
            raise UserError("model.folder", f"{self._place()!r}: {error}") from error
        assert isinstance(made, nn.Module)
        return made

    def trained(self, size: Size) -> Trained:
        transformers = installed("transformers", "huggingface")
        place = self._place()
        with silent(transformers):
            try:
                network, report = transformers.AutoModelForImageClassification.from_pretrained(
                    place, local_files_only=True, output_loading_info=True
                )
            except Exception as error:  # whatever is missing or damaged
                raise UserError("model.folder", f"{place!r} cannot be loaded ({error})") from error
        lacking = [*report["missing_keys"], *(m[0] for m in report["mismatched_keys"])]
        if self.file is not None:
            return Trained(network, FileWeights(self.file, load_checkpoint(network, self.file)))
        if lacking:
            raise UserError(
                "model.folder",
                f"{place!r} has no weights for {len(lacking)} tensors of an image classifier "
                f"({', '.join(sorted(lacking)[:3])})",
            )
        return Trained(network, FolderWeights(place))

    def told(self) -> Told:
        config, seen = self._config(), self._processor()
        names = config.get("id2label") or {}
        classes = [str(names[k]) for k in sorted(names, key=int)] if names else None
        size = _size(seen) or _size({"size": config.get("image_size")})
        mean, std = seen.get("image_mean"), seen.get("image_std")
        if seen and seen.get("do_normalize") is False:
            mean, std = [0.0], [1.0]
        return Told(size, mean, std, classes, f"that of {self._place()!r}")

    def identity(self) -> str:
        """The contents of all files in the folder, and of other weights for it."""
        place = Path(self._place())
        files = sorted(p for p in place.iterdir() if p.is_file())
        held = [[p.name, checkpoint_identity(str(p))] for p in files]
        return hash_of([held, checkpoint_identity(self.file)])

    def _place(self) -> str:
        folder = self.folder
        if folder is None and self.checkpoint is not None and Path(self.checkpoint).is_dir():
            folder = self.checkpoint
        if folder is None:
            raise UserError(
                "model.folder",
                "needs the folder of an image classifier, with config.json: model.folder=FOLDER",
            )
        return folder

    def _config(self) -> dict[str, Any]:
        """What ``config.json`` says.

        Raises:
            UserError: if it cannot be read.
        """
        return _json(Path(self._place()) / "config.json")

    def _processor(self) -> dict[str, Any]:
        """What the image processor's file says; nothing without one."""
        for name in ("preprocessor_config.json", "processor_config.json"):
            path = Path(self._place()) / name
            if path.is_file():
                content = _json(path)
                return dict(content.get("image_processor") or content)
        return {}


@dataclass(frozen=True)
class FolderWeights(Weights):
    """The folder of a ``save_pretrained``."""

    path: str

    def write(self, network: nn.Module, to: Path) -> list[str]:
        """Weights are written by transformers, which gives them the names they had; what else lies
        in the folder is copied."""
        folder, partial = Path(self.path), to.with_name(f".{to.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
        weights = {p.name for p in folder.iterdir() if p.name.endswith(ENDINGS)}
        try:
            with writing(to):
                with silent(installed("transformers", "huggingface")):
                    network.save_pretrained(partial)  # type: ignore[operator]
                if weights and not any(name.endswith(".safetensors") for name in weights):
                    torch.save(load_file(partial / SAFE), partial / PICKLED)
                    (partial / SAFE).unlink()
                for path in folder.iterdir():
                    if path.is_file() and path.name not in weights and INDEX not in path.name:
                        shutil.copyfile(path, partial / path.name)
                shutil.rmtree(to, ignore_errors=True)
                os.replace(partial, to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return []


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("model.folder", f"{str(path)!r} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise UserError("model.folder", f"{str(path)!r} is no JSON object")
    return content


def _size(seen: Mapping[str, Any]) -> Size | None:
    """Height and width that an image processor makes; None if it does not say."""
    size = seen.get("crop_size") if seen.get("do_center_crop") else None
    size = size or seen.get("size")
    if isinstance(size, int):
        return size, size
    if isinstance(size, list) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, Mapping):
        if "height" in size and "width" in size:
            return int(size["height"]), int(size["width"])
        if "shortest_edge" in size:
            return int(size["shortest_edge"]), int(size["shortest_edge"])
    return None


@contextmanager
def silent(transformers: Any) -> Iterator[None]:
    """Within, transformers says nothing: what is missing is said here in one line."""
    chatty = transformers.utils.logging
    before = chatty.get_verbosity()
    bars = chatty.is_progress_bar_enabled()
    chatty.set_verbosity(logging.CRITICAL)
    chatty.disable_progress_bar()
    try:
        yield
    finally:
        chatty.set_verbosity(before)
        if bars:
            chatty.enable_progress_bar()
