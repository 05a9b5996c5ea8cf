"""Chips side by side against chips alone; refresh and recalibration against drift by hand; paired designs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chip_cases import chip_of

from imc_ssm import results
from imc_ssm.chip import Deployment, Maintenance, compile, evaluate, map_matrix, program
from imc_ssm.chip.linear import AnalogLinear
from imc_ssm.chip.population import Population
from imc_ssm.chip.subsets import drawn
from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.devices import Chip, load_design, resolve
from imc_ssm.errors import ConfigError, DesignError, FileError, ImcSsmError
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch
from imc_ssm.training import accuracy
from imc_ssm.units import DAY, HOUR

Make = Callable[[Scheme], Classifier]


@pytest.fixture(scope="module")
def few(digits: SequenceDataset) -> SequenceDataset:
    """The digits with 60 test sequences."""
    splits = {name: digits.splits[name][:60] if name == "test" else digits.splits[name] for name in SPLITS}
    return replace(digits, splits=splits)


@pytest.fixture
def deployment(quantized: Make, few: SequenceDataset) -> Deployment:
    return compile(quantized(Scheme()), "pcm-256", calibration_batch(few, 8)[0], name="ptq")


def varied(data: SequenceDataset) -> SequenceDataset:
    """The same with sequences of different lengths."""
    return replace(data, lengths=np.random.default_rng(0).integers(data.time // 2, data.time + 1, len(data)))


class TestSideBySide:
    """Nothing depends on how many chips run at once, on the batch or the order: exactly, on these models.

    (Sums of a tile are float32 and can differ in their last bit with the shape of a product, so an output that
    lies on the edge of a code may fall to either side; on digital codes everything is exact.)
    """

    @pytest.mark.parametrize("subset", ["paired", "fresh"])
    @pytest.mark.parametrize("lengths", [False, True])
    def test_chips_at_once(self, deployment: Deployment, few: SequenceDataset, subset: Any, lengths: bool) -> None:
        data = varied(few) if lengths else few
        one, three, all_ = (
            evaluate(deployment, data, 5, [1.0, DAY], sequences=40, subset=subset, at_once=n) for n in (1, 3, None)
        )
        assert results.values_equal(one, three)
        assert results.values_equal(one, all_)

    def test_recurrences_on_tiles(self, few: SequenceDataset, quantized: Make) -> None:
        """Chips that hold their states on tiles too."""
        calibration = calibration_batch(few, 8)[0]
        placed = compile(quantized(Scheme()), "pcm-256", calibration, recurrence="analog")
        one, all_ = (evaluate(placed, few, 3, [1.0, DAY], at_once=n) for n in (1, 3))
        assert results.values_equal(one, all_)

    @pytest.mark.parametrize("batch", [7, 60])
    def test_the_batch_is_free(self, deployment: Deployment, few: SequenceDataset, batch: int) -> None:
        found = evaluate(deployment, few, 2, [HOUR])["accuracy"].sel(time=HOUR)
        model, tiles = deployment.analog()
        for chip in range(2):
            for tile in tiles:
                tile.program(0, chip).set_time(HOUR)
            assert accuracy(model, few.split("test"), batch) == float(found.sel(chip=chip))

    def test_answers_are_those_of_a_chip_alone(self, deployment: Deployment, few: SequenceDataset) -> None:
        part = few.split("test")
        own = [drawn(part, 25, "fresh", 0, i) for i in range(3)]
        many = Population(deployment, 0, "fast", "native", torch.device("cpu"))
        many.bring([4, 0, 2], Maintenance().at(HOUR))
        answers = many.predict(own, part)
        model, tiles = deployment.analog()
        for place, chip in enumerate((4, 0, 2)):
            for tile in tiles:
                tile.program(0, chip).set_time(HOUR)
            right = accuracy(model, own[place], batch=25)
            assert 100 * np.mean(answers[place] == own[place].labels) == pytest.approx(right)
        assert not np.array_equal(answers[0], answers[1])

    def test_order_of_times_is_free(self, deployment: Deployment, few: SequenceDataset) -> None:
        upkeep: dict[str, Any] = {"refresh": "2d", "recalibrate": "6h", "sequences": 30}
        there = evaluate(deployment, few, 2, [1.0, DAY, 3 * DAY], **upkeep)
        back = evaluate(deployment, few, 2, [3 * DAY, 1.0, DAY], **upkeep)
        assert results.values_equal(there, back.sortby("time"))


class TestSubsets:
    def test_paired_chips_share_sequences_and_fresh_ones_do_not(
        self, deployment: Deployment, few: SequenceDataset
    ) -> None:
        paired = evaluate(deployment, few, 2, [1.0], sequences=20)
        fresh = evaluate(deployment, few, 2, [1.0], sequences=20, subset="fresh")
        part = few.split("test")
        digital = deployment.digital()
        assert float(paired["accuracy_digital"]) == accuracy(digital, drawn(part, 20, "paired", 0, 0))
        assert float(fresh["accuracy_digital"]) == accuracy(digital, part)
        for found, subset in ((paired, "paired"), (fresh, "fresh")):
            attrs = found["accuracy"].attrs
            assert (attrs["n_test"], attrs["n_split"], attrs["subset"]) == (20, 60, subset)
            p = found["accuracy"] / 100
            wanted = 100 * np.sqrt((1 - 20 / 60) * p * (1 - p) / 19)
            np.testing.assert_allclose(found["accuracy_error"], wanted)
        assert "accuracy_digital_error" in paired
        assert "accuracy_digital_error" not in fresh

    def test_all_of_the_split_has_no_error(self, deployment: Deployment, few: SequenceDataset) -> None:
        whole = evaluate(deployment, few, 2, [1.0])
        every = evaluate(deployment, few, 2, [1.0], sequences=60, subset="fresh")
        np.testing.assert_array_equal(whole["accuracy"], every["accuracy"])
        assert (every["accuracy_error"] == 0).all()
        assert "accuracy_error" not in whole

    def test_a_checkpoint_belongs_to_its_subset_and_upkeep(
        self, deployment: Deployment, few: SequenceDataset, tmp_path: Path
    ) -> None:
        path = tmp_path / "e.safetensors"
        given: dict[str, Any] = {"sequences": 20, "refresh": "2d", "checkpoint": path}
        first = evaluate(deployment, few, 2, [1.0], **given)
        assert results.values_equal(first, evaluate(deployment, few, 2, [1.0], **given))
        for other in ({"sequences": 21}, {"subset": "fresh"}, {"refresh": "3d"}, {"recalibrate": "1d"}):
            with pytest.raises(FileError, match="another evaluation"):
                evaluate(deployment, few, 2, [1.0], **(given | other))


def drifting(exponent: float = 0.05, **design: Any) -> Chip:
    """A chip whose devices do nothing but drift, all alike, from 1 s on."""
    cited = {"source": "chosen for this test"}
    drift = {"exponent": {"value": exponent, "unit": "1", **cited}, "t_0": {"value": 1.0, "unit": "s", **cited}}
    off = ("programming_error", "read_noise", "read_noise_1f", "retention", "stuck_low", "stuck_high", "levels")
    chip = resolve(load_design("reram-128").with_(cell="generic-reram", **design))
    return chip.with_(cell=chip.cell.with_(drift=drift, **dict.fromkeys(off)))


class TestUpkeep:
    def test_against_drift_by_hand(self) -> None:
        """G falls as t^-nu from 1 s, so weights do; a factor of day m leaves (t / m)^-nu on day t."""
        nu = 0.05
        matrix = np.random.default_rng(0).normal(size=(6, 10))
        chip = drifting(nu, drift_compensation="column")
        layer = AnalogLinear(map_matrix("m", "m", matrix, None, chip, input_range=1.0), chip)
        upkeep = Maintenance.every("7d", "2d")
        for time, age, measured in ((DAY, DAY, None), (12 * DAY, 5 * DAY, 4 * DAY), (7 * DAY, 7 * DAY, 6 * DAY)):
            moment = upkeep.at(time)
            layer.program(0, [0, 1], cycle=moment.cycle).set_time(moment.age, calibrated=moment.calibrated)
            assert moment.age == age
            (factors,) = layer.alphas
            wanted = 1.0 if measured is None else measured**nu
            assert factors == pytest.approx(np.full((2, 6), wanted), rel=1e-5)
            weights = layer.programmed.weights(moment.age)  # type: ignore[union-attr]
            assert weights[1] == pytest.approx(layer.mapped.target * age**-nu, abs=1e-6)

    def test_each_programming_has_new_errors(self) -> None:
        chip = chip_of("pcm-256")
        mapped = map_matrix("m", "m", np.random.default_rng(0).normal(size=(40, 40)), None, chip, input_range=1.0)
        made = [program(mapped, chip, 0, [0, 1], cycle=cycle) for cycle in (0, 1, 2)]
        errors = [(one.weights() - mapped.target).ravel() for one in made]
        aged = [(one.weights(DAY) - one.weights()).ravel() for one in made]
        for parts in (errors, aged):
            seen = np.corrcoef(parts)[np.triu_indices(3, 1)]
            # 3,200 weights; ageing has the drift of a weight in common, so only errors are independent
            assert (np.abs(seen) < 4 / np.sqrt(3200)).all() if parts is errors else (seen < 0.999).all()
        again = program(mapped, chip, 0, [1], cycle=1)
        np.testing.assert_array_equal(again.weights(DAY)[0], made[1].weights(DAY)[1])

    def test_a_refreshed_chip_is_that_of_its_age(self, deployment: Deployment, few: SequenceDataset) -> None:
        found = evaluate(deployment, few, 2, [DAY, 15 * DAY], refresh="7d")
        assert found["programmings"].values.tolist() == [1, 3]
        model, tiles = deployment.analog()
        for tile in tiles:
            tile.program(0, [1], cycle=2).set_time(DAY)
        assert float(found["accuracy"].sel(chip=1, time=15 * DAY)) == accuracy(model, few.split("test"))
        alone = evaluate(deployment, few, 2, [DAY])
        np.testing.assert_array_equal(alone["accuracy"].sel(time=DAY), found["accuracy"].sel(time=DAY))

    def test_calibrations_are_counted(self, deployment: Deployment, few: SequenceDataset) -> None:
        found = evaluate(deployment, few, 1, [HOUR, 30 * DAY], recalibrate="1d", sequences=10)
        assert found["calibrations"].values.tolist() == [1, 30]
        assert "programmings" not in found

    def test_bad_input_is_refused(self, deployment: Deployment, few: SequenceDataset, quantized: Make) -> None:
        for given, said in (
            ({"refresh": "0s"}, "refresh = '0s'; give an interval above 0 s"),
            ({"refresh": "1d", "recalibrate": "2d"}, "recalibrate = 2 d is not shorter than refresh = 1 d"),
            ({"sequences": 61}, "sequences = 61; the split has 60"),
            ({"sequences": 10, "subset": "both"}, "unknown subset 'both'"),
            ({"at_once": 0}, "at_once = 0"),
        ):
            with pytest.raises(ConfigError, match=said):
                evaluate(deployment, few, 1, [DAY], **given)
        young = compile(quantized(Scheme()), "reram-128", calibration_batch(few, 8)[0])
        with pytest.raises(DesignError, match=r"no model at 0\.5 s"):
            evaluate(young, few, 1, [DAY + 0.5], refresh="1d")
        none = chip_of("pcm-256", drift_compensation="none")
        bare = compile(quantized(Scheme()), none, calibration_batch(few, 8)[0])
        with pytest.raises(DesignError, match="compensates no drift; give it drift_compensation = 'column'"):
            evaluate(bare, few, 1, [DAY], recalibrate="1h")


class TestPairedDesigns:
    """Chip i of a seed has the same draws under every design: what differs is what the field does."""

    def errors(self, chip: Chip, time: float | None = None) -> Any:
        matrix = np.random.default_rng(0).normal(size=(20, 30))
        made = program(map_matrix("m", "m", matrix, None, chip, input_range=1.0), chip, 3, [0, 7])
        return made.weights(time) - made.mapped.target

    def test_what_the_cell_does_not_read_changes_nothing(self) -> None:
        plain = self.errors(chip_of("pcm-256"), DAY)
        for other in ({"adc": {"type": "sar", "bits": 5}}, {"drift_compensation": "column"}, {"noise": 0.0}):
            np.testing.assert_array_equal(plain, self.errors(chip_of("pcm-256", **other), DAY))

    def test_a_scale_scales_the_same_draws(self) -> None:
        """Twice the programming noise is twice each device's error, where nothing is clipped."""
        plain = self.errors(chip_of("pcm-256"))
        twice = self.errors(chip_of("pcm-256", cell={"programming_scale": 2.0}))
        alike = np.isclose(twice, 2 * plain, rtol=1e-4, atol=1e-6)
        assert alike.mean() > 0.5  # devices at zero conductance are clipped there
        assert np.corrcoef(plain.ravel(), twice.ravel())[0, 1] > 0.95

    def test_accuracies_are_paired(self, few: SequenceDataset, quantized: Make) -> None:
        """The same chips with and without compensation agree before there is drift."""
        found = []
        for mode in ("none", "column"):
            placed = compile(
                quantized(Scheme()), chip_of("pcm-256", drift_compensation=mode), calibration_batch(few, 8)[0]
            )
            pair = Population(placed, 0, "fast", "native", torch.device("cpu"))
            pair.bring([0, 1], Maintenance().at(1.0))
            found.append([tile.programmed.weights(1.0) for tile in pair.tiles])  # type: ignore[union-attr]
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_fewer_chips_than_none_are_refused(deployment: Deployment, few: SequenceDataset) -> None:
    with pytest.raises(ImcSsmError, match="chips = 0"):
        evaluate(deployment, few, 0)
