"""How networks compute: precision, compilation, and no waiting for the device."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

from tests.helpers import access_to, problem_of, shots_of, small_net, small_task, taught, tiny
from unlearn import UserError, forget
from unlearn.baselines import BASELINES
from unlearn.baselines.diagonal import fisher_diagonal
from unlearn.config.compose import resolve, settings
from unlearn.data import Images
from unlearn.engine import fitting, precision
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit, LossModule, ShuffledRows, laid_out
from unlearn.engine.precision import PAYS_FROM, Passes, Precision, forward, kernels
from unlearn.engine.seeding import seeded
from unlearn.engine.statistics import channel_means, channel_statistics, wide
from unlearn.inversion import Inverter, build_generator
from unlearn.models import ModelConfig, build
from unlearn.models.probe import Probe
from unlearn.runs.run import Run
from unlearn.sweep.checked import check_job
from unlearn.training import Trainer, TrainingConfig, train

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FP32, BF16 = Precision("fp32"), Precision("bf16")
CFG = TrainingConfig(4, 16, 0.05, 0.9, 1e-3, "constant", 0)
AUGMENT = Augment(2)
COUNTED = Callable[[], CompileCounter]


@pytest.fixture
def data() -> Images:
    """40 images of 4 classes: batches of 16, 16 and 8."""
    torch.manual_seed(3)
    return Images(torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8), torch.arange(40) % 4)


def dtypes(model: nn.Module) -> set[torch.dtype]:
    return {v.dtype for v in model.state_dict().values() if v.is_floating_point()}


def test_bf16_is_close_and_keeps_losses_weights_and_statistics_wide(data: Images) -> None:
    runs = {}
    for how in (FP32, BF16):
        model = small_net()
        before = model[1].running_mean.clone()
        runs[how] = train(CFG, model, data, AUGMENT, CPU, Fit(precision=how))
        assert dtypes(model) == {torch.float32}
        assert not torch.equal(model[1].running_mean, before)
    for one, two in zip(*runs.values(), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=0.05)
    assert runs[FP32] != runs[BF16]
    assert runs[FP32][-1]["loss"] < runs[FP32][0]["loss"]


def test_fp32_is_a_plain_loop_to_the_bit(data: Images) -> None:
    trained, plain = small_net(), small_net().train()
    history = train(CFG, trained, data, AUGMENT, CPU, Fit(precision=FP32))
    rng = seeded(CFG.seed, "training")
    optimizer = torch.optim.SGD(plain.parameters(), CFG.lr, CFG.momentum, weight_decay=1e-3)
    for rows, seen in zip(ShuffledRows(40, 16, 4, rng), history, strict=True):
        loss = F.cross_entropy(plain(AUGMENT(data.x[rows] / 255, rng)), data.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert seen["loss"] == loss.item()
    torch.testing.assert_close(trained.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_statistics_of_narrow_inputs_are_float32() -> None:
    x = (torch.rand(64, 3, 9, 9) + 100).bfloat16()
    mean, variance = channel_statistics(x)
    exact = x.double().transpose(0, 1).flatten(1)
    assert mean.dtype == variance.dtype == channel_means(x).dtype == torch.float32
    torch.testing.assert_close(mean.double(), exact.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(channel_means(x).double(), exact.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), exact.var(1, correction=0), rtol=1e-3, atol=1e-4)
    for dtype in (torch.float32, torch.float64):
        same = torch.rand(2, dtype=dtype)
        assert wide(same) is same


def inversion(shots: torch.Tensor, steps: int = 15) -> Inverter:
    cfg = tiny(steps=steps).inversion
    generator = build_generator(cfg, 4, (1, 28, 28), 0).train()
    return Inverter(cfg, generator, problem_of(small_net(), shots, 1, augment=AUGMENT))


def test_inversion_in_bf16() -> None:
    shots = shots_of(1, 28, 28)[0]
    seen = {}
    for how in (FP32, BF16):
        module = inversion(shots)
        before = copy.deepcopy(module.frozen["f_o"].state_dict())
        with how.passes(CPU, 1).here():
            seen[how] = losses = module.losses(0)
        assert {v.dtype for v in losses.values()} == {torch.float32}
        inputs = {v.dtype for v in module.probe.seen.inputs.values()}
        assert inputs == {torch.float32 if how is FP32 else torch.bfloat16}
        losses["loss"].backward()
        for parameter in module.generator.parameters():
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
            assert parameter.grad.isfinite().all()
        assert module.generator.project.weight.grad.abs().sum() > 0
        torch.testing.assert_close(module.frozen["f_o"].state_dict(), before, rtol=0, atol=0)
    for name, value in seen[FP32].items():
        assert seen[BF16][name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), name
    assert seen[FP32]["bn"] != seen[BF16]["bn"]


def test_every_stage_of_forget_has_its_precision_and_its_place_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, set[torch.dtype | None]] = {}
    step = LossModule.training_step

    def noted(self: LossModule, *args: Any) -> torch.Tensor:
        used.setdefault(self.stage, set()).add(self.passes.dtype)
        return step(self, *args)

    monkeypatch.setattr(LossModule, "training_step", noted)
    model = taught(small_net(), 1, 28, 28)
    chosen = tiny()
    for how, dtype in ((FP32, None), (BF16, torch.bfloat16)):
        used.clear()
        result = forget(
            model, *shots_of(1, 28, 28), settings=replace(chosen, precision=how), store=tmp_path
        )
        assert used == {"inversion": {dtype}, "relearning": {dtype}}
        assert dtypes(result.model) == dtypes(result.generator) == {torch.float32}
        assert not torch.is_autocast_enabled("cpu")
    assert len(list((tmp_path / "inversion").glob("*/entry.json"))) == 2
    assert settings("demo", "precision=bf16", "compile=auto").precision == Precision("bf16", "auto")


def test_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = Precision("auto", "auto")
    monkeypatch.setattr(precision, "has_bf16", lambda kind: kind == "cuda")
    assert auto.passes(CPU, PAYS_FROM) == Passes("cpu", None, False)
    assert auto.passes(GPU, PAYS_FROM) == Passes("cuda", torch.bfloat16, True)
    assert not auto.passes(GPU, PAYS_FROM - 1).compiled
    assert Precision("fp32").passes(GPU, PAYS_FROM) == Passes("cuda", None, False)
    monkeypatch.setattr(precision, "has_bf16", lambda kind: kind == "cpu")
    assert auto.dtype(GPU) is None
    assert auto.dtype(CPU) == torch.bfloat16
    assert Precision("fp32").dtype(CPU) is None
    monkeypatch.setattr(precision, "has_bf16", lambda _: False)
    assert auto.dtype(CPU) is None
    assert BF16.dtype(CPU) == torch.bfloat16


class Layouts(LossModule):
    """Notes in each step whether networks have their channels last; computes nothing with them."""

    def __init__(self, model: nn.Module, asked: nn.Module) -> None:
        super().__init__(2)
        self.rng, self.model, self.frozen = seeded(0, "layouts"), model, {"asked": asked}
        self.seen: list[bool] = []

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        self.seen += [channels_last(n) for n in (self.model, self.frozen["asked"])]
        return {"loss": self.model.weight.square().sum()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def channels_last(network: nn.Module) -> bool:
    """Whether a convolution's weight has its channels last, and not first."""
    weight = network.weight
    assert weight.is_contiguous() != weight.is_contiguous(memory_format=torch.channels_last)
    return not weight.is_contiguous()


