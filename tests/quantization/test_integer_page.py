"""docs/integer_model.md: its tables are replayed, its code runs, its checker is the one that ships."""

import re
from pathlib import Path

import numpy as np
import pytest

from imc_ssm import fixedpoint as fp
from imc_ssm import results
from imc_ssm.fixedpoint import Format, checker

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "integer_model.md").read_text("utf-8")
Row = dict[str, str]


def tables() -> dict[str, list[Row]]:
    """The tables under a line '**Table NAME...', by name."""
    found: dict[str, list[Row]] = {}
    for name, text in re.findall(r"\*\*Table (\w+)[:.][^\n]*\n.*?\n((?:\|[^\n]*\n)+)", PAGE, re.DOTALL):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
        found[name] = [dict(zip(head, row, strict=True)) for row in rows]
    return found


TABLES = tables()


def ints(text: str) -> np.ndarray:
    return np.array([int(word) for word in text.split()])


def formats() -> dict[str, Format]:
    made = {}
    for row in TABLES["I1"]:
        scale, zero = [float(word) for word in row["scales"].split()], ints(row["zero points"])
        one = len(scale) == 1
        made[row["signal"]] = Format(
            int(row["bits"]), np.array(scale[0] if one else scale), zero[0] if one else zero
        )
    return made


F = formats()
WEIGHT = np.array([ints(row["W"]) for row in TABLES["I2"]])
X = np.array([ints(row["x"]) for row in TABLES["I3"][::4]])


def plan() -> fp.LinearPlan:
    bias = F["bias"].dequantize([int(row["bias"]) for row in TABLES["I2"]])
    return fp.plan_linear(F["W"], F["x"], F["y"], (4, 2), bias)


def test_the_page_has_its_tables() -> None:
    assert {name: len(rows) for name, rows in TABLES.items()} == {"I1": 8, "I2": 4, "I3": 12, "I4": 6, "I5": 2}


def test_the_matrix() -> None:
    made = plan()
    assert made.source.align.tolist() == [8388608, 5033165]
    assert (made.source.align_shift, made.source.unit) == (0, 2.0**-24)
    for row, *own in zip(TABLES["I2"], made.multiplier, made.bias, made.shift, strict=True):
        assert [int(row[name]) for name in ("m", "B", "shift")] == own
    codes = fp.linear_codes(made, X, WEIGHT)
    for row in TABLES["I3"]:
        t, o = int(row["t"]), int(row["row"])
        v = made.source.align * (X[t] - made.source.zero)
        total = int((WEIGHT[o] - made.weight_zero[o]) @ v)
        acc = int(made.multiplier[o]) * total + int(made.bias[o])
        assert ints(row["v"]).tolist() == v.tolist()
        assert (int(row["sum"]), int(row["m sum + B"]), int(row["y"])) == (total, acc, codes[t, o])
        assert float(row["/ 2^shift"]) == pytest.approx(acc / 2.0 ** made.shift[o], abs=1e-8)
        free = round(acc / 2.0 ** made.shift[o]) + made.output.zero[o]
        assert (row[""] == "saturates") == (free != codes[t, o])


def test_gate_sum_and_mean() -> None:
    y = fp.linear_codes(plan(), X, WEIGHT)
    gate, table = fp.plan_gate(F["y"], F["gated"], 2), fp.gate_table(fp.grid_values(F["y"], 4, 2))
    total = fp.plan_sum(F["gated"], F["straight"], F["sum"], 2)
    assert (gate.multiplier.tolist(), gate.shift.tolist()) == ([8388608] * 2, [38] * 2)
    assert [v.tolist() for v in (total.first, total.second, total.shift)] == [
        [10485760] * 2,
        [20971520] * 2,
        [24] * 2,
    ]
    gated = fp.gate_codes(gate, y, table)
    straight = np.array([int(row["straight"]) for row in TABLES["I4"]]).reshape(3, 2)
    added = fp.sum_codes(total, gated, straight)
    for row in TABLES["I4"]:
        at = int(row["t"]), int(row["channel"])
        assert int(row["x_1'"]) == y[at] - gate.source.zero[at[1]]
        assert int(row["T"]) == table[at[1], y[at[0], 2 + at[1]] + 16]
        assert (int(row["gated"]), int(row["sum"])) == (gated[at], added[at])
        acc = total.first[0] * (gated[at] - 1) + total.second[0] * (straight[at] - 2)
        assert int(row["m_1 x' + m_2 y'"]) == acc
    for row in TABLES["I5"]:
        steps = int(row["L"])
        mean = fp.plan_mean(F["sum"], F["mean"], [steps], 2)
        assert (int(row["m"]), int(row["shift"])) == (mean.multiplier[0, 0], mean.shift[0, 0])
        assert ints(row["sums"]).tolist() == added[:steps].sum(0).tolist()
        assert ints(row["means"]).tolist() == fp.mean_codes(mean, added[None], [steps])[0].tolist()


def test_its_code_runs_and_its_checker_is_the_one_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *blocks, last = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert last == Path(checker.__file__).read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "docs/integer_model.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] == "{}"
    assert {path.name for path in (tmp_path / "integers").iterdir()} == {
        "bundle.json",
        "bundle.safetensors",
        "check.py",
    }


def test_no_code_differs_where_the_page_says() -> None:
    ds = results.load(ROOT / "experiments" / "integers" / "integers.nc")
    assert ds.sizes["scheme"] == 4
    assert ds["images"].values.tolist() == [10_000] * 4
    assert float(ds["differing"].sum()) == 0
    assert f"of {int(ds['codes'].sum()):,} codes" in PAGE
    assert ds["codes"].sel(signal="stream").values.tolist() == [500 * 10.0] * 4
