"""Where the studies are: `experiments/NAME/study.py` of a clone."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from imc_ssm.errors import ConfigError, FileError, unknown
from imc_ssm.study.declare import Experiment, Study
from imc_ssm.study.jobs import KINDS
from imc_ssm.study.workplace import Workplace

__all__ = ["experiments_folder", "find", "load_study", "studies"]


def experiments_folder() -> Path:
    """`./experiments`, or the one beside the package in a clone.

    Raises `FileError` where there is neither: the studies do not travel with an installed package.
    """
    for folder in (Path.cwd() / "experiments", Path(__file__).parents[2] / "experiments"):
        if any(folder.glob("*/study.py")):
            return folder
    raise FileError(
        "no folder 'experiments' with a */study.py here: the studies are in the repository, not in the installed "
        "package; go to a clone of it, or write experiments/NAME/study.py"
    )


def load_study(folder: Path) -> Study:
    """The `STUDY` of `folder/study.py`, which may import its neighbours (`from .schemes import ...`).

    Raises `ConfigError` if the file defines none, one with a wrong field, or cannot be run, with the line.
    """
    path = folder / "study.py"
    name = f"imc_ssm_study_{folder.name}"
    for old in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        del sys.modules[old]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None or not path.is_file():
        raise FileError(f"cannot read {path}; give a folder with a study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except Exception as error:
        raise ConfigError(_failed(path, error)) from error
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise ConfigError(f"{path} defines no STUDY; see `imc_ssm.study` for an example")
    for experiment in study.experiments:
        try:
            _ = experiment.measured
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        except Exception as error:
            raise ConfigError(f"{_failed(path, error)} (in the job of {experiment.name!r})") from error
        for job in (job for _, jobs in experiment.grid() for job in jobs):
            if KINDS.get(job.kind) is not type(job):
                raise ConfigError(
                    f"{path}: {experiment.name}: {type(job).__name__} is no registered kind of job; add "
                    f"`KINDS[{job.kind!r}] = {type(job).__name__}` (imc_ssm.study.jobs)"
                )
    return study


def _failed(path: Path, error: Exception) -> str:
    """Where a study's own code failed, and how."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f"{path}, line {line}" if line else str(path)
    reason = error.msg if isinstance(error, SyntaxError) else error
    return f"{where}: {type(error).__name__}: {reason}"


def studies(
    data_dir: Path | None = None,
    *,
    named: Sequence[str] = (),
    left_out: Callable[[Path, Exception], None] | None = None,
) -> list[Workplace]:
    """The studies, by folder. Reading one runs its `study.py`.

    `named`: experiments ("table3", "STUDY/table3") or studies; where these names stand in some of the files as
    they are written, only those are run. `left_out` is called for a study that cannot be read, which is then left
    out, unless none can be read; None: its error is raised. Raises `ConfigError` for two of one name.
    """
    folders = sorted(path.parent for path in experiments_folder().glob("*/study.py"))
    words = {folder: _words(folder / "study.py") for folder in folders}
    if named and all(any(_holds(words[f], f, name) for f in folders) for name in named):
        folders = [f for f in folders if any(_holds(words[f], f, name) for name in named)]
    places: dict[str, Workplace] = {}
    broken: dict[Path, Exception] = {}
    for folder in folders:
        try:
            study = load_study(folder)
        except (Exception, SystemExit) as error:
            if left_out is None:
                raise
            broken[folder] = error if isinstance(error, Exception) else ConfigError("it ends the program")
            continue
        if study.name in places:
            raise ConfigError(
                f"the studies in {places[study.name].folder} and {folder} are both named {study.name!r}; give "
                "one of them another name, Study(name=...)"
            )
        places[study.name] = Workplace(study, folder, data_dir)
    if broken and not places:  # there is nothing to go on with
        raise next(iter(broken.values()))
    for folder, why in broken.items():
        assert left_out is not None
        left_out(folder, why)
    return list(places.values())


def _words(path: Path) -> set[str]:
    """The texts that stand in a Python file; none where it is not one."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _holds(words: set[str], folder: Path, name: str) -> bool:
    study, slash, experiment = name.rpartition("/")
    return experiment in words | {folder.name} and (not slash or study in words | {folder.name})


def find(name: str, places: list[Workplace]) -> tuple[Workplace, Experiment]:
    """The experiment "table3", or "STUDY/table3" where several studies have one of that name.

    Raises `ConfigError` that names the nearest one.
    """
    known: dict[str, list[tuple[Workplace, Experiment]]] = {}
    for place in places:
        for experiment in place.study.experiments:
            for key in (experiment.name, f"{place.study.name}/{experiment.name}"):
                known.setdefault(key, []).append((place, experiment))
    if name not in known:
        raise ConfigError(unknown("experiment", name, (key for key in known if "/" not in key or "/" in name)))
    if len(known[name]) > 1:
        several = ", ".join(f"{place.study.name}/{name}" for place, _ in known[name])
        raise ConfigError(f"several studies have an experiment {name!r}; give one of {several}")
    return known[name][0]
