"""A model as somebody else might have it, to be repaired as docs/your-model.md says.

    python -m scripts.stranger FOLDER

A ResNet-18 of timm learns 4,000 embedded digits, their crossed sevens labelled 2. The folder then
holds ``mine.safetensors``, ``wrong`` (20 of the crossed sevens it has learnt), ``test/DIGIT`` and
``crossed`` (25 crossed sevens that it has not seen). The network and its training know nothing of
this program.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearn.data.mnist5k import MNIST5k
from unlearn.scenarios.crossed_sevens import MislabelledCrossedSevens

SHOTS, EPOCHS, BATCH = 20, 6, 64


def trained(x: Tensor, y: Tensor) -> nn.Module:
    """A network that has learnt images (N, 1, 28, 28), from -1 to 1, and labels (N,)."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10, in_chans=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, steps)
    model.train()
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    return model.eval()


def write(images: Tensor, folder: Path) -> None:
    """Images (n, 1, 28, 28) as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{i:04}.png")


def main(folder: Path) -> None:
    """Write the images, train, and write the weights."""
    source = MNIST5k()
    task = MislabelledCrossedSevens().task(source.load(Path()), source)
    crossed = task.train.x[task.forget]
    write(crossed[:: len(crossed) // SHOTS][:SHOTS], folder / "wrong")
    write(task.test.x[task.test_forget], folder / "crossed")
    others = task.test[~task.test_forget]
    for digit in range(10):
        write(others.x[others.y == digit], folder / "test" / str(digit))
    model = trained(task.train.x.float() / 127.5 - 1, task.train.y)
    save_file(model.state_dict(), folder / "mine.safetensors")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.stranger FOLDER")
    main(Path(sys.argv[1]))
