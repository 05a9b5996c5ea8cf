"""What each form of the update unit saves of the recurrence's energy at equal accuracy: s4d-16h, no training.

    python experiments/unit/energy.py [images] [rows, as many as the first ...]

The unit of the literature (to nearest, free scales, every head in every step) gets the shortest words of the state
with which the mean accuracy of five trainings is at least `TARGET`; so does every other row, in the same words of
all else. So narrower words are what a row's rounding allows. Energy is that of `imc_ssm.cost` on pcm-256, of the
recurrence alone, per sequence of 784 steps of sMNIST.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

import imc_ssm
from imc_ssm.chip import compile
from imc_ssm.costs import Taken, actions_of, energies
from imc_ssm.datasets import SequenceDataset, Split
from imc_ssm.graph import Recurrence
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import load_model
from imc_ssm.pretrained import model_file
from imc_ssm.quantization import Bits, Scheme, calibration_batch, quantize
from imc_ssm.results import provenance, save
from imc_ssm.training import metrics

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SEEDS = (0, 1, 2, 3, 4)
TARGET = 95.9
"""Mean accuracy of every row, percent."""
CHOSEN = 1000
"""Validation images by which the words are chosen."""
FIRST, LAST = 9, 14
"""Bits of the state that are tried first, and at most."""
COMMON: dict[str, Any] = {
    "pole_form": "log_polar",
    "pole_multiplier_bits": 12,
    "weight_rounding": "outputs",
}
"""Of every row: poles of 8 + 8 stored bits and multipliers of 12, weights fitted, all else of 8 bits."""
BITS = dict.fromkeys(Bits.model_fields, 8)
DITHER: dict[str, Any] = {"rounding": "dithered"}
SLOW: dict[str, Any] = {"rate_limit": 1.5}
SHIFTS: dict[str, Any] = {"scales": "power_of_two", "granularity": "state"}
"""With shifts in place of multipliers every register can have a range of its own for 6 bits."""
ROWS: dict[str, dict[str, Any]] = {
    "to nearest": {},
    "+ dither, narrower words": DITHER,
    "+ slow heads": DITHER | SLOW,
    "+ powers of two": DITHER | SLOW | SHIFTS,
    "slow heads alone": SLOW,
    "powers of two alone": SHIFTS,
    "without dither": SLOW | SHIFTS,
    "without slow heads": DITHER | SHIFTS,
}
"""The steps from the literature's unit to the whole, one after the other; each one alone, and all but it."""
STEPS = tuple(ROWS)[:4]
KINDS = (
    "products",
    "requantization",
    "sums and registers",
    "dither, residuals, sums of inputs",
    "coefficients read",
    "state read and written",
    "activations and bus",
)


def kind(taken: Taken) -> str:
    """What an action is for, one of `KINDS`."""
    action = taken.action
    if (
        action.parallel
        or action.purpose in ("sum of the inputs", "residual")
        or "mix the number" in action.purpose
    ):
        return KINDS[3]
    if "requantize" in action.purpose or action.purpose == "m_a, m_b, m_y":
        return KINDS[1]
    if action.store in ("coefficients", "state"):
        return KINDS[4] if action.store == "coefficients" else KINDS[5]
    if action.store == "activations" or action.verb == "bus":
        return KINDS[6]
    return KINDS[0] if action.verb == "multiply" else KINDS[2]


def scheme(options: dict[str, Any], word: int) -> Scheme:
    """A row's scheme with so many bits for the state."""
    return Scheme.parse({"bits": BITS | {"state": word}} | COMMON | options)


def energy(model: Classifier, data: SequenceDataset) -> tuple[dict[str, float], float]:
    """The recurrence's energy by kind, J, and the share of its updates that are left."""
    placed = compile(model, "pcm-256", *calibration_batch(data, model.config.width, seed=0))
    own = [t for t in actions_of(placed) if isinstance(t.operator, Recurrence)]
    out = dict.fromkeys(KINDS, 0.0)
    for taken, joules in zip(own, energies(placed, own), strict=True):
        out[kind(taken)] += joules
    shares = [op.updates for op in placed.graph if isinstance(op, Recurrence)]
    return out, float(np.mean(shares))


