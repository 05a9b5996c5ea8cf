"""docs/fixed_point.md against the code: every table of numbers in it is replayed."""

import hashlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from imc_ssm.fixedpoint import Format, ScanFormats, ScanPlan, plan_scan, round_shift, scan_codes, state_codes
from imc_ssm.fixedpoint.normal import gaussian_table, philox
from imc_ssm.kernels.codes import input_codes

PAGE = Path(__file__).parents[2] / "docs" / "fixed_point.md"
Row = dict[str, str]


def tables() -> dict[str, list[Row]]:
    """The tables under a line '**Table NAME: ...', by name; a column without a title is called ''."""
    found: dict[str, list[Row]] = {}
    name, head = "", None
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("**Table "):
            name, head = line.removeprefix("**Table ").split(":")[0], None
            found[name] = []
        elif line.startswith("|") and name:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if head is None:
                head = cells
            elif set(line) - set("|- "):
                found[name].append(dict(zip(head, cells, strict=True)))
        elif head is not None:
            name = ""
    return found


TABLES = tables()
ROUNDING_PLACEMENTS = {"joint": ("E5", "E6"), "separate": ("E7", "E8")}


def test_the_page_has_all_its_tables() -> None:
    names = ("R", "P", "G", "E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8", "S1", "S2", "S3", "N1", "N2", "N3")
    sizes = (6, 3, 7, 7, 6, 4, 2, 16, 4, 16, 4, 2, 6, 6, 3, 3, 9)
    assert {name: len(TABLES[name]) for name in names} == dict(zip(names, sizes, strict=True))
    assert {name: len(TABLES[name]) for name in ("D1", "D2", "D3", "F1", "F2")} == {
        "D1": 16,
        "D2": 16,
        "D3": 16,
        "F1": 8,
        "F2": 4,
    }


@pytest.mark.parametrize("shift", [1, 2, 17, 51])
def test_ties(shift: int) -> None:
    value = np.array([int(Fraction(row["v / 2^s"]) * 2**shift) for row in TABLES["R"]])
    for mode in ("half_even", "half_up", "half_away"):
        wanted = [int(row[mode]) for row in TABLES["R"]]
        assert round_shift(value, np.int64(shift), mode).tolist() == wanted


def test_philox() -> None:
    for row in TABLES["P"]:
        counter, (low, high), words = (
            [int(word, 16) for word in row[name].split()] for name in ("counter", "key", "words")
        )
        assert [int(x) for x in philox(tuple(counter), low | high << 32)] == words


def test_digest_of_the_gaussian_table() -> None:
    table = gaussian_table()
    assert (table.size, int(table.max()).bit_length()) == (1537, 19)
    assert hashlib.sha256(table.astype("<i4").tobytes()).hexdigest() in PAGE.read_text("utf-8")


def formats(order: str) -> ScanFormats:
    rows = {row["tensor"]: row for row in TABLES["E1"]}

    def fmt(name: str, *more: str) -> Format:
        all_ = [rows[n] for n in (name, *more)]
        scale = np.array([float(r["scale"]) for r in all_], np.float32)
        zero = np.array([int(r["zero"]) for r in all_])
        if more:
            scale, zero = scale[None], zero[None]
        else:
            scale, zero = scale[0], zero[0]
        clip = float(all_[0]["clip"]) if all_[0]["clip"] else None
        return Format(int(all_[0]["bits"]), scale, zero, all_[0]["symmetric"] == "yes", clip)

    return ScanFormats(
        a=fmt("a"),
        u=fmt("u"),
        x=fmt("x"),
        b=fmt("b"),
        c=fmt("c, state 0", "c, state 1"),
        y=fmt("y"),
        rounding_placement=order,  # type: ignore[arg-type]
    )


def plan(order: str) -> ScanPlan:
    return plan_scan(formats(order), 1, 2)


def coefficients(name: str) -> np.ndarray:
    rows = [row for row in TABLES["E2"] if row["tensor"] == name]
    return np.array([[[int(row["re"]), int(row["im"])] for row in rows]])


def test_bounds_of_the_formats() -> None:
    f = formats("joint")
    for row in TABLES["E1"]:
        fmt = getattr(f, row["tensor"][0])
        low, high, zero = (int(np.ravel(v)[0]) for v in (fmt.low, fmt.high, fmt.zero_point))
        assert [int(row[k]) for k in ("lo", "hi", "lo'", "hi'")] == [low, high, low - zero, high - zero]


def test_coefficients_are_centred() -> None:
    p = plan("joint")
    for row in TABLES["E2"]:
        zero = int(p.zero(row["tensor"])[0, int(row["state"])])
        assert [int(row["re'"]), int(row["im'"])] == [int(row["re"]) - zero, int(row["im"]) - zero]


