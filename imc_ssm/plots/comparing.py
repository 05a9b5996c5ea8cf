"""Several datasets in one figure: their models side by side, named by what varies between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xarray as xr

from imc_ssm.errors import ConfigError
from imc_ssm.plots.kinds import kind_of
from imc_ssm.plots.reading import model_names, of_models

__all__ = ["together", "varying"]

_CONSEQUENCES = ("history", "qat_history", "accuracy_test", "n_test", "quantized_from", "time_s", "key", "study")
"""What a model file's `info` says that follows from the rest."""
_MOST = 3
"""More differences than that are not named one by one."""


def together(named: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The datasets of `evaluate`, `cost` or their commands as one over `model`, to be drawn by `draw`.

    `named`: by name, such as the file's. The coordinate `model` then says what varies between them: fields of
    their configurations (`adc.bits=6`), seeds, word lengths; else the names. `varied` (model) is the same, for
    the points of a figure. Times are those of all, NaN where one has no value.

    Raises `ConfigError` for fewer than two datasets, or one that holds no models.
    """
    if len(named) < 2:
        raise ConfigError(f"{len(named)} dataset to compare; give two or more")
    kinds = {name: kind_of(ds) for name, ds in named.items()}
    other = next((name for name, kind in kinds.items() if kind not in ("models", "cost")), None)
    if other is not None:
        raise ConfigError(
            f"{other} holds no models on chips (it is drawn as {kinds[other]}); compare what evaluate, cost, "
            "deploy or demo wrote, and show this one alone"
        )
    labels = varying(named)
    parts = []
    for ds, label in zip(named.values(), labels, strict=True):
        one = of_models(ds)
        one = one if "model" in one.dims else one.expand_dims("model")
        models = model_names(one)
        alone = len(models) == 1
        full = [label] if alone else [f"{model}, {label}" for model in models]
        one = one.drop_vars("varied", errors="ignore")
        one = one.assign_coords(model=("model", full), varied=("model", [label] if alone else models))
        one.attrs = {}
        parts.append(one)
    called = [model for part in parts for model in part["model"].values.tolist()]
    if len(set(called)) < len(called):
        parts = [
            part.assign_coords(model=[f"{model} ({name})" for model in part["model"].values])
            for part, name in zip(parts, named, strict=True)
        ]
    ds = xr.concat(parts, "model", data_vars="all", coords="minimal", compat="override", join="outer")
    ds.attrs = {"title": "Comparison of " + ", ".join(named)}
    counts = {count for one in named.values() if (count := _n_test(one)) is not None}
    if len(counts) == 1:
        ds.attrs["n_test"] = counts.pop()
    return ds


def varying(named: Mapping[str, xr.Dataset]) -> list[str]:
    """For every dataset the values of what is not the same in all, in a few words; its name if nothing says it."""
    settings = [_settings(ds) for ds in named.values()]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    differ = [key for key in keys if len({json.dumps(one.get(key)) for one in settings}) > 1]
    for head in ("design", "model"):  # a name stands for what it names, if no two are called the same
        name = f"{head}.name" if f"{head}.name" in differ else head
        values = [json.dumps(one.get(name)) for one in settings]
        if name in differ and len(set(values)) == len(values):
            below = ("design.",) if head == "design" else ("info.", "bits_")
            differ = [key for key in differ if key == name or not key.startswith(below)]
    if not differ or len(differ) > _MOST:
        return list(named)
    return [", ".join(_word(key, one.get(key)) for key in differ) for one in settings]


def _settings(ds: xr.Dataset) -> dict[str, Any]:
    """What decided a dataset, flat: its configuration, its seed, the word lengths of its one model."""
    try:
        config = json.loads(str(ds.attrs.get("configuration", "{}")))
    except ValueError:
        config = {}
    flat = _flat({k: v for k, v in config.items() if k not in ("times", "chips")})
    if "seed" in ds.attrs:
        flat["seed"] = int(ds.attrs["seed"])
    for name in ("bits_state", "bits_poles"):
        if name in ds and ds[name].size == 1:
            flat[name] = float(ds[name].item())
    return flat


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A nested configuration by path; a cited number is its value, sources and texts are left out."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{before}{key}"
        if key in ("sources", "source", "description") or key in _CONSEQUENCES:
            continue
        if isinstance(value, Mapping) and "value" in value and "unit" in value:
            out[path] = value["value"]
        elif isinstance(value, Mapping):
            out |= _flat(value, f"{path}.")
        else:
            out[path] = value
    return out


def _word(key: str, value: Any) -> str:
    """One difference: a name alone, or field=value."""
    if key in ("design.name", "design", "model", "task"):
        return str(value).removesuffix(".safetensors")
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{key.removeprefix('design.').removeprefix('info.').removeprefix('training.')}={text}"


def _n_test(ds: xr.Dataset) -> int | None:
    of_variables = (ds[name].attrs["n_test"] for name in ds.data_vars if "n_test" in ds[name].attrs)
    found = ds.attrs.get("n_test", next(of_variables, None))
    return None if found is None else int(found)
