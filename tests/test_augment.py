"""Every augmentation against torchvision's result, image by image."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torchvision.transforms.v2 import InterpolationMode

from unlearn.engine.augment import Augment, apply_crop, apply_flip, apply_rotation
from unlearn.engine.seeding import seeded


@pytest.fixture(params=[(1, 28, 28), (3, 32, 32), (3, 24, 40)])
def images(request: pytest.FixtureRequest) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(12, *request.param)


def test_crop(images: torch.Tensor) -> None:
    top, left = torch.randint(0, 9, (12,)), torch.randint(0, 9, (12,))
    ours = apply_crop(images, top, left, 4)
    for i, image in enumerate(images):
        padded = tv.pad(image, [4])
        theirs = tv.crop(padded, int(top[i]), int(left[i]), *images.shape[-2:])
        assert torch.equal(ours[i], theirs)


def test_rotation(images: torch.Tensor) -> None:
    degrees = torch.linspace(-90, 90, 12)
    ours = apply_rotation(images, degrees)
    for i, image in enumerate(images):
        theirs = tv.rotate(image, float(degrees[i]), InterpolationMode.BILINEAR)
        torch.testing.assert_close(ours[i], theirs, atol=1e-4, rtol=0)


def test_flip(images: torch.Tensor) -> None:
    flip = torch.arange(12) % 2 == 0
    ours = apply_flip(images, flip)
    for i, image in enumerate(images):
        theirs = tv.horizontal_flip(image) if flip[i] else image
        assert torch.equal(ours[i], theirs)


def test_rotation_that_mirrors_is_one_and_then_the_other(images: torch.Tensor) -> None:
    degrees, flip = torch.linspace(-20, 20, 12), torch.arange(12) % 3 == 0
    both = apply_rotation(images, degrees, flip)
    torch.testing.assert_close(
        both, apply_flip(apply_rotation(images, degrees), flip), atol=1e-4, rtol=0
    )


def test_crop_is_the_same_with_and_without_a_gradient(images: torch.Tensor) -> None:
    top, left = torch.randint(0, 5, (12,)), torch.randint(0, 5, (12,))
    kept = apply_crop(images.clone().requires_grad_(), top, left, 2)
    assert torch.equal(kept.detach(), apply_crop(images, top, left, 2))


@pytest.mark.parametrize("largest", [15, 90, 180])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_has_torchs_gradient_on_a_gpu(
    images: torch.Tensor, largest: float, mirrored: bool, gpu: torch.device
) -> None:
    degrees = torch.linspace(-largest, largest, 12, dtype=torch.float64)
    flip = torch.arange(12) % 3 == 0 if mirrored else None
    gradient = torch.randn(images.shape, dtype=torch.float64)
    got = []
    for device in (torch.device("cpu"), gpu):
        x = images.double().to(device).requires_grad_()
        out = apply_rotation(x, degrees.to(device), None if flip is None else flip.to(device))
        out.backward(gradient.to(device))
        got.append((out.detach().cpu(), x.grad.cpu()))
    for theirs, ours in zip(*got, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_image_gets_another_draw_within_the_range(images: torch.Tensor) -> None:
    same = images[:1].expand(12, -1, -1, -1)
    out = Augment(4, 15, True)(same, seeded(0))
    assert len({tuple(x.flatten().tolist()) for x in out}) == 12
    assert out.min() >= 0
    assert out.max() <= 1 + 1e-6


def test_off_means_untouched_and_the_seed_decides(images: torch.Tensor) -> None:
    assert torch.equal(Augment(0, 0, False)(images), images)
    one, two = (Augment(4, 15, True)(images, seeded(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, Augment(4, 15, True)(images, seeded(8)))


def test_bytes_give_what_numbers_give(images: torch.Tensor) -> None:
    raw = (images * 255).to(torch.uint8)
    for augment in (Augment(4, 15, True), Augment(2, 0, False), Augment(0, 0, True)):
        assert torch.equal(augment(raw, seeded(3)), augment(raw.float() / 255, seeded(3)))


def test_gradients_pass() -> None:
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    top, degrees = torch.tensor([0, 1, 4]), torch.tensor([5.0, -30.0, 12.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: apply_crop(v, top, top, 2), x)
    assert torch.autograd.gradcheck(lambda v: apply_rotation(v, degrees), x)
