"""Models that ship: found by name, what their files say holds, and refusals that name what ships."""

from __future__ import annotations

import pytest

from imc_ssm.errors import ConfigError
from imc_ssm.layers import preset
from imc_ssm.modelfile import load_model
from imc_ssm.pretrained import model_file, pretrained_path, pretrained_seeds

SHIPPED = [(model, seed) for model, seeds in pretrained_seeds().items() for seed in seeds]


def test_five_seeds_of_the_smallest_model_ship():
    assert pretrained_seeds()["s4d-16h"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("model", "seed"), SHIPPED)
def test_a_shipped_model_is_what_its_name_says(model, seed):
    stored = load_model(pretrained_path(model, seed))
    assert stored.scheme is None
    assert stored.model.config == preset(model)
    assert stored.info["task"] == "smnist"
    assert stored.info["training"]["seed"] == seed
    assert stored.info["n_test"] == 10_000


def test_names():
    assert pretrained_path("s4d-16h") == pretrained_path("s4d-16h", 0) == model_file("s4d-16h")
    assert pretrained_path("s4d-16h", 3) == model_file("s4d-16h-seed3")


def test_a_file_of_the_user_goes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s4d-16h").mkdir()
    assert model_file("s4d-16h") == pretrained_path("s4d-16h")
    (tmp_path / "s4d-16h").rmdir()
    (tmp_path / "s4d-16h").touch()
    assert str(model_file("s4d-16h")) == "s4d-16h"
    assert str(model_file("folder/s4d-16h")) == "folder/s4d-16h"
    assert str(model_file("mine.safetensors")) == "mine.safetensors"


@pytest.mark.parametrize(
    ("ask", "naming"),
    [
        (lambda: pretrained_path("s4d-16"), "did you mean 's4d-16h'?"),
        (lambda: pretrained_path("s4d-16h", 99), "seeds 0, 1, 2, 3, 4, not 99"),
        (lambda: model_file("s4d-16"), "did you mean 's4d-16h'?"),
        (lambda: model_file("s4d-16h-seed99"), "not 99"),
    ],
)
def test_unknown_ones(ask, naming):
    with pytest.raises(ConfigError, match=naming.replace("?", r"\?")):
        ask()