@pytest.mark.parametrize("able", [True, False])
def test_channels_come_last_on_a_cpu_that_computes_in_bf16(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda _: able)
    for how, asked, seen in (
        (BF16, nn.Conv2d(4, 4, 3), [able, able] * 2),
        (BF16, nn.Conv2d(4, 4, 3, groups=2), [able, False] * 2),
        (FP32, nn.Conv2d(4, 4, 3), [False] * 4),
    ):
        module = Layouts(nn.Conv2d(4, 4, 3), asked)
        Fit(precision=how).run(module, [0, 1], CPU)
        assert module.seen == seen
        assert not channels_last(module.model)
        assert not channels_last(asked)


@pytest.mark.skipif(not precision.has_bf16("cpu"), reason="this processor has no bfloat16")
@pytest.mark.parametrize("side", [28, 32])
def test_gradients_do_not_depend_on_the_layout(side: int) -> None:
    torch.manual_seed(0)
    x, grads = torch.rand(20, 1, side, side), []
    net = build(ModelConfig("preact_resnet18", "batch", 8), 1, 10, [0.5], [0.5]).eval()
    for layout in (FP32, BF16):  # the one that FP32 has, and BF16's
        net.zero_grad()
        with laid_out([net], layout, CPU), BF16.passes(CPU, 1).here():
            F.cross_entropy(forward(net, x), torch.arange(20) % 10).backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert (grads[0] - grads[1]).norm() < 0.03 * grads[0].norm()


