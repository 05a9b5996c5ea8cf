"""The flat API: names, laziness, types, the examples in its docstrings, and mistakes that come naturally."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imc_ssm
from imc_ssm.errors import ConfigError, DataError, FileError, ImcSsmError

SOURCE = Path(imc_ssm.__file__)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_every_name_is_there_and_listed():
    for name in imc_ssm.__all__:
        assert getattr(imc_ssm, name) is not None
        assert name in dir(imc_ssm)


def test_importing_loads_nothing_heavy():
    heavy = ("torch", "numpy", "numba", "xarray", "pydantic")
    code = f"import imc_ssm, sys; print([m for m in {heavy} if m in sys.modules])"
    assert run(code) == "[]"


def test_a_design_needs_no_torch():
    assert run("import imc_ssm, sys; imc_ssm.load_design('pcm-256'); print('torch' in sys.modules)") == "False"


def test_rooms_are_reached_without_an_import_of_their_own():
    assert run("import imc_ssm; print(imc_ssm.units.DAY)") == "86400.0"


def test_type_checkers_see_the_same_names():
    block = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    seen = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        seen |= {alias.asname or alias.name: (line.module, alias.name) for alias in line.names}
    assert set(seen) == set(imc_ssm.__all__)
    for name, (module, there) in seen.items():
        assert (f"imc_ssm.{imc_ssm._NAMES[name][0]}", imc_ssm._NAMES[name][1]) == (module, there)
    assert (SOURCE.parent / "py.typed").is_file()


def test_an_unknown_name_has_its_nearest():
    with pytest.raises(AttributeError, match="no 'load_desing'; did you mean 'load_design'"):
        _ = imc_ssm.load_desing  # type: ignore[attr-defined]


EXAMPLES = [name for name in imc_ssm.__all__ if ">>>" in (getattr(imc_ssm, name).__doc__ or "")]


def test_the_main_road_has_examples():
    road = {"load_dataset", "quantize", "compile_model", "evaluate", "cost", "load_design", "load_model", "Scheme"}
    assert road <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    thing = getattr(imc_ssm, name)
    found = doctest.DocTestFinder(recurse=False).find(thing, name, globs={"imc_ssm": imc_ssm})
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for example in found:
        runner.run(example, out=said.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(said)


@pytest.fixture(scope="module")
def data() -> Any:
    return imc_ssm.load_dataset("digits")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))


@pytest.fixture(scope="module")
def quantized(model: Any, data: Any) -> Any:
    return imc_ssm.quantize(model, "uniform", data)


class TestTaken:
    def test_sequences_as_array_or_list_or_dataset(self, model, data):
        part = data.split("train").take(8)
        tensor = torch.from_numpy(np.array(part.values))
        made = [
            imc_ssm.quantize(model, imc_ssm.Scheme(), given)
            for given in (tensor, part.values, part.values.astype(float).tolist(), part.values[:, :, 0], part)
        ]
        states = [{k: v.tolist() for k, v in one.state_dict().items()} for one in made]
        assert all(state == states[0] for state in states)

    def test_a_dataset_calibrates(self, model, data, quantized):
        from imc_ssm.quantization import calibration_batch

        sequences, lengths = calibration_batch(data, 4, seed=0)
        same = imc_ssm.quantize(model, imc_ssm.Scheme.uniform(), sequences, lengths)
        assert all(torch.equal(v, quantized.state_dict()[k]) for k, v in same.state_dict().items())

    def test_a_design_by_name_or_object_or_path(self, quantized, data, tmp_path):
        one = imc_ssm.compile_model(quantized, "pcm-256", data)
        two = imc_ssm.compile_model(quantized, imc_ssm.load_design("pcm-256"), data)
        assert one.digest() == two.digest()

    def test_data_by_name(self, quantized, data):
        deployment = imc_ssm.compile_model(quantized, "pcm-256", data)
        ds = imc_ssm.evaluate(deployment, "digits", chips=1, times=[1.0])
        assert float(ds["accuracy"][0, 0]) == float(imc_ssm.evaluate(deployment, data, 1, [1.0])["accuracy"][0, 0])

    def test_what_a_file_held_is_a_model(self, quantized, data, tmp_path):
        imc_ssm.save_model(tmp_path / "m.safetensors", quantized)
        stored = imc_ssm.load_model(tmp_path / "m.safetensors")
        assert stored.scheme == quantized.scheme
        assert imc_ssm.compile_model(stored, "pcm-256", data).matrices
        imc_ssm.save_model(stored, tmp_path / "again.safetensors")  # as torch.save has it
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


class TestNamed:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda m, d: imc_ssm.quantize("m.safetensors", "uniform", d), "load it first: imc_ssm.load_model.'m"),
            (lambda m, d: imc_ssm.quantize(m.config, "uniform", d), "build it first: imc_ssm.Classifier"),
            (lambda m, d: imc_ssm.quantize(torch.nn.Linear(1, 1), "uniform", d), "put your layer into"),
            (lambda m, d: imc_ssm.quantize(m, "unifrom", d), "did you mean 'uniform'"),
            (lambda m, d: imc_ssm.quantize(m, 8, d), "scheme = 8; give a Scheme or the name"),
            (lambda m, d: imc_ssm.quantize(m, "uniform", "digits?"), "is no array of numbers; give a tensor"),
            (lambda m, d: imc_ssm.quantize(m, "uniform", object()), "is no array of numbers"),
            (lambda m, d: imc_ssm.compile_model(m, "pcm-256", d), "in full precision; quantize it first"),
            (lambda m, d: imc_ssm.compile_model(m, "pcm-265", d), "did you mean 'pcm-256'"),
            (lambda m, d: imc_ssm.evaluate(m, d), "evaluate takes a Deployment, not a Classifier; make one with"),
            (lambda m, d: imc_ssm.evaluate("d.safetensors", d), "load it first: imc_ssm.Deployment.load.'d.safe"),
            (lambda m, d: imc_ssm.cost(m), "cost takes a Deployment, not a Classifier"),
            (lambda m, d: imc_ssm.train(m, d.split("train"), imc_ssm.TrainConfig()), "data is a Split; give a da"),
            (lambda m, d: imc_ssm.train(m, "digitz", imc_ssm.TrainConfig()), "did you mean 'digits'"),
            (lambda m, d: imc_ssm.ModelConfig(head=3), "^unknown field 'head'; did you mean 'heads'"),
            (lambda m, d: imc_ssm.ModelConfig(heads=0), "^ModelConfig field 'heads' = 0: allowed is at least 1$"),
            (lambda m, d: imc_ssm.TrainConfig(epochs="5"), "^TrainConfig field 'epochs' = '5': give a number$"),
            (lambda m, d: imc_ssm.TrainConfig(epochs=True), "field 'epochs' = True: give a number"),
            (lambda m, d: imc_ssm.Scheme(symmetric=1), "field 'symmetric' = 1: give true or false"),
            (lambda m, d: imc_ssm.Rule(bits="8"), "Rule field 'bits' = '8': give a number or 'full'"),
            (lambda m, d: m(d.split("test").values), "is a NumPy array; give a tensor: torch.from_numpy"),
        ],
    )
    def test_in_one_sentence(self, model, data, call, message):
        with pytest.raises(ImcSsmError, match=message) as error:
            call(model, data)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500


class TestWith:
    def test_short_names_of_a_design(self):
        design = imc_ssm.load_design("pcm-256")
        assert design.with_(adc_bits=6).adc.bits == 6
        assert design.with_(adc_bits=6).dac == design.dac
        with pytest.raises(ConfigError, match=r"Design has several 'bits': dac.bits, adc.bits; give one of them"):
            design.with_(bits=6)
        with pytest.raises(ConfigError, match="unknown field 'adc_bit'"):
            design.with_(adc_bit=6)
        with pytest.raises(ConfigError, match="40"):
            design.with_(adc_bits=40)

    def test_a_number_in_the_place_of_one_with_a_source_says_so(self):
        design = imc_ssm.load_design("pcm-256")
        changed = design.with_(read_noise=0.1)
        assert changed.read_noise.value == 0.1
        assert changed.read_noise.unit == design.read_noise.unit
        assert changed.read_noise.source.startswith("assumed: 0.1 in the place of")
        assert design.read_noise.source in changed.read_noise.source
        cell = imc_ssm.load_cell(design.cell)
        assert cell.with_(g_max=cell.g_max.value / 2).g_max.value == cell.g_max.value / 2

    def test_a_layers_fields_of_a_model(self):
        config = imc_ssm.ModelConfig().with_(n_state=16, heads=np.int64(8))
        assert config.layer.n_state == 16
        assert config.heads == 8
        assert type(config.heads) is int
        assert config.with_(layer="s5", n_state=8).layer.type == "s5"

    def test_bits_of_a_scheme(self):
        scheme = imc_ssm.Scheme().with_(state=6, symmetric=True)
        assert scheme.bits.state == 6
        assert scheme == imc_ssm.Scheme().with_(bits__state=6, symmetric=True)

    def test_a_chip_of_a_changed_cell(self):
        chip = imc_ssm.resolve_design("pcm-256")
        assert chip.with_({"cell.g_max": 2e-5}).cell.g_max.value == 2e-5

    def test_there_is_no_unvalidated_copy(self):
        design = imc_ssm.load_design("pcm-256")
        for make in (
            lambda: design.model_copy(update={"drift_compensation": "glob"}),
            lambda: imc_ssm.Design.model_construct(**(dict(design) | {"drift_compensation": "glob"})),
        ):
            with pytest.raises(ConfigError, match="drift_compensation"):
                make()


class TestReprs:
    def test_ten_lines(self, model, quantized, data):
        design = imc_ssm.load_design("pcm-256")
        deployment = imc_ssm.compile_model(quantized, design, data)
        things = [design, imc_ssm.load_cell(design.cell), imc_ssm.load_components(design.components), data, model]
        things += [imc_ssm.resolve_design(design), imc_ssm.Scheme.w4a6(), quantized, deployment, model.config]
        for thing in things:
            assert len(repr(thing).splitlines()) <= 10, repr(thing)
            assert len(repr(thing)) < 1200
            assert thing._repr_html_().startswith("<b>")
        for part in (data.split("test"), deployment.formats, deployment.graph, deployment.matrices[0]):
            assert len(repr(part)) < 500
        assert "ADC 8 b" in repr(deployment)
        assert "quantized, a8-x8" in repr(quantized)

    def test_only_what_differs(self):
        assert repr(imc_ssm.ModelConfig(heads=8, n_state=4)) == "ModelConfig(heads=8, layer=S4DConfig(n_state=4))"
        assert repr(imc_ssm.Scheme().with_(state=6)).splitlines()[-1].split() == ["state", "6", "bits"]

    def test_html_is_escaped(self):
        design = imc_ssm.load_design("pcm-256").with_(description="<script>")
        assert "&lt;script&gt;" in design._repr_html_()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer": "s6", "n_state": 4}, "unknown layer 's6'; did you mean 's5'"),
        (
            {"layer": "s5", "initialisation": "legs"},
            "'initialisation' is one of layer 's4d', not of 's5', which has",
        ),
        ({"layer": [1]}, r"layer = \[1\]; give a layer's configuration or its name"),
    ],
)
def test_layers_of_a_model(fields, message):
    with pytest.raises(ConfigError, match=message):
        imc_ssm.ModelConfig(**fields)


class TestMessages:
    def test_long_values_are_cut(self):
        with pytest.raises(ConfigError) as error:
            imc_ssm.ModelConfig(norm="x" * 10_000)
        assert len(str(error.value)) < 400
        with pytest.raises(ConfigError) as error:
            imc_ssm.ModelConfig.parse({"y" * 10_000: 1})
        assert len(str(error.value)) < 600

    def test_whatever_goes_into_an_error_is_one_line_of_bounded_length(self):
        assert len(str(ImcSsmError("z" * 10_000))) < 100
        assert len(str(ImcSsmError("z " * 10_000))) <= 2500
        assert "\n" not in str(ImcSsmError("a\nb\n"))

    def test_a_number_of_more_digits_than_python_prints(self):
        with pytest.raises(ConfigError, match="heads"):
            imc_ssm.ModelConfig(heads=10**5000)

    def test_no_such_file(self):
        from imc_ssm.pretrained import model_file

        with pytest.raises(FileError, match=r"^no file d[.]nc; give a model file"):
            model_file("d.nc")


def test_data_is_a_dataset():
    from imc_ssm.datasets import dataset_of

    with pytest.raises(DataError, match=r"data is a ndarray; give a dataset.*make one: imc_ssm.SequenceDataset"):
        dataset_of(np.zeros((3, 2, 1)))
