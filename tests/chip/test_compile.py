"""Compiling: what sits where, with which ranges; a deployment is plain data that survives a file."""

import io
import re
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chip_cases import chip_of, ideal
from rich.console import Console

from imc_ssm.chip import Deployment, compile
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import Chip, load_design
from imc_ssm.errors import DataError, DesignError, FileError, ImcSsmError
from imc_ssm.graph import Matrix
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Bits, QuantizedDense, Scheme, calibration_batch, quantize, wrap
from imc_ssm.training import accuracy

Make = Callable[[Scheme], Classifier]
PCM = chip_of("pcm-256")


def small_tiles(**changes: object) -> Chip:
    """The PCM design with tiles of 5 x 6, so that even small matrices are split."""
    return chip_of(**{"rows": 5, "columns": 6, "columns_per_adc": 6, "name": "small"} | changes)


@pytest.fixture
def calibration(digits: SequenceDataset) -> torch.Tensor:
    return calibration_batch(digits, 8, most=100)[0]


@pytest.fixture
def deployment(quantized: Make, calibration: torch.Tensor) -> Deployment:
    return compile(quantized(Scheme()), small_tiles(), calibration, name="small one")


def assert_equal(one: Deployment, two: Deployment) -> None:
    """Every field, exactly."""
    for field in ("chip", "design", "graph", "scheme", "steps", "config", "name"):
        assert getattr(one, field) == getattr(two, field), field
    (arrays, rest), (others, other_rest) = one.formats.tensors(), two.formats.tensors()
    assert (rest, arrays.keys()) == (other_rest, others.keys())
    assert all(np.array_equal(value, others[n]) for n, value in arrays.items())
    assert set(one.tensors) == set(two.tensors)
    assert all(np.array_equal(value, two.tensors[n]) for n, value in one.tensors.items())
    for a, b in zip(one.matrices, two.matrices, strict=True):
        for field in ("name", "module", "rate", "input_range", "input_activity"):
            assert getattr(a, field) == getattr(b, field), field
        assert [astuple(t) for t in a.tiles] == [astuple(t) for t in b.tiles]
        for field in ("target", "scale", "bias"):
            assert np.array_equal(getattr(a, field), getattr(b, field)), field
            assert getattr(a, field).dtype == getattr(b, field).dtype
    assert one.digest() == two.digest()


