"""Models with their recurrences on crossbars: what is refused, saved, counted and priced."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from chip_cases import chip_of, ideal

from imc_ssm.chip import Deployment, OnCrossbar, compile, evaluate
from imc_ssm.costs import actions_of, cost, energies
from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ConfigError, DesignError, FileError, ImcSsmError
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.pricing import nominal_tiles
from imc_ssm.quantization import Scheme, calibration_batch, quantize

Make = Callable[[Scheme], Classifier]
PCM = chip_of("pcm-256")


@pytest.fixture
def calibration(digits: SequenceDataset) -> torch.Tensor:
    return calibration_batch(digits, 8, most=64)[0]


@pytest.fixture
def placed(quantized: Make, calibration: torch.Tensor) -> Deployment:
    return compile(quantized(Scheme()), PCM, calibration, recurrence="analog")


def model_of(layer: str, digits: SequenceDataset, **changes: object) -> Classifier:
    torch.manual_seed(0)
    shape = {"heads": 4, "n_state": 8, "layer": layer} | changes
    return quantize(Classifier(ModelConfig.parse({"inputs": digits.channels} | shape)), "uniform", digits)


def test_it_runs_as_it_was_saved_streams_and_evaluates(
    placed: Deployment, calibration: torch.Tensor, digits: SequenceDataset, tmp_path: Path
) -> None:
    placed.save(tmp_path / "placed.safetensors")
    again = Deployment.load(tmp_path / "placed.safetensors")
    assert again.digest() == placed.digest()
    assert list(again.formats) == list(placed.formats)
    assert [type(op) for op in again.graph] == [type(op) for op in placed.graph]
    logits = []
    for each in (placed, again):
        model, tiles = each.analog()
        for tile in tiles:
            tile.program(0, 1).set_time(1.0)
        with torch.no_grad():
            logits.append(model(calibration[:6]))
    state = model.init_state(6)
    for tile in tiles:
        tile.set_time(1.0)
    for t in range(calibration.shape[1]):
        last, state = model.step(calibration[:6, t], state)
    logits.append(last)
    assert torch.equal(logits[0], logits[1])
    # The decoder, once in a sequence, draws its noise in every step of a stream: all but that is equal.
    assert float((logits[2] - logits[0]).abs().max()) < 0.3 * float(logits[0].abs().max())
    found = evaluate(again, digits, chips=2, times=[1.0])
    assert found["accuracy"].dims == ("chip", "time")
    assert float(found["accuracy_digital"]) > 50


def test_all_of_it_is_named_when_it_is_shown(placed: Deployment) -> None:
    assert "8 heads of 16 complex states, tiles 8" in repr(placed)
    assert placed.table().row_count == len(placed.matrices) + 1


def test_without_it_a_deployment_is_as_before(quantized: Make, calibration: torch.Tensor) -> None:
    """Files without recurrences on tiles have no such field, so that their digests stay."""
    digital = compile(quantized(Scheme()), PCM, calibration)
    assert digital.digest() == compile(quantized(Scheme()), PCM, calibration, recurrence="digital").digest()
    tensors, header = digital._content()
    assert "recurrences" not in header
    assert not [name for name in tensors if name.startswith("recurrence")]
    assert digital.digest() != compile(quantized(Scheme()), PCM, calibration, recurrence="analog").digest()


@pytest.mark.parametrize("fault", ["heads", "module", "range", "lost"])
def test_a_changed_file_is_refused(fault: str, placed: Deployment, tmp_path: Path) -> None:
    placed.save(tmp_path / "good.safetensors")
    arrays, header = load_tensors(tmp_path / "good.safetensors", kind="deployment")
    entry = header["recurrences"][0]
    at = f"recurrence/{entry['module']}/registers"
    if fault == "heads":
        entry["heads_per_tile"] = 2
    elif fault == "module":
        del arrays[at]
    elif fault == "range":
        arrays[at] = np.zeros_like(arrays[at])
    else:
        entry["matrices"] = entry["matrices"][1:]
    save_tensors(tmp_path / "bad.safetensors", arrays, header, kind="deployment")
    with pytest.raises(FileError, match="compile the model again"):
        Deployment.load(tmp_path / "bad.safetensors")


def test_a_layer_without_such_a_mapping(digits: SequenceDataset) -> None:
    with pytest.raises(DesignError, match=r"blocks.0.ssm.* has no place on one crossbar, only S4D's has") as error:
        compile(model_of("s5", digits), PCM, digits, recurrence="analog")
    assert "\n" not in str(error.value)


def test_both_directions_and_layers_are_moved(digits: SequenceDataset) -> None:
    model = model_of("s4d", digits, layers=2, bidirectional=True)
    both = compile(model, PCM, digits, recurrence="analog")
    assert len(both.recurrences) == 4
    assert sum(isinstance(op, OnCrossbar) for op in both.graph) == 4
    cost(both)


def test_mistakes_are_named(quantized: Make, calibration: torch.Tensor) -> None:
    model = quantized(Scheme())

    def place(chip: object = PCM, **options: object) -> Deployment:
        return compile(model, chip, calibration, **({"recurrence": "analog"} | options))  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="unknown recurrence 'analogue'"):
        place(recurrence="analogue")
    with pytest.raises(ConfigError, match=r"heads_per_tile = 8: .* takes 33 rows .* has 256; give at most 7"):
        place(heads_per_tile=8)
    with pytest.raises(ConfigError, match="heads_per_tile"):
        place(heads_per_tile=0)
    with pytest.raises(DesignError, match=r"needs 11 tiles .* has 10 \(1 too few\).*, or more heads_per_tile"):
        place(chip_of("pcm-256", tiles=10, name="small"))
    with pytest.raises(DesignError, match="has no sign, which states have"):
        place(chip_of("pcm-256", dac={"type": "driver", "bits": 1}, name="drivers"))
    assert len(place(chip_of("pcm-256", tiles=10, name="small"), heads_per_tile=4).placed) == 5


def test_poles_in_full_precision_are_no_hindrance(digits: SequenceDataset) -> None:
    """Nothing of a recurrence on tiles has a word of the scheme's."""
    torch.manual_seed(0)
    model = Classifier(ModelConfig(heads=4, n_state=8))
    scheme = Scheme.parse({"bits": {"poles": None, "b": None, "c": None, "d": None, "state": None}})
    full = quantize(model, scheme, digits)
    with pytest.raises(ImcSsmError, match="a chip has no full precision"):
        compile(full, PCM, digits)
    deployment = compile(full, PCM, digits, recurrence="analog")
    assert not [path for path in deployment.formats if path.endswith(("poles", "state", "recurrent"))]
    cost(deployment)


