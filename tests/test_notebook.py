"""The notebook is executed as a reader would: in a kernel of its own, from top to bottom."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"
SECONDS = 300
"""Longest time of one cell; the whole notebook takes less than a minute on one free core."""


@pytest.fixture(scope="module")
def stored() -> Any:
    """The notebook as it is kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jupyter's own deprecations, at import
        import nbformat

        return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(stored: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run in an empty folder; a cell that fails raises here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jupyter, zmq and asyncio warn while they start and stop a kernel
        from jupyter_client.kernelspec import KernelSpecManager
        from nbclient import NotebookClient

        # The kernel of this very environment, whatever kernels the user has installed.
        import nbformat

        notebook = nbformat.from_dict(stored)
        folder = tmp_path_factory.mktemp("notebook")
        client = NotebookClient(
            notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        assert KernelSpecManager
        client.execute()
    assert not list(folder.iterdir()), "the notebook left files behind"
    return notebook
