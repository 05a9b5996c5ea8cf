"""One activation's quantizer: calibration, grids, straight-through gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.errors import ConfigError, FormatError, ImcSsmError
from imc_ssm.fixedpoint import Format
from imc_ssm.quantization import Percentile, Quantizer, Scheme, fake_quantize
from imc_ssm.quantization.quantizer import parameter_format
from imc_ssm.quantization.rules import ROLES


def calibrated(
    values: torch.Tensor, bits: int | None, channels: int | None, percentile: float = 100.0
) -> Quantizer:
    q = Quantizer(bits, channels, observer=Percentile(percent=percentile))
    q.observe()
    assert q.observing
    assert torch.equal(q(values), values)  # observing changes nothing
    q.calibrate()
    assert not q.observing
    return q


class TestCalibration:
    def test_range_of_the_data(self) -> None:
        q = calibrated(torch.tensor([[-1.0, 0.5], [3.0, 0.0]]), 8, None)
        assert q.scale == np.float32(4 / 255)
        assert q.zero_point == -64
        assert q.scale.shape == ()

    def test_per_channel(self) -> None:
        q = calibrated(torch.tensor([[-1.0, 0.5], [3.0, 0.0]]), 8, 2)
        assert torch.allclose(q.scale, torch.tensor([4 / 255, 0.5 / 255]))
        assert q.zero_point.tolist() == [-64, -128]

    def test_the_percentile_leaves_half_a_tail_on_either_side(self) -> None:
        values = torch.arange(-1000.0, 1001.0)[:, None]
        q = calibrated(values, 8, None, percentile=98.0)
        fmt = q.format()
        low, high = (float(fmt.dequantize(v)) for v in (fmt.low, fmt.high))
        assert low == pytest.approx(-980, abs=8)
        assert high == pytest.approx(980, abs=8)
        saturated = (q(values) - values).abs() > 1960 / 255
        assert 0.01 < float(saturated.float().mean()) < 0.03

    def test_several_batches_count_together(self) -> None:
        q = Quantizer(8, None)
        q.observe()
        q(torch.tensor([[-2.0]]))
        q(torch.tensor([[5.0]]))
        q.calibrate()
        assert q.scale == np.float32(7 / 255)

    def test_a_range_of_values_too_many_to_keep(self) -> None:
        q = Quantizer(8, (2, 1), observer=Percentile(percent=50.1))
        q.observe()
        q.collect_range(np.array([[-1.0], [0.0]]), np.array([[1.0], [2.0]]))
        q.collect_range(np.array([[-0.5], [-2.0]]), np.array([[4.0], [1.0]]))
        q.calibrate()
        assert torch.allclose(q.scale, torch.tensor([[5 / 255], [4 / 255]]))

    def test_a_dynamic_one_takes_each_range(self) -> None:
        q = calibrated(torch.tensor([[-1.0, 0.5], [3.0, 0.0]]), 8, None)
        q.dynamic = True
        q(torch.tensor([[7.0, -1.0]]))
        assert q.format().scale == np.float32(8 / 255)
        assert q.scale == np.float32(4 / 255)
        assert q.fixed() is None

    def test_none_passes_everything_through(self) -> None:
        values = torch.randn(3, 4)
        q = calibrated(values, None, 4)
        assert q(values) is values
        with pytest.raises(ImcSsmError, match="full precision"):
            q.format()

    def test_no_data(self) -> None:
        q = Quantizer(8, 3)
        q.observe()
        with pytest.raises(ImcSsmError, match="saw no data"):
            q.calibrate()

    def test_a_loaded_state_brings_its_format(self) -> None:
        one = calibrated(torch.randn(50, 3), 6, 3)
        two = Quantizer(6, 3)
        two(torch.randn(2, 3))  # its format is cached now
        two.load_state_dict(one.state_dict())
        values = torch.randn(20, 3)
        assert torch.equal(two(values), one(values))


class TestGrid:
    @settings(max_examples=150, deadline=None)
    @given(st.integers(2, 16), st.booleans(), st.booleans(), st.integers(0, 2**31))
    def test_values_are_codes_of_the_format(self, bits: int, symmetric: bool, per_head: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        ends = 10.0 ** rng.uniform(-4, 4) * rng.uniform(0.01, 1, (2, 3) if per_head else 2)
        fmt = Format.from_range(-ends[0], ends[1], bits, symmetric=symmetric)
        values = (rng.uniform(-1.5, 1.5, (40, 3)) * ends.max()).astype(np.float32)
        found = fake_quantize(torch.from_numpy(values), fmt, 1).numpy()
        codes = fmt.quantize(found, head_axis=1)
        assert np.array_equal(fmt.dequantize(codes, head_axis=1).astype(np.float32), found)
        # The same code as in double precision but where float32 cannot tell the side of a tie.
        exact = fmt.quantize(values, head_axis=1)
        assert np.abs(codes - exact).max() <= 1
        assert (codes != exact).mean() < 0.02

    def test_gradient_is_one_inside_and_zero_where_saturated(self) -> None:
        fmt = Format.from_range(-1.0, 1.0, 4, symmetric=True)
        x = torch.tensor([-2.0, -1.05, -0.99, 0.0, 0.3, 0.99, 1.05, 2.0], requires_grad=True)
        y = fake_quantize(x, fmt, 0)
        y.backward(torch.arange(1.0, 9.0))
        assert x.grad is not None
        # 1.05 is within half a step (1/14) of the last code and rounds to it: not saturated.
        assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0]
        assert torch.equal(y.detach(), fake_quantize(x.detach(), fmt, 0))

    def test_the_input_is_left_alone(self) -> None:
        x = torch.randn(10)
        before = x.clone()
        fake_quantize(x, Format.from_range(-1.0, 1.0, 4), 0)
        assert torch.equal(x, before)


class TestParameters:
    def test_per_row_and_per_tensor(self) -> None:
        value = torch.tensor([[-1.0, 3.0], [0.0, 0.5]])
        rows = parameter_format(value, 8, "head", symmetric=False)
        assert rows.scale.tolist() == [np.float32(4 / 255), np.float32(0.5 / 255)]
        whole = parameter_format(value, 8, "tensor", symmetric=True)
        assert whole.scale.shape == ()
        assert whole.scale == np.float32(3 / 127)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_not_finite(self, bad: float) -> None:
        with pytest.raises(ImcSsmError, match="not finite; try a smaller learning rate"):
            parameter_format(torch.tensor([[1.0, bad]]), 8, "head", symmetric=False)


class TestScheme:
    def test_uniform(self) -> None:
        scheme = Scheme.uniform(poles=6, state=5, weights=4, activations=7, granularity="tensor", symmetric=True)
        bits = scheme.bits.model_dump()
        assert {bits.pop("poles"), bits.pop("state"), bits.pop("biases")} == {6, 5, 16}
        assert {bits.pop(part) for part in ("b", "c", "d", "weights")} == {4}
        assert set(bits.values()) == {7}
        for path, kind in ROLES.items():
            spec = scheme.spec(path, kind)
            assert (spec.granularity, spec.symmetric) == ("tensor", True)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"bits": {"poles": 1}}, "poles"),
            ({"bits": {"state": 17}}, "state"),
            ({"bits": {"pole": 8}}, "did you mean 'poles'"),
            ({"percentile": 50}, "percentile"),
            ({"granularity": "channel"}, "granularity"),
            ({"state_clip": 0}, "state_clip"),
        ],
    )
    def test_bad_fields(self, data: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Scheme.parse(data)

    def test_formats_keep_their_own_limits(self) -> None:
        with pytest.raises(FormatError):
            calibrated(torch.randn(3, 2), 1, None)
