"""`devices/components/periphery-32nm-gates.toml`: written from the dataset of gates, right by hand, and in use."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import imc_ssm
from imc_ssm import results
from imc_ssm.devices import Components, device_path, load_components, load_design, resolve
from imc_ssm.graph import Recurrence
from imc_ssm.quantization import formats_of

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")
DATA = results.load(ROOT / "benchmarks" / "gates" / "gates.nc")
OUTPUTS = ("Re(c x)", "sum over states", "requantize y")
AGAIN = "run `python -m benchmarks.gates.table`"
SHIFTS = ("shift_3", "shift_5")
NAME, BASE = "periphery-32nm-gates", "periphery-32nm"
OURS, THEIRS = load_components(NAME), load_components(BASE)
TABLES = {NAME: OURS, BASE: THEIRS}


def module(name: str):
    """A module of the benchmark, which is no part of the installed package."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(f"benchmarks.gates.{name}")


table, priced = module("table"), module("priced")
MEANS = table.Brought(DATA.sel(library=list(table.SHIPPED)))
NOMINAL = table.mean(MEANS.energy.sel(bound="nominal"))


def test_the_file_is_what_the_command_writes(tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / f"{NAME}.toml"
    monkeypatch.setattr(sys, "argv", ["table", "--out", str(out)])
    monkeypatch.setattr(priced, "TABLES", ())
    table.main()
    shipped = device_path("components", NAME).read_text(encoding="utf-8")
    assert out.read_text(encoding="utf-8") == shipped, AGAIN
    assert str(out) in capsys.readouterr().out


def test_everything_else_is_that_of_the_base() -> None:
    ours, theirs = OURS.model_dump(), THEIRS.model_dump()
    changed = {key for key in theirs if ours[key] != theirs[key]}
    assert changed == {"name", "description", "multiply", "add", "flip_flop"}
    assert OURS.name == NAME


def scaled(energy: dict[str, float]) -> float:
    """J at 32 nm and 0.9 V of J at 130 nm and each library's supply: Stillmaker and Baas, geometric mean."""

    def edge(a: float, b: float, c: float, supply: float) -> float:
        return a * supply**2 + b * supply + c

    at_32 = edge(0.9559, -0.7823, 0.471, 0.9)
    supplies = {"sky130": 1.8, "ihp130": 1.2}
    each = [energy[n] * at_32 / edge(7.171, -6.709, 2.904, v) for n, v in supplies.items()]
    return float(np.sqrt(np.prod(each)))


@pytest.mark.parametrize(("part", "block"), [("multiply", "multiply"), ("add", "add"), ("flip_flop", "register")])
def test_numbers_by_hand(part: str, block: str) -> None:
    """From the dataset in plain arithmetic, at the reference width; the sources say what it takes."""
    entry = getattr(OURS, part)
    raw = {n: DATA.sel(block=block, bits=entry.bits, library=n) for n in ("sky130", "ihp130")}
    energy = {n: float(one["energy"].sel(bound="nominal")) for n, one in raw.items()}
    assert entry.energy.value == pytest.approx(scaled(energy), rel=1e-3)
    delay = np.prod([float(one["delay"].sel(bound="nominal")) for one in raw.values()]) ** 0.5
    assert entry.latency.value == pytest.approx(delay * 32 / 130, rel=1e-3)
    area = np.prod([float(one["area"]) for one in raw.values()]) ** 0.5
    assert entry.area.value == pytest.approx(area * 0.072 / 0.7, rel=1e-3)
    for number in (entry.energy, entry.latency, entry.area):
        words = (
            "Yosys 0.70",
            "Amaranth 0.5",
            "sky130_fd_sc_hd",
            "SG13G2",
            "geometric mean",
            "interval",
            "doi:10.",
        )
        assert all(word in number.source for word in words), number.source
        assert f"{entry.bits} bits" in number.source
        low, high, unit = re.findall(r"interval ([\d.,]+) \S+ \(.*?\) to ([\d.,]+) (\S+) \(", number.source)[0]
        scale = {"pJ": 1e-12, "ns": 1e-9, "um2": 1e-12}[unit]
        ends = [float(end.replace(",", "")) * scale for end in (low, high)]
        assert ends[0] < number.value < ends[1]
    assert "x 0.0385 and 0.104" in entry.energy.source
    assert "asap7 brought here alike" in entry.energy.source


def test_delays_by_hand() -> None:
    """a V^3 + b V^2 + c V + d at 130 nm and 1.2 V, at 32 nm and 0.9 V."""
    at_130 = -76.65 * 1.2**3 + 334.9 * 1.2**2 - 493.4 * 1.2 + 275.8
    fast = -1047 * 0.9**3 + 2982 * 0.9**2 - 2797 * 0.9 + 873.5
    slow = -325.9 * 0.9**3 + 1374 * 0.9**2 - 1922 * 0.9 + 913.2
    assert table.delay_factor(130e-9, 1.2, "high_performance") == pytest.approx(fast / at_130, rel=1e-9)
    assert table.delay_factor(130e-9, 1.2, "low_power") == pytest.approx(slow / at_130, rel=1e-9)
    assert table.delay_factor(32e-9, 0.9, "low_power") == 1.0
    for kind in ("high_performance", "low_power"):
        rows = table.REFERENCES["delay"][kind]
        assert len(rows) == len(table.REFERENCES["scaling"]["nodes"])
        nominal = [1.2, 1.1, 1.1, 1.0, 0.9, 0.9, 0.85, 0.8, 0.75, 0.7]
        delays = [np.polyval(row, supply) for row, supply in zip(rows, nominal, strict=True)]
        assert min(delays) > 0


def test_the_reference_width_has_the_least_error() -> None:
    """Of a law that all words but the shortest obey: any but that one. And of the dataset, against every other."""
    bits = DATA["bits"].values
    values = np.where(bits == 4, 8.0, 1.0) * bits
    law = table.Law.of(xr.DataArray(values[None], {"block": ["add"], "bits": bits}), table.PARTS["add"])
    assert law.bits == 6
    assert law.farthest == ("add", 4)
    assert law.off == pytest.approx(8.0)
    assert law.spread == pytest.approx(np.log(8.0) / np.sqrt(len(bits)))
    for name, part in table.PARTS.items():
        best = table.Law.of(NOMINAL, part)
        assert best.bits == getattr(OURS, name).bits
        assert all(best.spread <= table.Law.of(NOMINAL, part, int(n)).spread for n in bits)
        source = getattr(OURS, name).energy.source
        assert f"law off by {100 * best.spread:.1f} %" in source


def test_the_table_meets_the_synthesised_words() -> None:
    """Every word within what the sources say, by the table's own laws."""
    for name, part in table.PARTS.items():
        entry = getattr(OURS, name)
        for block in part.blocks:
            other = {"multiply_8": 8, "multiply_24": 24}.get(block)
            for n in DATA["bits"].values.tolist():
                words = (n,) if name != "multiply" else (n, other or n)
                ratio = float(NOMINAL.sel(block=block, bits=n)) / entry.joules(*words)
                worst = table.Law.of(NOMINAL, part).off
                assert min(worst, 1 / worst) * 0.999 < ratio < max(worst, 1 / worst) * 1.001


def test_one_library_of_ones_own() -> None:
    text = table.component_table(DATA, ("ihp130",), "mine")
    made = Components.parse(tomllib.loads(text))
    assert made.name == "mine"
    assert "geometric mean" not in made.multiply.energy.source
    assert made.multiply.energy.value > OURS.multiply.energy.value


def test_it_prices_a_deployment_by_name(tmp_path: Path) -> None:
    """A design's TOML names it; digital numbers alone move, as the products' prices say."""
    text = device_path("designs", "pcm-256").read_text(encoding="utf-8")
    path = tmp_path / "gates.toml"
    path.write_text(text.replace(f'"{BASE}"', f'"{NAME}"'), encoding="utf-8")
    assert load_design(path).components == NAME
    torch.manual_seed(0)
    data = imc_ssm.load_dataset("digits")
    model = imc_ssm.quantize(imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4)), "uniform", data)
    before, after = (
        imc_ssm.cost(imc_ssm.compile_model(model, resolve(design), data)) for design in ("pcm-256", path)
    )
    assert after.attrs["components"] == NAME
    moved = (after["energy"] / before["energy"]).to_series()
    assert moved["digital update"] > 1.3
    same = ["cells", "lines", "dac", "adc", "control", "memories"]
    np.testing.assert_allclose(moved[same], 1.0)
    assert float(after["latency_total"]) > float(before["latency_total"])
    assert float(after["area_total"]) < float(before["area_total"])


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("made", priced.TABLES, ids=lambda made: made.__name__)
def test_the_tables_of_the_page(made) -> None:
    """Words as they are, numbers within what another processor may round otherwise."""
    rows = made(DATA)
    head = PAGE.index(rows[0])
    shown = rows_of(PAGE[head : PAGE.index("\n\n", head)])
    again = rows_of("\n".join(rows))
    assert len(shown) == len(again), AGAIN
    for row, of_page in zip(again, shown, strict=True):
        for cell, stated in zip(row, of_page, strict=True):
            for mine, theirs in zip(cell.split(" to "), stated.split(" to "), strict=True):
                if not re.fullmatch(r"[\d.,e+]+", mine):
                    assert mine == theirs, AGAIN
                    continue
                value, on_page = (float(number.replace(",", "")) for number in (mine, theirs))
                assert value == pytest.approx(on_page, rel=0.02), AGAIN