class Found:
    """What is known, kept at once: the same command goes on where it stopped."""

    def __init__(self, path: Path, images: int) -> None:
        self.path, self.images, self.data = path, images, imc_ssm.load_dataset("smnist")
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.models: dict[tuple[str, int], Classifier] = {}
        self.rows: dict[str, Any] = {row.pop("key"): row for row in map(json.loads, lines)}

    def model(self, own: Scheme, seed: int) -> Classifier:
        """A quantized training; the last ones are kept."""
        key = own.model_dump_json(), seed
        if key not in self.models:
            trained = load_model(model_file(f"s4d-16h{f'-seed{seed}' * (seed > 0)}")).model
            self.models[key] = quantize(trained, own, self.data)
            for old in list(self.models)[: -2 * len(SEEDS)]:
                del self.models[old]
        return self.models[key]

    def accuracy(self, own: Scheme, seed: int, part: str, images: int) -> float:
        """On the first so many images of a part, percent."""

        def make() -> dict[str, Any]:
            whole = self.data.split(part)
            split = Split(whole.values[:images], whole.labels[:images], outputs=whole.outputs)
            return {"accuracy": float(metrics(self.model(own, seed), split)["accuracy"])}

        return float(self._kept([own.model_dump(mode="json"), seed, part, images], make)["accuracy"])

    def energy(self, own: Scheme, seed: int) -> dict[str, Any]:
        """By kind, J, and the share of updates that are left."""

        def make() -> dict[str, Any]:
            joules, updates = energy(self.model(own, seed), self.data)
            return {"joules": joules, "updates": updates}

        return dict(self._kept([own.model_dump(mode="json"), seed, "energy"], make))

    def word(self, options: dict[str, Any]) -> int:
        """The shortest state that keeps `TARGET`, the mean of all trainings on `CHOSEN` validation images."""

        def enough(word: int) -> bool:
            own = scheme(options, word)
            mean = np.mean([self.accuracy(own, seed, "validation", CHOSEN) for seed in SEEDS])
            print(f"  {word} bits: {mean:.2f} %", flush=True)
            return bool(mean >= TARGET)

        word = FIRST
        if enough(word):
            while enough(word - 1):
                word -= 1
        else:
            while word < LAST and not enough(word + 1):
                word += 1
            word = min(word + 1, LAST)
        return word

    def _kept(self, what: list[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]
        if key not in self.rows:
            self.rows[key] = make()
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "what": what[1:], **self.rows[key]}) + "\n")
        return dict(self.rows[key])


def dataset(found: Found, count: int) -> xr.Dataset:
    """The first so many rows: words, accuracy and energy by training."""
    ds = xr.Dataset(coords={"row": list(ROWS)[:count], "seed": list(SEEDS), "kind": list(KINDS)})
    words, accuracy, joules, updates = [], [], [], []
    for name, options in list(ROWS.items())[:count]:
        print(name, flush=True)
        word = found.word(options)
        own = scheme(options, word)
        words.append(word)
        accuracy.append([found.accuracy(own, seed, "test", found.images) for seed in SEEDS])
        prices = [found.energy(own, seed) for seed in SEEDS]
        joules.append([[price["joules"][k] for k in KINDS] for price in prices])
        updates.append([price["updates"] for price in prices])
    for variable, dims, values, units, label in (
        ("bits_state", ("row",), words, "bit", "Word length of the state"),
        ("accuracy", ("row", "seed"), accuracy, "%", "Test accuracy"),
        ("energy", ("row", "seed", "kind"), joules, "J", "Energy of the recurrence per sequence"),
        ("updates", ("row", "seed"), updates, "1", "Share of the state updates that are left"),
    ):
        ds[variable] = (dims, np.array(values, float), {"units": units, "long_name": label})
    rows = {name: scheme(options, 8).model_dump(mode="json") for name, options in ROWS.items()}
    config = {"rows": rows, "target": TARGET, "chosen": CHOSEN, "images": found.images}
    ds.attrs = {"title": "Energy of the recurrence by the form of its unit", **provenance(config, 0)}
    return ds


def tables(ds: xr.Dataset) -> list[str]:
    """Every row against the first: words, accuracy, updates, energy, and what the last step saved."""
    total = ds["energy"].sum("kind").mean("seed").values * 1e6
    lines = ["| Unit | State (bits) | Accuracy (%) | Updates (%) | Energy (uJ) | Of the first (%) |"]
    lines.append("|---|---|---|---|---|---|")
    for i, name in enumerate(ds["row"].values):
        row = ds.isel(row=i)
        accuracy = f"{float(row['accuracy'].mean()):.2f} ({float(row['accuracy'].std(ddof=1)):.2f})"
        share = 100 * float(row["updates"].mean())
        cells = (
            f"{int(row['bits_state'])}",
            accuracy,
            f"{share:.0f}",
            f"{total[i]:.2f}",
            f"{100 * total[i] / total[0]:.0f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#8c8c8c")


def figure(ds: xr.Dataset, path: Path) -> None:
    """Bars of energy by kind, with word, accuracy and the share of the first row."""
    mean = ds["energy"].mean("seed") * 1e6
    place = np.arange(ds.sizes["row"])[::-1]
    own = Figure(figsize=(9, 6), layout="constrained")
    ax = own.subplots()
    left = np.zeros(len(place))
    for k, colour in zip(KINDS, COLOURS, strict=True):
        values = mean.sel(kind=k).values
        ax.barh(place, values, left=left, color=colour, label=k, height=0.7)
        left += values
    for i, at in enumerate(place):
        row = ds.isel(row=i)
        text = f"{int(row['bits_state'])} bits, {float(row['accuracy'].mean()):.1f} %, {left[i] / left[0]:.0%}"
        ax.text(left[i] + 0.01 * left.max(), at, text, va="center", fontsize=9)
    ax.set_yticks(place, ds["row"].values)
    ax.axhline(place[len(STEPS) - 1] - 0.5, color="0.6", linewidth=0.8)
    ax.set_xlim(0, 1.32 * left.max())
    ax.set_xlabel("Energy of the recurrence per sequence (uJ)")
    ax.set_title("State word, test accuracy (mean of 5), energy against the first row", fontsize=10)
    own.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    own.savefig(path, dpi=150)


def main(images: int = 10_000, count: int = len(ROWS)) -> None:
    torch.set_num_threads(1)
    ds = dataset(Found(RESULTS / "energy.jsonl", images), count)
    save(ds, RESULTS / "energy.nc")
    figure(ds, RESULTS / "energy.png")
    print("\n".join(tables(ds)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
