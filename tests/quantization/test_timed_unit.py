"""Units that keep more than their states, in a whole model: dither, residuals, slow heads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from quantized_runs import check_batch_stream_and_partition, check_oracle, loss_of, some, ssm_of, stream
from torch import Tensor

import imc_ssm
from imc_ssm.chip.deployment import Deployment
from imc_ssm.datasets import SequenceDataset
from imc_ssm.fixedpoint import UnitState
from imc_ssm.graph import Recurrence
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import load_model, save_model
from imc_ssm.quantization import Scheme, quantize
from imc_ssm.training import TrainConfig, train

Make = Callable[[Scheme], Classifier]
SLOW = {"rate_limit": 2.0, "max_period": 8}
SCHEMES = {
    "slow": Scheme.uniform(**SLOW),
    "dithered": Scheme.uniform(rounding="dithered", granularity="state"),
    "dithered slow": Scheme.uniform(rounding="dithered", granularity="state", **SLOW),
    "dithered apart": Scheme.w4a6(state=6, rounding="dithered", **SLOW),
    "stochastic slow": Scheme.uniform(rounding="stochastic", poles=12, **SLOW),
    "feedback": Scheme.uniform(rounding="feedback", residual_bits=4),
    "feedback slow": Scheme.uniform(rounding="feedback", granularity="state", **SLOW),
}


@pytest.fixture
def slow(trained: Classifier, digits: SequenceDataset) -> Make:
    """The trained model with heads from slow to fast, quantized with a scheme."""
    with torch.no_grad():
        trained.blocks[0].ssm.log_dt.copy_(torch.linspace(-6, -2, 8)[[3, 0, 5, 7, 2, 4, 1, 6]])
    return lambda scheme: quantize(trained, scheme, digits)


def parts(state: object) -> list[Tensor]:
    """The tensors of a block's state."""
    assert isinstance(state, UnitState)
    return [part for part in (state.x, state.sums, state.residual) if part is not None]


@pytest.mark.parametrize("name", SCHEMES)
class TestForms:
    @torch.no_grad()
    def test_batch_stream_and_partition(self, slow: Make, digits: SequenceDataset, name: str) -> None:
        check_batch_stream_and_partition(slow(SCHEMES[name]), some(digits))

    @torch.no_grad()
    def test_codes_are_the_oracles(self, slow: Make, digits: SequenceDataset, name: str) -> None:
        formats = check_oracle(slow(SCHEMES[name]), some(digits))
        assert formats.timed
        assert (formats.rounding, formats.slow) == (SCHEMES[name].rounding, "slow" in name or "apart" in name)

    @torch.no_grad()
    def test_the_graph_carries_the_unit(self, slow: Make, name: str) -> None:
        model = slow(SCHEMES[name])
        layer, formats = ssm_of(model), imc_ssm.quantization.formats_of(model)
        (op,) = (op for op in model.graph() if isinstance(op, Recurrence))
        assert op.periods == layer.rates()
        own, wanted = op.formats(formats), layer.scan_formats()
        assert (own.periods, own.rounding, own.timed) == (wanted.periods, wanted.rounding, True)
        if wanted.rounding == "feedback":
            assert own.residual_bits == wanted.residual_bits

    @torch.no_grad()
    def test_a_padded_sequence_is_the_sequence_alone(self, slow: Make, digits: SequenceDataset, name: str) -> None:
        model, u = slow(SCHEMES[name]), some(digits, 6)
        lengths = torch.tensor([64, 1, 17, 40, 63, 2])
        padded = torch.where(torch.arange(64)[:, None] < lengths[:, None, None], u, 3.0)
        together = model(padded, lengths)
        for i, end in enumerate(lengths.tolist()):
            assert torch.equal(together[i : i + 1], model(u[i : i + 1, :end]))

    def test_files(self, slow: Make, digits: SequenceDataset, tmp_path: Path, name: str) -> None:
        model, u = slow(SCHEMES[name]), some(digits)
        save_model(tmp_path / "q.safetensors", model)
        again = load_model(tmp_path / "q.safetensors").model
        assert ssm_of(again).rates() == ssm_of(model).rates()
        assert again.scheme == SCHEMES[name]
        with torch.no_grad():
            assert torch.equal(again(u), model(u))


