"""What `docs/guide.md` says of spoken digits is what the shipped files hold; their models stream to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from imc_ssm import modelfile, results
from imc_ssm.modelfile import StoredModel

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "experiments" / "audio"
PAGE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
NORMS = ("batch", "layer")


def stored(name: str) -> StoredModel:
    return modelfile.load_model(FOLDER / "models" / f"audio-{name}.safetensors")


@pytest.mark.parametrize("column", [0, 1])
def test_the_table_is_the_files(column: int) -> None:
    norm = NORMS[column]
    ds = results.load(FOLDER / "results" / f"audio-{norm}.nc").isel(model=0)
    full, short = stored(norm).info, stored(f"{norm}-8").info
    energy, latency, area = (float(ds[name].sum()) for name in ("energy", "latency", "area"))
    wanted = {
        "| full precision": f"{full['accuracy_test']:.2f}",
        "| QAT, 8 bits": f"{short['accuracy_test']:.2f}",
        "| cost of 8,000 steps": f"{energy * 1e6:.0f} uJ, {latency * 1e3:.1f} ms, {area * 1e6:.3f} mm2",
    }
    for title, seconds in (("| five chips", 1.0), ("| 1 day", 86400.0), ("| 30 days", 30 * 86400.0)):
        there = ds["accuracy"].sel(time=seconds)
        wanted[title] = f"{float(there.mean()):.1f} ({float(there.std(ddof=1)):.1f})"
    part = PAGE[PAGE.index("## A deep model on raw audio") :]
    for title, said in wanted.items():
        line = next(line for line in part.splitlines() if line.startswith(title))
        assert line.strip("|").split("|")[1 + column].strip() == said, title
    assert ds["accuracy"].attrs["n_test"] == full["n_test"] == 300
    assert short["accuracy_test"] > full["accuracy_test"] - 2


@pytest.mark.parametrize("norm", NORMS)
def test_a_deep_model_streams_as_in_one_batch(norm: str) -> None:
    model = stored(f"{norm}-8").model.eval()
    u = torch.randn(2, 40, 1, generator=torch.Generator().manual_seed(0)) * 0.3
    with torch.no_grad():
        whole, state = model(u), model.init_state(2)
        for t in range(u.shape[1]):
            logits, state = model.step(u[:, t], state)
    assert torch.equal(logits, whole)
