"""Results on disk: `xarray.Dataset`s as netCDF-4 (`.nc`), whole or not there, checked on the way back.

Two digests guard a file. The attribute `content_sha256` covers names, dimensions, types, values and
attributes, and survives whatever stores them. Behind the last byte of HDF5 (whose readers ignore it) stands
the SHA-256 of the file itself: it is checked before HDF5 sees the file, because a single flipped bit in
HDF5's own structures can make its library loop for ever instead of failing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from imc_ssm.errors import ConfigError, FileError, ImcSsmError
from imc_ssm.files import atomic_path, canonical_json, recognised

__all__ = ["load", "processor", "provenance", "save", "values_equal"]

_HASH = "content_sha256"
_MAGIC = b"\x89HDF\r\n\x1a\n"
_TAG = b"\nimc-ssm sha256 "
_TRAILER = len(_TAG) + 64 + 1
_PACKAGES = ("imc-ssm", "numpy", "torch", "aihwkit", "numba", "xarray")


def save(dataset: xr.Dataset, path: str | Path) -> None:
    """Write `dataset` to the netCDF-4 file `path` (`.nc`), atomically; it is read back before it is written.

    Every data variable needs the attributes `units` and `long_name`; attributes are text, integers or floats;
    variables are real numbers, booleans or text (times as seconds). Any xarray opens the file.

    Raises `ConfigError` naming what cannot be stored, `FileError` if `path` cannot be written.
    """
    if Path(path).suffix != ".nc":
        raise FileError(f"cannot write results to {path}: the name must end in .nc, such as results.nc")
    _check(dataset)
    plain = dataset.drop_encoding()
    plain.attrs.pop(_HASH, None)
    plain.attrs[_HASH] = digest = _content_digest(plain)
    # no fill values: NaN is stored as it is, and integers are never masked
    encoding = {name: {"_FillValue": None} for name in plain.variables}
    try:
        # In memory: HDF5 takes the whole process with it where the disk is full.
        data = bytes(plain.to_netcdf(engine="h5netcdf", encoding=encoding))
        same = _content_digest(_read(BytesIO(data))) == digest
    except ImcSsmError:
        raise
    except Exception as error:  # xarray, h5netcdf and h5py each have their own
        raise ConfigError(f"this dataset cannot be stored as netCDF: {error}") from error
    if not same:
        raise ConfigError(
            "this dataset does not survive being stored as netCDF: its values or attributes come back "
            "different; avoid null characters in text and names with a meaning in netCDF (coordinates, "
            "dtype, _FillValue)"
        )
    seal = hashlib.sha256(data).hexdigest().encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(data + _TAG + seal + b"\n")


def load(path: str | Path) -> xr.Dataset:
    """Read what `save` wrote, wholly into memory; the file is closed afterwards.

    Raises `FileError` for a file that is missing, truncated, changed in any bit or not written by `save`.
    """
    path = Path(path)
    try:
        _check_seal(path)
        import h5py

        with h5py.File(path) as file:  # where this fails, xarray's engine stays half open, and says so at its end
            file.attrs.get("_nc3_strict")
        dataset = _read(path)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"cannot read {path}: {error.strerror or error}; give the path of an existing .nc file"
        ) from None
    except Exception as error:  # sealed, and still not readable: another program wrote the inside
        raise FileError(f"{path} is not a result of imc-ssm: {error}") from None
    expected = dataset.attrs.get(_HASH)
    if expected is None or _content_digest(dataset) != expected:
        raise FileError(
            f"{path} was changed: its contents do not match its attribute {_HASH!r}; run it or copy it again"
        )
    return dataset


def provenance(
    config: dict[str, Any], seed: int | None, compute_time: float | None = None
) -> dict[str, str | int | float]:
    """The attributes by which a result can be run again.

    `configuration` (JSON of `config`), `configuration_sha256`, `seed` (not for None: a dimension has the seeds),
    `versions` (JSON: Python and the packages that decide the numbers), those of `processor`, `created` (UTC, ISO
    8601) and `compute_time_s` (seconds; NaN where it was not measured).

    Raises `ConfigError` if `config` is not JSON.
    """
    text = canonical_json(config, what="the configuration")
    versions = {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}
    return {
        "configuration": text,
        "configuration_sha256": hashlib.sha256(text.encode()).hexdigest(),
        **({} if seed is None else {"seed": int(seed)}),
        "versions": json.dumps(versions, sort_keys=True),
        **processor(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "compute_time_s": float("nan") if compute_time is None else float(compute_time),
    }


def processor() -> dict[str, str | int]:
    """What float trainings depend on beside seed and versions: `processor`, `instruction_set` and `threads`.

    The processor's name; the instruction set of torch's kernels (as `torch.backends.cpu.get_cpu_capability()`, and
    as `ATEN_CPU_CAPABILITY` chooses it) and torch's threads. The last two only where torch is loaded: where it is
    not, no number comes from it, and it is not imported for this.
    """
    found: dict[str, str | int] = {"processor": _processor_name()}
    if (torch := sys.modules.get("torch")) is not None:
        found["instruction_set"] = str(torch.backends.cpu.get_cpu_capability())
        found["threads"] = int(torch.get_num_threads())
    return found


def _processor_name() -> str:
    """The processor as its maker calls it, where the system says so; else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass  # another system than Linux
    return platform.processor() or platform.machine() or "unknown"