class TestStreams:
    @torch.no_grad()
    def test_a_state_is_a_whole_cut(self, slow: Make, digits: SequenceDataset) -> None:
        """Two batches that are at other times, one after the other, and a copy that goes its own way."""
        model, u = slow(SCHEMES["dithered slow"]), some(digits, 4)
        whole = stream(model, u)
        state = model.init_state(4)
        kept = None
        for t in range(64):
            if t == 29:
                kept = copy.deepcopy(state)
            _, state = model.step(u[:, t], state)
        assert kept is not None
        assert kept[0][0].time == 29
        logits = whole
        for t in range(29, 64):
            logits, kept = model.step(u[:, t], kept)
        assert torch.equal(logits, whole)
        assert all(torch.equal(a, b) for a, b in zip(parts(state[0][0]), parts(kept[0][0]), strict=True))

    def test_a_fresh_state_says_all_that_is_kept(self, slow: Make) -> None:
        state = ssm_of(slow(SCHEMES["feedback slow"])).init_state(3)
        assert isinstance(state, UnitState)
        assert [tuple(part.shape) for part in parts(state)] == [(3, 8, 16, 2), (3, 8), (3, 8, 16, 2)]
        assert state.time == 0
        assert torch.all(state.residual == 128)
        plain = ssm_of(slow(Scheme())).init_state(3)
        assert isinstance(plain, Tensor)

    @torch.no_grad()
    def test_both_directions_and_several_blocks(self, digits: SequenceDataset) -> None:
        torch.manual_seed(0)
        config = ModelConfig(heads=4, n_state=8, layers=2, bidirectional=True, dt_min=0.002, dt_max=0.3)
        model = quantize(Classifier(config), SCHEMES["dithered slow"], digits)
        assert {max(module.rates()) for module in (b.reverse for b in model.blocks)} == {8}
        u, lengths = some(digits, 3), torch.tensor([64, 9, 50])
        together = model(u, lengths)
        for i, end in enumerate(lengths.tolist()):
            assert torch.equal(together[i : i + 1], model(u[i : i + 1, :end]))

    @pytest.mark.parametrize("rounding", ["dithered", "stochastic", "feedback"])
    @torch.no_grad()
    def test_states_between_matrices(self, digits: SequenceDataset, rounding: str) -> None:
        torch.manual_seed(0)
        model = Classifier(ModelConfig(heads=4, layer="s5", n_state=16, dt_min=0.01, dt_max=0.3))
        made = quantize(model, Scheme.uniform(rounding=rounding, residual_bits=5), digits)
        check_batch_stream_and_partition(made, some(digits))
        assert not torch.equal(made(some(digits)), quantize(model, Scheme(), digits)(some(digits)))
        assert isinstance(made.init_state(2)[0][0], UnitState)


class TestTraining:
    @pytest.mark.parametrize("name", ["dithered slow", "feedback", "stochastic slow"])
    def test_a_step(self, slow: Make, digits: SequenceDataset, name: str) -> None:
        model = slow(SCHEMES[name])
        rates = ssm_of(model).rates()
        part = digits.split("train").take(32)
        logits = model.train()(torch.from_numpy(part.values))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(part.labels))
        loss.backward()
        with torch.no_grad():
            assert torch.equal(model.eval()(torch.from_numpy(part.values)), logits)  # forward: the same integers
        for parameter, value in model.named_parameters():
            assert value.grad is not None, parameter
            assert torch.isfinite(value.grad).all(), parameter
            assert value.grad.abs().max() > 0, parameter
        with torch.no_grad():
            for value in model.parameters():
                value -= 1e-3 * value.grad
            check_oracle(model, some(digits, 4))
        assert ssm_of(model).rates() == rates

    def test_training_goes_down_and_keeps_the_rates(self, slow: Make, digits: SequenceDataset) -> None:
        model = slow(SCHEMES["dithered slow"])
        rates, before = ssm_of(model).rates(), loss_of(model, digits)
        train(model, digits, TrainConfig(epochs=1, batch=64, learning_rate=1e-2))
        assert loss_of(model, digits) < 0.9 * before
        assert ssm_of(model).rates() == rates
        with torch.no_grad():
            check_batch_stream_and_partition(model.eval(), some(digits))


class TestDeployments:
    @torch.no_grad()
    def test_they_carry_the_unit(self, slow: Make, digits: SequenceDataset, tmp_path: Path) -> None:
        model, u = slow(SCHEMES["dithered slow"]), some(digits)
        made = imc_ssm.compile_model(model, "pcm-256", digits)
        made.save(tmp_path / "d.safetensors")
        again = Deployment.load(tmp_path / "d.safetensors")
        assert again.digest() == made.digest()
        assert again.graph == made.graph
        (op,) = (op for op in again.graph if isinstance(op, Recurrence))
        assert op.periods == ssm_of(model).rates()
        assert torch.equal(again.digital()(u), model(u))

    @torch.no_grad()
    def test_digests_tell_units_apart(self, slow: Make, digits: SequenceDataset) -> None:
        names = ("slow", "dithered slow", "dithered", "feedback")
        digests = {imc_ssm.compile_model(slow(SCHEMES[n]), "pcm-256", digits).digest() for n in names}
        assert len(digests) == 4

    @torch.no_grad()
    def test_streams_on_chips(self, slow: Make, digits: SequenceDataset) -> None:
        """An aged stream whose chips do not age is the batch: the unit's counter and sums go on."""
        model = slow(SCHEMES["dithered slow"])
        analog, tiles = imc_ssm.compile_model(model, "pcm-256", digits).analog()
        u = some(digits, 3)
        for tile in tiles:
            tile.program(0, 0)
        logits = imc_ssm.chip.run_stream(analog, tiles, u, time="1h", step="1s", block=64)
        assert logits.shape == (3, 64, 10)
        state, seen = analog.init_state(3), []
        for t in range(64):
            _, state = analog.step(u[:, t], state)
            seen.append(state[0][0].time)
        assert seen == list(range(1, 65))
