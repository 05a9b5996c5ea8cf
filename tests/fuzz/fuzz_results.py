"""Results, ledgers, and configurations as JSON."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import xarray as xr
from fuzz_loaders import LOADERS, RECIPE, add, numbers, whole
from fuzz_mutations import broken_bytes, broken_text, broken_tree, deep

import imc_ssm
from imc_ssm.errors import ConfigError
from imc_ssm.files import canonical_json
from imc_ssm.results import _content_digest
from imc_ssm.study.ledger import Ledger, Record, _line

__all__ = ["LOADERS"]

# -- results and ledgers


@cache
def result() -> xr.Dataset:
    attributes = {"units": "percent", "long_name": "Accuracy"}
    ds = xr.Dataset({"accuracy": (("chip", "time"), np.full((2, 3), 90.0), attributes)})
    ds = ds.assign_coords(time=("time", np.array([1.0, 60.0, 3600.0]), {"units": "s", "long_name": "Time"}))
    return ds.assign_attrs(title="t", seed=3)


@cache
def result_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        imc_ssm.save_results(result(), Path(folder) / "r.nc")
        return (Path(folder) / "r.nc").read_bytes()


@cache
def changed_result(seed: int) -> bytes:
    """The inside changed by another program that does not know the checksums, or that does."""
    rng = Random(seed)
    ds = result().copy(deep=True)
    match rng.randrange(5):
        case 0:
            ds["accuracy"].values[0, 0] = rng.choice((np.nan, np.inf, -1.0))
        case 1:
            ds.attrs[rng.choice(("title", "content_sha256", "x" * 300))] = rng.choice(("", "x", 3, 1e300))
        case 2:
            ds = ds.rename(accuracy=rng.choice(("a b", "x" * 300)))
        case 3:
            ds = ds.isel(chip=slice(0, 0))
        case 4:
            ds["other"] = ("chip", np.array(["a", "b"]))
    if rng.random() < 0.5:
        ds.attrs["content_sha256"] = _content_digest(ds)
    body = bytes(ds.to_netcdf(engine="h5netcdf"))
    return body + b"\nimc-ssm sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n"


def broken_result(folder: Path, rng: Random) -> Path:
    path = folder / "r.nc"
    how = rng.random()
    if how < 0.5:
        path.write_bytes(broken_bytes(result_file(), rng))
    elif how < 0.7:  # damage under a seal that fits
        size = len(b"\nimc-ssm sha256 ") + 65
        body = broken_bytes(result_file()[:-size], rng)
        path.write_bytes(body + b"\nimc-ssm sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n")
    else:
        path.write_bytes(changed_result(rng.randrange(40)))
    return path


add("result", broken_result, imc_ssm.open_results, lambda ds: isinstance(ds, xr.Dataset))


@cache
def ledger_lines() -> tuple[str, ...]:
    records = [
        Record(f"k{i}", {"kind": "ptq", "seed": i}, {"accuracy": [90.0, float("nan")]}, 100, 1.5, 1e6)
        for i in range(3)
    ]
    return tuple(map(_line, records))


def broken_ledger(folder: Path, rng: Random) -> Path:
    path, lines, how = folder / "ledger.jsonl", list(ledger_lines()), rng.random()
    if how < 0.3:
        path.write_bytes(broken_bytes("\n".join(lines).encode(), rng))
        return path
    if how < 0.5:
        path.write_text(broken_text("\n".join(lines), rng), encoding="utf-8", errors="surrogatepass")
        return path
    content = broken_tree({k: v for k, v in json.loads(lines[0]).items() if k != "sha256"}, rng)
    if how > 0.97:
        content = deep(2000)
    try:
        seal = hashlib.sha256(canonical_json(content).encode()).hexdigest()
        lines[0] = canonical_json({**content, "sha256": seal})
    except (ConfigError, TypeError, RecursionError):
        lines[0] = "[" * 2000
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return path


def read_ledger(path: Path) -> Any:
    records = Ledger(path, path.with_suffix(".lock")).records()
    return [(record.measured, record.n_test, record.time_s) for record in records.values()]


add("ledger", broken_ledger, read_ledger, lambda read: all(time >= 0 and n >= 0 for _, n, time in read))


# -- configurations as JSON, as files and sweeps hold them

TREES = {
    "model configuration": (imc_ssm.ModelConfig, lambda: imc_ssm.ModelConfig().model_dump(mode="json")),
    "scheme": (imc_ssm.Scheme, lambda: imc_ssm.Scheme.w4a6().model_dump(mode="json")),
    "recipe": (imc_ssm.TrainConfig, lambda: RECIPE.model_dump(mode="json")),
    "chip": (imc_ssm.Chip, lambda: imc_ssm.resolve_design("pcm-256").model_dump(mode="json")),
}


def broken_config(name: str) -> Callable[[Path, Random], Path]:
    def broken(folder: Path, rng: Random) -> Path:
        path = folder / "c.json"
        path.write_text(json.dumps(broken_tree(TREES[name][1](), rng)), encoding="utf-8", errors="surrogatepass")
        return path

    return broken


for _name, (_class, _) in TREES.items():
    add(
        _name,
        broken_config(_name),
        lambda path, cls=_class: cls.from_json(path.read_text(encoding="utf-8", errors="surrogatepass")),
        lambda config: whole(numbers(config)) and bool(repr(config)),
    )
