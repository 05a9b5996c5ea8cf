"""The shipped cells and designs load and cite every number; a wrong TOML is one clear error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from imc_ssm.devices import (
    CELLS,
    Chip,
    Design,
    device_names,
    device_path,
    load_cell,
    load_design,
    parse_cell,
    resolve,
)
from imc_ssm.devices.designs import PLAIN
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
    assert cell.source.startswith("assumed: ") or "doi" in cell.source or "arXiv" in cell.source
    for field, value in _raw("cells", name).items():
        if not isinstance(value, str):  # numbers come only inside tables with a source
            assert isinstance(value, dict), field
            if field == "arguments":  # of a model of aihwkit: the source of the cell is theirs
                continue
            for part in [value] if "source" in value else value.values():  # a drift has several numbers
                source = part["source"]
                assert source.startswith("assumed: ") or "doi:" in source or "arXiv:" in source, field
                if source.startswith("assumed: see "):
                    assert source.split()[2].rstrip(";") in _raw("cells", name), field


@pytest.mark.parametrize("name", device_names("designs"))
def test_every_shipped_design_loads_and_cites(name: str) -> None:
    design = load_design(name)
    assert design.name == name
    assert set(design.sources) == set(PLAIN)
    for field, source in design.sources.items():
        assert source.startswith("assumed: ") or "doi:" in source, field
    raw = _raw("designs", name).items()
    assert {f for f, value in raw if isinstance(value, int | float) or "bits" in value} == set(PLAIN)
    cell = resolve(design).cell
    assert cell.g_max.value > cell.g_min.value


def test_both_kinds_ship() -> None:
    assert {resolve(name).cell.kind for name in device_names("designs")} == {"pcm", "reram"}
    assert len(device_names("designs")) >= 2


def test_json_round_trip() -> None:
    design = load_design("pcm-256")
    assert Design.from_json(design.to_json()) == design
    cell = load_cell("reram-cmo-falcone")
    assert type(cell).from_json(cell.to_json()) == cell
    for name in device_names("designs"):
        chip = resolve(name)
        assert Chip.from_json(chip.to_json()) == chip
        assert resolve(chip) is chip


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
        ("pcm-nandakumar-2019", "t_0", None, "'t_0'.*Field required"),
        ("pcm-nandakumar-2019", "drift_scale", -1.0, "'drift_scale'.*allowed is at least 0"),
        ("reram-cmo-falcone", "acceptance_range", 0.01, "'acceptance_range'.*measured are"),
        ("reram-cmo-falcone", "levels", 1, "'levels'.*at least 2"),
        ("reram-cmo-falcone", "v_read", -0.2, "'v_read'.*outside"),
        ("reram-wan-2022", "g_max", 41e-6, "g_max = 41 uS is outside the 1 to 40 uS .* fitted for"),
        ("reram-wan-2022", "read_scale", 0.5, "unknown field 'read_scale'"),
        ("reram-wan-2022", "t_0", 20.0, "unknown field 't_0'"),
        ("pcm-nandakumar-2019", "acceptance_range", 0.02, "unknown field 'acceptance_range'"),
        ("pcm-nandakumar-2019", "model", "pcm-lik", "unknown cell model 'pcm-lik'; did you mean 'pcm-like'"),
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
        parse_cell(_changed(_raw("cells", name), field, value), where="my.toml")
    assert str(caught.value).startswith("my.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 0),
        ("columns", 0),
        ("dac", {"type": "capacitive", "bits": 17}),
        ("dac", {"type": "capacitive"}),
        ("adc", {"type": "sar", "bits": 0}),
        ("adc", "sar-8b"),
        ("adc_bits", 8),
        ("tiles", 0),
        ("columns_per_adc", 257),
        ("read_noise", -0.1),
        ("drift_compensation", "local"),
        ("sources", {"clock": "twice"}),
    ],
)
def test_unphysical_designs_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=repr(field)[:-1]):
        Design.parse(_changed(_raw("designs", "pcm-256"), field, value))


def test_unit_must_be_si() -> None:
    raw = _raw("cells", "pcm-nandakumar-2019")
    raw["g_max"] = {**raw["g_max"], "value": 25.0, "unit": "uS"}
    with pytest.raises(ConfigError, match="unit is 'uS', give the value in 'S'"):
        parse_cell(raw)


def test_a_design_finds_what_it_refers_to_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reference is relative to the design's file, wherever it is called from."""
    for folder in ("cells", "tables"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    cell = device_path("cells", "pcm-nandakumar-2019").read_text(encoding="utf-8")
    table = device_path("components", "periphery-32nm").read_text(encoding="utf-8")
    design = device_path("designs", "pcm-256").read_text(encoding="utf-8")
    (tmp_path / "mine/cells/mine.toml").write_text(cell.replace("25e-6", "20e-6"), encoding="utf-8")
    (tmp_path / "mine/tables/mine.toml").write_text(table.replace("0.12820e-12", "2e-12"), encoding="utf-8")
    text = design.replace('"pcm-nandakumar-2019"', '"cells/mine.toml"')
    path = tmp_path / "mine" / "chip.toml"
    path.write_text(text.replace('"periphery-32nm"', '"../mine/tables/mine.toml"'), encoding="utf-8")
    for here, name in ((tmp_path, "mine/chip.toml"), (tmp_path / "mine", "chip.toml"), (Path("/"), str(path))):
        monkeypatch.chdir(here)
        chip = resolve(name)
        assert chip.cell.g_max.value == 20e-6
        assert chip.digital.multiply.energy.value == 2e-12
        assert resolve(load_design(name)) == chip
        assert str(tmp_path) not in chip.to_json()  # where the files lie decides nothing
    path.write_text(text.replace("cells/mine", "cells/yours"), encoding="utf-8")
    with pytest.raises(DesignError, match=r"no file .*yours\.toml"):
        resolve(path)
    path.write_text("name = [", encoding="utf-8")
    with pytest.raises(FileError, match="not valid TOML"):
        resolve(path)


def test_what_does_not_fit_together_is_refused() -> None:
    design = load_design("pcm-256")
    with pytest.raises(DesignError, match="periphery at 14 nm, its component table 'periphery-32nm' is for 32 nm"):
        resolve(design.with_(node=design.node.with_(value=14e-9)))
    with pytest.raises(DesignError, match="unknown component table"):
        resolve(design.with_(components="periphery-7nm"))
    with pytest.raises(DesignError, match="unknown sample-and-hold"):
        resolve(design.with_(sample_hold="hold"))
    with pytest.raises(DesignError, match="'capacitive-brahms' has no numbers at 1 bits"):
        resolve(design.with_(dac={"type": "capacitive-brahms", "bits": 1}))
    with pytest.raises(ConfigError, match="at least 2 bits"):
        resolve(design.with_(dac={"type": "capacitive", "bits": 1}))
    with pytest.raises(ConfigError, match="at least 2 bits"):
        resolve(design.with_(dac={"type": "ideal", "bits": 1}))


def test_a_resolution_cannot_stand_in_two_places() -> None:
    chip = resolve("pcm-256")
    with pytest.raises(ConfigError, match="its adc is not the design's 'sar' of 8 bits; resolve again"):
        chip.with_(adc=chip.adc.with_(bits=6))


def test_the_fields_of_older_designs_are_refused_with_their_new_form() -> None:
    raw = _raw("designs", "pcm-256")
    with pytest.raises(ConfigError) as caught:
        Design.parse(raw | {"adc_bits": 6}, where="my.toml")
    assert str(caught.value) == (
        "my.toml: field 'adc_bits' is gone, a converter owns its resolution; "
        'write adc = { type = "sar", bits = 6 }'
    )
    with pytest.raises(ConfigError, match=r'give type and resolution: dac = { type = "capacitive", bits = 8 }'):
        Design.parse(raw | {"dac": "dac-8b"})


def test_every_model_of_a_cell_ships() -> None:
    assert {_raw("cells", name)["model"] for name in device_names("cells")} == set(CELLS)


def test_times_outside_the_model_name_the_allowed_ones() -> None:
    wan = load_cell("reram-wan-2022")
    with pytest.raises(DesignError, match="only at 1 s, 86400 s, 172800 s after programming, not at 3600 s"):
        wan.check_time(3600)
    assert wan.check_time(86400) == 86400.0
    cmo = load_cell("reram-cmo-falcone")
    for time in (0.0, -1.0, float("nan"), 1e12):
        with pytest.raises(DesignError, match="use a time from 1 to"):
            cmo.check_time(time)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "wires",
            {"row": 1.0, "column": 1.0},
            r"'wires.row' = 1.0: give its fields, \{ value = ...",
        ),
        ("slicing", 2, r"'slicing' = 2: give its fields, \{ cells = ..., bits = ... \}"),
        ("slicing", {"cell": 2, "bits": 4}, "unknown field 'cell'; did you mean 'cells'"),
        ("read_noise", 0.04, r"'read_noise' = 0.04: give its fields, \{ value = ..., unit = ..., source = ... \}"),
    ],
)
def test_a_number_in_place_of_fields_says_which(field: str, value: Any, said: str) -> None:
    data = load_design("pcm-256").model_dump() | {field: value}
    with pytest.raises(ConfigError, match=said):
        Design.parse(data)
