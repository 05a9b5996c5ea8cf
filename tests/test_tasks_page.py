"""What `docs/data.md` says of gestures and heart beats is what the shipped datasets and models hold."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from imc_ssm import modelfile, results

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "experiments" / "tasks"
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## Gestures and heart beats") :]
NAMES = ("emg", "ecg")


def dataset(name: str) -> xr.Dataset:
    return results.load(FOLDER / "results" / f"{name}.nc").isel(model=0)


def information(name: str) -> dict[str, Any]:
    return modelfile.load_model(FOLDER / "models" / f"{name}.safetensors").info


def commands(name: str) -> dict[str, list[str]]:
    """Command -> words, of the block that trains a task."""
    blocks = re.findall(r"^```sh\n(.*?)^```", SECTION, flags=re.MULTILINE | re.DOTALL)
    (block,) = (text for text in blocks if f"--out {name}.nc" in text)
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    return {words[1]: words[2:] for words in lines}


def option(words: list[str], name: str) -> str:
    return words[words.index(f"--{name}") + 1]


def rows(ds: xr.Dataset) -> dict[str, list[str]]:
    """The table of a task: accuracy, macro F1 and F1 of each class, and the deviation over chips of the first."""
    found = {"8 bits, digital": [f"{float(ds['accuracy_digital']):.1f}", f"{float(ds['f1_macro_digital']):.3f}"]}
    found["8 bits, digital"] += [f"{float(value):.3f}" for value in ds["f1_digital"]]
    for title, seconds in (("chips, 1 s", 1.0), ("1 day", 86400.0), ("30 days", 30 * 86400.0)):
        then = ds.sel(time=seconds)
        mean, spread = float(then["accuracy"].mean()), float(then["accuracy"].std(ddof=1))
        cells = [f"{mean:.1f} ({spread:.1f})", f"{float(then['f1_macro'].mean()):.3f}"]
        found[title] = cells + [f"{float(value):.3f}" for value in then["f1"].mean("chip")]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_are_the_datasets(name: str) -> None:
    ds, info = dataset(name), information(name)
    part = SECTION[SECTION.index(f"--out {name}.nc") :]
    wanted = {"full precision": [f"{info['accuracy_test']:.1f}", f"{info['f1_macro_test']:.3f}"]}
    wanted |= rows(ds)
    head = next(line for line in part.splitlines() if line.startswith("| "))
    assert [cell.strip() for cell in head.strip("|").split("|")][3:] == ds["class"].values.tolist()
    for title, cells in wanted.items():
        line = next(line for line in part.splitlines() if line.startswith(f"| {title} |"))
        said = [cell.strip() for cell in line.strip("|").split("|")][1:]
        assert said[: len(cells)] == cells, title
        assert not any(said[len(cells) :]), title
    energy, latency = float(ds["energy"].sum()), float(ds["latency"].sum())
    assert f"{energy * 1e6:.2f} uJ and {latency * 1e3:.2f} ms" in part
    assert f"{float(ds['memory'].sum()) / 1e3:.1f} kbit" in part


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_are_those_that_made_the_files(name: str) -> None:
    ds, first, second = dataset(name), information(name), information(f"{name}-8")
    of = commands(name)
    task = of["train"][0]
    assert task == first["task"] == second["task"]
    for info, key, words in ((first, "training", of["train"]), (second, "qat", of["quantize"])):
        for field in ("epochs", "batch", "learning_rate", "balance"):
            assert float(option(words, field.replace("_", "-"))) == info[key][field], field
    said = json.loads(ds.attrs["configuration"])
    assert (said["task"], said["design"]["name"]) == (task, option(of["deploy"], "design"))
    assert said["info"]["accuracy_test"] == second["accuracy_test"]
    assert ds.sizes["chip"] == int(option(of["deploy"], "chips"))


@pytest.mark.parametrize("name", NAMES)
def test_the_datasets_hold_what_their_tasks_ask(name: str) -> None:
    ds = dataset(name)
    from imc_ssm import datasets

    info = datasets.info(json.loads(ds.attrs["configuration"])["task"])
    assert ds["accuracy"].attrs["n_test"] == info["splits"]["test"]  # all of them
    assert ("n_steps" in ds["accuracy"].attrs) == info["per_step"]
    assert ds.sizes["class"] == info["classes"]
    assert np.isfinite(ds["f1"]).all()
    second = information(f"{name}-8")
    assert float(ds["accuracy_digital"]) == pytest.approx(second["accuracy_test"], abs=0.2)
    for path in FOLDER.glob("*/*"):
        assert path.stat().st_size < 100_000
