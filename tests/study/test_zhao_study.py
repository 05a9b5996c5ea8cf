"""The shipped study: its declarations, its figures, and one cell of every experiment on a tiny model."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from fakes import ZHAO, fake_dataset, silent

from imc_ssm import results
from imc_ssm.layers import ModelConfig
from imc_ssm.modelfile import load_model
from imc_ssm.quantization import FormatSpec, Percentile
from imc_ssm.quantization.rules import ROLES
from imc_ssm.study import Recipe, Train, Workplace, load_study, run
from imc_ssm.study.dataset import assemble
from imc_ssm.study.report import compare, markdown
from imc_ssm.training import TrainConfig

NAMES = [
    "table1",
    "fig2a",
    "fig2b",
    "fig2c",
    "fig2d",
    "fig3",
    "fig4a",
    "fig4b",
    "table3",
    "fig5a",
    "fig5b",
    "fig5c",
    "order",
    "order_all",
    "discrete",
    "rates",
]


@pytest.fixture(scope="module")
def study():
    return load_study(ZHAO)


@pytest.fixture
def place(study, tmp_path):
    return Workplace(study, tmp_path)


def test_everything_of_the_paper_is_declared(study):
    assert [experiment.name for experiment in study.experiments] == NAMES
    assert all(
        experiment.seeds == 5 for experiment in study.experiments if experiment.name not in ("discrete", "rates")
    )
    cells = {experiment.name: len(experiment.cells()) for experiment in study.experiments}
    assert cells["table1"] == 4 * 5
    assert cells["table3"] == 2 * 6 * 5
    assert cells["fig5c"] == 4 * 4 * 5
    assert cells["fig2a"] == 6 * 6 * 5
    recipe = study.recipe
    assert (recipe.pretraining.epochs, recipe.qat.epochs) == (30, 10)
    assert recipe.pretraining.weight_decay == recipe.qat.weight_decay == 0


def test_experiments_share_their_cells(study):
    keys = {e.name: {study.key(c.jobs[0], c.seed) for c in e.cells()} for e in study.experiments}
    assert len(keys["table3"] & keys["fig5a"]) == 5  # W8A8
    assert len(keys["discrete"] & keys["fig5a"]) == 1  # the recipe's rate
    assert len(keys["fig5a"] & keys["fig5c"]) == 5  # frozen, 8 bits
    assert len(keys["table3"] & keys["table1"]) == 10  # full precision of two widths
    assert len(keys["fig2a"] & keys["fig2d"]) >= 5 * 5  # A alone, asymmetric
    assert len(keys["fig2b"] & keys["fig2c"]) >= 5 * 5  # x alone, static, per head
    assert len(keys["rates"] & keys["table1"]) == 1  # the recipe's own pre-training
    assert len(keys["rates"] & keys["table3"]) == 2  # and its QAT


def test_every_result_of_the_ledger_is_of_a_cell_and_every_dataset_of_the_ledger(study):
    """Keys did not move: no result is lost, and the committed datasets are what it gives."""
    place = Workplace(study, ZHAO)
    records = place.ledger.records()
    found = set()
    for experiment in study.experiments:
        cells = experiment.cells()
        done = [those for cell in cells if (those := place.done(cell, records)) is not None]
        found |= {record.key for those in done for record in those}
        committed = results.load(place.result_path(experiment))
        assert committed.attrs["cells_done"] == len(done), experiment.name
        assert results.values_equal(committed, assemble(place, experiment, records)), experiment.name
    assert found == records.keys()
    assert len(found) == 742


def test_shipped_models_are_those_of_the_study(study):
    for path in (ZHAO / "models").glob("*.safetensors"):
        name, seed = path.stem.split("-seed")
        assert load_model(path).info["key"] == study.key(Train(name), int(seed)), path.name


def test_schemes_are_those_of_the_paper(study):
    table = study.experiment("table3")
    jobs = {tuple(at.values()): job for at, (job,) in table.grid()}
    assert jobs["s4d-16h", "FP"].kind == "train"
    ptq, qat = jobs["s4d-16h", "PTQ W4A6 A8 x8"], jobs["s4d-64h", "W4A6 A6 x6"]
    assert (ptq.kind, qat.kind, qat.name) == ("ptq", "qat", "s4d-64h")
    bits = qat.scheme.bits
    assert (bits.poles, bits.state, bits.b, bits.c, bits.d, bits.weights) == (6, 6, 4, 4, 4, 4)
    assert (bits.encoder, bits.recurrent, bits.gelu, bits.pool) == (6, 6, 6, 6)
    for job in (ptq, qat):
        scheme = job.scheme
        assert (scheme.rounding_placement, scheme.gelu) == ("separate", "piecewise")
        assert (scheme.state_clip, scheme.grad_clamp) == (50, 1000)
        for role, kind in ROLES.items():
            bits = {"poles": 6 if job is qat else 8, "bias": None}.get(role, 4 if kind == "parameter" else 6)
            bits = (6 if job is qat else 8) if role == "state" else bits
            assert scheme.spec(role, kind) == FormatSpec(bits=bits, observer=Percentile(percent=99.999)), role
    one = {tuple(at.values()): job for at, (job,) in study.experiment("fig2a").grid()}["s4d-16h", "B", 4].scheme
    assert {part: width for part, width in one.bits.model_dump().items() if width} == {"b": 4}
    assert (one.gelu, one.rounding_placement) == ("exact", "joint")  # nothing else is rounded
    moved = {tuple(at.values()): job for at, (job,) in study.experiment("fig2b").grid()}
    for part in ("x", "activations"):
        scheme = moved["s4d-16h", part, "dynamic", 8].scheme
        ranges = {role: scheme.spec(role).calibration for role, kind in ROLES.items() if kind != "parameter"}
        dynamic = {role for role, calibration in ranges.items() if calibration == "dynamic"}
        assert dynamic == ({"state"} if part == "x" else ranges.keys() - {"state"})


def test_memory_savings_are_the_papers(study, place):
    table = study.experiment("table3")
    ds = fake_dataset(place, table, lambda cell: 90.0)
    for row in compare(ds, table):
        ((ours, paper),) = row.constants
        assert np.isnan(paper) or ours == pytest.approx(paper, abs=0.0101), row


def partial(cell):
    """Some seeds, some cells, one whole line missing."""
    skipped = {"part": "C", "granularity": "tensor", "model": "s4d-512h", "bits_state": 7, "scheme": "W8A8"}
    if cell.seed > 2 or any(cell.at.get(name) == value for name, value in skipped.items()):
        return None
    return 90.0 - cell.seed - 40.0 * (cell.at.get("bits") == 6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("accuracy", [partial, lambda cell: None], ids=["partial", "empty"])
def test_figures_draw_what_is_there(study, place, name, accuracy):
    experiment = study.experiment(name)
    ds = fake_dataset(place, experiment, accuracy)
    figure = experiment.figure(ds)
    figure.draw_without_rendering()
    assert all(ax.get_ylabel() for ax in figure.axes[:1])
    if name not in ("fig4a", "fig4b"):
        lines = [np.asarray(line.get_ydata(), float) for ax in figure.axes for line in ax.lines]
        accuracies = [values for values in lines if values.tolist() != [0, 1]]  # but vertical lines
        assert not any((values == 0).any() for values in accuracies), "a missing cell is never drawn as 0"
    assert markdown("T", "", [(experiment, ds, None)])


def texts(figure):
    return [t.get_text() for ax in figure.axes for t in ax.texts]


def test_missing_cells_are_shown_as_missing(study, place):
    for name, word, count in (("fig5c", "not\ncomputed", 4), ("table1", "not computed", 1)):
        experiment = study.experiment(name)
        shown = texts(experiment.figure(fake_dataset(place, experiment, partial)))
        assert sum(text == word for text in shown) == count, name


def test_what_does_not_exist_is_not_missing(study, place):
    """A has no format per state: no note in its panel, neither of a complete figure nor of one with gaps."""
    experiment = study.experiment("fig2c")
    for accuracy, notes in (
        (lambda cell: 50.0, 0),
        (lambda cell: None if cell.at["granularity"] == "state" else 50.0, 2),
    ):
        ds = fake_dataset(place, experiment, accuracy)
        said = [text for text in texts(experiment.figure(ds)) if "not computed" in text]
        assert len(said) == notes


def test_one_cell_of_every_kind_runs_on_a_tiny_model(study, tmp_path):
    """The same declarations on the digits: first and last cell of every experiment, and every option."""
    build = sys.modules["imc_ssm_study_zhao2025"].build
    recipe = Recipe(
        pretraining=TrainConfig(epochs=1, batch=64),
        qat=TrainConfig(epochs=1, batch=64, learning_rate=1e-3),
        calibration=32,
    )
    tiny = ModelConfig(heads=4, n_state=8, dt_min=0.0125, dt_max=0.5)
    models = {"s4d-16h": tiny, "s4d-64h": tiny.with_({"heads": 6})}
    small = build("digits", models, recipe=recipe, recipes={}, steps=64)
    place = Workplace(small, tmp_path)
    for declared in small.experiments:
        experiment = dataclasses.replace(declared, figure=declared.figure if declared.name == "fig4a" else None)
        cells = experiment.cells(seeds=1)
        chosen = [cells[0], cells[-1]]
        if experiment.name in ("fig2b", "fig2c", "fig2d", "fig5a"):  # every option once
            options = {tuple(v for k, v in c.at.items() if k not in ("bits", "part")): c for c in cells}
            chosen = [cell for cell in options.values() if cell.at.get("bits") != 32]
        assert run(place, experiment, chosen, stage=silent, finished=lambda f: None) == []
    assert place.result_path(small.experiment("fig4a")).with_suffix(".png").exists()
    reached = [
        entry.measured["accuracy"] for entry in place.ledger.records().values() if "accuracy" in entry.measured
    ]
    assert len(reached) > 15
    assert all(0 <= value <= 100 for value in reached)
