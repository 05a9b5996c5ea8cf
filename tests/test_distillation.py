"""Distillation: the loss is the stated one, chunks add up to it, and a run goes on to the same parameters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train import QUICK, Interrupted, levels, same, small

from imc_ssm import losses
from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.errors import CheckpointError, ConfigError
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.losses import Loss, Teacher
from imc_ssm.quantization import Scheme, quantize
from imc_ssm.training import TrainConfig, train

CPU = torch.device("cpu")
TAUGHT = QUICK.with_(distill=0.5)


def stream_task(goal: str, lengths: bool = False) -> SequenceDataset:
    """An answer at every step: the sign, or the value, of a running mean."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((60, 18, 1))
    running = np.cumsum(values[..., 0], 1) / np.arange(1, 19)
    ends = rng.integers(6, 19, 60) if lengths else None
    parts = dict(zip(SPLITS, np.split(np.arange(60), [30, 45]), strict=True))
    if goal == "values":
        return SequenceDataset(values=values, labels=None, targets=running[..., None], splits=parts, lengths=ends)
    labels = (running > 0).astype(int)
    labels[:, ::3] = -1
    return SequenceDataset(values=values, labels=labels, splits=parts, lengths=ends)


def fresh(data: SequenceDataset, exact: Classifier) -> Classifier:
    return quantize(exact, Scheme.uniform(state=6), torch.from_numpy(data.split("train").values))


class TestLoss:
    @pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
    @pytest.mark.parametrize("balance", [0.0, 1.0])
    def test_of_classes(self, temperature: float, balance: float) -> None:
        split, rng = levels().split("train"), np.random.default_rng(0)
        out, taught = (rng.standard_normal((len(split), 3)) for _ in range(2))
        wanted = split.labels.copy()
        wanted[:5] = -1

        def soft(z: np.ndarray) -> np.ndarray:
            e = np.exp(z / temperature)
            return np.asarray(e / e.sum(-1, keepdims=True))

        p, q, there = soft(taught), soft(out), wanted >= 0
        count = np.bincount(split.labels, minlength=3)
        weight = ((len(split) / (3 * count)) ** balance)[wanted[there]]
        apart = temperature**2 * np.average((p * np.log(p / q)).sum(-1)[there], weights=weight)
        entropy = -np.log(np.exp(out) / np.exp(out).sum(-1, keepdims=True))[there, wanted[there]]
        loss = Loss(split, CPU, balance=balance, distill=0.3, temperature=temperature)
        found = loss(torch.from_numpy(out), wanted, torch.from_numpy(taught))
        assert float(found) == pytest.approx(0.7 * np.average(entropy, weights=weight) + 0.3 * apart, rel=1e-6)

    def test_of_values(self) -> None:
        split, rng = stream_task("values").split("train"), np.random.default_rng(0)
        out, taught = (rng.standard_normal(split.labels.shape) for _ in range(2))
        loss, scale = Loss(split, CPU, distill=0.25), 1 / split.labels.astype(np.float64).var()
        wanted = 0.75 * np.square(out - split.labels).mean() + 0.25 * np.square(out - taught).mean()
        found = loss(torch.from_numpy(out), split.labels, torch.from_numpy(taught))
        assert float(found) == pytest.approx(scale * wanted, rel=1e-5)

    def test_the_gradient_keeps_its_size_with_the_temperature(self) -> None:
        """T^2: at high temperatures the gradient is that of the squared difference of the logits, over K."""
        split, rng = levels().split("train"), np.random.default_rng(0)
        out = torch.from_numpy(rng.standard_normal((len(split), 3))).requires_grad_()
        taught = torch.from_numpy(rng.standard_normal((len(split), 3)))
        Loss(split, CPU, distill=1.0, temperature=1e3)(out, split.labels, taught).backward()
        apart = out.detach() - taught
        torch.testing.assert_close(
            out.grad, (apart - apart.mean(-1, keepdim=True)) / 3 / len(split), rtol=1e-2, atol=1e-5
        )

    def test_where_nothing_is_wanted_it_is_zero(self) -> None:
        split = levels().split("train")
        out = torch.ones(4, 3, requires_grad=True)
        found = Loss(split, CPU, distill=0.5)(out, np.full(4, -1), torch.zeros(4, 3))
        assert float(found.detach()) == 0
        found.backward()