def test_what_is_priced_is_what_is_simulated(placed: Deployment, calibration: torch.Tensor) -> None:
    """A conversion of every row and column that a step drives and reads, a read and a write of every register."""
    counted: dict[str, int] = {}
    model, tiles = placed.analog()
    handles = [
        tile.register_forward_hook(
            lambda tile, given, out: counted.update(
                rows=counted.get("rows", 0) + given[0].shape[-1], columns=counted.get("columns", 0) + out.shape[-1]
            )
        )
        for tile in tiles[len(placed.matrices) :]
    ]
    with torch.no_grad():
        model(calibration[:1])
    for handle in handles:
        handle.remove()
    steps, (op,) = calibration.shape[1], [op for op in placed.graph if isinstance(op, OnCrossbar)]
    taken = [t.action for t in actions_of(placed) if t.operator is op]
    count = {
        (a.verb, a.store): sum(b.count for b in taken if (b.verb, b.store) == (a.verb, a.store)) for a in taken
    }
    assert steps * count["dac", None] == counted["rows"]
    assert steps * count["adc", None] == counted["columns"]
    assert count["read", "state"] == count["write", "state"] == 2 * 8 * 16
    assert count["cell", None] == 2 * 8 * 33 * 33
    assert all(a.rate == "step" for a in taken)
    assert not [a for a in taken if a.purpose in ("a x", "b u", "Re(c x)", "D u", "poles", "B", "C")]


