"""The cell, converter and component of docs/extending.md: all the way through a chip."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from imc_ssm.chip import Deployment, compile, evaluate
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import CONVERTERS, Converter, device_path, resolve
from imc_ssm.errors import DesignError
from imc_ssm.graph import Formats, Graph, Signal
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


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
    row = texts["components"].split("[[adc.cco-hermes.sizes]]")[1].split("\n\n")[0]
    (folder / "mine.toml").write_text(texts["components"] + f"\n[[adc.skewed.sizes]]{row}\n", encoding="utf-8")
    design = texts["designs"].replace('"periphery-32nm"', '"mine.toml"')
    for old, new in replaced.values():
        assert old in design
        design = design.replace(old, new)
    path = folder / "design.toml"
    path.write_text(design, encoding="utf-8")
    return path


def test_a_new_cell_is_a_class_a_line_and_a_toml(
    page: ModuleType,
    quantized: Callable[[Scheme], Classifier],
    digits: SequenceDataset,
    tmp_path: Path,
) -> None:
    design = own_design(tmp_path, cell=('"pcm-nandakumar-2019"', '"leaky.toml"'))
    placed = compile(quantized(Scheme()), design, *calibration_batch(digits, 8, most=50))
    placed.save(tmp_path / "d.safetensors")
    loaded = Deployment.load(tmp_path / "d.safetensors")
    assert isinstance(loaded.chip.cell, page.Leaky)
    assert loaded.digest() == placed.digest()
    assert float(cost(loaded)["energy_total"]) == float(cost(placed)["energy_total"])
    chips = evaluate(loaded, digits, 2, [0.0, 1e5])
    assert (abs(chips["accuracy"] - chips["accuracy_digital"]) < 10).all()
    with pytest.raises(DesignError, match="aihwkit has no model of cell"):
        evaluate(loaded, digits, 1, [1.0], noise="aihwkit")


def test_a_new_converter_is_a_class_a_line_and_a_row(
    page: ModuleType,
    quantized: Callable[[Scheme], Classifier],
    digits: SequenceDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    design = own_design(tmp_path, adc=('"sar", bits = 8', '"skewed", bits = 8'))
    with monkeypatch.context() as without:
        without.delitem(CONVERTERS, "skewed")
        assert type(resolve(design).adc) is Converter  # a row alone is a type that transfers like all others
    calibration = calibration_batch(digits, 8, most=50)
    placed = compile(quantized(Scheme()), design, *calibration)
    placed.save(tmp_path / "d.safetensors")
    loaded = Deployment.load(tmp_path / "d.safetensors")
    assert isinstance(loaded.chip.adc, page.Skewed)
    assert loaded.chip.adc.price.energy.value == 48.8e-12
    plain = compile(quantized(Scheme()), "pcm-256", *calibration)
    x = calibration[0][:4]
    assert not np.array_equal(loaded.analog()[0](x).detach(), plain.analog()[0](x).detach())
    component = {"component": "adc"}
    assert float(cost(loaded)["energy"].sel(component)) > 20 * float(cost(plain)["energy"].sel(component))


def test_a_new_component_is_a_row(
    page: ModuleType, quantized: Callable[[Scheme], Classifier], digits: SequenceDataset, tmp_path: Path
) -> None:
    """An operator whose action no shipped component takes is refused, and priced with the page's row."""
    (row,) = re.findall(r"```toml\n(\[others.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    design = own_design(tmp_path)
    calibration = calibration_batch(digits, 8, most=50)
    costs = []
    for text in ("", row):
        table = tmp_path / "mine.toml"
        table.write_text(table.read_text(encoding="utf-8") + f"\n{text}", encoding="utf-8")
        placed = compile(quantized(Scheme()), design, *calibration)
        *before, pool, decoder = placed.graph
        (entering,) = pool.inputs
        largest = page.Largest("largest", "largest", (entering,), Signal("largest", entering.width))
        graph = Graph((*before, largest, replace(pool, inputs=(largest.output,)), decoder))
        formats = Formats({**placed.formats, "largest": placed.formats[entering.name]})
        changed = replace(placed, graph=graph, formats=formats)
        if text:
            costs += [cost(placed), cost(changed)]
        else:
            with pytest.raises(DesignError, match="operator 'largest': action 'compare' has no price"):
                cost(changed)
    digital = {"component": "digital update"}
    more = costs[1]["energy_step"].sel(digital) - costs[0]["energy_step"].sel(digital)
    assert float(more) == pytest.approx(8 * 0.02e-12)
    later = costs[1]["latency"].sel(digital) - costs[0]["latency"].sel(digital)
    assert float(later) == pytest.approx(placed.steps * 1e-9)  # 8 comparisons on more lanes than that
    assert float(costs[1]["area"].sel(digital)) > float(costs[0]["area"].sel(digital))
