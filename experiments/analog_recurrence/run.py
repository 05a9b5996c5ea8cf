"""The whole recurrence on crossbars against the digital unit: accuracy over bits and noise, and both costs.

    python experiments/analog_recurrence/run.py [digits] [smnist] [smnist:noise] ... | report

Each number that is found is kept at once in `results/found.jsonl`: the same command goes on where it stopped. Then
`results/analog_recurrence.nc` and the figure of docs/ are made. 1,000 drawn test images of sMNIST (360 of the
digits), three chips where something is drawn: about twenty minutes on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import imc_ssm
from imc_ssm.chip import Deployment, compile
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import Chip, load_design, resolve
from imc_ssm.layers import S4D, Classifier, ModelConfig
from imc_ssm.modelfile import load_model, save_model
from imc_ssm.pretrained import pretrained_path
from imc_ssm.quantization import Scheme, quantize
from imc_ssm.results import provenance, save
from imc_ssm.study import initial_steps
from imc_ssm.training import TrainConfig, metrics, train

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TASKS = ("digits", "smnist")
HOW = ("analog", "digital", "packed")
"""One head a tile, the digital unit, and as many heads on a tile as fit."""
BITS = (6, 7, 8, 9, 10, 11, 12, 14, 16)
PRICED = (6, 8, 10)
"""Converters that the component table has; the others are ideal ones, without a price."""
SCALES = (1 / 64, 1 / 16, 1 / 4, 1.0)
"""Of the noise of the PCM chip: read noise 0.04, programming noise of Nandakumar et al. 2019."""
AMONG = 12
"""Bits of the converters where noise is varied."""
CHIPS = (0, 1, 2)
UNIT = {"poles": 12, "state": 16}
"""Words of the digital unit where nothing else is said; 8 bits for activations, B, C, D and matrices."""
SEQUENCES = 1000


def chip_of(bits: int, *, read: float = 0.0, programming: float = 0.0, priced: bool = False) -> Chip:
    """The PCM chip with other converters and a share of its noise."""
    design = load_design("pcm-256")
    kinds = {"dac": "capacitive", "adc": "sar"} if priced else {"dac": "ideal", "adc": "ideal"}
    noise = design.read_noise.with_(value=read * design.read_noise.value)
    chip = resolve(design.with_(**{k: {"type": t, "bits": bits} for k, t in kinds.items()}, read_noise=noise))
    return chip.with_(cell=chip.cell.with_(programming_scale=programming))


def model_of(task: str, data: SequenceDataset) -> Classifier:
    """The shipped model of sMNIST, or one of 8 heads and 16 complex states trained on the digits."""
    if task == "smnist":
        return load_model(pretrained_path("s4d-16h")).model
    path = HERE / "models" / "digits-8h.safetensors"
    if not path.exists():
        dt_min, dt_max = initial_steps(data.time)
        torch.manual_seed(0)
        model = Classifier(ModelConfig(heads=8, n_state=32, dt_min=dt_min, dt_max=dt_max))
        train(model, data, TrainConfig(epochs=25, batch=25, learning_rate=1e-2))
        path.parent.mkdir(exist_ok=True)
        save_model(path, model)
    return load_model(path).model


class Ledger:
    """Numbers by what they are of, kept as they are found."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, dict[str, dict[str, float]]()
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self.found[entry["key"]] = entry["value"]

    def get(self, key: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        if key not in self.found:
            self.found[key] = make()
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "value": self.found[key]}) + "\n")
            print(key, self.found[key], flush=True)
        return self.found[key]


