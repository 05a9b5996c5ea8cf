"""Results that are explored: `.nc` files and folders of Zarr, one or several, as one dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from imc_ssm import results
from imc_ssm.errors import ConfigError, FileError
from imc_ssm.explorer.points import INNER, POINT, ROW, Points, varied_dims

__all__ = ["opened", "together"]

SWEEP = "sweep.json"
"""What the folder of a sweep has, whose dataset is made of the cells that are there now."""
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")


def opened(paths: Sequence[str | Path]) -> xr.Dataset:
    """The dataset of a result, or of several (`together`).

    Raises `FileError` for what is none, `ConfigError` for one that is given twice.
    """
    if not paths:
        raise ConfigError("no result was given; give an .nc file, or the folder of a sweep")
    each = [Path(path) for path in paths]
    if len(each) == 1:
        return _read(each[0])
    stems = [path.stem for path in each]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in each]
    if len(set(names)) < len(names):
        raise ConfigError(f"{next(n for n in names if names.count(n) > 1)} is given twice; give different results")
    return together({name: _read(path) for name, path in zip(names, each, strict=True)})


def _read(path: Path) -> xr.Dataset:
    if not path.is_dir():
        if path.suffix.lower() != ".nc" and path.exists():
            raise FileError(f"{path} is no dataset; give an .nc file, or the folder of a sweep")
        return results.load(path)
    if (path / SWEEP).is_file():
        from imc_ssm import sweeps

        return sweeps.load(path)
    folder = path / "dataset.zarr" if (path / "dataset.zarr").is_dir() else path
    if not any((folder / name).exists() for name in _ZARR):
        raise FileError(f"{path} holds no Zarr dataset; give an .nc file, or the folder of a sweep")
    try:
        with xr.open_dataset(
            folder, engine="zarr", decode_times=False, decode_timedelta=False, mask_and_scale=False, chunks=None
        ) as ds:
            return ds.load().drop_encoding()
    except Exception as error:
        raise FileError(f"cannot read {folder}: {error}") from None


def _one(ds: xr.Dataset) -> Points:
    """A result in which nothing was varied, as one point."""
    single = ds.squeeze([d for d in ds.dims if d not in INNER and ds.sizes[d] == 1])
    return Points(single.expand_dims(ROW), (ROW,))


def together(named: dict[str, xr.Dataset]) -> xr.Dataset:
    """Several results as one dataset over `row`, the points of one after those of the other.

    `result` (row) says whose a row is; a coordinate or a variable that one of them lacks is NaN there (text "").
    Their configurations stand in the attribute `configuration`, JSON of {"results": {name: configuration}}.
    """
    parts, configurations = [], {}
    for name, ds in named.items():
        outer = any(str(d) not in INNER for n in ds.data_vars for d in ds[n].dims)
        points = Points(ds) if outer and not set(varied_dims(ds)) & set(INNER) else _one(ds)
        flat = points.ds
        flat = flat.drop_vars([n for n in flat.data_vars if flat[n].dtype.kind not in "biuf"])
        rows = {
            str(n): flat[n].expand_dims({POINT: flat.sizes[POINT]}).transpose(POINT, ...)
            for n in (*flat.data_vars, *flat.coords)
            if POINT not in flat[n].dims and (n in flat.data_vars or not flat[n].dims)
        }
        about = {"units": "1", "long_name": "Result"}
        flat = flat.assign(rows).set_coords([n for n in flat.coords if n in rows])
        flat = flat.drop_vars([POINT, ROW], errors="ignore").assign_coords(
            result=(POINT, np.full(len(points), name), about)
        )
        parts.append(flat.rename({POINT: ROW}))
        configuration = json.loads(ds.attrs.get("configuration") or "{}")
        seed = {"seed": int(ds.attrs["seed"])} if "seed" in ds.attrs else {}
        configurations[name] = seed | configuration
    names = dict.fromkeys(str(n) for part in parts for n, c in part.coords.items() if c.dims == (ROW,))
    filled = []
    for part in parts:
        missing = [n for n in names if n not in part.coords]
        like = {n: next(other[n] for other in parts if n in other.coords) for n in missing}
        gaps = {
            n: (ROW, np.full(part.sizes[ROW], np.nan if c.dtype.kind in "iuf" else ""), c.attrs)
            for n, c in like.items()
        }
        filled.append(part.assign_coords(gaps))
    try:
        whole = xr.concat(
            filled,
            ROW,
            data_vars="all",
            coords="minimal",
            compat="override",
            join="outer",
            combine_attrs="drop_conflicts",
        )
    except ValueError as error:
        raise ConfigError(f"these results have no points in common: {error}") from None
    whole.attrs = {"title": " | ".join(named), "configuration": json.dumps({"results": configurations})}
    return whole