def test_the_sentences_of_the_page() -> None:
    text = " ".join(PAGE.split())
    sums = {name: {k: priced.priced(t, v)[0] for k, v in priced.LANES.items()} for name, t in TABLES.items()}
    sums["blocks"] = {k: priced.synthesised(MEANS, v)[0] for k, v in priced.LANES.items()}
    lanes = {k: float(NOMINAL.sel(block=k, bits=8)) for k in priced.LANES}
    over = {name: [lanes[k] / of[k] for k in lanes] for name, of in sums.items()}
    calm = table.mean(MEANS.energy.sel(bound="low", bits=8))
    assert f"cost {span(over['blocks'], 1)} times the blocks apart" in text
    assert f"within {span(over[NAME], 1)} times of whole lanes" in text
    assert f"Aladdin within {span(over[BASE], 1)};" in text
    assert f"{span([float(calm.sel(block=k)) / sums[NAME][k] for k in lanes], 1)} of the table of gates" in text
    saved = [
        span([of[k] / of["lane_shifts"] for k in ("lane_folded", "lane_multiplied")], 1)
        for of in (sums[NAME], sums[BASE], lanes)
    ]
    assert f"save {saved[0]} times by the table of gates (folded, apart), {saved[1]} by" in text
    assert f"{saved[2]} in whole lanes" in text
    at = [{"block": part.block, "bits": getattr(OURS, name).bits} for name, part in table.PARTS.items()]
    energy = MEANS.energy.sel(bound="nominal")
    two = [float(energy.sel(library="ihp130", **one) / energy.sel(library="sky130", **one)) for one in at]
    assert f"agree within {span(two[:2], 1)} times (registers {two[2]:.1f})" in text
    up = table.Brought(DATA.sel(library=["asap7"])).energy.sel(bound="nominal").isel(library=0)
    assert f"would be {span([float(up.sel(**one) / NOMINAL.sel(**one)) for one in at], 1)} times" in text
    for part, words in (("multiply", (8, 8)), ("add", (8,)), ("flip_flop", (8,))):
        mine, base = getattr(OURS, part), getattr(THEIRS, part)
        area = mine.area.value * mine.scale(*words) / (base.area.value * base.scale(*words))
        ratio = mine.joules(*words) / base.joules(*words)
        link = " times the energy and " if part == "multiply" else " and "
        assert f"{ratio:.2f}{link}{area:.2f}" in text
    aladdin = table.REFERENCES["aladdin"]["multiply"]["energy"]
    assert f"Aladdin's at 1 ns {aladdin[1] / aladdin[3]:.1f} times that at 5 ns" in text
    product = OURS.multiply.energy.value
    ends = MEANS.energy.sel(block="multiply", bits=OURS.multiply.bits)
    low, high = float(ends.sel(bound="low").min()) / product, float(ends.sel(bound="high").max()) / product
    assert f"more, {low:.2f} to {high:.1f} for a product" in text
    laws = [table.Law.of(NOMINAL, part).spread for part in table.PARTS.values()]
    assert ", ".join(f"{100 * one:.1f} %" for one in laws) in text
    four = float(NOMINAL.sel(block="multiply", bits=4)) / OURS.multiply.joules(4, 4)
    wide = float(NOMINAL.sel(block="multiply_24", bits=8)) / OURS.multiply.joules(8, 24)
    assert f"takes {four:.2f} of the law, of 8 x 24 bits {wide:.2f} of it" in text
    fits = DATA["coefficient"].sel(library=list(table.SHIPPED), quantity="energy")
    shifts = [float(table.mean(fits.sel(block=b)) / table.mean(fits.sel(block="add"))) for b in SHIFTS]
    assert f"gates take {span(shifts, 2)}" in text
    assert f"takes {OURS.multiply.latency.value * 1e9:.2f} ns" in text


