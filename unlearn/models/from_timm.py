"""Networks of timm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from unlearn.errors import UserError
from unlearn.models.from_torchvision import check_arch
from unlearn.models.origin import ORIGINS, AnyModel, Size, Told, given_arguments, installed


@ORIGINS.register("timm")
@dataclass
class Timm(AnyModel):
    """A classifier of timm.

    Attributes:
        arch: its name there, such as ``resnet18`` or ``vit_tiny_patch16_224``.
        arguments: of ``timm.create_model``.
    """

    arch: str | None = None
    arguments: Any = None

    def check(self) -> None:
        super().check()
        given_arguments(self.arguments)
        timm = installed("timm", "timm")
        known = timm.list_models()
        plain = None if self.arch is None else self.arch.partition(".")[0]
        check_arch(plain, known, "timm")

    def fresh(self, channels: int, classes: int, size: Size) -> nn.Module:
        timm = installed("timm", "timm")
        arguments: dict[str, Any] = {"in_chans": channels, "num_classes": classes}
        if getattr(self._configuration(), "fixed_input_size", False):
            arguments["img_size"] = size
        arguments |= given_arguments(self.arguments)
        try:
            made = timm.create_model(self.arch, pretrained=False, **arguments)
        except Exception as error:  # whatever its arguments may be
            raise UserError("model.arguments", f"{self.arch} cannot be made ({error})") from error
        assert isinstance(made, nn.Module)
        return made

    def told(self) -> Told:
        told = self._configuration()
        if told is None:
            return Told()
        size = tuple(told.input_size[1:])
        return Told(size, list(told.mean), list(told.std), where=f"timm's of {self.arch}")

    def _configuration(self) -> Any:
        return installed("timm", "timm").get_pretrained_cfg(self.arch)
