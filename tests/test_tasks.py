"""Labels of a sequence or of every step, values, and the next step: losses, metrics, best epochs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.errors import ConfigError, DataError
from imc_ssm.losses import Loss
from imc_ssm.training import TrainConfig, accuracy, check_model_fits, metrics, predict, train

N, TIME, K = 60, 12, 3
PARTS = dict(zip(SPLITS, (np.arange(30), np.arange(30, 45), np.arange(45, 60)), strict=True))


class Linear(nn.Module):
    """One linear map of every step; `pooled`: of the mean of the steps within the sequence."""

    def __init__(self, outputs: int, pooled: bool, inputs: int = 2) -> None:
        super().__init__()
        self.map, self.pooled = nn.Linear(inputs, outputs), pooled

    def forward(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
        if not self.pooled:
            return self.map(u)
        if lengths is None:
            return self.map(u.mean(1))
        mask = torch.arange(u.shape[1]) < lengths[:, None]
        return self.map((u * mask[..., None]).sum(1) / lengths[:, None])


def task(goal: str, per_step: bool, padded: bool, seed: int = 0) -> SequenceDataset:
    """Classes or values that a linear map finds, with lengths where `padded`."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((N, TIME, 2))
    lengths = rng.integers(3, TIME + 1, N) if padded else None
    wanted = values @ np.array([[1.0, -2.0, 0.5], [0.0, 1.5, 1.0]])
    if not per_step:
        mask = np.arange(TIME) < (TIME if lengths is None else lengths[:, None])
        wanted = (wanted * np.broadcast_to(mask, (N, TIME))[..., None]).sum(1)
        wanted = wanted / (TIME if lengths is None else lengths[:, None])
    fields = (
        {"targets": wanted + np.array([3.0, 0.0, -1.0]), "labels": None}
        if goal == "values"
        else {"labels": wanted.argmax(-1)}
    )
    return SequenceDataset(values=values, splits=PARTS, lengths=lengths, task=goal, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("goal", ["classes", "values"])
class TestEveryTask:
    def test_is_learnt(self, goal: str, per_step: bool, padded: bool) -> None:
        data = task(goal, per_step, padded)
        torch.manual_seed(0)
        model = Linear(K, not per_step)
        history = train(model, data, TrainConfig(epochs=60, batch=5, learning_rate=0.1))
        assert history.loss_train[-1] < 0.3 * history.loss_train[0]
        found = metrics(model, data.split("test"))
        if goal == "values":
            assert found["r2"] > 0.98
            assert len(history.r2_validation) == len(history.mae_validation) == 60
            assert history.accuracy_validation == []
        else:
            assert found["accuracy"] > 85
            assert len(history.accuracy_validation) == 60

    def test_metrics_are_those_of_a_loop(self, goal: str, per_step: bool, padded: bool) -> None:
        data = task(goal, per_step, padded)
        torch.manual_seed(1)
        model, split = Linear(K, not per_step), data.split("test")
        answers, wanted = [], []
        for i in range(len(split)):
            end = TIME if split.lengths is None else int(split.lengths[i])
            out = model(torch.from_numpy(split.values[i : i + 1, :end])).detach().numpy()[0]
            answers += list(out if per_step else out[None])
            wanted += list(split.labels[i, :end] if per_step else split.labels[i : i + 1])
        p, y = np.array(answers), np.array(wanted)
        found = metrics(model, split, batch=4)
        assert split.counted == len(y)
        if goal == "values":
            assert found["mae"] == pytest.approx(np.abs(p - y).mean(), rel=1e-5)
            r2 = 1 - ((p - y) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
            assert found["r2"] == pytest.approx(r2.mean(), rel=1e-5)
            return
        p = p.argmax(-1)
        assert found["accuracy"] == pytest.approx(100 * (p == y).mean())
        for k in range(K):
            hit = ((p == k) & (y == k)).sum()
            assert found["f1"][k] == pytest.approx(2 * hit / ((p == k).sum() + (y == k).sum()))
        assert found["f1_macro"] == pytest.approx(found["f1"].mean())

    @pytest.mark.parametrize("chunk", [1, 3])
    def test_chunks_add_up_to_the_step(self, goal: str, per_step: bool, padded: bool, chunk: int) -> None:
        data, ends = task(goal, per_step, padded), []
        for size in (None, chunk):
            torch.manual_seed(2)
            model = Linear(K, not per_step)
            config = TrainConfig(epochs=2, batch=8, micro_batch=size, balance=0.5 if goal == "classes" else 0.0)
            history = train(model, data, config, keep="last")
            ends.append((history.loss_train, model.map.weight.detach()))
        assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-5)
        torch.testing.assert_close(ends[1][1], ends[0][1], rtol=1e-3, atol=1e-5)

    def test_predictions_have_the_shape_of_the_answers(self, goal: str, per_step: bool, padded: bool) -> None:
        split = task(goal, per_step, padded).split("validation")
        found = predict(Linear(K, not per_step), split, batch=4)
        assert found.shape == split.labels.shape
        missing = np.isnan(found[..., 0]) if goal == "values" else found < 0
        expected = np.isnan(split.labels[..., 0]) if goal == "values" else split.labels < 0
        np.testing.assert_array_equal(missing, expected)


def test_steps_without_a_label_count_for_nothing() -> None:
    data = task("classes", True, False)
    assert data.labels is not None
    labels = data.labels.copy()
    labels[:, ::2] = -1
    data = SequenceDataset(values=data.values, labels=labels, splits=PARTS)
    split = data.split("test")
    assert split.counted == 15 * TIME // 2
    torch.manual_seed(0)
    model = Linear(K, False)
    every = predict(model, split)
    assert metrics(model, split)["accuracy"] == 100 * np.mean((every == split.labels)[:, 1::2])
    loss = Loss(split, torch.device("cpu"))
    out = model(torch.from_numpy(split.values))
    expected = nn.functional.cross_entropy(
        out[:, 1::2].reshape(-1, K), torch.from_numpy(labels[45:, 1::2]).reshape(-1)
    )
    torch.testing.assert_close(loss(out, split.labels), expected)
    assert float(loss(out.detach(), np.full_like(split.labels, -1))) == 0.0


def test_values_are_weighed_by_their_variance() -> None:
    data = task("values", False, False)
    scaled = SequenceDataset(
        values=data.values, labels=None, targets=data.targets * np.array([1.0, 1000.0, 1e-3]), splits=PARTS
    )
    for one in (data, scaled):
        split = one.split("train")
        loss = Loss(split, torch.device("cpu"))
        mean = torch.from_numpy(split.labels.mean(0, keepdims=True)).expand(len(split), -1)
        assert float(loss(mean, split.labels)) == pytest.approx(1.0, rel=1e-4)


def test_balance_weighs_classes_and_chooses_by_f1() -> None:
    labels = np.zeros(N, int)
    labels[::6] = 1
    data = SequenceDataset(
        values=np.random.default_rng(0).standard_normal((N, TIME, 2)), labels=labels, splits=PARTS
    )
    split, logits = data.split("train"), torch.tensor([[2.0, 0.0]]).expand(30, -1)
    each = nn.functional.cross_entropy(logits, torch.from_numpy(split.labels), reduction="none").numpy()
    for balance in (0.0, 0.5, 1.0):
        loss = Loss(split, torch.device("cpu"), balance=balance)
        weight = np.where(split.labels == 1, 5 / 30, 25 / 30) ** -balance
        assert float(loss(logits, split.labels)) == pytest.approx(np.average(each, weights=weight), rel=1e-5)
    history = train(Linear(2, True), data, TrainConfig(epochs=3, balance=1.0))
    assert len(history.f1_macro_validation) == len(history.accuracy_validation) == 3


def test_a_class_that_is_not_there_has_no_f1() -> None:
    data = SequenceDataset(
        values=np.ones((6, 4, 2)),
        labels=np.array([0, 1, 0, 1, 0, 1]),
        splits={"train": [0, 1], "validation": [2, 3], "test": [4, 5]},
        class_names=("a", "b", "c"),
    )
    model = Linear(3, True)
    nn.init.constant_(model.map.weight, 0.0)
    model.map.bias.data = torch.tensor([1.0, 0.0, 0.0])
    found = metrics(model, data.split("test"))
    assert found["f1"][:2].tolist() == pytest.approx([2 / 3, 0.0])
    assert np.isnan(found["f1"][2])
    assert found["f1_macro"] == pytest.approx(1 / 3)


def test_accuracy_of_values_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no accuracy; ask for training\.metrics"):
        accuracy(Linear(K, True), task("values", False, False).split("test"))


def test_a_single_class_is_refused() -> None:
    data = SequenceDataset(
        values=np.ones((3, 4, 2)), labels=np.zeros(3, int), splits={n: [i] for i, n in enumerate(SPLITS)}
    )
    with pytest.raises(ConfigError, match="has one class"):
        check_model_fits(Linear(2, True), data)


def test_a_dataset_says_what_is_wanted() -> None:
    assert "3 classes a sequence" in repr(task("classes", False, False))
    assert "3 values a step" in repr(task("values", True, True))


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_without_a_label_is_refused(name: str) -> None:
    """Nothing could be learnt, chosen or measured by it."""
    data = task("classes", True, False)
    assert data.labels is not None
    labels = data.labels.copy()
    labels[data.splits[name]] = -1
    with pytest.raises(DataError, match=f"no step of split '{name}' has a label"):
        replace(data, labels=labels)


def test_a_module_is_trained_whole() -> None:
    """Also where it calls a part of itself `model`, as files of models do."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.offset = Linear(K, True), nn.Parameter(torch.zeros(K))

        def forward(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
            return self.model(u, lengths) + self.offset

    whole = Twice()
    train(whole, task("classes", False, False), TrainConfig(epochs=1, batch=5))
    assert bool((whole.offset != 0).all())


def test_an_output_that_is_no_number_spoils_r2_and_a_constant_one_does_not() -> None:
    data = task("values", False, False)
    assert data.targets is not None
    constant = replace(data, targets=np.concatenate([data.targets[:, :2], np.ones((N, 1))], axis=1))
    model = Linear(K, True)
    torch.manual_seed(0)
    train(model, constant, TrainConfig(epochs=60, batch=5, learning_rate=0.1))
    assert metrics(model, constant.split("test"))["r2"] > 0.9
    with torch.no_grad():
        model.map.bias[0] = torch.nan
    found = metrics(model, constant.split("test"))
    assert np.isnan(found["r2"])
    assert np.isnan(found["mae"])