class TestPlacement:
    def test_every_matrix_of_the_graph(self, deployment: Deployment, trained: Classifier) -> None:
        products = [op for op in trained.graph() if isinstance(op, Matrix)]
        assert [(m.name, m.module, m.inputs, m.outputs, m.rate) for m in deployment.matrices] == [
            (op.name, op.module, op.inputs[0].width, op.output.width, op.rate) for op in products
        ]
        assert deployment.graph == trained.graph()
        assert deployment.steps == 64
        assert (deployment.name, deployment.design.name) == ("small one", "small")
        *before, logits = deployment.graph.kinds()
        widths = {path: fmt.bits for path, fmt in deployment.formats.items()}
        assert widths == {path: 16 if path.endswith(".bias") else 8 for path in before}
        assert logits == "decoder"  # leaves as whole sums

    def test_weights_and_tiles(self, deployment: Deployment, trained: Classifier) -> None:
        for m in deployment.matrices:
            linear = trained.get_submodule(m.module)
            weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
            assert np.allclose((m.target * m.scale).T, weight, rtol=1e-6, atol=1e-8)
            assert np.abs(m.target).max() == 1
            # On the grid of 16 bits, not as trained.
            assert np.allclose(m.bias, bias, rtol=0, atol=np.ptp(bias) / 2**16)
            covered = np.zeros(m.target.shape, int)
            for tile in m.tiles:
                assert tile.row[1] - tile.row[0] <= 5
                assert tile.column[1] - tile.column[0] <= 6
                assert tile.output_range > 0
                covered[slice(*tile.row), slice(*tile.column)] += 1
            assert (covered == 1).all()
        assert [len(m.tiles) for m in deployment.matrices] == [2, 2 * 3, 2 * 2]

    @torch.no_grad()
    def test_ranges_come_from_the_calibration_data(
        self, quantized: Make, calibration: torch.Tensor, deployment: Deployment
    ) -> None:
        model = quantized(Scheme())
        seen: dict[str, np.ndarray] = {}
        for m in deployment.matrices:
            owner = model.get_submodule(m.module)
            assert isinstance(owner, QuantizedDense)
            owner.matrix.register_forward_pre_hook(
                lambda _, inputs, name=m.name: seen.update(
                    {name: inputs[0].reshape(-1, inputs[0].shape[-1]).numpy()}
                )
            )
        model(calibration)
        for m in deployment.matrices:
            inputs = seen[m.name]
            assert m.input_range == pytest.approx(float(np.percentile(np.abs(inputs), 99.5)), rel=1e-6)
            codes = np.rint(np.clip(inputs / m.input_range, -1, 1) * 127)  # what the converter drives
            assert m.input_activity == pytest.approx(float(((codes / 127) ** 2).mean()), rel=1e-4)
            drive = np.clip(inputs / m.input_range, -1, 1)
            for tile in m.tiles:
                sums = drive[:, slice(*tile.row)] @ m.target[slice(*tile.row), slice(*tile.column)]
                # At most one sum in ten thousand is clipped, or the largest one of fewer.
                assert 0 < (np.abs(sums) > tile.output_range * (1 + 1e-6)).sum() <= 1 + 1e-4 * sums.size or (
                    np.abs(sums).max() == pytest.approx(tile.output_range, rel=1e-3)
                )

    def test_percentiles(self, quantized: Make, calibration: torch.Tensor) -> None:
        model = quantized(Scheme())
        wide, narrow = (
            compile(model, PCM, calibration, input_percentile=p, output_percentile=p) for p in (100.0, 90.0)
        )
        for a, b in zip(wide.matrices, narrow.matrices, strict=True):
            assert b.input_range < a.input_range or a.name == "encoder"  # black pixels fill the tail
            assert b.input_range <= a.input_range

    def test_the_model_is_left_alone(self, quantized: Make, calibration: torch.Tensor) -> None:
        model = quantized(Scheme()).train()
        before = {n: v.clone() for n, v in model.state_dict().items()}
        compile(model, PCM, calibration)
        assert model.training
        assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
        assert all(
            isinstance(m.matrix.linear, torch.nn.Linear) for m in model.modules() if isinstance(m, QuantizedDense)
        )
        assert not any(m._forward_pre_hooks for m in model.modules())

    def test_more_layers(self, digits: SequenceDataset) -> None:
        torch.manual_seed(0)
        model = Classifier(ModelConfig(heads=4, n_state=4, layers=3))
        data, _ = calibration_batch(digits, 4, most=20)
        deployed = compile(quantize(model, Scheme(), data), PCM, data)
        assert [m.name for m in deployed.matrices] == ["encoder", "mixing", "1.mixing", "2.mixing", "decoder"]
        model, tiles = deployed.analog()
        for tile in tiles:
            tile.program(0, 0)
        assert torch.isfinite(model(data)).all()