class Task:
    """A task with its model, quantized in several ways, and the sequences that all see."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name, self.ledger = name, ledger
        self.data = imc_ssm.load_dataset(name)
        self.model = model_of(name, self.data)
        test = self.data.split("test")
        self.part = test if len(test) <= SEQUENCES else test.sample(SEQUENCES, np.random.default_rng(0))
        self._made: dict[str, Classifier] = {}

    def quantized(self, unit: dict[str, int]) -> Classifier:
        key = json.dumps(unit)
        if key not in self._made:
            self._made[key] = quantize(self.model, Scheme.parse({"bits": unit}), self.data)
        return self._made[key]

    def place(self, chip: Chip, how: str, unit: dict[str, int] = UNIT) -> Deployment:
        many = {"packed": 3 if self.name == "smnist" else 7}.get(how, 1)
        where: Any = {"recurrence": "digital" if how == "digital" else "analog", "heads_per_tile": many}
        return compile(self.quantized(unit), chip, self.data, **where, name=self.name)

    def accuracy(self, placed: Deployment, chip: int | None = None, time: float | None = None) -> dict[str, float]:
        """Of the ideal chip, or of one that is programmed."""
        model, tiles = placed.analog()
        for tile in tiles if chip is not None else ():
            tile.program(0, chip)
            if time is not None:
                tile.set_time(time)
        return {"accuracy": float(metrics(model, self.part)["accuracy"])}

    def run(self) -> None:
        """Everything, the short parts first."""
        self.costs()
        self.bits()
        self.chips()
        self.noise()

    def costs(self) -> None:
        """With the converters that have a price."""
        for how in HOW:
            for bits in PRICED:
                self.keep(f"cost/{how}/{bits}", lambda h=how, b=bits: self._cost(h, b))

    def bits(self) -> None:
        """No noise: full precision, and converters of so many bits with a digital unit of words of as many."""
        self.keep("float", lambda: {"accuracy": float(metrics(self.model, self.part)["accuracy"])})
        for how in HOW[:2]:
            for bits in BITS:
                unit = UNIT if how == "analog" else {"poles": bits, "state": bits}
                self.keep(
                    f"bits/{how}/{bits}",
                    lambda h=how, b=bits, u=unit: self.accuracy(self.place(chip_of(b), h, u)),
                )

    def chips(self) -> None:
        """All noise of the PCM chip, a second after programming; packed heads, which take long, on the digits."""
        for how in HOW if self.name == "digits" else HOW[:2]:
            for bits in PRICED[1:]:
                whole = chip_of(bits, read=1.0, programming=1.0, priced=True)
                for chip in CHIPS:
                    self.keep(
                        f"chip/{how}/{bits}/{chip}",
                        lambda h=how, w=whole, c=chip: self.accuracy(self.place(w, h), c, 1.0),
                    )

    def noise(self) -> None:
        """One noise at a time, as programmed."""
        for kind in ("read", "programming"):
            for scale in SCALES:
                for how in ("digital", "analog"):
                    noisy = chip_of(AMONG, **{kind: scale})
                    for chip in CHIPS:
                        self.keep(
                            f"{kind}/{how}/{scale:g}/{chip}",
                            lambda h=how, n=noisy, c=chip: self.accuracy(self.place(n, h), c),
                        )

    def keep(self, key: str, make: Callable[[], dict[str, float]]) -> None:
        self.ledger.get(f"{self.name}/{key}", make)

    def _cost(self, how: str, bits: int) -> dict[str, float]:
        ds = cost(self.place(chip_of(bits, read=1.0, programming=1.0, priced=True), how))
        names = ("energy_total", "latency_total", "area_total", "memory_total", "tiles", "devices")
        parts = {f"energy {c}": float(ds["energy"].sel(component=c)) for c in ds["component"].values}
        return {name: float(ds[name]) for name in names} | parts

    def memory(self) -> np.ndarray[Any, Any]:
        """1 / (1 - |a|) of all states, in steps."""
        layers = [m for m in self.model.modules() if isinstance(m, S4D)]
        with torch.no_grad():
            size = torch.cat([layer.discrete()[0].abs().flatten() for layer in layers]).double()
        return (1 / (1 - size)).numpy()


PRICES = {"energy": "J", "latency": "s", "area": "m2", "memory": "bit"}
LABELS = {
    "energy": "Energy per inference",
    "latency": "Serial time per inference",
    "area": "Silicon area",
    "memory": "Digital memory",
}


def dataset(ledger: Ledger, tasks: list[Task]) -> xr.Dataset:
    """What the ledger has, NaN where nothing is found yet."""

    def value(key: str, name: str = "accuracy") -> float:
        return ledger.found.get(key, {}).get(name, np.nan)

    names = [task.name for task in tasks]
    ds = xr.Dataset(
        coords={
            "task": names,
            "recurrence": list(HOW),
            "bits": ("bits", list(BITS), {"units": "bit", "long_name": "Bits of the converters"}),
            "scale": ("scale", list(SCALES), {"units": "1", "long_name": "Share of the PCM chip's noise"}),
            "noise": ["read", "programming"],
            "chip": list(CHIPS),
            "quantile": [0.0, 0.5, 0.9, 1.0],
        }
    )
    percent = {"units": "percent"}
    ds["n_test"] = ("task", [len(task.part) for task in tasks], {"units": "1", "long_name": "Test sequences"})
    ds["accuracy_float"] = (
        "task",
        [value(f"{t}/float") for t in names],
        {**percent, "long_name": "Accuracy in full precision"},
    )
    ds["accuracy_bits"] = (
        ("task", "recurrence", "bits"),
        [[[value(f"{t}/bits/{h}/{b}") for b in BITS] for h in HOW] for t in names],
        {**percent, "long_name": "Accuracy without noise (digital: poles and state of these bits)"},
    )
    ds["accuracy_noise"] = (
        ("task", "noise", "recurrence", "scale", "chip"),
        [
            [
                [[[value(f"{t}/{k}/{h}/{s:g}/{c}") for c in CHIPS] for s in SCALES] for h in HOW]
                for k in ("read", "programming")
            ]
            for t in names
        ],
        {**percent, "long_name": f"Accuracy with one noise and {AMONG}-bit converters"},
    )
    ds["accuracy_chip"] = (
        ("task", "recurrence", "bits", "chip"),
        [[[[value(f"{t}/chip/{h}/{b}/{c}") for c in CHIPS] for b in BITS] for h in HOW] for t in names],
        {**percent, "long_name": "Accuracy of PCM chips, 1 s after programming"},
    )
    for name, units in PRICES.items():
        ds[name] = (
            ("task", "recurrence", "bits"),
            [[[value(f"{t}/cost/{h}/{b}", f"{name}_total") for b in BITS] for h in HOW] for t in names],
            {"units": units, "long_name": LABELS[name]},
        )
    for name, label in (("tiles", "Tiles in use"), ("devices", "Memristive devices in use")):
        ds[name] = (
            ("task", "recurrence", "bits"),
            [[[value(f"{t}/cost/{h}/{b}", name) for b in BITS] for h in HOW] for t in names],
            {"units": "1", "long_name": label},
        )
    ds["memory_steps"] = (
        ("task", "quantile"),
        [np.quantile(task.memory(), ds["quantile"].values) for task in tasks],
        {"units": "1", "long_name": "1 / (1 - |a|) of the states, steps"},
    )
    config = {"unit": UNIT, "among": AMONG, "sequences": SEQUENCES, "design": "pcm-256"}
    ds.attrs = {"title": "The whole recurrence on crossbars and in the digital unit", **provenance(config, 0)}
    return ds


COLOURS = {"digits": ("tab:orange", "digits"), "smnist": ("tab:blue", "sMNIST")}


def figure(ds: xr.Dataset, path: Path) -> None:
    """Accuracy over converter bits, and over noise; the digital unit beside."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    fig, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", sharey=True)
    for task in ds["task"].values:
        one, colour = ds.sel(task=task), COLOURS[str(task)][0]
        for how, line in (("analog", "-"), ("digital", "--")):
            of = one.sel(recurrence=how)
            axes[0].plot(ds["bits"], of["accuracy_bits"], line, color=colour, marker=".", markersize=9)
            for noise, marker in (("read", "o"), ("programming", "s")):
                chips = of["accuracy_noise"].sel(noise=noise)
                mean = chips.mean("chip")
                ends = [mean - chips.min("chip"), chips.max("chip") - mean]
                filled = colour if noise == "read" else "white"
                axes[1].errorbar(
                    ds["scale"], mean, ends, fmt=line + marker, color=colour, markerfacecolor=filled, capsize=3
                )
    axes[0].set_xlabel("converters (digital unit: poles and state too), bit")
    axes[0].set_ylabel("accuracy, %")
    axes[0].set_title("without noise")
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(ds["scale"].values, [f"1/{round(1 / s)}" if s < 1 else "1" for s in ds["scale"].values])
    axes[1].set_xlabel("one noise, as a share of the PCM chip's")
    axes[1].set_title(f"{AMONG}-bit converters, mean and range of chips")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_ylim(0, 102)
    handles = [Line2D([], [], color=c, lw=4, label=name) for c, name in COLOURS.values()]
    handles += [
        Line2D([], [], color="black", ls="-", label="analog recurrence"),
        Line2D([], [], color="black", ls="--", label="digital unit"),
        Line2D([], [], color="black", ls="", marker="o", label="read noise"),
        Line2D([], [], color="black", ls="", marker="s", markerfacecolor="white", label="programming noise"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=6)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def tables(ds: xr.Dataset) -> list[str]:
    """Lines of the page's tables."""
    words = {"analog": "analog, a head a tile", "packed": "analog, heads packed", "digital": "digital unit"}
    lines = []
    for task in ds["task"].values:
        for bits in PRICED[1:]:
            for how in ("digital", "analog", "packed"):
                one = ds.sel(task=task, recurrence=how, bits=bits)
                chips = one["accuracy_chip"]
                spread = f"{float(chips.mean()):.1f} ({float(chips.min()):.1f} to {float(chips.max()):.1f})"
                if (many := int(chips.notnull().sum())) < ds.sizes["chip"]:
                    spread = f"{float(chips.mean()):.1f} ({many} chip{'s'[: many > 1]})" if many else "-"
                nj, us, mm2 = float(one["energy"]) * 1e9, float(one["latency"]) * 1e6, float(one["area"]) * 1e6
                cells = (COLOURS[str(task)][1], words[how], bits, f"{nj:.0f}", f"{us:.1f}", f"{mm2:.2f}")
                lines.append("| " + " | ".join(map(str, (*cells, round(float(one["tiles"])), spread))) + " |")
    for task in ds["task"].values:
        for how in ("digital", "analog"):
            found = ds["accuracy_bits"].sel(task=task, recurrence=how).values
            cells = [COLOURS[str(task)][1], words[how], *(f"{value:.1f}" for value in found)]
            lines.append("| " + " | ".join(cells) + " |")
    for task in ds["task"].values:
        for noise in ds["noise"].values:
            for how in ("digital", "analog"):
                found = ds["accuracy_noise"].sel(task=task, recurrence=how, noise=noise).mean("chip").values
                cells = [COLOURS[str(task)][1], noise, words[how]]
                cells += ["-" if np.isnan(value) else f"{value:.1f}" for value in found]
                lines.append("| " + " | ".join(cells) + " |")
    return lines


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    ledger = Ledger(RESULTS / "found.jsonl")
    for name in [] if names == ["report"] else names or TASKS:
        task, _, part = name.partition(":")
        getattr(Task(task, ledger), part or "run")()
    ds = dataset(ledger, [Task(name, ledger) for name in TASKS])
    save(ds, RESULTS / "analog_recurrence.nc")
    figure(ds, HERE.parents[1] / "docs" / "analog_recurrence.png")
    print("\n".join(tables(ds)))


if __name__ == "__main__":
    main(sys.argv[1:])
