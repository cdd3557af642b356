"""The diagonal of the Fisher information: exact image by image, computed many images at once.

Of a classifier with softmax outputs it is F = mean over x of sum_y p(y|x) (d CE(f(x), y) / dw)^2
(Golatkar et al. 2020a, Eternal Sunshine of the Spotless Net). With J = d logits / dw and
S S^T = diag(p) - p p^T, that is the mean over x of the squared columns of J^T S, summed. S has one
column less than there are classes; one backward pass takes all of them, as if each were an image
more. An image's own gradient is a product of a layer's input and of the gradient at its output, so
one product of matrices gives those of a batch. (The square of a batch's mean gradient is something
else.) Channels come last in memory: a CPU's convolutions with strides are several times faster so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.engine.precision import Precision, kernels
from unlearn.engine.seeding import seeded
from unlearn.errors import UserError
from unlearn.models.adapt import copied
from unlearn.models.layout import BATCHNORMS

# How many floats the gradients of several images may take: what a CPU's cache holds; more on a GPU.
PIECE = {"cpu": 2**19, "cuda": 2**27}

FEW = 8  # images in a piece

# A layer, its input (N, ...) and the gradients at its output (columns, N, ...) -> by parameter.
Rule = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]
# The layers with parameters that a pass goes through, their inputs and outputs, by name.
Seen = dict[str, tuple[nn.Module, Tensor, Tensor]]


def some(images: Tensor, number: int | None, seed: int) -> Tensor:
    """So many of images (N, C, H, W), drawn by the seed; all of them if None, or if N is less."""
    if number is None or number >= len(images):
        return images
    drawn = torch.randperm(len(images), generator=seeded(seed, "fisher images"))
    return images[drawn[:number].sort().values]


def passes_of(number: int | None, images: int, classes: int) -> float:
    """What a diagonal costs, in images of a training step: as many for each as classes."""
    return float(classes * min(images, images if number is None else number))


def fisher_diagonal(model: nn.Module, images: Tensor, batch_size: int) -> dict[str, Tensor]:
    """The diagonal for every parameter, by its name; summed in float64, on the model's device.

    Args:
        model: a classifier of convolutions, linear layers and normalisations, each used once in a
            pass; taken in eval mode (BatchNorm by its running statistics) and left as it is.
        images: uint8 (N, C, H, W). No labels are needed.
        batch_size: images per pass; memory grows with it, the result does not depend on it.

    Raises:
        UserError: if the model has parameters anywhere else.
    """
    sums = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in model.named_parameters()}
    device = next(iter(sums.values())).device
    model = copied(model).eval().requires_grad_(False)
    cast(Any, model).to(memory_format=torch.channels_last)
    seen = record_layers(model)
    with kernels(Precision("fp32"), device):
        for batch in images.split(batch_size):
            seen.clear()
            x = batch.to(device, torch.get_default_dtype()) / 255
            with torch.enable_grad():
                logits = model(x.contiguous(memory_format=torch.channels_last).requires_grad_())
            for (name, (layer, given, _)), deltas in zip(
                list(seen.items()), gradients(logits, seen), strict=True
            ):
                for own, square in rule_for(name, layer)(layer, given, deltas).items():
                    total = sums[f"{name}.{own}" if name else own]
                    total += square.reshape(total.shape)
    return {name: total / len(images) for name, total in sums.items()}


def gradients(logits: Tensor, seen: Seen) -> tuple[Tensor, ...]:
    """S^T times the logits' gradients at each layer's output: (C - 1, N, ...) each."""
    outputs = [output for _, _, output in seen.values()]

    def backward(column: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(logits, outputs, column, retain_graph=True)

    columns = output_root(logits.detach()).permute(2, 0, 1).contiguous()
    return torch.func.vmap(backward)(columns)


def output_root(logits: Tensor) -> Tensor:
    """S with S S^T = diag(p) - p p^T for p = softmax(logits): (N, C) -> (N, C, C - 1).

    The Cholesky factor, in closed form; only sums and products of p, so that it is exact even
    where 1 - p would round to 0.
    """
    p = logits.double().softmax(-1)
    tiny = torch.finfo(p.dtype).tiny
    tail = p.flip(-1).cumsum(-1).flip(-1)  # of a class and those after it
    here, after = tail[:, :-1].clamp_min(tiny), tail[:, 1:]
    length = (p[:, :-1] / here * after).sqrt()
    below = (p[:, :, None] / after.clamp_min(tiny)[:, None, :]).tril(-1)
    root = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)[:, :-1] - below
    return (root * length[:, None, :]).to(logits.dtype)


def record_layers(model: nn.Module) -> Seen:
    """Hooks that fill what is returned, pass by pass.

    Raises:
        UserError: if a layer with parameters has no rule, or is used twice.
    """
    seen: Seen = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in seen:
                raise UserError("model", f"layer {name!r} is used twice; Fisher takes it once")
            if isinstance(layer, BATCHNORMS):
                output = as_affine(layer, inputs[0])
            elif isinstance(layer, nn.GroupNorm):  # vmap does not take its channels last
                output = layer.forward(inputs[0].contiguous())
            seen[name] = (layer, inputs[0].detach(), output)
            return output

        return hook

    for name, layer in model.named_modules():
        if list(layer.parameters(recurse=False)):
            rule_for(name, layer)
            layer.register_forward_hook(keep(name))
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            layer.register_forward_hook(without_identity)
    return seen


def without_identity(_pool: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A pool to the size that is there changes nothing, but its backward pass is slow."""
    return inputs[0] if output.shape == inputs[0].shape else output


