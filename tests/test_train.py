"""The training loop: it learns, it repeats, it stops with a reason, it goes on where it was stopped."""

import copy
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imc_ssm import training
from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.errors import CheckpointError, ConfigError, FileError, ImcSsmError
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, quantize
from imc_ssm.training import History, TrainConfig, _optimiser, accuracy, at_once, predict, train


def levels(n: int = 120, time: int = 20, lengths: bool = False, noise: float = 0.5) -> SequenceDataset:
    """Three classes of noisy constant sequences: easy, small and quick."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    values = (labels - 1.0)[:, None, None] + noise * rng.standard_normal((n, time, 1))
    parts = np.split(np.arange(n), [n * 2 // 3, n * 5 // 6])
    return SequenceDataset(
        values=values,
        labels=labels,
        splits=dict(zip(SPLITS, parts, strict=True)),
        lengths=rng.integers(5, time + 1, n) if lengths else None,
        task="levels",
    )


def small(seed: int = 0, **fields: object) -> Classifier:
    torch.manual_seed(seed)
    shape = {"heads": 4, "n_state": 8, "classes": 3, "dt_min": 0.05, "dt_max": 0.5}
    return Classifier(ModelConfig.parse(shape | fields))


QUICK = TrainConfig(epochs=4, batch=8, learning_rate=3e-2)


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(v, two.state_dict()[n]) for n, v in one.state_dict().items())


class TestChunks:
    """The gradients of a step's chunks add up to the step's."""

    @pytest.mark.parametrize("lengths", [False, True])
    @pytest.mark.parametrize("chunk", [1, 3, 8, 100])  # 8 divides the 16 of a step, 3 does not
    def test_a_step_is_the_same_in_chunks(self, lengths: bool, chunk: int) -> None:
        data, models, losses = levels(lengths=lengths), [], []
        for size in (None, chunk):
            models.append(small())
            config = TrainConfig(epochs=1, batch=16, learning_rate=1e-2, micro_batch=size)
            losses.append(train(models[-1], data, config, keep="last").loss_train[0])
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        start = small().state_dict()
        for (name, one), two in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
            moved = (one - start[name]).abs().max()
            assert moved > 0
            torch.testing.assert_close(two, one, rtol=0, atol=float(1e-2 * moved))

    def test_a_chunk_of_everything_is_the_whole_step_to_the_bit(self) -> None:
        models = [small(), small()]
        for model, size in zip(models, (None, 16), strict=True):
            train(model, levels(), TrainConfig(epochs=2, batch=16, micro_batch=size), keep="last")
        assert same(*models)

    def test_only_a_chunk_runsat_once(self) -> None:
        model, seen = small(), set()
        model.register_forward_pre_hook(lambda _, inputs: seen.add(len(inputs[0])))
        train(model, levels(), TrainConfig(epochs=1, batch=16, micro_batch=5))
        assert max(seen) == 5

    def test_an_empty_chunk_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="micro_batch"):
            TrainConfig.parse({"micro_batch": 0})


class TestLearning:
    @pytest.mark.parametrize("lengths", [False, True])
    def test_loss_falls_and_classes_are_found(self, lengths: bool) -> None:
        data, model = levels(lengths=lengths, noise=0.3), small()
        history = train(model, data, QUICK)
        assert isinstance(history, History)
        assert len(history.loss_train) == len(history.accuracy_validation) == len(history.time) == 4
        assert history.loss_train[-1] < 0.5 * history.loss_train[0]
        assert accuracy(model, data.split("test")) >= 90
        assert all(seconds > 0 for seconds in history.time)
        assert not model.training

    @pytest.mark.parametrize("mode", ["convolution", "recurrent"])
    def test_modes_learn_the_same(self, mode: str) -> None:
        data, model = levels(), small()
        train(model, data, QUICK, mode=mode)
        assert {m.mode for m in model.modules() if hasattr(m, "mode")} == {mode}
        assert accuracy(model, data.split("test")) >= 90

    def test_no_epochs_change_nothing(self) -> None:
        model = small()
        before = copy.deepcopy(model)
        history = train(model, levels(), TrainConfig(epochs=0))
        assert same(model, before)
        assert history.loss_train == []

    def test_best_is_the_best_and_last_the_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The validation accuracies are scripted: what a run of few epochs reaches is luck.
        scores, after = [40.0, 70.0, 60.0, 70.0, 50.0], []

        def scripted(model: nn.Module, *_: object) -> dict[str, float]:
            after.append(copy.deepcopy(model.state_dict()))
            return {"accuracy": scores[(len(after) - 1) % len(scores)]}

        monkeypatch.setattr(training, "metrics", scripted)
        best, last = small(), small()
        for model, keep in ((best, "best"), (last, "last")):
            history = train(model, levels(), TrainConfig(epochs=5, batch=16), keep=keep)
            assert history.accuracy_validation == scores
        epochs = [small() for _ in scores]
        for model, state in zip(epochs, after, strict=False):
            model.load_state_dict(state)
        assert [same(best, model) for model in epochs] == [False, True, False, False, False]  # the first of equals
        assert [same(last, model) for model in epochs] == [False, False, False, False, True]

    def test_injected_noise_leaves_no_trace_in_the_weights(self) -> None:
        model = small()
        before = copy.deepcopy(model)
        config = TrainConfig(epochs=1, learning_rate=1e-12, noise=0.5, noise_output=0.5, clip_input=80.0)
        train(model, levels(), config)
        for name, value in model.state_dict().items():
            assert torch.allclose(value, before.state_dict()[name], rtol=0, atol=1e-9)

    def test_decay_spares_the_dynamics(self) -> None:
        # With rates this small the decay is all that moves a weight: p <- p (1 - rate decay) every step.
        model = small()
        before = copy.deepcopy(model).state_dict()
        train(
            model,
            levels(),
            TrainConfig(epochs=1, batch=80, learning_rate=1e-6, weight_decay=1e5, warmup=0.0),
            keep="last",
        )
        for name, value in model.state_dict().items():
            shrunk = torch.allclose(value, 0.9 * before[name], rtol=1e-3, atol=1e-5)
            assert shrunk != name.endswith(("log_dt", "log_neg_real", "imag", "ssm.B")), name

    def test_progress(self) -> None:
        calls: list[tuple[int, int, str]] = []
        train(small(), levels(), QUICK, progress=lambda *call: calls.append(call))
        steps = 4 * 10  # 80 sequences in batches of 8
        assert [done for done, _, note in calls if "loss" in note] == list(range(1, steps + 1))
        assert {total for _, total, _ in calls} == {steps}
        assert sum("validation" in note for _, _, note in calls) == 4


class TestRepeatable:
    def test_the_same_seed_gives_the_same_parameters(self) -> None:
        config = QUICK.model_copy(update={"noise": 0.05, "noise_output": 0.05, "epochs": 2})
        models = [small(dropout=0.2) for _ in range(3)]
        torch.manual_seed(5)
        first = train(models[0], levels(), config)
        torch.manual_seed(6)  # the global generator has no say
        second = train(models[1], levels(), config)
        train(models[2], levels(), config.model_copy(update={"seed": 1}))
        assert same(models[0], models[1])
        assert first.loss_train == second.loss_train
        assert not same(models[0], models[2])

    def test_the_global_generator_is_left_alone(self) -> None:
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        train(small_without_drawing(), levels(), TrainConfig(epochs=1, noise=0.1))
        assert torch.equal(torch.rand(3), expected)


def small_without_drawing() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        return small()


class Interrupted(Exception):
    """What stops a run in a test."""


class TestCheckpoint:
    @pytest.mark.parametrize("stop", [12, 21, 39])
    @pytest.mark.parametrize("quantized", [False, True])
    def test_goes_on_to_the_same_parameters(self, stop: int, quantized: bool, tmp_path: Path) -> None:
        data, path = levels(), tmp_path / "run.safetensors"
        config = QUICK.model_copy(update={"noise": 0.05})

        def fresh() -> Classifier:
            model = small(dropout=0.1)
            calibration = torch.from_numpy(data.split("train").values)
            return quantize(model, Scheme(), calibration) if quantized else model

        whole, cut = fresh(), fresh()
        expected = train(whole, data, config)

        def interrupt(done: int, total: int, note: str) -> None:
            if done == stop:
                raise Interrupted

        with pytest.raises(Interrupted):
            train(cut, data, config, checkpoint=path, progress=interrupt)
        assert path.exists()
        again = fresh()
        history = train(again, data, config, checkpoint=path)
        assert same(again, whole)
        assert history.loss_train == expected.loss_train
        assert history.accuracy_validation == expected.accuracy_validation

    def test_of_another_run(self, tmp_path: Path) -> None:
        path = tmp_path / "run.safetensors"
        train(small(), levels(), QUICK, checkpoint=path)
        with pytest.raises(CheckpointError, match=r"other settings \(seed 0 there and 1 here\)"):
            train(small(), levels(), QUICK.model_copy(update={"seed": 1}), checkpoint=path)

    @pytest.mark.parametrize(
        "other", [Scheme.uniform(poles=3), Scheme(grad_clamp=5.0), Scheme(rounding="half_up")]
    )
    def test_of_another_scheme(self, other: Scheme, tmp_path: Path) -> None:
        """What leaves no trace in the tensors is another run too."""
        data, path = levels(), tmp_path / "run.safetensors"
        calibration = torch.from_numpy(data.split("train").values)
        train(quantize(small(), Scheme(), calibration), data, QUICK, checkpoint=path)
        with pytest.raises(CheckpointError, match=rf"scheme 'a8-x8' there and '{other.label}' here"):
            train(quantize(small(), other, calibration), data, QUICK, checkpoint=path)

    @pytest.mark.parametrize("fields", [{"activation": "relu"}, {"residual": False}, {"pool": "last"}])
    def test_of_another_architecture(self, fields: dict[str, Any], tmp_path: Path) -> None:
        """The same parameters in other blocks."""
        path, name = tmp_path / "run.safetensors", next(iter(fields))
        train(small(), levels(), QUICK, checkpoint=path)
        with pytest.raises(CheckpointError, match=rf"model\.{name} .* there and .* here"):
            train(small(**fields), levels(), QUICK, checkpoint=path)

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_of_other_sequences(self, split: str, tmp_path: Path) -> None:
        """As many of the same name."""
        path, data = tmp_path / "run.safetensors", levels()
        train(small(), data, QUICK, checkpoint=path)
        assert data.labels is not None
        labels = data.labels.copy()
        first = data.splits[split][0]
        labels[first] = (labels[first] + 1) % 3
        with pytest.raises(CheckpointError, match=rf"other settings \({split} "):
            train(small(), replace(data, labels=labels), QUICK, checkpoint=path)

    def test_older_than_a_metric(self, tmp_path: Path) -> None:
        path = tmp_path / "run.safetensors"
        expected = train(small(), levels(), QUICK, checkpoint=path)
        arrays, header = load_tensors(path, "checkpoint")
        del header["measured"]["r2_validation"], header["measured"]["f1_macro_validation"]
        save_tensors(path, arrays, header, "checkpoint")
        found = train(small(), levels(), QUICK, checkpoint=path)
        assert (found.loss_train, found.r2_validation) == (expected.loss_train, [])

    def test_of_another_mode(self, tmp_path: Path) -> None:
        path = tmp_path / "run.safetensors"
        train(small(), levels(), QUICK, mode="convolution", checkpoint=path)
        for model, mode in ((small(), "recurrent"), (small().set_mode("recurrent"), None)):
            with pytest.raises(CheckpointError, match="mode 'convolution' there and 'recurrent' here"):
                train(model, levels(), QUICK, mode=mode, checkpoint=path)

    def test_a_quantized_model_has_one_mode(self, tmp_path: Path) -> None:
        data, path = levels(), tmp_path / "run.safetensors"
        calibration = torch.from_numpy(data.split("train").values)
        train(quantize(small(), Scheme(), calibration), data, QUICK, checkpoint=path)
        train(quantize(small(), Scheme(), calibration), data, QUICK, mode="recurrent", checkpoint=path)

    def test_older_than_a_field_of_the_recipe(self, tmp_path: Path) -> None:
        """It goes on where the field is at its default, and only there."""
        path = tmp_path / "run.safetensors"
        expected = train(small(), levels(), QUICK, checkpoint=path)
        arrays, header = load_tensors(path, "checkpoint")
        del header["identity"]["config"]["micro_batch"]
        save_tensors(path, arrays, header, "checkpoint")
        with pytest.raises(CheckpointError, match="micro_batch None there and 4 here"):
            train(small(), levels(), QUICK.model_copy(update={"micro_batch": 4}), checkpoint=path)
        assert train(small(), levels(), QUICK, checkpoint=path).loss_train == expected.loss_train

    def test_older_than_scheme_and_mode(self, tmp_path: Path) -> None:
        path = tmp_path / "run.safetensors"
        expected = train(small(), levels(), QUICK, checkpoint=path)
        arrays, header = load_tensors(path, "checkpoint")
        del header["identity"]["scheme"], header["identity"]["mode"]
        save_tensors(path, arrays, header, "checkpoint")
        assert train(small(), levels(), QUICK, checkpoint=path).loss_train == expected.loss_train
        with pytest.raises(CheckpointError, match="other settings"):  # what it did say still counts
            train(small(seed=1), levels(), QUICK, checkpoint=path)

    def test_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "run.safetensors"
        train(small(), levels(), QUICK, checkpoint=path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(FileError, match="truncated or was changed"):
            train(small(), levels(), QUICK, checkpoint=path)


class TestPredict:
    def test_every_sequence_in_order_whatever_the_batch(self) -> None:
        data, model = levels(lengths=True), small()
        split = data.split("test")
        assert split.lengths is not None
        found = predict(model, split)
        assert found.dtype == np.int64
        one_by_one = [
            int(model.eval()(torch.from_numpy(v[None, :length])).argmax())
            for v, length in zip(split.values, split.lengths, strict=True)
        ]
        assert found.tolist() == one_by_one
        assert predict(model, split, batch=7).tolist() == one_by_one
        assert accuracy(model, split) == 100 * np.mean(found == split.labels)

    @pytest.mark.parametrize("training", [False, True])
    def test_evaluates_and_leaves_the_mode_as_it_was(self, training: bool) -> None:
        model = small(dropout=0.9).train(training)
        split = levels().split("test")
        assert predict(model, split).tolist() == predict(model, split).tolist()
        assert model.training is training


class TestErrors:
    @pytest.mark.parametrize("fields", [{"inputs": 2}, {"classes": 4}])
    def test_a_model_for_other_data(self, fields: dict) -> None:
        what = {"inputs": "input channels", "classes": "classes"}[next(iter(fields))]
        with pytest.raises(ConfigError, match=rf"the model has \d {what}, dataset 'levels' has \d"):
            train(small(**fields), levels(), QUICK)

    @pytest.mark.parametrize("mode", ["convolution", "recurrent"])
    def test_a_run_that_explodes_says_what_to_try(self, mode: str) -> None:
        config = TrainConfig(epochs=20, batch=8, learning_rate=1e25, learning_rate_ssm=1e25, warmup=0.0)
        with pytest.raises(ImcSsmError, match=r"smaller rate|learning rate"):
            train(small(), levels(), config, mode=mode)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"learning_rate": 0}, "learning_rate"),
            ({"epochs": -1}, "epochs"),
            ({"noise": 1.0}, "noise"),
            ({"clip_input": 50}, "clip_input"),
            ({"rate": 1e-3}, "unknown field 'rate'"),
            ({"learning_rate": float("nan")}, "learning_rate"),
        ],
    )
    def test_bad_recipes(self, data: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            TrainConfig.parse(data)


def test_logits_that_are_not_finite_are_no_answer(digits: SequenceDataset) -> None:
    class Broken(nn.Module):
        def forward(self, u: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
            logits = torch.zeros(len(u), 10)
            logits[:, 3] = 1.0
            logits[::2, 5] = float("nan")  # argmax would say 5
            logits[1::4, 7] = float("inf")
            return logits

    found = predict(Broken(), digits.split("test").take(8))
    assert found.tolist() == [-1, -1, -1, 3, -1, -1, -1, 3]


def test_discrete_poles_are_dynamics(digits: SequenceDataset) -> None:
    # They take the rate of the dynamics and no weight decay, like the continuous parameters that they replace.
    model = Classifier(ModelConfig(heads=4, n_state=8))
    scheme = Scheme(parameterisation="discrete")
    quantized = quantize(model, scheme, torch.from_numpy(digits.split("train").take(8).values))
    optimiser, _ = _optimiser(
        quantized, TrainConfig(learning_rate=0.1, learning_rate_ssm=1e-3, weight_decay=0.1), 10
    )
    group = {id(p): g for g in optimiser.param_groups for p in g["params"]}
    ssm = quantized.blocks[0].ssm.inner
    assert [group[id(p)]["weight_decay"] for p in (ssm.A, ssm.B)] == [0.0, 0.0]
    assert [group[id(p)]["initial_lr"] for p in (ssm.A, ssm.B, ssm.C)] == [1e-3, 1e-3, 0.1]


@pytest.mark.parametrize(
    ("steps", "heads", "most"), [(784, 16, 250), (784, 64, 62), (16_000, 16, 12), (10, 4, 500), (10**8, 1, 1)]
)
def test_what_runs_at_once_is_bounded(steps: int, heads: int, most: int) -> None:
    """By values, not by sequences: 500 of 16,000 steps and 16 heads took 3.6 GB."""
    model = Classifier(ModelConfig(heads=heads, n_state=2))
    values = np.broadcast_to(np.zeros(1, np.float32), (1000, steps, 1))
    split = types.SimpleNamespace(values=values, lengths=None)
    assert at_once(model, split) == most  # type: ignore[arg-type]
    short = types.SimpleNamespace(values=values, lengths=np.full(1000, 10))
    assert at_once(model, short) == 500  # type: ignore[arg-type]