class TestTeacher:
    @pytest.mark.parametrize("most", [0, losses.MOST])
    @pytest.mark.parametrize("lengths", [False, True])
    @pytest.mark.parametrize("goal", ["sequence", "classes", "values"])
    def test_answers_as_the_model(
        self, goal: str, lengths: bool, most: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Found once or batch by batch; behind an end stands whatever it may."""
        monkeypatch.setattr(losses, "MOST", most)
        data = levels(lengths=lengths) if goal == "sequence" else stream_task(goal, lengths)
        shape = {"classes": data.outputs, "pool": "none" if data.per_step else "mean"}
        model, split = small(dropout=0.5, **shape).train(), data.split("train")
        teacher = Teacher(model, split, CPU)
        assert model.training
        for index in split.shuffled(7, np.random.default_rng(0)):
            values, _, ends = split.cut(index)
            found = teacher(index, values, ends)
            given = None if ends is None else torch.from_numpy(ends)
            wanted = copy.deepcopy(model).eval()(torch.from_numpy(values), given).detach()
            assert found.shape == wanted.shape
            if ends is not None and data.per_step:
                behind = torch.arange(values.shape[1]) >= given[:, None]  # type: ignore[index]
                found, wanted = found.masked_fill(behind[..., None], 0), wanted.masked_fill(behind[..., None], 0)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
            assert not found.requires_grad

    def test_is_left_as_it_was(self) -> None:
        data, teacher = levels(), small().train().set_mode("recurrent")
        before = copy.deepcopy(teacher.state_dict())
        train(fresh(data, teacher), data, TAUGHT.with_(epochs=1), teacher=teacher)
        assert teacher.training
        assert {m.mode for m in teacher.modules() if hasattr(m, "mode")} == {"recurrent"}
        assert all(torch.equal(v, before[n]) for n, v in teacher.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in teacher.parameters())


class TestTraining:
    @pytest.mark.parametrize("chunk", [3, 16])
    def test_chunks_add_up(self, chunk: int) -> None:
        data, exact = levels(lengths=True), small(seed=1)
        models = [small(), small()]
        found = [
            train(
                model,
                data,
                TrainConfig(epochs=1, batch=16, distill=0.5, balance=0.5, micro_batch=size),
                keep="last",
                teacher=exact,
            ).loss_train[0]
            for model, size in zip(models, (None, chunk), strict=True)
        ]
        assert found[1] == pytest.approx(found[0], rel=1e-5)
        start = small().state_dict()
        for (name, one), two in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
            moved = float((one - start[name]).abs().max())
            torch.testing.assert_close(two, one, rtol=0, atol=1e-2 * moved)

    def test_a_student_of_the_teacher_alone_learns_its_answers(self) -> None:
        """The labels say nothing: they are drawn."""
        data = levels(noise=0.3)
        teacher, student = small(), small(seed=1)
        train(teacher, data, QUICK)
        rng = np.random.default_rng(0)
        shuffled = SequenceDataset(
            values=data.values, labels=rng.integers(0, 3, len(data.values)), splits=data.splits, task="levels"
        )
        history = train(student, shuffled, QUICK.with_(distill=1.0, epochs=10), teacher=teacher, keep="last")
        assert history.loss_train[-1] < 0.2 * history.loss_train[0]

    def test_no_share_is_the_run_without(self) -> None:
        data, models = levels(), [small(), small()]
        for model, config in zip(models, (QUICK, QUICK.with_(distill=0.0, distill_temperature=7.0)), strict=True):
            train(model, data, config)
        assert same(*models)

    @pytest.mark.parametrize("goal", ["classes", "values"])
    def test_answers_at_every_step(self, goal: str) -> None:
        data = stream_task(goal, lengths=True)
        exact = small(classes=data.outputs, pool="none")
        history = train(small(seed=1, classes=data.outputs, pool="none"), data, TAUGHT, teacher=exact)
        assert history.loss_train[-1] < history.loss_train[0]

    @pytest.mark.parametrize("stop", [12, 39])
    def test_goes_on_to_the_same_parameters(self, stop: int, tmp_path: Path) -> None:
        data, path, exact = levels(), tmp_path / "run.safetensors", small()
        whole, cut, again = (fresh(data, exact) for _ in range(3))
        expected = train(whole, data, TAUGHT, teacher=exact)

        def interrupt(done: int, total: int, note: str) -> None:
            if done == stop:
                raise Interrupted

        with pytest.raises(Interrupted):
            train(cut, data, TAUGHT, checkpoint=path, progress=interrupt, teacher=exact)
        with pytest.raises(CheckpointError, match="teacher"):
            train(fresh(data, exact), data, TAUGHT, checkpoint=path, teacher=small(seed=5))
        assert train(again, data, TAUGHT, checkpoint=path, teacher=exact).loss_train == expected.loss_train
        assert same(again, whole)


@pytest.mark.parametrize(
    ("fields", "teacher", "message"),
    [
        ({"distill": 0.5}, None, r"distill = 0.5 without a teacher; give the model in full precision"),
        ({}, small(), "distill = 0 beside a teacher"),
        (
            {"distill": 0.5},
            Classifier(ModelConfig(heads=2, classes=4)),
            "the teacher does not fit: the model has 4",
        ),
    ],
)
def test_refusals(fields: dict[str, Any], teacher: Classifier | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        train(small(), levels(), QUICK.with_(fields), teacher=teacher)
    assert "\n" not in str(error.value)
    model = small()
    with pytest.raises(ConfigError, match="the teacher is the model that is trained"):
        train(model, levels(), TAUGHT, teacher=model)
    for wrong in ({"distill": 1.5}, {"distill": -0.1}, {"distill_temperature": 0.0}):
        with pytest.raises(ConfigError, match="distill"):
            TrainConfig.parse(wrong)
