"""Add content digests to a list of MNIST indices, so that `scenario.annotation=` can name it.

    python scripts/annotate.py --data data LIST.json OUT.json

LIST.json holds {"train": [indices], "test": [indices]} into MNIST's files.
"""

import argparse
import json
from pathlib import Path

from torchvision import datasets

from unlearn.data import digests


def main() -> None:
    """Read the list, write it with digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("list", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    listed = json.loads(args.list.read_text())
    sets = {split: datasets.MNIST(args.data, train=split == "train") for split in ("train", "test")}
    listed["digests"] = {
        split: digests(images.data[listed[split]]) for split, images in sets.items()
    }
    args.out.write_text(json.dumps(listed) + "\n")


if __name__ == "__main__":
    main()
