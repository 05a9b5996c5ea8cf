"""Evaluation over chips and times, the dataset that gathers it all, and the whole way with nothing mocked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from imc_ssm import results
from imc_ssm.chip import DAY, HOUR, TIMES, Deployment, compile, evaluate
from imc_ssm.chip.evaluation import Entry, gather
from imc_ssm.costs import COMPONENTS, cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.errors import ConfigError, DataError, DesignError, FileError, ImcSsmError
from imc_ssm.layers import Classifier, ModelConfig, preset
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.study import initial_steps
from imc_ssm.training import TrainConfig, accuracy, train

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
        assert dict(found.sizes) == {"chip": 3, "time": 2}
        assert found["time"].values.tolist() == [1.0, 86400.0]
        assert found["time"].attrs["units"] == "s"
        assert found["chip"].values.tolist() == [0, 1, 2]
        for variable in found.data_vars.values():
            assert variable.attrs["units"] == "percent"
            assert variable.attrs["long_name"]
            assert variable.attrs["n_test"] == 100
            assert ((variable >= 0) & (variable <= 100)).all()
            assert np.allclose(variable.values, variable.values.round())  # 100 sequences: whole percents
        assert float(found["accuracy_digital"]) == accuracy(deployment.digital(), few.split("test"))
        assert calls == [(i, 6) for i in range(1, 7)]

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
            evaluate(deployment, few, 3, [1.0, DAY], progress=stop, checkpoint=path)
        calls: list[int] = []
        again = evaluate(deployment, few, 3, [1.0, DAY], progress=lambda i, *_: calls.append(i), checkpoint=path)
        assert calls == [3, 4, 5, 6]
        assert results.values_equal(again, whole)
        with pytest.raises(FileError, match="another evaluation"):
            evaluate(deployment, few, 3, [1.0, DAY], seed=1, checkpoint=path)

    def test_errors(self, deployment: Deployment, few: SequenceDataset) -> None:
        with pytest.raises(ImcSsmError, match="chips = 0"):
            evaluate(deployment, few, 0)
        with pytest.raises(ImcSsmError, match="at 0 times"):
            evaluate(deployment, few, 1, [])
        with pytest.raises(DesignError):
            evaluate(deployment, few, 1, [-1.0])
        with pytest.raises(DataError, match="unknown split 'tests'; did you mean 'test'"):
            evaluate(deployment, few, 1, [1.0], split="tests")
        with pytest.raises(ConfigError, match="unknown implementation"):
            evaluate(deployment, few, 1, [1.0], implementation="fastest")
        wide = replace(few, values=np.repeat(few.values, 2, axis=2))
        with pytest.raises(ConfigError, match="input channels"):
            evaluate(deployment, wide, 1, [1.0])


UNITS = {
    "accuracy_digital": "percent",
    "accuracy": "percent",
    "energy": "J",
    "energy_step": "J",
    "latency": "s",
    "area": "m2",
    "memory": "bit",
    "bits_state": "bit",
    "bits_poles": "bit",
}
DIMENSIONS = {
    "accuracy_digital": ("model",),
    "accuracy": ("model", "chip", "time"),
    "bits_state": ("model",),
    "bits_poles": ("model",),
} | dict.fromkeys(("energy", "energy_step", "latency", "area", "memory"), ("model", "component"))


class TestGather:
    @pytest.fixture
    def chips(self, deployment: Deployment, few: SequenceDataset) -> xr.Dataset:
        return evaluate(deployment, few, 2, [1.0, DAY])

    def test_all_variables_and_what_does_not_apply(
        self, deployment: Deployment, chips: xr.Dataset, quantized: Make, few: SequenceDataset, tmp_path: Path
    ) -> None:
        other = compile(
            quantized(Scheme.uniform(poles=6, state=4)),
            "pcm-256",
            calibration_batch(few, 8)[0],
            name="other",
        )
        one_chip = evaluate(other, few, 1, [1.0, DAY])
        entries = [
            Entry("fp32", 91.0),
            Entry("ptq", 90.0, deployment, chips),
            Entry("other", 80.0, other, one_chip),
            Entry("costed only", 70.0, other),
        ]
        found = gather(entries, 100)
        assert set(found.data_vars) == set(DIMENSIONS)
        for name, dims in DIMENSIONS.items():
            assert found[name].dims == dims, name
            assert found[name].attrs["units"] == UNITS[name]
            assert found[name].attrs["long_name"], name
        assert found["model"].values.tolist() == ["fp32", "ptq", "other", "costed only"]
        assert found["component"].values.tolist() == list(COMPONENTS)
        assert found["accuracy_digital"].values.tolist() == [91.0, 90.0, 80.0, 70.0]
        assert found["accuracy"].attrs["n_test"] == 100
        # Full precision: no chip, no cost, no bits.
        for name in set(DIMENSIONS) - {"accuracy_digital"}:
            assert found[name].sel(model="fp32").isnull().all(), name
        assert found["bits_state"].values.tolist()[1:] == [8, 4, 4]
        assert found["bits_poles"].values.tolist()[1:] == [8, 6, 6]
        assert np.array_equal(found["accuracy"].sel(model="ptq"), chips["accuracy"])
        assert np.array_equal(found["accuracy"].sel(model="other", chip=0), one_chip["accuracy"][0])
        assert found["accuracy"].sel(model="other", chip=1).isnull().all()
        assert found["accuracy"].sel(model="costed only").isnull().all()
        priced = cost(deployment)
        for name in ("energy", "energy_step", "latency", "area", "memory"):
            assert np.array_equal(found[name].sel(model="ptq"), priced[name], equal_nan=True), name
            assert found[name].sel(model="costed only").notnull().any(), name
        assert float(found["energy"].sel(model="ptq").sum()) > 0
        # A narrower state needs less memory.
        memory = found["memory"].sum("component")
        assert memory.sel(model="other") < memory.sel(model="ptq")
        results.save(found, tmp_path / "r.nc")
        assert results.values_equal(results.load(tmp_path / "r.nc"), found)

    def test_full_precision_alone(self, tmp_path: Path) -> None:
        found = gather([Entry("fp32", 91.0)], 100)
        assert set(found.data_vars) == set(DIMENSIONS)
        assert found.sizes["chip"] == found.sizes["time"] == 0
        assert found["energy"].isnull().all()
        results.save(found, tmp_path / "r.nc")

    def test_times_must_agree(self, deployment: Deployment, chips: xr.Dataset, few: SequenceDataset) -> None:
        later = evaluate(deployment, few, 1, [1.0, HOUR])
        with pytest.raises(ImcSsmError, match="two was evaluated at other times"):
            gather([Entry("one", 1.0, deployment, chips), Entry("two", 1.0, deployment, later)], 100)


def test_end_to_end_nothing_mocked(digits: SequenceDataset, tmp_path: Path) -> None:
    """Train, quantize, fine-tune, compile, evaluate, gather, store: real data, real noise models."""
    dt_min, dt_max = initial_steps(digits.time)
    config = ModelConfig.parse(preset("s4d-16h").model_dump() | {"dt_min": dt_min, "dt_max": dt_max})
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

    found = gather([Entry("fp32", full), Entry("qat-a8-x8", qat, deployed, chips)], len(digits.split("test")))
    energy = float(found["energy"].sel(model="qat-a8-x8").sum())
    # 64 steps: counts times constants. What follows the trained weights (widths of multipliers, a little current)
    # moves it by a percent.
    assert energy == pytest.approx(236e-9, rel=0.03)
    found.attrs |= results.provenance({"task": "digits"}, seed=0)
    results.save(found, tmp_path / "end.nc")
    assert results.values_equal(results.load(tmp_path / "end.nc"), found)
