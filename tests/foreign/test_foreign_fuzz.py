"""Damaged and foolish checkpoints are refused in a sentence, or read as models that compute: a sample of 8,000."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from s4_models import Example, Sequence, build
from safetensors.torch import save_file
from torch import Tensor

from imc_ssm.errors import ImcSsmError
from imc_ssm.foreign import load_foreign

CASES = 150

CHANGES: tuple[Callable[[Tensor], Any], ...] = (
    lambda t: t * torch.nan,
    lambda t: torch.zeros(0),
    lambda t: torch.zeros(*t.shape, 0),
    lambda t: t.to(torch.complex64),
    lambda t: t.bool(),
    lambda t: (3 * t).long(),
    lambda t: t.reshape(-1),
    lambda t: t[None],
    lambda t: torch.ones(17),
    lambda t: torch.tensor(3.0),
    lambda t: t * 1e38,
    lambda t: t.half(),
    lambda t: t.bfloat16(),
    lambda t: t.flatten().repeat(3),
    lambda t: -1e5 * t,
    lambda t: t.transpose(0, -1),
    lambda t: t.to_sparse(),
    lambda t: t.to("meta"),
    lambda t: "text",
    lambda t: None,
)


def states() -> list[dict[str, Any]]:
    made = [build("version 3", Sequence, layers=2, prenorm=True), build("version 4", Sequence, layers=2)]
    return [dict(model.state_dict()) for model in (*made, build("s4d", Example, layers=1))]


def read(source: Any) -> None:
    """A refusal of one line, or a model whose logits are finite."""
    try:
        model = load_foreign(source)
    except ImcSsmError as error:
        said = str(error)
    else:
        with torch.no_grad():
            assert torch.isfinite(model(torch.ones(1, 64, 2))).all()
        return
    assert "\n" not in said
    assert len(said) < 600


@pytest.mark.filterwarnings("ignore:Defining your `__torch_function__`")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    for state in states():
        whole, path = tmp_path / f"whole{suffix}", tmp_path / f"damaged{suffix}"
        if suffix == ".pt":
            torch.save(state, whole)
        else:
            save_file({key: value.contiguous() for key, value in state.items()}, whole)
        for _ in range(CASES // 3):
            data = bytearray(whole.read_bytes())
            for place in rng.integers(len(data) if rng.random() < 0.5 else 400, size=rng.integers(1, 6)):
                data[place] = rng.integers(256)
            path.write_bytes(bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data))
            read(path)


def test_foolish_state_dicts() -> None:
    rng = np.random.default_rng(1)
    for good in states():
        for _ in range(CASES // 3):
            state = dict(good)
            for _ in range(rng.integers(1, 4)):
                key, what = str(rng.choice(list(state))), rng.random()
                value = state.pop(key)
                if what < 0.2:
                    continue
                if what < 0.4:
                    key = key.replace("0", str(rng.integers(10**12)))
                elif what < 0.5:
                    key += "x"
                elif isinstance(value, Tensor) and value.ndim:
                    value = CHANGES[rng.integers(len(CHANGES))](value)
                state[key] = value
            read(state)


@pytest.mark.parametrize("change", range(len(CHANGES)))
def test_every_change_of_every_tensor(change: int) -> None:
    (*_, good) = states()
    for key, value in good.items():
        read(good | {key: CHANGES[change](value)})
