"""`imc-ssm export`: a bundle that replays, and refusals."""

import json
from pathlib import Path

from cli_runs import done
from conftest import Chain, Refused

from imc_ssm.quantization import load_integers


def test_a_quantized_model_is_exported(chain: Chain, tmp_path: Path) -> None:
    printed = done("export", chain["q.safetensors"], "--out", tmp_path / "integers", "--sequences", 2).out
    assert "golden codes" in printed
    bundle = load_integers(tmp_path / "integers")
    assert bundle.arrays["golden_lengths"].tolist() == [64, 64]
    assert json.loads((tmp_path / "integers" / "bundle.json").read_text())["name"] == "q"


def test_refusals(chain: Chain, refused: Refused) -> None:
    refused("export", chain["m.safetensors"], "--out", "integers", naming="full precision")
    refused("export", chain["q.safetensors"], "--out", "integers.json", naming="folder")
    refused("export", chain["q.safetensors"], "--out", "integers", "--dataset", "nowhere", naming="nowhere")
