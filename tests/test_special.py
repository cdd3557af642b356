"""Values that go with a scenario's data at a scale."""

from __future__ import annotations

import pytest

from unlearn.config import resolve


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_every_class_of_cifar10_has_the_values_of_trucks(scale: str) -> None:
    one, other = (
        resolve([f"scenario={name}", f"scale={scale}"])
        for name in ("truck_cifar10", "class_cifar10")
    )
    assert one.augment.flip
    for part in ("augment", "training", "inversion", "per_class", "image_size", "filtration"):
        assert getattr(one, part) == getattr(other, part)