def test_input() -> None:
    p, rows = plan("joint"), TABLES["E3"]
    value = np.array([[[float(row["value"]) for row in rows]]], np.float32)
    assert input_codes(value, p)[0, 0].tolist() == [int(row["u"]) for row in rows]
    for row, single in zip(rows, value[0, 0], strict=True):
        quotient = single / np.float32(0.3)
        assert float(row["value / s_u"]) == pytest.approx(float(quotient), rel=1e-5)
        assert int(row["u'"]) == round(float(quotient)) == int(row["u"]) - 3
    # What the page says about the first: the precision of the division decides.
    assert float(value[0, 0, 0] / np.float32(0.3)) == 11.5
    assert f"{float(value[0, 0, 0]) / float(np.float32(0.3)):.8f}" == "11.49999970"


def test_plan() -> None:
    for row in TABLES["E4"]:
        p = plan(row["order"])
        assert p.m_y is not None
        assert p.shift_y is not None
        for name in ("m_a", "m_b", "shift", "shift_b"):
            assert getattr(p, name).tolist() == [[int(row[name])] * 2]
        assert p.m_c.tolist() == [[int(row["m_c, state 0"]), int(row["m_c, state 1"])]]
        assert (p.word, int(p.m_y[0]), int(p.shift_y[0])) == tuple(int(row[k]) for k in ("W", "m_y", "shift_y"))
        base, exponent = row["sum_scale"].split("^")
        assert p.sum_scale.tolist() == [float(base) ** int(exponent)]
        recurrent = int(row["m_a"]) * 2 * 33 * 24
        drive = int(row["m_b"]) * 17 * 35 if row["order"] == "joint" else 0
        widest = recurrent + drive + 2 ** (int(row["shift"]) - 1)
        assert widest == int(row["largest word"]) < 2**31 < 2 * widest


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


@pytest.mark.parametrize("order", ["joint", "separate"])
def test_steps(order: str) -> None:
    # Every row from the rows before it, in Python's integers, then the states and outputs from the oracle.
    p = next(row for row in TABLES["E4"] if row["order"] == order)
    m_a, m_b, shift, shift_b = (int(p[k]) for k in ("m_a", "m_b", "shift", "shift_b"))
    a, b = ({r["state"]: (int(r["re'"]), int(r["im'"])) for r in TABLES["E2"] if r["tensor"] == n} for n in "ab")
    drive = {row["t"]: int(row["u'"]) for row in TABLES["E3"]}
    x = {("-1", state, part): 0 for state in "01" for part in ("re", "im")}
    saturated = 0
    for row in TABLES[ROUNDING_PLACEMENTS[order][0]]:
        t, n, part = row["t"], row["state"], row["part"]
        before = [x[str(int(t) - 1), n, k] for k in ("re", "im")]
        (ar, ai), bk = a[n], b[n][part == "im"]
        product = ar * before[0] - ai * before[1] if part == "re" else ar * before[1] + ai * before[0]
        d = bk * drive[t]
        assert (int(row["P"]), int(row["D"])) == (product, d)
        if order == "joint":
            acc = m_a * product + m_b * d
            exact = Fraction(acc, 2**shift)
            assert (int(row["acc"]), int(row["rounded"])) == (acc, round(exact))
            assert float(row["acc / 2^shift"]) == pytest.approx(float(exact), abs=1e-4)
            kept = clamp(round(exact), -20, 24)
            assert (exact.denominator == 2) == ("tie" in row[""])
            assert (kept != round(exact)) == ("saturates" in row[""])
        else:
            exact_a, exact_b = Fraction(m_a * product, 2**shift), Fraction(m_b * d, 2**shift_b)
            assert (int(row["m_a P"]), int(row["m_b D"])) == (m_a * product, m_b * d)
            assert float(row["/ 2^shift"]) == pytest.approx(float(exact_a), abs=1e-4)
            assert float(row["/ 2^shift_b"]) == pytest.approx(float(exact_b), abs=1e-4)
            big_a, big_b = (clamp(round(v), -20, 24) for v in (exact_a, exact_b))
            assert [int(row[k]) for k in ("A", "B", "A + B")] == [big_a, big_b, big_a + big_b]
            kept = clamp(big_a + big_b, -20, 24)
            assert (2 in (exact_a.denominator, exact_b.denominator)) == ("tie" in row[""])
            assert (kept != big_a + big_b) == ("sum saturates" in row[""])
            assert (big_b != round(exact_b)) == ("b u = " in row[""])
        assert int(row["x'"]) == kept
        x[t, n, part] = kept
        saturated += "saturates" in row[""]

    full = plan(order)
    last, overflow = None, [0, 0]
    for t, row in enumerate(TABLES[ROUNDING_PLACEMENTS[order][1]]):
        u = np.array([[[int(TABLES["E3"][t]["u"])]]])
        y, last, lost = scan_codes(full, u, *(coefficients(n) for n in "abc"), last)
        stored = [[x[str(t), n, k] for k in ("re", "im")] for n in "01"]
        assert (last[0, 0] - full.zero("x")[0, :, None]).tolist() == stored
        assert y.item() == int(row["y"])
        overflow = [overflow[0] + int(lost.state[0]), overflow[1] + int(lost.output[0])]
    assert overflow == [saturated, 1] == [2, 1]


