"""The notebook is executed as a reader would: in a kernel of its own, from top to bottom."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"
SECONDS = 300
"""Longest time of one cell; the whole notebook takes about half a minute on one free core."""

# Jupyter's parts warn while they are imported, start and stop a kernel; none of it is ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def read() -> Any:
    """The notebook as it is kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nbformat

        return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run in an empty folder; a cell that fails raises here."""
    folder, kernels = tmp_path_factory.mktemp("notebook"), tmp_path_factory.mktemp("jupyter")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        from ipykernel.kernelspec import write_kernel_spec
        from nbclient import NotebookClient

        # The kernel of this very environment, whatever kernels the user has installed.
        write_kernel_spec(kernels / "kernels" / "python3")
        patch.setenv("JUPYTER_PATH", str(kernels))
        notebook = read()
        place = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()
    assert not list(folder.iterdir()), "the notebook left files behind"
    return notebook


def test_is_kept_small_and_stable() -> None:
    notebook = read()
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert NOTEBOOK.stat().st_size < 100_000
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], f"cell {cell.id!r} is kept with outputs; clear them"
            assert cell.execution_count is None


def test_runs_without_errors_and_shows_pictures(executed: Any) -> None:
    outputs = [(cell.id, output) for cell in executed.cells for output in cell.get("outputs", ())]
    problems = [
        (cell, output)
        for cell, output in outputs
        if output.output_type == "error" or (output.output_type == "stream" and output.name == "stderr")
    ]
    assert not problems
    pictures = [cell for cell, output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 4, f"only {pictures} show a picture"


def test_ends_with_the_story_it_tells(executed: Any) -> None:
    text = {
        cell.id: "".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in executed.cells
    }
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
