"""The bundle of integers: whole, replayed by NumPy alone, and refused where it is broken."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_integers import MODELS, SCHEMES, quantized

import imc_ssm
from imc_ssm.errors import FileError, FormatError, ImcSsmError
from imc_ssm.quantization import IntegerBundle, export_integers, load_integers, signal_codes

CASES = [*((m, "8 bits") for m in MODELS), *(("s4d", s) for s in SCHEMES), ("s5", "dithered"), ("s5", "feedback")]


@pytest.mark.parametrize(("model", "scheme"), CASES)
def test_the_checker_gives_the_oracles_codes(model: str, scheme: str, tmp_path: Path) -> None:
    made, values, _ = quantized(model, scheme)
    bundle = export_integers(made, tmp_path, values[:4], torch.tensor([40, 7, 1, 33]))
    assert bundle.check() == {}
    assert {s.name for s in made.graph().signals} == {n[7:] for n in bundle.arrays if n.startswith("golden/")}
    other = {name.rpartition(".")[2] for name, array in bundle.arrays.items() if array.dtype.kind != "i"}
    assert other == ({"pole_grid"} if scheme == "log-polar" else set())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, values, _ = quantized("both directions", "8 bits")
    folder = tmp_path_factory.mktemp("bundle")
    export_integers(made, folder, values[:2])
    return folder


def test_the_checker_needs_numpy_alone(written: Path) -> None:
    """In a process that cannot import the library."""
    code = "import sys, runpy; sys.modules['imc_ssm'] = sys.modules['torch'] = None; "
    code += f"sys.argv = ['check.py', {str(written)!r}]; "
    code += f"runpy.run_path({str(written / 'check.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" 0 differ\n")


def test_the_checker_sees_one_changed_integer(written: Path, tmp_path: Path) -> None:
    bundle = load_integers(written)
    number, op = next((i, op) for i, op in enumerate(bundle.head["operators"]) if op["kind"] == "linear")
    for part, by in (("weight", 9), ("bias", 1 << 45), ("shift", 1), ("output_zero", 1)):
        name = f"operator/{number}/{part}"
        changed = bundle.arrays[name].astype(np.int64)
        changed.flat[0] += by
        assert op["output"] in IntegerBundle(bundle.head, bundle.arrays | {name: changed}).check()


def test_words_are_the_codes_of_the_parameters(written: Path) -> None:
    bundle = load_integers(written)
    for path, entry in bundle.head["parameters"].items():
        codes = bundle.arrays[f"word/{path}"]
        assert codes.min() >= np.min(entry["low"])
        assert codes.max() <= np.max(entry["high"])
    unit = bundle.head["logits"]["unit"]
    assert bundle.head["logits"]["signal"] == "decoder"
    assert unit == 2.0 ** round(np.log2(unit))


def test_logits_are_the_models(tmp_path: Path) -> None:
    made, values, _ = quantized("s4d", "8 bits")
    bundle = export_integers(made, tmp_path, values[:3])
    codes, logits = signal_codes(made, values[:3])
    got = bundle.arrays["golden/decoder"] * bundle.head["logits"]["unit"]
    assert np.abs(got - logits).max() < 0.05 * np.abs(logits).max()
    assert np.array_equal(bundle.arrays["golden/input"], codes["input"])


BROKEN = [
    "json",
    "keys",
    "sha",
    "kind",
    "version",
    "truncated",
    "missing",
    "operator",
    "inputs",
    "order",
    "nothing",
]


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_refused(what: str, written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(written, folder)
    path, data = folder / "bundle.json", folder / "bundle.safetensors"
    head = json.loads(path.read_text())
    if what == "json":
        path.write_text("{")
    elif what == "keys":
        del head["operators"]
    elif what == "sha":
        raw = bytearray(data.read_bytes())
        raw[-1] ^= 1
        data.write_bytes(raw)
    elif what == "kind":
        head["kind"] = "model"
    elif what == "version":
        head["version"] = 2
    elif what == "truncated":
        data.write_bytes(data.read_bytes()[:-5])
    elif what == "missing":
        data.unlink()
    elif what == "operator":
        head["operators"][1]["kind"] = "unknown"
    elif what == "inputs":
        head["operators"][1]["inputs"] = ["nowhere"]
    elif what == "order":
        head["operators"][0], head["operators"][1] = head["operators"][1], head["operators"][0]
    else:
        shutil.rmtree(folder)
    if what not in ("json", "nothing"):
        path.write_text(json.dumps(head))
    with pytest.raises(FileError) as caught:
        load_integers(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_deployment_writes_those_of_its_digital_reference(tmp_path: Path) -> None:
    made, values, _ = quantized("s4d", "8 bits")
    deployment = imc_ssm.compile_model(made, "pcm-256", values[:16])
    bundle = deployment.export_integers(tmp_path / "chip", values[:2])
    alone = export_integers(made, tmp_path / "model", values[:2])
    assert bundle.head["name"] == deployment.name
    assert all(np.array_equal(bundle.arrays[name], array) for name, array in alone.arrays.items())


def test_refusals(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4)).eval()
    values = torch.rand(4, 10, 1)
    with pytest.raises(FormatError, match="'input' is in full precision"):
        imc_ssm.export_integers(model, tmp_path, values)
    made = imc_ssm.quantize(model, "uniform", values)
    with pytest.raises(ImcSsmError, match="golden sequences"):
        export_integers(made, tmp_path, values[0])
    with pytest.raises(FormatError, match="lengths"):
        export_integers(made, tmp_path, values, np.zeros(4, int))
    (tmp_path / "file").touch()
    with pytest.raises(FileError):
        export_integers(made, tmp_path / "file", values)
