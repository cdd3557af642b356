"""What Oracle_neg reaches: a fresh network trained on all of D_r and on D_e as "not this label".

    python scripts/oracle_neg.py scenario=7noisymnist scale=demo --seeds 0 1 2

It sees all the real training data; an unlearner cannot be expected to do better. Prints one JSON
object: the test accuracies per seed, their mean and standard deviation.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearn.evaluation import accuracies
from unlearn.models import build
from unlearn.pipeline import hardware, pick_device
from unlearn.relearning.neg import l_complementary
from unlearn.scenarios import load_task
from unlearn.settings import check, resolve
from unlearn.stage import fit, seeded_init
from unlearn.training import Training


class OracleNeg(Training):
    """Cross entropy on D_r, -log(1 - p_target) on D_e, as one mean."""

    forget: Tensor
    target: int

    def losses(self, batch: Any) -> dict[str, Tensor]:
        x = self.data.x[batch].float() / 255
        logits, forget = self.model(self.augment(x, self.rng)), self.forget[batch]
        wrong = F.one_hot(torch.full_like(batch, self.target), logits.shape[1])
        loss = F.cross_entropy(logits, self.data.y[batch], reduction="none")
        total = loss[~forget].sum()
        if forget.any():
            total = total + forget.sum() * l_complementary(logits[forget], wrong[forget])
        return {"loss": total / len(batch)}


def main() -> None:
    """Train one network per seed and print what each reaches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    cfg = resolve(args.overrides)
    check(cfg)
    device = pick_device(cfg.device)
    task = load_task(cfg.scenario, cfg.data, Path(cfg.data_dir), cfg.image_size, cfg.per_class)
    results = []
    for seed in args.seeds:
        with seeded_init(seed, "oracle"):
            model = build(
                cfg.model, task.shape[0], len(task.classes), task.source.mean, task.source.std
            )
        training = replace(cfg.training, seed=seed)
        module = OracleNeg(training, model.to(device).train(), task.train, cfg.augment)
        module.forget, module.target = task.forget, task.target
        fit(module, module.batches, device, progress=True)
        results.append(accuracies(model, task))
    summary = {
        name: {"mean": statistics.mean(values), "std": statistics.stdev(values)}
        for name in ("D_r", "D_e")
        if (values := [r[name] for r in results]) and len(values) > 1
    }
    print(json.dumps({"seeds": results, **summary, "hardware": hardware(device)}, indent=1))


if __name__ == "__main__":
    main()