class TestFiles:
    def test_round_trip(self, deployment: Deployment, digits: SequenceDataset, tmp_path: Path) -> None:
        path = tmp_path / "d.safetensors"
        deployment.save(path)
        loaded = Deployment.load(path)
        assert_equal(deployment, loaded)
        part = digits.split("test").take(100)
        assert accuracy(loaded.digital(), part) == accuracy(deployment.digital(), part)
        outputs = []
        for one in (deployment, loaded):
            model, tiles = one.analog()
            for tile in tiles:
                tile.program(3, 1).set_time(3600.0)
            outputs.append(model(torch.from_numpy(part.values)))
        assert torch.equal(*outputs)

    def test_the_digital_model_is_the_quantized_one(self, quantized: Make, deployment: Deployment) -> None:
        u = torch.randn(7, 64, 1)
        assert torch.equal(deployment.digital()(u), quantized(Scheme())(u))

    def test_digest_notices_every_change(self, deployment: Deployment) -> None:
        first = deployment.matrices[0]
        changed = [
            replace(deployment, name="another"),
            replace(deployment, chip=small_tiles(adc={"type": "sar", "bits": 7})),
            replace(deployment, matrices=(replace(first, input_range=2.5), *deployment.matrices[1:])),
            replace(deployment, matrices=(replace(first, scale=first.scale * 2), *deployment.matrices[1:])),
        ]
        assert len({d.digest() for d in (deployment, *changed)}) == 5

    def test_damage(self, deployment: Deployment, tmp_path: Path) -> None:
        path = tmp_path / "d.safetensors"
        deployment.save(path)
        whole = path.read_bytes()
        rng = np.random.default_rng(1)
        for place in rng.integers(0, len(whole), 60).tolist():
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(damaged))
            with pytest.raises(FileError):
                Deployment.load(path)
        path.write_bytes(whole[:-1])
        with pytest.raises(FileError, match="truncated"):
            Deployment.load(path)

    def test_a_header_without_its_parts(self, deployment: Deployment, tmp_path: Path) -> None:
        from imc_ssm.files import load_tensors, save_tensors

        path = tmp_path / "d.safetensors"
        deployment.save(path)
        tensors, header = load_tensors(path, "deployment")
        for missing in ("matrices", "chip", "steps", "config", "scheme"):
            save_tensors(path, tensors, {k: v for k, v in header.items() if k != missing}, "deployment")
            with pytest.raises(ImcSsmError, match=r"d\.safetensors"):
                Deployment.load(path)

    def test_table(self, deployment: Deployment) -> None:
        text = io.StringIO()
        Console(width=200, file=text).print(deployment.table())
        for word in ("small one on small", "encoder", "mixing", "decoder", "8 x 16", "sequence"):
            assert word in text.getvalue()


class TestIdealChip:
    @torch.no_grad()
    def test_fine_converters_and_no_noise_give_the_digital_logits(
        self, quantized: Make, digits: SequenceDataset
    ) -> None:
        u = torch.from_numpy(digits.split("test").take(100).values)
        scheme = Scheme.uniform(poles=14, state=14, weights=16, activations=14, percentile=100)
        deployed = compile(
            quantized(scheme),
            small_tiles(dac=ideal(16), adc=ideal(16)),
            u,
            input_percentile=100,
            output_percentile=100,
        )
        model, tiles = deployed.analog()
        assert all(tile.ideal_weights for tile in tiles)
        exact = deployed.digital()(u)
        assert (model(u) - exact).abs().max() < 5e-3 * exact.abs().max()

    @torch.no_grad()
    def test_each_imperfection_costs_something(self, quantized: Make, digits: SequenceDataset) -> None:
        u = torch.from_numpy(digits.split("test").take(100).values)
        model = quantized(Scheme.uniform(poles=14, state=14, weights=16, activations=14, percentile=100))

        def error(design: Chip, time: float | None, programmed: bool = True) -> float:
            deployed = compile(model, design, u, input_percentile=100, output_percentile=100)
            chip, tiles = deployed.analog()
            for tile in tiles:
                if programmed:
                    tile.program(0, 0)
                if time is not None:
                    tile.set_time(time)
            exact = deployed.digital()(u)
            return float((chip(u) - exact).square().mean().sqrt() / exact.std())

        fine = chip_of(dac=ideal(16), adc=ideal(16))
        none = error(fine, None, programmed=False)
        coarse = error(chip_of(dac=ideal(4), adc=ideal(4)), None, programmed=False)
        programmed = error(fine, None)
        aged = error(chip_of(dac=ideal(16), adc=ideal(16), drift_compensation="none"), 30 * 86400.0)
        assert none < 0.01
        assert coarse > 10 * none
        assert programmed > 10 * none
        assert aged > 1.5 * programmed


