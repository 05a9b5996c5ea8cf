"""`docs/training.md`: its recipe is the one that is printed, its code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import imc_ssm
from imc_ssm.layers import Classifier
from imc_ssm.training import TrainConfig

PAGE = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_recipe_is_the_one_that_is_derived() -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert shown.splitlines() == imc_ssm.training_for("pcm-256").lines()


def test_every_field_of_noise_is_there() -> None:
    table = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    fields = {name for name in TrainConfig.model_fields if name.startswith(("noise", "clip_input"))}
    assert named == fields


def test_the_code_runs(trained: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    imc_ssm.save_model("m.safetensors", trained)
    place: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code.replace("epochs=10", "epochs=1, batch=200"), "training.md", "exec"), place)
    quantized, student = place["quantized"], place["student"]
    assert isinstance(quantized, Classifier)
    assert isinstance(student, Classifier)
    assert quantized.decoder.matrix.input_range > 0  # type: ignore[union-attr, operator]
    assert not any("log_factor" in name for name in student.state_dict())