def test_what_gpus_are_told_is_taken_back() -> None:
    cudnn = torch.backends.cudnn

    def told() -> tuple[str, bool, bool, bool]:
        matmul = torch.get_float32_matmul_precision()
        return matmul, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark

    before = told()
    assert not before[2]
    for how, wanted in ((FP32, ("highest", False)), (BF16, ("high", True))):
        with suppress(KeyError), kernels(how, GPU):
            assert told() == (*wanted, True, False)
            raise KeyError
        assert told() == before
    with kernels(BF16, CPU):
        assert told() == before


def test_what_has_gradients_on_a_gpu_is_repeatable(data: Images, gpu: torch.device) -> None:
    told: list[bool] = []
    net = small_net()
    net[0].register_forward_hook(lambda *_: told.append(torch.backends.cudnn.deterministic))
    train(CFG, net, data, AUGMENT, gpu, Fit())
    steps = len(told)
    fisher_diagonal(net, data.x[:4].to(gpu), 2)
    assert 0 < steps < len(told)
    assert all(told)
    assert not torch.backends.cudnn.deterministic


def test_identity_and_ranges() -> None:
    ways = ["precision=bf16", "precision=fp32", "compile=true", "compile=auto", "seed=0"]
    found = {way: Run(resolve(["scale=demo", "precision=fp32", way])).hash for way in ways}
    assert found["seed=0"] == found["precision=fp32"]
    assert len(set(found.values())) == len(ways) - 1
    for wrong in ("precision=fp16", "precision=null", "compile=yes", "compile=1", "compile=null"):
        with pytest.raises(UserError, match=rf"^{wrong.split('=')[0]}: "):
            check_job([wrong], multirun=False)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[COUNTED]:
    """Counts compilations; graphs run as they are."""

    def start() -> CompileCounter:
        torch._dynamo.reset()
        counter = CompileCounter()
        compiled = torch.compile(precision._pass, dynamic=False, backend=counter)
        monkeypatch.setattr(precision, "_graphs", lambda: compiled)
        monkeypatch.setattr(precision, "_missing", lambda _: "")  # no compiler is needed
        return counter

    yield start
    torch._dynamo.reset()


def test_equal_networks_are_compiled_once(data: Images, counted: COUNTED) -> None:
    counter, how = counted(), Precision("fp32", True)
    for seed in range(3):
        models = [small_net(seed=seed) for _ in range(2)]
        histories = [
            train(replace(CFG, seed=seed), model, data, AUGMENT, CPU, Fit(precision=c))
            for model, c in zip(models, (how, FP32), strict=True)
        ]
        assert counter.frame_count == 1
        for one, two in zip(*histories, strict=True):
            assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert models[0].state_dict().keys() == models[1].state_dict().keys()
        torch.testing.assert_close(*(pickle.loads(pickle.dumps(m)).state_dict() for m in models))
    train(CFG, small_net(classes=5), data, AUGMENT, CPU, Fit(precision=how))
    assert counter.frame_count == 2


