"""The shipped cells and designs load and cite every number; a wrong TOML is one clear error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from imc_ssm.analog import Cell, Design, load_cell, load_design
from imc_ssm.analog.schema import _PLAIN
from imc_ssm.devices import device_names, device_path
from imc_ssm.errors import ConfigError, DesignError, FileError


def _raw(kind: Any, name: str) -> dict[str, Any]:
    return tomllib.loads(device_path(kind, name).read_text(encoding="utf-8"))


def _changed(data: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """`data` with one field changed (None: left out); a cited number keeps its unit and source."""
    old = data.get(field)
    if value is None:
        return {key: kept for key, kept in data.items() if key != field}
    return {**data, field: {**old, "value": value} if isinstance(old, dict) and "unit" in old else value}


@pytest.mark.parametrize("name", device_names("cells"))
def test_every_shipped_cell_loads_and_cites(name: str) -> None:
    cell = load_cell(name)
    assert cell.name == name
    assert "doi" in cell.source or "arXiv" in cell.source
    for field, value in _raw("cells", name).items():
        if not isinstance(value, str):  # numbers come only inside tables with a source
            assert isinstance(value, dict), field
            source = value["source"]
            assert source.startswith("assumed: ") or "doi:" in source or "arXiv:" in source, field


@pytest.mark.parametrize("name", device_names("designs"))
def test_every_shipped_design_loads_and_cites(name: str) -> None:
    design = load_design(name)
    assert design.name == name
    assert set(design.sources) == set(_PLAIN)
    for field, source in design.sources.items():
        assert source.startswith("assumed: ") or "doi:" in source, field
    plain = {field for field, value in _raw("designs", name).items() if isinstance(value, int | float)}
    assert plain == set(_PLAIN)
    assert design.load_cell().g_max.value > design.load_cell().g_min.value


def test_both_kinds_ship() -> None:
    assert {load_design(name).load_cell().kind for name in device_names("designs")} == {"pcm", "reram"}
    assert len(device_names("designs")) >= 2


def test_json_round_trip() -> None:
    design = load_design("pcm-256")
    assert Design.from_json(design.to_json()) == design
    cell = load_cell("reram-cmo-falcone")
    assert Cell.from_json(cell.to_json()) == cell


def test_unknown_names_point_to_the_nearest() -> None:
    with pytest.raises(DesignError, match="did you mean 'pcm-nandakumar-2019'"):
        load_cell("pcm-nandakumar-2018")
    with pytest.raises(DesignError, match="did you mean 'reram-128'"):
        load_design("reram-127")
    with pytest.raises(DesignError, match=r"no file nowhere\.toml"):
        load_design("nowhere.toml")


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("pcm-nandakumar-2019", "g_min", 25e-6, "'g_max'.*must exceed g_min"),
        ("pcm-nandakumar-2019", "g_mx", 1.0, "did you mean 'g_max'"),
        ("pcm-nandakumar-2019", "t_0", 0.0, "'t_0'.*must be positive"),
        ("pcm-nandakumar-2019", "t_0", None, "'t_0'.*needs it"),
        ("pcm-nandakumar-2019", "drift_scale", -1.0, "'drift_scale'.*allowed is at least 0"),
        ("reram-cmo-falcone", "acceptance_range", 0.01, "'acceptance_range'.*measured are"),
        ("reram-cmo-falcone", "levels", 1, "'levels'.*at least 2"),
        ("reram-cmo-falcone", "v_read", -0.2, "'v_read'.*outside"),
        ("reram-wan-2022", "g_max", 25e-6, "'g_max'.*fitted for"),
        ("reram-wan-2022", "read_scale", 0.5, "use programming_scale"),
        (
            "reram-wan-2022",
            "times",
            {"earliest": 1.0, "latest": 9.0, "source": "assumed: x"},
            "these times only",
        ),
    ],
)
def test_wrong_cell_fields_are_one_line(name: str, field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Cell.parse(_changed(_raw("cells", name), field, value), where="my.toml")
    assert str(caught.value).startswith("my.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 0),
        ("columns", 0),
        ("dac_bits", 17),
        ("dac_bits", 1),
        ("adc_bits", 0),
        ("tiles", 0),
        ("columns_per_adc", 257),
        ("read_noise", -0.1),
        ("drift_compensation", "local"),
        ("sources", {"clock": "twice"}),
    ],
)
def test_unphysical_designs_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=repr(field)):
        Design.parse(_changed(_raw("designs", "pcm-256"), field, value))


def test_unit_must_be_si() -> None:
    raw = _raw("cells", "pcm-nandakumar-2019")
    raw["g_max"] = {**raw["g_max"], "value": 25.0, "unit": "uS"}
    with pytest.raises(ConfigError, match="unit is 'uS', give the value in 'S'"):
        Cell.parse(raw)


def test_a_design_finds_its_cell_beside_it(tmp_path: Path) -> None:
    cell = device_path("cells", "pcm-nandakumar-2019").read_text(encoding="utf-8")
    design = device_path("designs", "pcm-256").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(cell.replace("25e-6", "20e-6"), encoding="utf-8")
    path = tmp_path / "chip.toml"
    path.write_text(design.replace('"pcm-nandakumar-2019"', '"mine.toml"'), encoding="utf-8")
    assert load_design(path).load_cell().g_max.value == 20e-6
    path.write_text("name = [", encoding="utf-8")
    with pytest.raises(FileError, match="not valid TOML"):
        load_design(path)


def test_times_outside_the_model_name_the_allowed_ones() -> None:
    wan = load_cell("reram-wan-2022")
    with pytest.raises(DesignError, match="only at 1 s, 86400 s, 172800 s after programming, not at 3600 s"):
        wan.check_time(3600)
    assert wan.check_time(86400) == 86400.0
    cmo = load_cell("reram-cmo-falcone")
    for time in (0.0, -1.0, float("nan"), 1e12):
        with pytest.raises(DesignError, match="use a time from 1 to"):
            cmo.check_time(time)