class TestErrors:
    def test_full_precision(self, trained: Classifier, calibration: torch.Tensor) -> None:
        with pytest.raises(ImcSsmError, match="full precision; quantize it first"):
            compile(trained, PCM, calibration)

    @pytest.mark.parametrize(
        ("part", "path"),
        [("gelu", "blocks.0.gelu"), ("d", "blocks.0.ssm.d"), ("state", "blocks.0.ssm.state"), ("pool", "pool")],
    )
    def test_parts_in_full_precision(
        self, part: str, path: str, quantized: Make, calibration: torch.Tensor
    ) -> None:
        model = quantized(Scheme(bits=Bits.parse({part: None})))
        with pytest.raises(
            ImcSsmError, match=f"a chip has no full precision: give bits to {re.escape(path)} and quantize again"
        ):
            compile(model, PCM, calibration)

    def test_a_design_too_small(self, quantized: Make, calibration: torch.Tensor) -> None:
        model = quantized(Scheme())
        assert len(compile(model, small_tiles(tiles=12), calibration).matrices) == 3
        with pytest.raises(DesignError, match="needs 12 tiles of 5 x 6, design 'small' has 11"):
            compile(model, small_tiles(tiles=11), calibration)
        with pytest.raises(DesignError, match=r"matrix 'mixing' \(8 x 16\) needs 6 tiles"):
            compile(model, small_tiles(tiles=5), calibration)

    def test_a_model_that_was_never_calibrated(self, trained: Classifier, calibration: torch.Tensor) -> None:
        # Its formats are the identity on small integers: wrong, but a model all the same.
        assert compile(wrap(trained, Scheme()), PCM, calibration).steps == 64


@pytest.mark.parametrize("shape", [(4, 64), (4, 64, 2), (0, 64, 1)])
def test_calibration_of_another_shape_is_refused(
    quantized: Callable[[Scheme], Classifier], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ImcSsmError, match=r"calibration data: shape .*needed is \(sequences, time, 1\)"):
        compile(quantized(Scheme.uniform()), load_design("pcm-256"), torch.zeros(shape))


def test_inputs_that_are_mostly_zero_have_a_range(quantized: Callable[[Scheme], Classifier]) -> None:
    """Of events alone: the percentile is zero, and no default takes its place."""
    model, events = quantized(Scheme.uniform()), torch.zeros(4, 1000, 1)
    events[:, ::500] = 1.0
    encoder = compile(model, load_design("pcm-256"), events).matrices[0]
    assert encoder.input_range == pytest.approx(1.0, rel=0.02)
    with pytest.raises(DataError, match="the inputs of 'encoder' are zero in all calibration data"):
        compile(model, load_design("pcm-256"), torch.zeros(4, 64, 1))


def test_what_a_driver_shuts_off_drives_nothing(
    quantized: Callable[[Scheme], Classifier], calibration: torch.Tensor
) -> None:
    """It is on above half of full scale, in the energy of the cells as in the ranges of the ADCs."""
    design = load_design("pcm-256").with_({"dac.type": "driver", "dac.bits": 1})
    model = quantized(Scheme.uniform())
    seen: dict[str, np.ndarray] = {}
    driven = compile(model, design, calibration).matrices
    for m in driven:
        model.get_submodule(m.module).matrix.register_forward_pre_hook(
            lambda _, inputs, name=m.name: seen.update({name: inputs[0].numpy()})
        )
    with torch.no_grad():
        model(calibration)
    for m in driven:
        assert m.input_activity == pytest.approx(float((seen[m.name] / m.input_range > 0.5).mean()), rel=1e-6)
        assert 0 < m.input_activity < 1