def values_equal(a: xr.Dataset, b: xr.Dataset) -> bool:
    """Whether all variables and coordinates have the same names, dimensions, types and values, exactly.

    NaN equals NaN; attributes (times, hosts, digests) are ignored. Text compares as text, whatever holds it.
    """
    if set(a.variables) != set(b.variables) or set(a.coords) != set(b.coords):
        return False
    return all(_dtype(a[name]) == _dtype(b[name]) for name in a.variables) and bool(a.equals(b))


def _version(package: str) -> str:
    """The installed version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _check(dataset: xr.Dataset) -> None:
    """`ConfigError` for the first variable or attribute that does not keep the contract of results."""
    for name, variable in dataset.variables.items():
        for key in ("units", "long_name") if name in dataset.data_vars else ():
            text = variable.attrs.get(key)
            if not (isinstance(text, str) and text):
                raise ConfigError(
                    f"variable {name!r} has no {key!r}; set dataset[{name!r}].attrs[{key!r}] "
                    "(units in SI, '1' for a pure number)"
                )
        if _dtype(variable) == "other":
            raise ConfigError(
                f"variable {name!r} has type {variable.dtype}; only real numbers, booleans and text are "
                "stored (times as seconds)"
            )
        _check_attributes(f"variable {name!r}", variable.attrs)
    _check_attributes("the dataset", dataset.attrs)


def _check_attributes(owner: str, attributes: dict[Any, Any]) -> None:
    """`ConfigError` for an attribute that netCDF would change or refuse."""
    for key, value in attributes.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if not isinstance(plain, str | int | float) or isinstance(plain, bool):
            raise ConfigError(
                f"attribute {key!r} of {owner} is {value!r}; only text, integers and floats are stored "
                "(anything else as JSON text)"
            )


def _dtype(variable: xr.Variable | xr.DataArray) -> str:
    """The name of a variable's type, the same for all ways to hold text; "other" if it is not stored."""
    dtype = variable.dtype
    if not isinstance(dtype, np.dtype) or dtype.kind in "UT":
        dtype = np.asarray(variable.values).dtype
    if dtype.kind in "biuf":
        return str(dtype.name)
    if dtype.kind in "UT":
        return "str"
    values = np.asarray(variable.values).ravel()
    return "str" if dtype.kind == "O" and all(isinstance(value, str) for value in values) else "other"


def _content_digest(dataset: xr.Dataset) -> str:
    """SHA-256 over every variable (role, name, dimensions, type, bytes, attributes) and all attributes."""
    digest = hashlib.sha256(_attributes(dataset.attrs).encode())
    for name in sorted(dataset.variables, key=str):
        variable = dataset.variables[name]
        role = "coordinate" if name in dataset.coords else "data"
        kind = _dtype(variable)
        shape = [list(map(str, variable.dims)), list(variable.shape)]
        digest.update(canonical_json([role, str(name), shape, kind]).encode())
        digest.update(_attributes(variable.attrs).encode())
        values = np.asarray(variable.values)
        if kind == "str":
            digest.update(json.dumps([str(value) for value in values.ravel()]).encode())
        else:
            digest.update(np.asarray(values, dtype=values.dtype.newbyteorder("<"), order="C").tobytes())
    return digest.hexdigest()


def _attributes(attributes: dict[Any, Any]) -> str:
    """Attributes as JSON, whether they are Python's or NumPy's numbers; without the digest itself."""
    plain = {
        str(key): value.item() if isinstance(value, np.generic) else value
        for key, value in attributes.items()
        if key != _HASH
    }
    return json.dumps(plain, sort_keys=True)  # NaN allowed: what was not measured


def _check_seal(path: Path) -> None:
    """`FileError` unless the file ends in the SHA-256 of all that comes before."""
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
        if start != _MAGIC:
            known = recognised(path)
            why = f": {known}" if known else " (or its beginning was changed); give a result of imc-ssm"
            raise FileError(f"{path} is not a netCDF-4 file{why}")
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _TRAILER, 0))
        trailer = file.read()
        if not (trailer.startswith(_TAG) and trailer.endswith(b"\n")):
            raise FileError(
                f"{path} does not end in the checksum that imc-ssm writes: it is truncated, was changed or "
                "comes from another program; run it again or copy it again (xarray may still open it)"
            )
        file.seek(0)
        digest = hashlib.sha256()
        left = size - _TRAILER
        while block := file.read(min(left, 1 << 20)):
            digest.update(block)
            left -= len(block)
    if trailer[len(_TAG) : -1] != digest.hexdigest().encode():
        raise FileError(f"{path} was changed: it does not match its checksum; run it again or copy it again")


def _read(path: Path | BytesIO) -> xr.Dataset:
    """The dataset as stored, without interpreting any attribute (a unit "s" stays a number of seconds)."""
    options: dict[str, Any] = {"decode_times": False, "decode_timedelta": False, "mask_and_scale": False}
    with xr.open_dataset(path, engine="h5netcdf", cache=False, **options) as dataset:
        loaded = dataset.load()
    return loaded.drop_encoding()