def test_costs_are_complete(placed: Deployment, quantized: Make, calibration: torch.Tensor) -> None:
    digital = compile(quantized(Scheme()), PCM, calibration)
    analog, unit = cost(placed), cost(digital)
    for ds, deployment in ((analog, placed), (unit, digital)):
        taken = actions_of(deployment)
        leaked = float(ds["energy"].sel(component="leakage"))
        assert sum(energies(deployment, taken)) + leaked == pytest.approx(float(ds["energy_total"]))
    assert float(analog["tiles"] - unit["tiles"]) == 8
    assert float(analog["devices"] - unit["devices"]) == 2 * 8 * 33 * 33
    assert float(analog["energy"].sel(component="digital update")) < float(
        unit["energy"].sel(component="digital update")
    )
    for component in ("adc", "dac", "cells", "movement"):
        assert float(analog["energy"].sel(component=component)) > float(unit["energy"].sel(component=component))
    with pytest.raises(DesignError, match="has no price"):
        cost(compile(quantized(Scheme()), chip_of("pcm-256", adc=ideal(8)), calibration, recurrence="analog"))


def test_heads_on_one_tile_cost_devices_and_save_tiles(quantized: Make, calibration: torch.Tensor) -> None:
    model = quantized(Scheme())
    one, many = (compile(model, PCM, calibration, recurrence="analog", heads_per_tile=n) for n in (1, 4))
    assert [len(d.recurrences[0].matrices) for d in (one, many)] == [8, 2]
    assert one.recurrences[0].used(PCM) == pytest.approx((16 * 6 + 33) / 256**2)
    assert many.recurrences[0].used(PCM) == pytest.approx(4 * (16 * 6 + 33) / 256**2)
    first, second = cost(one), cost(many)
    assert float(first["area_total"]) > float(second["area_total"])
    assert float(first["devices"]) < float(second["devices"])
    assert float(first["energy"].sel(component="adc")) == pytest.approx(
        float(second["energy"].sel(component="adc"))
    )


def test_matrices_are_programmed_as_without_it(
    placed: Deployment, quantized: Make, calibration: torch.Tensor
) -> None:
    """The tiles of a recurrence come last: no draw of the others moves."""
    digital = compile(quantized(Scheme()), PCM, calibration)
    for own, other in zip(digital.analog()[1], placed.analog()[1], strict=False):
        own.program(0, 3)
        other.program(0, 3)
        assert own.programmed is not None
        assert other.programmed is not None
        assert np.array_equal(own.programmed.devices.g, other.programmed.devices.g)


def test_heads_that_share_a_tile_by_packing_wait_for_one_another(
    quantized: Make, calibration: torch.Tensor
) -> None:
    """`Design.packing` lays blocks beside one another without driving them at once: fewer tiles, more time."""
    model = quantized(Scheme())
    apart, packed = (
        compile(model, chip_of("pcm-256", packing=share, name="either"), calibration, recurrence="analog")
        for share in (False, True)
    )
    first, second = cost(apart), cost(packed)
    assert (float(first["tiles"]), float(second["tiles"])) == (11, 1)
    (steps,) = (calibration.shape[1],)
    for component, time in nominal_tiles(PCM).times(33).items():
        waited = float(second["latency"].sel(component=component) - first["latency"].sel(component=component))
        assert waited == pytest.approx(steps * 7 * time)
    spent = [float(ds["energy_total"] - ds["energy"].sel(component="leakage")) for ds in (first, second)]
    assert spent[0] == pytest.approx(spent[1])