def test_smaller_batches_are_not_compiled(counted: COUNTED) -> None:
    counter, net = counted(), small_net()
    with Passes(compiled=True).here():
        for rows in (8, 3, 8, 5, 8):
            x = torch.rand(rows, 1, 28, 28)
            torch.testing.assert_close(forward(net, x), net(x))
    forward(net, torch.rand(8, 1, 28, 28))
    assert counter.frame_count == 1
    assert counter.op_count > 5


def test_a_network_may_have_a_pass_of_another_size_for_another_purpose(counted: COUNTED) -> None:
    """As inversion passes a batch, looked into, and then all its augmentations at once."""
    counter, net = counted(), small_net()
    with Passes(compiled=True).here():
        for _ in range(2):
            forward(net, torch.rand(8, 1, 28, 28), looked="embedding")
            forward(net, torch.rand(32, 1, 28, 28))
    assert counter.frame_count == 2


def test_hooks_see_the_same_in_compiled_networks(counted: COUNTED) -> None:
    counter, looks = counted(), [("8", ("1", "4")), ("8", ("4",)), ("8", ())]
    for seed in range(2):
        net = small_net(seed=seed).requires_grad_(False)
        for head, layers in looks:
            x = torch.rand(8, 1, 28, 28)
            found = []
            for compiled in (False, True, True):
                images = x.clone().requires_grad_()
                with Passes(compiled=compiled).here(), Probe(net, head, None, layers) as probe:
                    logits, embedding = probe(images)
                assert tuple(probe.seen.inputs) == layers
                told = [logits, embedding, *probe.seen.inputs.values()]
                sum(t.square().sum() for t in told).backward()
                found.append([*told, images.grad])
            torch.testing.assert_close(found[1], found[0])
            torch.testing.assert_close(found[2], found[0])
        with Passes(compiled=True).here():
            x = torch.rand(8, 1, 28, 28, requires_grad=True)
            torch.testing.assert_close(forward(net, x), net(x))
    assert counter.frame_count == len(looks) + 1


