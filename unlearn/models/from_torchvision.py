"""Networks of torchvision."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torchvision
from torch import nn

from unlearn.errors import UserError, did_you_mean
from unlearn.models.origin import ORIGINS, AnyModel, Size, given_arguments


@ORIGINS.register("torchvision")
@dataclass
class Torchvision(AnyModel):
    """A classifier of torchvision.

    Attributes:
        arch: its name there, such as ``resnet18``.
        arguments: of the function that makes it.
    """

    arch: str | None = None
    arguments: Any = None

    def check(self) -> None:
        super().check()
        given_arguments(self.arguments)
        known = torchvision.models.list_models(torchvision.models)
        check_arch(self.arch, known, "torchvision")

    def fresh(self, channels: int, classes: int, size: Size) -> nn.Module:
        arguments: dict[str, Any] = {"weights": None, "num_classes": classes}
        if str(self.arch).startswith("vit_"):
            arguments["image_size"] = size[0]
        arguments |= given_arguments(self.arguments)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of how some of them are initialised
                made = torchvision.models.get_model(self.arch, **arguments)
        except Exception as error:  # whatever its arguments may be
            raise UserError("model.arguments", f"{self.arch} cannot be made ({error})") from error
        return taking(made, channels)


def check_arch(arch: str | None, known: list[str], library: str) -> None:
    """Refuse a name that a library does not have.

    Raises:
        UserError: naming the nearest one.
    """
    if arch is None:
        raise UserError("model.arch", f"needs the name of a network of {library}: model.arch=...")
    if arch not in known:
        raise UserError(
            "model.arch", f"{library} has no network {arch!r}{did_you_mean(arch, known)}"
        )


def taking(network: nn.Module, channels: int) -> nn.Module:
    """The network with a first convolution for so many channels, freshly drawn; changes it.

    Raises:
        UserError: if its first layer is none.
    """
    named = ((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    name, layer = next(named, ("", None))
    if layer is None:
        raise UserError("model.arch", "it has no convolution")
    if layer.in_channels != channels:
        parent = network.get_submodule(name.rpartition(".")[0])
        fresh = nn.Conv2d(
            channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            bias=layer.bias is not None,
        )
        setattr(parent, name.rpartition(".")[2], fresh)
        if getattr(network, "transform_input", False):  # of three channels
            network.transform_input = False  # type: ignore[assignment]
    return network
