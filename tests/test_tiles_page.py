"""What `docs/tiles.md` says of the variants of a tile is what the study's dataset holds."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from imc_ssm import results

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tiles.md").read_text(encoding="utf-8")


def rows(ds: xr.Dataset) -> list[str]:
    """The lines of the table: accuracy at three times, energy, latency, area."""
    chips = ds["accuracy"].mean("chip")
    mean, spread = chips.mean("seed"), chips.std("seed", ddof=1)
    out = []
    for tile in ds["tile"].values:
        cells = [
            f"{float(mean.sel(tile=tile, time=t)):.2f} ({float(spread.sel(tile=tile, time=t)):.2f})"
            for t in (1.0, 86400.0, 30 * 86400.0)
        ]
        for name, unit, digits in (("energy", 1e9, 1), ("latency", 1e6, 1), ("area", 1e6, 3)):
            total = float(ds[name].sel(tile=tile).sum("component").mean("seed"))
            cells.append(f"{total * unit:.{digits}f}")
        out.append(f"| {tile} | " + " | ".join(cells) + " |")
    return out


def test_the_table_is_the_dataset() -> None:
    ds = results.load(ROOT / "experiments" / "tiles" / "results" / "tiles.nc")
    assert dict(ds.sizes) | {"seed": 5, "chip": 10} == dict(ds.sizes)
    for row in rows(ds):
        assert row in PAGE, row
    table = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and line.endswith(" |") and line.count(" (") == 3
    ]
    assert len(table) == ds.sizes["tile"]