def test_inversion_compiled(counted: COUNTED) -> None:
    counter, shots = counted(), shots_of(1, 28, 28)[0]
    seen = []
    for compiled in (False, True):
        for _ in range(2):
            fit = Fit(precision=Precision("fp32", compiled))
            seen.append(fit.run(inversion(shots, steps=4), range(4), CPU))
    # The generator; f_o as hooks look into it, and as the augmentations pass it.
    assert counter.frame_count == 3
    assert seen[0] == seen[1]
    for one, two in zip(seen[0], seen[2], strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_compile_in_bf16_and_more_than_a_few_graphs(counted: COUNTED) -> None:
    counter = counted()
    for rows in range(2, 14):
        with Passes("cpu", torch.bfloat16, True).here():
            assert forward(small_net(), torch.rand(rows, 1, 28, 28)).dtype == torch.float32
    assert counter.frame_count == 12


@pytest.mark.slow
def test_what_cannot_be_compiled_is_said_before_any_work(
    data: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    monkeypatch.setattr(precision, "_missing", precision._missing.__wrapped__)  # looks anew
    how, model = Precision("fp32", True), small_net()
    with pytest.raises(UserError, match=r"^compile: True .*C\+\+ compiler.*; use false$"):
        train(CFG, model, data, AUGMENT, CPU, Fit(precision=how))
    with pytest.raises(UserError, match=r"^compile: "):
        forget(model, *shots_of(1, 28, 28), settings=replace(tiny(), precision=how))
    Precision("fp32", "auto").check(CPU)
    Precision("bf16", "auto").check(CPU)
    with pytest.raises(UserError, match=r"^compile: .*bfloat16.*; use false, or precision=fp32$"):
        Precision("bf16", True).check(CPU)
    monkeypatch.setattr(precision, "_missing", lambda _: "no Triton")
    with pytest.raises(UserError, match=r"^compile: 'auto' cannot be here \(no Triton\)"):
        Precision("fp32", "auto").check(GPU)


class Unwaited(pl.Callback):
    """Holds every step on a GPU but those that log to it."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step + 1
        logs = step % module.every == 0 or step == module.steps
        # The optimizer's state comes to be in the first.
        if module.device.type == "cuda" and step > 1 and not logs:
            self.steps += 1
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def unwaited(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> Unwaited:
    """In every trainer before any other callback."""
    held, plain = Unwaited(), fitting.trainer_on

    def trainer_on(*args: Any, **given: Any) -> pl.Trainer:
        return plain(*args, **given | {"callbacks": [held, *given["callbacks"]]})

    monkeypatch.setattr(fitting, "trainer_on", trainer_on)
    monkeypatch.setattr(fitting, "LOG_POINTS", 2)
    return held


@pytest.mark.parametrize("name", ["training", "oracle", "incompetent", "neutralized"])
def test_no_step_waits_for_the_gpu(name: str, gpu: torch.device, unwaited: Unwaited) -> None:
    task = small_task()
    logged = Logged()
    fit = Fit(logger=logged, precision=Precision())
    if name == "training":
        train(CFG, small_net(), task.train, AUGMENT, gpu, fit)
        assert logged.steps == [16, 32]
    else:
        access = access_to(task)
        access.original.to(gpu)
        unwaited.steps = 0
        logged.steps.clear()
        access.fit = fit
        baseline = resolve([f"baseline={name}", "scale=demo"]).baseline
        assert baseline is not None
        sizes = {"batch_size": 10, "epochs": 2, "scrub_epochs": 2}
        known = {k: v for k, v in sizes.items() if hasattr(baseline, k)}
        assert isinstance(baseline, BASELINES[name])
        replace(baseline, **known).unlearn(access)
        assert len(logged.steps) < unwaited.steps
    assert unwaited.steps >= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("intention", "fresh"), [("neg", False), ("std", False), ("neg", True), ("unt", True)]
)
def test_no_step_of_ours_waits_for_the_gpu(
    intention: str, fresh: bool, gpu: torch.device, unwaited: Unwaited
) -> None:
    chosen = tiny(steps=10)
    relearning = replace(chosen.relearning, fresh=fresh, candidates=1 + fresh, epochs=4)
    model = taught(small_net(), 1, 28, 28).to(gpu)
    shots, labels = shots_of(1, 28, 28)
    forget(
        model,
        shots.to(gpu),
        labels.to(gpu),
        intention,
        settings=replace(chosen, relearning=relearning),
    )
    assert unwaited.steps >= 12


class Logged(pl.loggers.logger.DummyLogger):
    """Remembers at which steps something was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        assert all(isinstance(v, float) for v in metrics.values())
        self.steps.append(int(step or 0))


class Waiting(Trainer):
    def loss(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        loss = super().loss(logits, rows)
        if self.how == "item" and loss.item() < 0:
            return -loss
        if self.how == "copy":
            return loss * torch.tensor([1.0, 2.0]).to(loss.device).mean()
        return loss + logits[logits > 0].mean() if self.how == "mask" else loss


@pytest.mark.parametrize("how", ["item", "mask", "copy", "neither"])
def test_a_step_that_waits_is_found(
    how: str, data: Images, gpu: torch.device, unwaited: Unwaited
) -> None:
    there = Images(data.x.to(gpu), data.y.to(gpu))
    module = Waiting(CFG, small_net().train().to(gpu), there, AUGMENT)
    module.how = how
    if how == "neither":
        Fit().run(module, module.batches, gpu)
    else:
        with pytest.raises(RuntimeError, match=r"waits for the GPU|synchronizing"):
            Fit().run(module, module.batches, gpu)
