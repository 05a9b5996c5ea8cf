"""Model files: what is read is what was written, and nothing else is read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from imc_ssm.errors import ConfigError, FileError
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.layers import S4D, Classifier, ModelConfig
from imc_ssm.layers.registry import LAYERS
from imc_ssm.layers.s4d import S4DConfig
from imc_ssm.modelfile import StoredModel, load_model, save_model, tensors_of
from imc_ssm.quantization import Quantizer, Scheme

Make = Callable[[Scheme], Classifier]
INFO = {"task": "digits", "accuracy": {"test": 91.25}, "note": "hélas", "history": [1.5, 0.25]}


class TestRoundTrip:
    def test_full_precision(self, trained: Classifier, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        save_model(path, StoredModel(trained, None, INFO))
        stored = load_model(path)
        assert stored.scheme is None
        assert stored.info == INFO
        assert stored.model.config == trained.config
        assert not stored.model.training
        assert set(tensors_of(stored.model)) == set(tensors_of(trained))
        for name, value in tensors_of(trained).items():
            assert np.array_equal(tensors_of(stored.model)[name], value)
        u = torch.randn(5, 64, 1)
        assert torch.equal(stored.model(u), trained(u))

    @pytest.mark.parametrize(
        "scheme",
        [
            Scheme(),
            Scheme.uniform(poles=5, state=12, weights=4, activations=6, granularity="tensor", symmetric=True),
            Scheme(bits=Scheme().bits.model_copy(update={"state": None, "gelu": None}), state_clip=None),
        ],
    )
    @torch.no_grad()
    def test_quantized(self, scheme: Scheme, quantized: Make, tmp_path: Path) -> None:
        path, model = tmp_path / "q.safetensors", quantized(scheme)
        save_model(path, StoredModel(model, scheme, INFO))
        stored = load_model(path)
        assert stored.scheme == scheme
        u = torch.randn(5, 64, 1)
        assert torch.equal(stored.model(u), model(u))
        formats = [
            [m.format() for m in one.modules() if isinstance(m, Quantizer) and m.bits is not None]
            for one in (model, stored.model)
        ]
        for one, two in zip(*formats, strict=True):
            assert np.array_equal(one.scale, two.scale)
            assert np.array_equal(one.zero_point, two.zero_point)

    @pytest.mark.parametrize(
        "fields", [{"norm": "batch"}, {"norm": "layer", "layers": 3}, {"inputs": 4, "classes": 2}]
    )
    def test_every_shape(self, fields: dict, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        model = Classifier(ModelConfig.parse({"heads": 4, "n_state": 8} | fields))
        model.train()(torch.randn(6, 9, model.config.inputs))  # a batch norm that has seen data
        save_model(path, StoredModel(model, None))
        u = torch.randn(2, 9, model.config.inputs)
        assert torch.equal(load_model(path).model(u), model.eval()(u))

    def test_a_name_decides_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the scales of quantizers have to be positive, not every parameter that is called so."""

        class Scaled(S4D):
            def __init__(self, heads: int, config: S4DConfig) -> None:
                super().__init__(heads, config)
                self.log_scale = torch.nn.Parameter(-torch.ones(heads))

        monkeypatch.setitem(LAYERS, "s4d", Scaled)
        path = tmp_path / "m.safetensors"
        save_model(path, Classifier(ModelConfig(heads=4, n_state=8)))
        assert (load_model(path).model.get_parameter("blocks.0.ssm.log_scale") == -1).all()

    def test_reading_draws_no_random_numbers(self, trained: Classifier, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        save_model(path, StoredModel(trained, None))
        before = torch.get_rng_state()
        load_model(path)
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_same_model_gives_the_same_bytes(self, trained: Classifier, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save_model(tmp_path / name, StoredModel(trained, None, INFO))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class TestDamage:
    def test_flipped_bits(self, quantized: Make, tmp_path: Path) -> None:
        path = tmp_path / "q.safetensors"
        save_model(path, StoredModel(quantized(Scheme()), Scheme()))
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        places = np.concatenate([np.arange(16), rng.integers(0, len(whole), 150), [len(whole) - 1]])
        for place in places.tolist():
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(damaged))
            with pytest.raises(FileError, match=r"q\.safetensors"):
                load_model(path)

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
    def test_truncated(self, share: float, trained: Classifier, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        save_model(path, StoredModel(trained, None))
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FileError, match="truncated or was changed"):
            load_model(path)

    def test_missing_and_of_another_kind(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="cannot read"):
            load_model(tmp_path / "none.safetensors")
        path = tmp_path / "other.safetensors"
        save_tensors(path, {"x": np.zeros(3)}, {}, kind="deployment")
        with pytest.raises(FileError, match="this is a 'deployment' file, a 'model' was expected"):
            load_model(path)

    def test_tensors_that_do_not_fit(self, trained: Classifier, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        save_model(path, StoredModel(trained, None))
        tensors, header = load_tensors(path, "model")
        for change in (
            {n: v for n, v in tensors.items() if n != "encoder.weight"},
            tensors | {"encoder.weight": np.zeros((3, 3), np.float32)},
            tensors | {"extra": np.zeros(1, np.float32)},
        ):
            save_tensors(path, change, header, kind="model")
            with pytest.raises(FileError, match="do not fit the configuration"):
                load_model(path)

    @pytest.mark.parametrize("change", [{"config": {"heads": "many"}}, {"config": None}, {"scheme": {"bit": {}}}])
    def test_a_header_that_is_no_configuration(self, change: dict, trained: Classifier, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        save_model(path, StoredModel(trained, None))
        tensors, header = load_tensors(path, "model")
        save_tensors(path, tensors, header | change, kind="model")
        with pytest.raises(ConfigError, match=r"m\.safetensors"):
            load_model(path)

    def test_an_output_that_cannot_be_written(self, trained: Classifier, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(FileError, match="cannot write"):
            save_model(tmp_path / "file" / "m.safetensors", StoredModel(trained, None))
        with pytest.raises(FileError, match="cannot write"):
            save_model(tmp_path, StoredModel(trained, None))
        assert [p.name for p in tmp_path.iterdir()] == ["file"]

    def test_nothing_is_left_when_the_header_cannot_be_stored(self, trained: Classifier, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="JSON"):
            save_model(tmp_path / "m.safetensors", StoredModel(trained, None, {"loss": float("nan")}))
        assert list(tmp_path.iterdir()) == []


def test_classes_is_the_old_name_of_outputs(tmp_path: Path) -> None:
    config = ModelConfig.parse({"classes": 3, "heads": 4})
    assert (config.outputs, config.classes) == (3, 3)
    assert config == ModelConfig(outputs=3, heads=4) == ModelConfig(heads=4).with_(classes=3)
    with pytest.raises(ConfigError, match="classes is the old name of outputs"):
        ModelConfig.parse({"classes": 3, "outputs": 3})
    model = Classifier(config)
    header = {"config": config.model_dump(mode="json"), "scheme": None, "info": {}}
    header["config"]["classes"] = header["config"].pop("outputs")
    save_tensors(tmp_path / "old.safetensors", tensors_of(model), header, kind="model")
    assert load_model(tmp_path / "old.safetensors").model.config == config
