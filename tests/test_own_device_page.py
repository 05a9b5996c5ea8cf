"""docs/own_device.md, from the first block to the last: nothing on it is only written."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from imc_ssm import results
from imc_ssm.devices import Generic, load_cell, resolve

sys.path.insert(0, str(Path(__file__).parent / "cli"))
from cli_runs import done

PAGE = (Path(__file__).parents[1] / "docs" / "own_device.md").read_text(encoding="utf-8")


def python(name: str, scope: dict[str, Any], **replaced: str) -> None:
    (text,) = re.findall(rf"```python {name}\n(.*?)```", PAGE, re.DOTALL)
    for old, new in replaced.items():
        assert f"{old}=50" in text
        text = text.replace(f"{old}=50", f"{old}={new}")
    exec(compile(text, f"docs/own_device.md: {name}", "exec"), scope)


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def test_the_page_from_measurements_to_yield(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    python("tile", scope)
    fit, show, copy, train, quantize, deploy = commands()
    done(*fit)
    assert Path("my-cell.png").is_file()
    assert "programming_error" in done(*show).out
    python("fit", scope)
    cell = load_cell("my-cell.toml")
    assert isinstance(cell, Generic)
    assert cell.programming_error is not None
    assert cell.programming_error.value == pytest.approx(2.5e-6, rel=0.05)
    assert sum(cell.rates) == pytest.approx(0.005, abs=0.003)
    assert cell.times.latest == 720 * 3600
    done(*copy)
    text = Path("my-chip.toml").read_text()
    (changes,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    for line in changes.splitlines():
        word = line.split(" = ")[0]
        text, count = re.subn(rf"^{word} = .*$", line, text, count=1, flags=re.MULTILINE)
        assert count == 1, word
    Path("my-chip.toml").write_text(text)
    python("design", scope)
    assert resolve("my-chip.toml").cell == resolve(scope["design"]).cell == cell
    assert resolve("my-chip.toml").adc == resolve(scope["design"]).adc
    done(*train)
    done(*quantize)
    fewer = ["4" if before == "--chips" else word for before, word in zip(["", *deploy], deploy, strict=False)]
    printed = done(*fewer).out
    assert "above 75 % accuracy" in printed
    ds = results.load("chips.nc")
    assert ds["accuracy"].sizes == {"model": 1, "chip": 4, "time": 3}
    share = 100 * (ds["accuracy"] > 75).mean("chip")
    assert (ds["yield"] == share).all()
    assert (ds["yield_low"] <= share).all()
    assert (ds["yield_high"] >= share).all()
    python("chips", scope, chips="4")
    assert (scope["chips"]["accuracy"].values == ds["accuracy"].values[0]).all()


def test_every_field_of_the_cell_is_on_the_page() -> None:
    for field in Generic.model_fields:
        told = f"`{field}`" in PAGE or field in (
            "name",
            "kind",
            "description",
            "model",
            "source",
            "programming_scale",
        )
        assert told, field
