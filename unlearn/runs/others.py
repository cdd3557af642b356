"""What a finished run's model is compared with: the original, the oracle, reference models."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from unlearn.config import Config
from unlearn.engine.device import pick_device
from unlearn.engine.fitting import Fit, gpu_layout
from unlearn.engine.seeding import seeded_init
from unlearn.engine.stages import Computed, Stages
from unlearn.engine.store import Store, fingerprint, hash_of
from unlearn.evaluation import Others, References
from unlearn.evaluation.outputs import outputs
from unlearn.evaluation.references import NUMBER, complementary_halves
from unlearn.models import Classifier
from unlearn.models.checkpoint import load_checkpoint
from unlearn.runs.record import Record
from unlearn.runs.run import Run, network_for
from unlearn.scenarios import Task
from unlearn.training import Training

log = logging.getLogger(__name__)


@dataclass
class Company:
    """The models that runs are compared with.

    Attributes:
        number: of reference models, even.
    """

    number: int = NUMBER
    _references: dict[str, References] = field(default_factory=dict)

    def of(self, run: Run, record: Record, task: Task) -> Others:
        """Those of one run."""
        return Others(
            lambda: original(run, record, task),
            lambda: oracle(run, task),
            lambda: self.references(run.cfg, task),
        )

    def references(self, cfg: Config, task: Task) -> References:
        """What reference models answer that are trained as the run's settings say.

        Each is a training in the store, so that all runs of a scenario share them and an
        interrupted command goes on from the last one.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
            UserError: if the store cannot be written.
        """
        images = {"x": task.train.x, "y": task.train.y, "test": task.test.x}
        parts = [asdict(cfg.training), cfg.model.settings(), asdict(cfg.augment)]
        key = hash_of([fingerprint(images), *parts, cfg.precision, self.number])
        if key not in self._references:
            self._references = {key: self._trained(cfg, task)}  # only the last: they are large
        return self._references[key]

    def _trained(self, cfg: Config, task: Task) -> References:
        halves = complementary_halves(len(task.train), self.number, cfg.training.seed)
        forget, test = [], []
        for i, half in enumerate(halves):
            log.info("reference model %d of %d", i + 1, self.number)
            model = reference(cfg, task, half, i)
            forget.append(outputs(model, task.train.x[task.forget]).probabilities)
            test.append(outputs(model, task.test.x).probabilities)
        return References(halves, torch.stack(forget), torch.stack(test))


def reference(cfg: Config, task: Task, half: Tensor, number: int) -> Classifier:
    """A network trained like the original on the part (N,) of D, or from the store."""
    device, data = pick_device(cfg.device), task.train[half]
    settings = replace(cfg.training, seed=cfg.training.seed + 1 + number)
    training = Training(settings, cfg.model, cfg.augment)
    with seeded_init(settings.seed, "original"):
        model = network_for(cfg, task)
    root = {"data": fingerprint({"x": data.x, "y": data.y})}
    stages = Stages(root, Computed.here(device, cfg.networks), store_of(cfg))
    fit = Fit((), None, True, None, cfg.networks)
    state, _ = stages.run(training, lambda: training.make(model, data, device, fit))
    return loaded(model, state, cfg)


def original(run: Run, record: Record, task: Task) -> Classifier | None:
    """f_o: one's own checkpoint, or from the store; None if it is not there any more."""
    cfg, stage = run.cfg, record.stages.get("training")
    if cfg.model.file is not None:
        model = network_for(cfg, task)
        load_checkpoint(model, cfg.model.file)
        return gpu_layout(model.to(pick_device(cfg.device)).eval())
    entry = None if stage is None else store_of(cfg).kept("training", stage.key)
    return None if entry is None else loaded(network_for(cfg, task), entry[0], cfg)


def oracle(run: Run, task: Task) -> Classifier | None:
    """The run's oracle; None if it has not been run, or is the run itself.

    Raises:
        UserError: if its weights are missing or damaged.
    """
    theirs = run.oracle
    record = theirs.record() if theirs is not None else None
    if theirs is None or record is None:
        return None
    return loaded(network_for(theirs.cfg, task), theirs.weights(record.weights), run.cfg)


def loaded(model: Classifier, state: dict[str, Tensor], cfg: Config) -> Classifier:
    """A network with weights, in eval mode, on the device to compute on."""
    model.load_state_dict(state)
    return gpu_layout(model.to(pick_device(cfg.device)).eval())


def store_of(cfg: Config) -> Store:
    """Where finished stages are kept."""
    return Store(Path(cfg.output_dir) / "store")
