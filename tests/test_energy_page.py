"""What `docs/modelled.md` says of the energy that the unit's forms save is what the dataset holds."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from imc_ssm import results

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "modelled.md").read_text(encoding="utf-8")
FOUND = ROOT / "experiments" / "unit" / "results" / "energy.nc"


def rows(ds: xr.Dataset) -> list[str]:
    """The lines of the table: word, accuracy, updates, energy, and that of the first row in percent."""
    total = 1e6 * ds["energy"].sum("kind").mean("seed")
    out = []
    for name in ds["row"].values:
        row = ds.sel(row=name)
        accuracy = f"{float(row['accuracy'].mean()):.2f} ({float(row['accuracy'].std(ddof=1)):.2f})"
        energy = float(total.sel(row=name))
        share = 100 * energy / float(total[0])
        cells = (int(row["bits_state"]), accuracy, f"{100 * float(row['updates'].mean()):.0f}", f"{energy:.2f}")
        out.append(f"| {name} | {' | '.join(map(str, cells))} | {share:.0f} |")
    return out


def test_the_table_is_the_dataset() -> None:
    ds = results.load(FOUND)
    assert ds.sizes["seed"] == 5
    for row in rows(ds):
        assert row in PAGE, row


def test_all_forms_together_save_half() -> None:
    """In the mean of five models, at the first row's accuracy."""
    ds = results.load(FOUND)
    total = ds["energy"].sum("kind")
    share = (total[3] / total[0]).values
    assert total[3].mean() < 0.5 * total[0].mean()
    assert f"By model the last row takes {100 * share.min():.0f} to {100 * share.max():.0f} % of the first" in PAGE
    accuracy = ds["accuracy"].mean("seed").values
    assert abs(accuracy[3] - accuracy[0]) < 0.1
    assert bool((total[:4].mean("seed").diff("row") < 0).all())
