"""The notebooks are executed as a reader would: in a kernel of their own, from top to bottom."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
PICTURES = {"quickstart": 4, "deploy": 4, "cost": 5, "pruning": 3, "design_space": 3}
"""The notebooks, and how many of their cells show a picture at least (test_robustness_notebook.py has another)."""
SECONDS = 300
"""Longest time of one cell; a whole notebook takes about half a minute on one free core."""

# Jupyter's parts warn while they are imported, start and stop a kernel; none of it is ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def read(name: str) -> Any:
    """A notebook as it is kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nbformat

        return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A notebook after a run in an empty folder, small where it can be; a cell that fails raises here."""
    kernels = tmp_path_factory.mktemp("jupyter")

    @functools.cache
    def run(name: str) -> Any:
        folder = tmp_path_factory.mktemp("notebook")
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("ignore")
            from ipykernel.kernelspec import write_kernel_spec
            from nbclient import NotebookClient

            # The kernel of this very environment, whatever kernels the user has installed.
            if not (kernels / "kernels" / "python3").exists():
                write_kernel_spec(kernels / "kernels" / "python3")
            patch.setenv("JUPYTER_PATH", str(kernels))
            patch.setenv("IMC_SSM_SMALL_NOTEBOOKS", "1")
            notebook = read(name)
            place = {"metadata": {"path": str(folder)}}
            NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()
        assert not list(folder.iterdir()), "the notebook left files behind"
        return notebook

    return run


def said(notebook: Any) -> dict[str, str]:
    """What each cell printed."""
    return {c.id: "".join(output.get("text", "") for output in c.get("outputs", ())) for c in notebook.cells}


@pytest.mark.parametrize("name", PICTURES)
def test_is_kept_small_and_stable(name: str) -> None:
    notebook = read(name)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 100_000
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], f"cell {cell.id!r} is kept with outputs; clear them"
            assert cell.execution_count is None


@pytest.mark.parametrize("name", PICTURES)
def test_runs_without_errors_and_shows_pictures(name: str, executed: Callable[[str], Any]) -> None:
    outputs = [(cell.id, output) for cell in executed(name).cells for output in cell.get("outputs", ())]
    problems = [
        (cell, output)
        for cell, output in outputs
        if output.output_type == "error" or (output.output_type == "stream" and output.name == "stderr")
    ]
    assert not problems
    pictures = [cell for cell, output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= PICTURES[name], f"only {pictures} show a picture"


def test_ends_with_the_story_it_tells(executed: Callable[[str], Any]) -> None:
    text = said(executed("quickstart"))
    trained = float(text["train"].split("accuracy")[1].split("%")[0])
    assert trained > 90
    tuned = text["qat"].splitlines()[-1]  # 8 bits of state: as good as full precision, or nearly
    assert "8 bits" in tuned
    assert float(tuned.split(",")[1].split("%")[0]) > trained - 3
    after_a_second = [
        float(line.split("30 d:")[1].split("±")[0]) for line in text["evaluate"].splitlines() if "x8" in line
    ]
    assert after_a_second
    assert min(after_a_second) > 80


def test_measurements_become_a_cell_and_a_yield(executed: Callable[[str], Any]) -> None:
    text = said(executed("deploy"))
    error = next(line for line in text["fit"].splitlines() if line.startswith("programming_error"))
    assert float(error.split()[1]) == pytest.approx(2e-6, rel=0.05)  # what was drawn: 4 % of 50 uS
    assert "every step programs another one" in text["train"]
    shares = [line for line in text["population"].splitlines() if "above 85 %" in line]
    assert len(shares) == 2
    assert all(line.count("% (") == 4 for line in shares)
    causes = [line.split()[-4:] for line in text["cause"].splitlines() if "(" in line and ")" in line]
    assert len(causes) == 4
    counted = [line.split() for line in text["upkeep"].splitlines() if line.split()[:1] == ["2592000.0"]]
    assert counted == [["2592000.0", "5"]]


def test_the_recurrence_takes_the_energy_and_a_thousand_designs_are_swept(executed: Callable[[str], Any]) -> None:
    text = said(executed("cost"))
    nominal, low, high = (float(n) for n in re.findall(r"[\d.]+", text["model"].splitlines()[0]))
    assert low < nominal < high
    counted = re.match(r"(\d+) designs: ([\d.]+) to ([\d.]+) uJ, (\d+) to (\d+) us", text["sweep"])
    assert counted is not None
    designs, least, most, fastest, slowest = map(float, counted.groups())
    assert designs >= 1000
    assert least < nominal < most
    assert 2 * fastest < slowest
    tile, whole = (float(n) for n in re.findall(r": ([\d.]+) fJ", text["others"]))
    assert 10 * tile < whole  # the unit and the memories
    assert len(executed("cost").cells) < 12
