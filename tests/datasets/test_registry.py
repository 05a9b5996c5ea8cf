"""Datasets by name."""

import subprocess
import sys

import pytest

from imc_ssm import datasets
from imc_ssm.errors import DataError


def test_names_and_info() -> None:
    assert datasets.names() == [
        "digits",
        "emg",
        "fsdd",
        "fsdd-speakers",
        "mitdb",
        "mitdb-mlii",
        "mitdb-rhythm",
        "mitdb-stream",
        "smnist",
    ]
    keys = {"name", "description", "shape", "classes", "sample_rate", "splits", "source", "licence"} | {
        "goal",
        "per_step",
    }
    for name in datasets.names():
        info = datasets.info(name)
        assert set(info) == keys
        assert info["name"] == name
        assert info["shape"][0] == sum(info["splits"].values())
        info["name"] = "changed"
        assert datasets.info(name)["name"] == name


@pytest.mark.parametrize("ask", [datasets.load, datasets.info])
def test_an_unknown_name_names_the_nearest(ask: object) -> None:
    with pytest.raises(
        DataError,
        match=r"unknown dataset 'smnits'; did you mean 'smnist'\? known: digits, emg, .*, smnist",
    ):
        ask("smnits")  # type: ignore[operator]
    with pytest.raises(DataError, match=r"your own file, ending in \.npz or \.ts"):
        ask("sequences")  # type: ignore[operator]
    for name in ("sequences.csv", "model.pt"):
        with pytest.raises(DataError, match=rf"{name} holds no sequences; give your own file, ending in \.npz or"):
            ask(name)  # type: ignore[operator]


def test_importing_is_quick() -> None:
    code = (
        "import sys; import imc_ssm.datasets; "
        "print([m for m in ('torch', 'sklearn', 'scipy', 'pooch', 'rich', 'xarray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
