"""`notebooks/robustness.ipynb` is executed as a reader would, and tells what it claims to."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "robustness.ipynb"
SECONDS = 300
"""Longest time of one cell; the whole takes about half a minute on one free core."""

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

        write_kernel_spec(kernels / "kernels" / "python3")  # of this environment, whatever the user has installed
        patch.setenv("JUPYTER_PATH", str(kernels))
        notebook = read()
        place = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()
    assert not list(folder.iterdir()), "the notebook left files behind"
    return notebook


def test_is_kept_without_outputs() -> None:
    notebook = read()
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert all(cell.outputs == [] for cell in notebook.cells if cell.cell_type == "code")


def test_runs_and_shows_two_pictures(executed: Any) -> None:
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert len([o for o in outputs if "image/png" in o.get("data", {})]) == 2


def test_tells_its_story(executed: Any) -> None:
    text = {
        cell.id: "".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in executed.cells
    }
    assert "chip: pcm-256" in text["train"]
    digital = [float(line.split(":")[1].split("%")[0]) for line in text["train"].splitlines() if "digital" in line]
    assert len(digital) == 3
    assert min(digital) > 85
    months = [float(line.split("30 d:")[1].split("%")[0]) for line in text["chips"].splitlines()]
    assert len(months) == 3
    assert min(months) > 60
