"""The tables of docs/reduction.md, from the datasets in `results`: `python experiments/qs4d/tables.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from imc_ssm import results

RESULTS = Path(__file__).parent / "results"


def _cell(values: xr.DataArray, digits: int = 1) -> str:
    """Mean and deviation over the seeds; empty without numbers."""
    known = values.dropna("seed")
    if not known.size:
        return ""
    spread = f" ({float(known.std(ddof=1)):.{digits}f})" if known.size > 1 else ""
    return f"{float(known.mean()):.{digits}f}{spread}"


def parts() -> list[str]:
    """One part at few bits."""
    found = results.load(RESULTS / "parts.nc")["accuracy"]
    names = [str(part) for part in found["part"].values]
    lines = [f"| bits | training | {' | '.join(names)} |", "|---:|---|" + "---:|" * len(names)]
    for bits in (int(b) for b in found["bits"].values if b < 32):
        for training, word in (("ptq", "calibrated"), ("scratch", "from scratch")):
            row = found.sel(bits=bits, training=training)
            if not bool(row.isnull().all()):
                lines.append(f"| {bits} | {word} | {' | '.join(_cell(row.sel(part=name)) for name in names)} |")
    return lines


def sizes() -> list[str]:
    """Shapes against word lengths."""
    found = results.load(RESULTS / "sizes.nc")["accuracy"]
    lines = [
        "| heads | real states a head | full precision | QAT, 8 bits | QAT, 4 bits |",
        "|---:|---:|---:|---:|---:|",
    ]
    for heads in found["heads"].values:
        for states in found["n_state"].values:
            row = found.sel(heads=heads, n_state=states)
            if not bool(row.isnull().all()):
                cells = " | ".join(_cell(row.sel(bits=bits)) for bits in (32, 8, 4))
                lines.append(f"| {heads} | {states} | {cells} |")
    return lines


def prunable() -> list[str]:
    """What goes within a point of validation accuracy, and what is left without training."""
    ds = results.load(RESULTS / "prunable.nc")
    lines = [
        "| model | states that go, greedy | accuracy | weights that go, greedy | accuracy | 70 % of the states | "
        "50 % of the weights |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for bits in ds["bits"].values:
        cells = []
        for part in ("states", "weights"):
            own = ds.sel(bits=bits, part=part)
            share = own["greedy"]
            cells += [f"{_cell(100 * share, 0)} %", _cell(own["accuracy_greedy"])]
        for part, fraction in (("states", 0.7), ("weights", 0.5)):
            at = int(np.argmin(np.abs(ds["fraction"].values - fraction)))
            cells.append(_cell(ds["accuracy"].sel(bits=bits, part=part).isel(fraction=at)))
        name = "full precision" if bits == 32 else f"QAT, {bits} bits"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print them."""
    for table in (parts, sizes, prunable):
        print("\n".join(table()), end="\n\n")


if __name__ == "__main__":
    main()
