"""A new cell and a new converter, each a class, a line and a TOML: all the way through a chip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from torch import Tensor

from imc_ssm.chip import Deployment, compile, evaluate
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import CELLS, CONVERTERS, Cell, Converter, Draws, Programmed, device_path, resolve
from imc_ssm.errors import DesignError
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch


class Leaky(Cell):
    """Relative programming noise of 2 %, then G(t) = G_prog exp(-t / tau)."""

    model: Literal["leaky"]
    tau: float

    def program(self, target: np.ndarray, draws: Draws) -> Programmed:
        g = target * (1 + 0.02 * self.programming_scale * draws.normal(target.shape))
        return Programmed(target, self.settle(g), np.empty((len(g), 0)))

    def read(self, devices: Programmed, time: float, draws: Draws) -> np.ndarray:
        return np.asarray(devices.g * np.exp(-time / self.tau))


class Skewed(Converter):
    """A converter that is off by two codes."""

    type: Literal["skewed"]

    def convert_(self, signal: Tensor) -> Tensor:
        return super().convert_(signal.add_(2.0))


def own_design(folder: Path, **replaced: str) -> Path:
    """A user's design with a cell and a component table beside it; `kind=(old)(new)` lines replaced."""
    texts = {
        kind: device_path(kind, name).read_text(encoding="utf-8")  # type: ignore[arg-type]
        for kind, name in (
            ("cells", "pcm-nandakumar-2019"),
            ("components", "periphery-32nm"),
            ("designs", "pcm-256"),
        )
    }
    leaky = texts["cells"].replace('model = "pcm-like"', 'model = "leaky"\ntau = 1e6')
    start, end = leaky.index("[t_0]"), leaky.index("[v_read]")
    (folder / "leaky.toml").write_text(leaky[:start] + leaky[end:], encoding="utf-8")
    row = texts["components"].split("[[adc.cco.sizes]]")[1].split("\n\n")[0]
    (folder / "mine.toml").write_text(texts["components"] + f"\n[[adc.skewed.sizes]]{row}\n", encoding="utf-8")
    design = texts["designs"].replace('"periphery-32nm"', '"mine.toml"')
    for old, new in replaced.values():
        assert old in design
        design = design.replace(old, new)
    path = folder / "design.toml"
    path.write_text(design, encoding="utf-8")
    return path


def test_a_new_cell_is_a_class_a_line_and_a_toml(
    quantized: Callable[[Scheme], Classifier],
    digits: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CELLS, "leaky", Leaky)
    design = own_design(tmp_path, cell=('"pcm-nandakumar-2019"', '"leaky.toml"'))
    placed = compile(quantized(Scheme()), design, *calibration_batch(digits, 8, most=50))
    placed.save(tmp_path / "d.safetensors")
    loaded = Deployment.load(tmp_path / "d.safetensors")
    assert isinstance(loaded.chip.cell, Leaky)
    assert loaded.digest() == placed.digest()
    assert float(cost(loaded)["energy_total"]) == float(cost(placed)["energy_total"])
    chips = evaluate(loaded, digits, 2, [0.0, 1e5])
    assert (abs(chips["accuracy"] - chips["accuracy_digital"]) < 10).all()
    with pytest.raises(DesignError, match="aihwkit has no model of cell"):
        evaluate(loaded, digits, 1, [1.0], noise="aihwkit")


def test_a_new_converter_is_a_class_a_line_and_a_row(
    quantized: Callable[[Scheme], Classifier],
    digits: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    design = own_design(tmp_path, adc=('"sar", bits = 8', '"skewed", bits = 8'))
    assert type(resolve(design).adc) is Converter  # a row alone is a type that transfers like all others
    monkeypatch.setitem(CONVERTERS, "skewed", Skewed)
    calibration = calibration_batch(digits, 8, most=50)
    placed = compile(quantized(Scheme()), design, *calibration)
    placed.save(tmp_path / "d.safetensors")
    loaded = Deployment.load(tmp_path / "d.safetensors")
    assert isinstance(loaded.chip.adc, Skewed)
    assert loaded.chip.adc.priced().energy.value == 48.8e-12
    plain = compile(quantized(Scheme()), "pcm-256", *calibration)
    x = calibration[0][:4]
    assert not np.array_equal(loaded.analog()[0](x).detach(), plain.analog()[0](x).detach())
    component = {"component": "adc"}
    assert float(cost(loaded)["energy"].sel(component)) > 20 * float(cost(plain)["energy"].sel(component))