def span(values: list[float], digits: int) -> str:
    """ "low to high" as the sentences of the page print it."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


@pytest.mark.parametrize(("scales", "lane"), [("free", "lane_multiplied"), ("power_of_two", "lane_shifts")])
def test_lanes_are_what_the_model_counts(scales: str, lane: str) -> None:
    """For one update of one state, but for its outputs; the lane holds the new state, and has all its shifters."""
    torch.manual_seed(0)
    model = imc_ssm.Classifier(imc_ssm.ModelConfig.parse({"inputs": 3, "heads": 1, "outputs": 2, "n_state": 2}))
    scheme = imc_ssm.Scheme.uniform(scales=scales, rounding_placement="joint")
    quantized = imc_ssm.quantize(model, scheme, torch.randn(4, 8, 3))
    formats = formats_of(quantized)
    (unit,) = (op for op in quantized.graph() if isinstance(op, Recurrence))
    counted: Counter[str] = Counter()
    for action in unit.actions(formats, 8):
        if action.component == "digital update" and action.purpose not in OUTPUTS:
            counted[action.verb] += action.count
        elif (action.verb, action.purpose) == ("add", "sum over states"):
            counted["register"] -= action.count  # its accumulators are called so, as all are
    ours: Counter[str] = Counter()
    for action in priced.LANES[lane]:
        ours[action.verb] += action.count
    assert sum(a.count for a in priced.LANES[lane] if a.bits == (8, 8)) == 6
    assert ours["multiply"] == counted["multiply"] == (6 if scales == "power_of_two" else 10)
    assert ours["add"] == counted["add"] == counted["register"] == ours["register"] - 2
    assert counted["shift"] <= ours["shift"]
    assert (counted["shift"] > 0) == (ours["shift"] > 0) == (scales == "power_of_two")
