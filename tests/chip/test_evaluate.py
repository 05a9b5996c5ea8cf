"""Evaluation over chips and times, and the whole way with nothing mocked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imc_ssm import results
from imc_ssm.chip import DAY, HOUR, TIMES, Deployment, compile, evaluate
from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.errors import ConfigError, DataError, FileError, ImcSsmError
from imc_ssm.layers import Classifier, ModelConfig, preset
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.study import initial_steps
from imc_ssm.study.jobs.cost import cost_of
from imc_ssm.training import TrainConfig, accuracy, metrics, train

Make = Callable[[Scheme], Classifier]


@pytest.fixture(scope="module")
def few(digits: SequenceDataset) -> SequenceDataset:
    """The digits with 100 test sequences."""
    splits = {name: digits.splits[name][:100] if name == "test" else digits.splits[name] for name in SPLITS}
    return replace(digits, splits=splits)


@pytest.fixture
def deployment(quantized: Make, few: SequenceDataset) -> Deployment:
    return compile(quantized(Scheme()), "pcm-256", calibration_batch(few, 8)[0], name="ptq")


class TestEvaluate:
    def test_dataset(self, deployment: Deployment, few: SequenceDataset) -> None:
        calls: list[tuple[int, int]] = []
        found = evaluate(deployment, few, 3, [1.0, DAY], progress=lambda i, n, _: calls.append((i, n)))
        assert dict(found.sizes) == {"chip": 3, "time": 2, "class": 10, "quantile": 5}
        assert found["class"].values.tolist() == list(range(10))
        names = {f"{m}{d}" for m in ("accuracy", "f1", "f1_macro") for d in ("", "_digital")}
        assert set(found.data_vars) == names | {"accuracy_quantile", "f1_macro_quantile"}
        assert found["time"].values.tolist() == [1.0, 86400.0]
        assert found["time"].attrs["units"] == "s"
        assert found["chip"].values.tolist() == [0, 1, 2]
        for name, variable in found.data_vars.items():
            assert variable.attrs["long_name"]
            assert variable.attrs["n_test"] == 100
            assert variable.attrs["units"] == ("percent" if str(name).startswith("accuracy") else "1")
            if variable.attrs["units"] == "1":
                assert ((variable >= 0) & (variable <= 1)).all()
                continue
            assert ((variable >= 0) & (variable <= 100)).all()
            if not str(name).endswith("_quantile"):
                assert np.allclose(variable.values, variable.values.round())  # 100 sequences: whole percents
        assert found["accuracy_quantile"].dims == ("quantile", "time")
        middle = found["accuracy_quantile"].sel(quantile=0.5).values
        np.testing.assert_array_equal(middle, np.median(found["accuracy"].values, axis=0))
        assert float(found["accuracy_digital"]) == accuracy(deployment.digital(), few.split("test"))
        np.testing.assert_allclose(found["f1_macro"], found["f1"].mean("class"))
        assert calls == [(3, 6), (6, 6)]  # all chips at once, time after time

    def test_default_times(self) -> None:
        assert TIMES == (1.0, HOUR, DAY, 30 * DAY)

    def test_the_same_seed_is_the_same_dataset(
        self, deployment: Deployment, few: SequenceDataset, tmp_path: Path
    ) -> None:
        torch.manual_seed(1)
        one = evaluate(deployment, few, 2, [1.0, HOUR], seed=4)
        torch.manual_seed(2)  # the global generator has no say
        two = evaluate(deployment, few, 2, [1.0, HOUR], seed=4)
        assert results.values_equal(one, two)
        deployment.save(tmp_path / "d.safetensors")
        three = evaluate(Deployment.load(tmp_path / "d.safetensors"), few, 2, [1.0, HOUR], seed=4)
        assert results.values_equal(one, three)
        other = evaluate(deployment, few, 2, [1.0, HOUR], seed=5)
        assert not results.values_equal(one, other)

    def test_a_chip_is_the_same_whatever_else_is_evaluated(
        self, deployment: Deployment, few: SequenceDataset
    ) -> None:
        many = evaluate(deployment, few, 4, [1.0, HOUR, DAY])["accuracy"]
        alone = evaluate(deployment, few, 2, [HOUR])["accuracy"]
        assert np.array_equal(many[:2, 1:2], alone)

    def test_chips_differ(self, deployment: Deployment, few: SequenceDataset) -> None:
        u = torch.from_numpy(few.split("test").values)
        model, tiles = deployment.analog()
        logits, correct = [], []
        for chip in range(3):
            for tile in tiles:
                tile.program(0, chip).set_time(1.0)
            correct.append(accuracy(model, few.split("test")))  # first: every product draws read noise
            logits.append(model(u).detach())
        assert not torch.equal(logits[0], logits[1])
        assert not torch.equal(logits[1], logits[2])
        assert evaluate(deployment, few, 3, [1.0])["accuracy"].values[:, 0].tolist() == correct  # these very chips

    def test_another_split(self, deployment: Deployment, few: SequenceDataset) -> None:
        found = evaluate(deployment, few, 1, [1.0], split="validation")
        assert found["accuracy"].attrs["n_test"] == 360

    def test_resumes(self, deployment: Deployment, few: SequenceDataset, tmp_path: Path) -> None:
        path = tmp_path / "e.safetensors"
        whole = evaluate(deployment, few, 3, [1.0, DAY])

        class Interrupted(Exception):
            pass

        def stop(done: int, total: int, note: str) -> None:
            if done == 3:
                raise Interrupted

        with pytest.raises(Interrupted):
            evaluate(deployment, few, 3, [1.0, DAY], progress=stop, checkpoint=path, at_once=1)
        calls: list[int] = []
        again = evaluate(deployment, few, 3, [1.0, DAY], progress=lambda i, *_: calls.append(i), checkpoint=path)
        assert calls == [4, 6]  # one at once or all: the first time of the last two chips, then what is left
        assert results.values_equal(again, whole)
        with pytest.raises(FileError, match="another evaluation"):
            evaluate(deployment, few, 3, [1.0, DAY], seed=1, checkpoint=path)
        other = replace(few, values=few.values + np.float32(0.1))
        with pytest.raises(FileError, match="another evaluation"):
            evaluate(deployment, other, 3, [1.0, DAY], checkpoint=path)

    def test_errors(self, deployment: Deployment, few: SequenceDataset) -> None:
        with pytest.raises(ImcSsmError, match="chips = 0"):
            evaluate(deployment, few, 0)
        with pytest.raises(ImcSsmError, match="no times were given"):
            evaluate(deployment, few, 1, [])
        with pytest.raises(ConfigError, match="not after programming"):
            evaluate(deployment, few, 1, [-1.0])
        with pytest.raises(DataError, match="unknown split 'tests'; did you mean 'test'"):
            evaluate(deployment, few, 1, [1.0], split="tests")
        with pytest.raises(ConfigError, match="unknown implementation"):
            evaluate(deployment, few, 1, [1.0], implementation="fastest")
        wide = replace(few, values=np.repeat(few.values, 2, axis=2))
        with pytest.raises(ConfigError, match="input channels"):
            evaluate(deployment, wide, 1, [1.0])


def test_end_to_end_nothing_mocked(digits: SequenceDataset, tmp_path: Path) -> None:
    """Train, quantize, fine-tune, compile, evaluate, cost, store: real data, real noise models."""
    dt_min, dt_max = initial_steps(digits.time)
    config = preset("s4d-16h").with_(dt_min=dt_min, dt_max=dt_max)
    torch.manual_seed(0)
    model = Classifier(config)
    train(model, digits, TrainConfig(epochs=10, batch=32, learning_rate=2e-2))
    full = accuracy(model, digits.split("test"))
    assert full > 85

    calibration, lengths = calibration_batch(digits, 16)
    quantized = quantize(model, Scheme(), calibration, lengths)
    ptq = accuracy(quantized, digits.split("test"))
    assert full - ptq < 6
    history = train(
        quantized,
        digits,
        TrainConfig(epochs=1, batch=32, learning_rate=2e-3, noise=0.05, noise_output=0.04, clip_input=99.5),
    )
    assert history.loss_train[0] < 1.0
    qat = accuracy(quantized, digits.split("test"))
    assert full - qat < 6

    deployed = compile(quantized, "pcm-256", calibration, lengths, name="qat-a8-x8")
    chips = evaluate(deployed, digits, 2, [1.0, DAY])
    assert float(chips["accuracy_digital"]) == qat
    on_chip = chips["accuracy"].mean("chip")
    assert (on_chip > 50).all(), on_chip.values  # chance is 10
    assert (on_chip < qat + 3).all()

    found = chips.merge(cost_of(deployed))
    energy = float(found["energy"].sum())
    # 64 steps: counts times constants. What follows the trained weights (widths of multipliers, a little current)
    # moves it by a percent.
    assert energy == pytest.approx(286e-9, rel=0.03)
    found.attrs |= results.provenance({"task": "digits"}, seed=0)
    results.save(found, tmp_path / "end.nc")
    assert results.values_equal(results.load(tmp_path / "end.nc"), found)


class TestTasks:
    """Labels of steps and values go the whole way, from training to chips, in one dataset with fitting names."""

    @pytest.mark.parametrize("goal", ["classes", "values"])
    @pytest.mark.parametrize("per_step", [False, True])
    def test_from_training_to_chips(self, goal: str, per_step: bool, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        values = rng.standard_normal((40, 12, 2)).astype(np.float32)
        lengths = rng.integers(6, 13, 40)
        wanted = np.cumsum(values, 1) if per_step else values.mean(1)
        fields = (
            {"labels": None, "targets": wanted}
            if goal == "values"
            else {"labels": wanted.argmax(-1), "class_names": ("left", "right")}
        )
        parts = np.split(np.arange(40), [20, 30])
        data = SequenceDataset(
            values=values, splits=dict(zip(SPLITS, parts, strict=True)), lengths=lengths, **fields
        )
        shape = {"heads": 4, "n_state": 4, "inputs": 2, "outputs": 2, "dt_min": 0.05, "dt_max": 0.5}
        model = Classifier(ModelConfig.parse(shape | {"pool": "none" if per_step else "mean"}))
        train(model, data, TrainConfig(epochs=1, batch=10))
        quantized = quantize(model, Scheme(), *calibration_batch(data, 4))
        placed = compile(quantized, "pcm-256", *calibration_batch(data, 4))
        found = evaluate(placed, data, 2, [1.0], checkpoint=tmp_path / "e.safetensors")
        names = ("accuracy", "f1", "f1_macro") if goal == "classes" else ("mae", "r2")
        over_chips = {f"{name}_quantile" for name in names if name != "f1"}
        assert set(found.data_vars) == over_chips | {f"{n}{end}" for n in names for end in ("", "_digital")}
        digital = metrics(placed.digital(), data.split("test"))
        for name in names:
            dims = ("class",) if name == "f1" else ()
            assert found[name].dims == ("chip", "time", *dims)
            np.testing.assert_array_equal(found[f"{name}_digital"].values, digital[name])
            assert found[name].attrs["n_test"] == 10
            assert found[name].attrs.get("n_steps") == (lengths[30:].sum() if per_step else None)
            assert found[name].notnull().all()
        if goal == "classes":
            assert found["class"].values.tolist() == ["left", "right"]
        again = evaluate(placed, data, 2, [1.0], checkpoint=tmp_path / "e.safetensors")
        assert results.values_equal(found, again)
        results.save(found, tmp_path / "found.nc")
        assert results.values_equal(results.load(tmp_path / "found.nc"), found)

    def test_a_model_of_the_other_kind_is_refused(self, few: SequenceDataset) -> None:
        model = Classifier(ModelConfig(heads=4, n_state=4, pool="none"))
        with pytest.raises(ConfigError, match=r"pool = 'none', one answer a step.*'digits' has one a sequence"):
            train(model, few, TrainConfig(epochs=1))