@pytest.mark.parametrize("order", ["joint", "separate"])
def test_outputs(order: str) -> None:
    p = next(row for row in TABLES["E4"] if row["order"] == order)
    c = [(int(r["re'"]), int(r["im'"])) for r in TABLES["E2"] if r["tensor"] == "c"]
    states = TABLES[ROUNDING_PLACEMENTS[order][0]]
    for row in TABLES[ROUNDING_PLACEMENTS[order][1]]:
        x = [int(r["x'"]) for r in states if r["t"] == row["t"]]  # state 0 re, im, state 1 re, im
        real = [c[n][0] * x[2 * n] - c[n][1] * x[2 * n + 1] for n in (0, 1)]
        total = sum(int(p[f"m_c, state {n}"]) * real[n] for n in (0, 1))
        exact = Fraction(int(p["m_y"]) * total, 2 ** int(p["shift_y"]))
        assert [int(row[f"Re(c' x'), state {n}"]) for n in (0, 1)] == real
        assert (int(row["sum"]), int(row["m_y sum"])) == (total, int(p["m_y"]) * total)
        assert float(row["/ 2^shift_y"]) == float(exact)
        assert int(row["rounded + z_y"]) == round(exact) - 4
        assert int(row["y"]) == clamp(round(exact) - 4, -16, 15)
        assert float(row["real value"]) == 0.5 * (int(row["y"]) + 4)
        assert (row["y"] != row["rounded + z_y"]) == (row[""] == "saturates")


def test_the_orders_differ_where_the_page_says() -> None:
    joint, separate = ([int(row["y"]) for row in TABLES[name]] for name in ("E6", "E8"))
    assert [(t, *y) for t, y in enumerate(zip(joint, separate, strict=True)) if y[0] != y[1]] == [(3, 6, 5)]
    assert "At t = 3 the orders differ in y: 6 and 5." in PAGE.read_text("utf-8")


@pytest.mark.parametrize("order", ["joint", "separate"])
def test_complex_input(order: str) -> None:
    # Every row from the rows before it, in Python's integers, then the states from the oracle.
    full = plan_scan(replace(formats(order), c=None, y=None), 1, 1, complex_drive=True)
    p = next(row for row in TABLES["S1"] if row["order"] == order)
    m_a, m_b, shift, shift_b = (int(p[k]) for k in ("m_a", "m_b", "shift", "shift_b"))
    for name in ("m_a", "m_b", "shift", "shift_b"):
        assert getattr(full, name).tolist() == [[int(p[name])]]
    drive = m_b * 2 * 17 * 35 if order == "joint" else 0
    widest = m_a * 2 * 33 * 24 + drive + 2 ** (shift - 1)
    assert full.word == int(p["W"])
    assert widest == int(p["largest word"]) < 2**31 < 2 * widest
    (ar, ai), (br, bi) = (
        next((int(r["re'"]), int(r["im'"])) for r in TABLES["E2"] if r["tensor"] == n and r["state"] == "0")
        for n in "ab"
    )
    rows = TABLES["S2" if order == "joint" else "S3"]
    x, saturated = [0, 0], 0
    for t in range(3):
        pair = rows[2 * t : 2 * t + 2]
        assert [(row["t"], row["part"]) for row in pair] == [(str(t), "re"), (str(t), "im")]
        vr, vi = (int(row["v'"]) for row in pair)
        products = ar * x[0] - ai * x[1], ar * x[1] + ai * x[0]
        drives = br * vr - bi * vi, br * vi + bi * vr
        x = []
        for row, product, d in zip(pair, products, drives, strict=True):
            assert (int(row["P"]), int(row["D"])) == (product, d)
            if order == "joint":
                exact = Fraction(m_a * product + m_b * d, 2**shift)
                assert (int(row["acc"]), int(row["rounded"])) == (m_a * product + m_b * d, round(exact))
                assert float(row["acc / 2^shift"]) == pytest.approx(float(exact), abs=1e-4)
                kept, lost = clamp(round(exact), -20, 24), round(exact)
            else:
                parts = Fraction(m_a * product, 2**shift), Fraction(m_b * d, 2**shift_b)
                for title, v in zip(("m_a P / 2^shift", "m_b D / 2^shift_b"), parts, strict=True):
                    assert float(row[title]) == pytest.approx(float(v), abs=1e-4)
                big = [clamp(round(v), -20, 24) for v in parts]
                assert [int(row[k]) for k in ("A", "B", "A + B")] == [*big, sum(big)]
                kept = clamp(sum(big), -20, 24)
                lost = kept if [round(v) for v in parts] == big and kept == sum(big) else None
            assert (kept != lost) == ("saturates" in row[""])
            assert (int(row["x'"]), int(row["x"])) == (kept, kept - 12)
            saturated += "saturates" in row[""]
            x.append(kept)
    v = np.array([[[[int(r["v'"]) + 3 for r in rows if r["part"] == part]] for part in ("re", "im")]])
    out, last, overflow = state_codes(full, v, coefficients("a")[0, :1], coefficients("b")[0, :1])
    assert out[0, :, 0].tolist() == [[int(r["x"]) for r in rows if r["part"] == part] for part in ("re", "im")]
    assert last[0, 0].tolist() == [k - 12 for k in x]
    assert overflow.state.tolist() == [saturated] == [1]
