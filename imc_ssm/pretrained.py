"""Full-precision models that ship with the library: sequential MNIST, trained by `experiments/zhao2025`.

    stored = load_model(pretrained_path("s4d-16h"))            # the first seed
    stored = load_model(pretrained_path("s4d-16h", seed=3))

Recipe, history and test accuracy of each are in `stored.info`. In a source tree the files are those that the
study wrote; they travel inside the wheel.
"""

from __future__ import annotations

from pathlib import Path

from imc_ssm.errors import ConfigError, FileError, unknown
from imc_ssm.files import is_file

__all__ = ["model_file", "pretrained_path", "pretrained_seeds"]

_SUFFIX = ".safetensors"


def _root() -> Path:
    inside = Path(__file__).parent / "_models"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "experiments" / "zhao2025" / "models"


def pretrained_seeds() -> dict[str, list[int]]:
    """The models that are there, each with its seeds in rising order."""
    found: dict[str, list[int]] = {}
    for path in _root().glob(f"*-seed*{_SUFFIX}"):
        model, _, seed = path.stem.rpartition("-seed")
        if seed.isdecimal():
            found.setdefault(model, []).append(int(seed))
    return {model: sorted(found[model]) for model in sorted(found)}


def pretrained_path(model: str, seed: int | None = None) -> Path:
    """The file of a shipped model, for `load_model`; of its first seed unless one is given.

    Raises `ConfigError` for a model or a seed that does not ship, naming those that do.
    """
    known = pretrained_seeds()
    if model not in known:
        raise ConfigError(unknown("pre-trained model", model, known))
    seed = known[model][0] if seed is None else seed
    if seed not in known[model]:
        seeds = ", ".join(map(str, known[model]))
        raise ConfigError(f"{model} ships with the seeds {seeds}, not {seed}; take one of them or train your own")
    return _root() / f"{model}-seed{seed}{_SUFFIX}"


def model_file(name: str | Path) -> Path:
    """What a command was given: a file of the user, or a shipped model as "s4d-16h" or "s4d-16h-seed3".

    What ends in .safetensors or names a folder too is a file, and so is what exists as one. Raises `ConfigError`
    for anything else that does not ship.
    """
    path = Path(name)
    if path.suffix == _SUFFIX or path.parent != Path() or is_file(path):
        return path
    known = pretrained_seeds()
    model, _, seed = str(name).rpartition("-seed")
    if model in known and seed.isdecimal():
        return pretrained_path(model, int(seed))
    if str(name) in known:
        return pretrained_path(str(name))
    if path.suffix:
        raise FileError(f"no file {name}; give a model file (.safetensors) or one that ships: {', '.join(known)}")
    hint = unknown("pre-trained model", str(name), known)
    raise ConfigError(f"no file {name} and no such model ships ({hint}); give a model file (.safetensors)")
