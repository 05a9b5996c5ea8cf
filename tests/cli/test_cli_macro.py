"""`imc-ssm cost --macro`: shipped macros, one's own, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cli_runs import done, run

from imc_ssm import results
from imc_ssm.devices import device_path

TABLE: dict[str, Any] = {
    "name": "own",
    "device": "reram",
    "rows": 128,
    "columns": 64,
    "node": 40e-9,
    "in_bits": 4,
    "weight_bits": 4,
    "out_bits": 6,
    "adc": "sar",
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(tomli_w.dumps(TABLE), encoding="utf-8")
    return path


def test_own_macro(own: Path, tmp_path: Path) -> None:
    said = " ".join(done("cost", "--macro", own, "--out", tmp_path / "own.nc").out.split())
    for words in ("energy per product", "TOPS/W", "not given, so by default:", "read_voltage"):
        assert words in said
    ds = results.load(tmp_path / "own.nc")
    assert float(ds["macs"]) == 128 * 64
    assert ds["energy_total"].attrs["units"] == "J"


def test_published() -> None:
    said = done("cost", "--macro", "hermes", "--published").out
    for line in ("energy per product", "throughput by area", "predicted / published"):
        assert f" {line} " in said  # also where the terminal is narrow
    for words in ("10.5 TOPS/W", "12.5 nJ", "Khaddam-Aljameh"):
        assert words in said
    assert "12.5 nJ" not in done("cost", "--macro", "hermes").out


def test_own_constants(tmp_path: Path) -> None:
    """Those of one's own take the place of the shipped ones."""
    text = (
        '[cco_power]\nvalue = 1e-3\nlow = 1e-3\nhigh = 1e-3\nunit = "W"\n'
        'source = "made up here"\nkind = "cited"\nholds = "this test"\n'
    )
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    for name, options in (("shipped", ()), ("own", ("--constants", tmp_path / "own.toml"))):
        done("cost", "--macro", "hermes", "--out", tmp_path / f"{name}.nc", *options)
    shipped, own = (
        float(results.load(tmp_path / f"{name}.nc")["energy"].sel(component="adc", bound="nominal"))
        for name in ("shipped", "own")
    )
    assert own > 1.5 * shipped


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("--macro", "hermse"), "did you mean 'hermes'?"),
        (("--macro", "none.toml"), "none.toml"),
        (("--macro", "{own}", "--published"), "nothing is published in macro 'own'"),
        (("--macro", "{own}", "--constants", "none.toml"), "none.toml"),
        (("--macro", "{own}", "--design", "pcm-256"), "takes the place of a model"),
        (("--macro", "{design}"), "is a chip design, not a macro"),
        (("--published",), "no model was given"),
        (("s4d-16h", "--published"), "belongs to --macro"),
    ],
)
def test_refused(own: Path, words: tuple[str, ...], naming: str) -> None:
    result = run("cost", *(word.format(own=own, design=device_path("designs", "pcm-256")) for word in words))
    assert result.code == 2
    assert naming in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert result.out == ""


def test_devices_says_what_a_macro_is(own: Path) -> None:
    result = run("devices", own)
    assert result.code == 2
    assert f"own.toml is a macro; imc-ssm cost --macro {own}" in result.err