def as_affine(norm: Any, x: Tensor) -> Tensor:
    """BatchNorm in eval mode as one product and sum: its backward pass costs less."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    shape = (1, -1, *[1] * (x.dim() - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape))


def of_linear(layer: nn.Linear, x: Tensor, deltas: Tensor) -> dict[str, Tensor]:
    """An image's gradient is an outer product, and so is its square."""
    square = deltas.square().sum(0)
    return {"weight": square.T @ x.square(), **bias_of(layer, deltas)}


def of_convolution(layer: nn.Conv2d, x: Tensor, deltas: Tensor) -> dict[str, Tensor]:
    """An image's gradient is the output's (out, places) times the input's patches (places, in)."""
    patches = patches_of(layer, x)
    weight = patches.new_zeros(layer.out_channels, patches.shape[2])
    some = max(1, PIECE[x.device.type] // weight.numel())
    for delta in deltas:
        for d, a in zip(delta.flatten(2).split(some), patches.split(some), strict=True):
            gradients = torch.bmm(d, a)
            if some > FEW:
                weight += gradients.square_().sum(0)
            else:  # one pass through memory less
                for gradient in gradients:
                    weight.addcmul_(gradient, gradient)
    weight = weight.view(-1, *layer.kernel_size, layer.in_channels).permute(0, 3, 1, 2)
    return {"weight": weight, **bias_of(layer, deltas)}


def patches_of(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What each of the output's places sees: (N, in, H, W) -> (N, places, kernel's places * in)."""
    vertical, horizontal = cast(tuple[int, int], layer.padding)
    x = F.pad(x, (horizontal, horizontal, vertical, vertical))
    for i, (size, step, stride) in enumerate(
        zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
    ):
        x = x.unfold(2 + i, (size - 1) * step + 1, stride)[..., ::step]
    return x.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def of_norm(layer: Any, x: Tensor, deltas: Tensor) -> dict[str, Tensor]:
    """An image's gradient is the output's times the normalised input, summed over places."""
    if isinstance(layer, nn.GroupNorm):
        x = F.group_norm(x, layer.num_groups, eps=layer.eps)
    elif isinstance(layer, nn.LayerNorm):
        x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    else:
        x = F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)
    weight = sum(over_places(x * delta).square_().sum(0) for delta in deltas)
    return {"weight": cast(Tensor, weight), **bias_of(layer, deltas)}


def bias_of(layer: Any, deltas: Tensor) -> dict[str, Tensor]:
    """An image's gradient is the output's, summed over places."""
    if layer.bias is None:
        return {}
    return {"bias": cast(Tensor, sum(over_places(d).square().sum(0) for d in deltas))}


def over_places(x: Tensor) -> Tensor:
    """Sums: (N, C, ...) -> (N, C)."""
    return x.flatten(2).sum(2) if x.dim() > 2 else x


def rule_for(name: str, layer: nn.Module) -> Rule:
    """How a layer's squared gradients come about.

    Raises:
        UserError: if it is none of those below.
    """
    if isinstance(layer, nn.Linear):
        return of_linear
    plain = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
    if plain and not isinstance(layer.padding, str):
        return of_convolution
    if isinstance(layer, nn.GroupNorm):
        return of_norm
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return of_norm
    if isinstance(layer, BATCHNORMS) and layer.running_mean is not None:
        return of_norm
    raise UserError(
        "model",
        f"Fisher has no rule for layer {name!r} ({type(layer).__name__}); it takes linear layers, "
        "convolutions in one group with zero padding, and normalisations",
    )
