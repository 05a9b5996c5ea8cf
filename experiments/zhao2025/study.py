"""Zhao et al. 2025 (arXiv:2506.12480), declared: Tables I and III, Figs. 2a to 5c.

    imc-ssm experiment list
    imc-ssm experiment run table3 --only model=s4d-16h --seeds 1
    imc-ssm experiment report

The training numbers are in `recipe.py`, the paper's in `paper.py`, and what each cell's coordinates mean as a
quantization scheme in `schemes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imc_ssm.layers import PRESETS, ModelConfig
from imc_ssm.study import Constant, Experiment, Job, Kernel, Poles, Qat, Recipe, Study, Train

from . import figures, paper, schemes
from .recipe import RECIPE, RECIPES

BITS = (schemes.FULL_PRECISION, 16, 8, 6, 4, 2)
POLE_BITS = (schemes.FULL_PRECISION, 8, 6, 4)
KERNEL_BITS = (16, 8, 6, 4)
QAT_BITS = (6, 7, 8, 16)
RATES = (1e-4, 1e-3, 1e-2)
RATES_SCHEME = "W4A6 A8 x8"
"""The column of Table III whose rates are compared."""
RATES_QAT = f"QAT {RATES_SCHEME}"
PARAMETERISATIONS = ("discrete", "continuous", "frozen")

COORDINATES = {
    "model": ("1", "Model"),
    "scheme": ("1", "Word lengths"),
    "part": ("1", "What is rounded"),
    "bits": ("bit", "Word length (32: full precision)"),
    "bits_poles": ("bit", "Word length of A"),
    "bits_state": ("bit", "Word length of x"),
    "calibration": ("1", "Ranges of the activations"),
    "granularity": ("1", "What shares a scale"),
    "symmetry": ("1", "Zero point"),
    "parameterisation": ("1", "What QAT trains"),
    "order": ("1", "How A x + B u is rounded"),
    "stage": ("1", "Training"),
    "batch": ("1", "Sequences per step"),
    "rate": ("1", "Peak learning rate"),
    "rate_ssm": ("1", "Peak learning rate of A and B"),
    "seed": ("1", "Seed"),
}


def build(
    task: str = "smnist",
    models: Mapping[str, ModelConfig] = PRESETS,
    small: Sequence[str] = ("s4d-16h",),
    large: Sequence[str] = ("s4d-64h",),
    recipe: Recipe = RECIPE,
    recipes: Mapping[str, Recipe] = RECIPES,
    steps: int = 784,
) -> Study:
    """The study, on any task and any models: figures that show one width take `small`, Fig. 5b takes `large`."""
    names, two = tuple(models), (*small, *large)
    small, large = tuple(small), tuple(large)
    aims = {"pre-training": paper.TABLE3["s4d-16h", "FP"], RATES_QAT: paper.TABLE3["s4d-16h", RATES_SCHEME]}
    published3 = {key: value for key, value in paper.TABLE3.items() if key[0] in two}
    experiments = (
        Experiment(
            "table1",
            "Table I: full precision",
            {"model": names},
            lambda cell: Train(cell["model"]),
            figure=figures.table1,
            paper={key: value for key, value in paper.TABLE1.items() if key[0] in names},
        ),
        Experiment(
            "fig2a",
            "Fig. 2a: PTQ of one matrix at a time, and of all",
            {"model": small, "part": ("A", "B", "C", "D", "W", "parameters"), "bits": BITS},
            lambda cell: schemes.ptq_cell(cell["model"], cell["part"], cell["bits"]),
            figure=figures.fig2a,
        ),
        Experiment(
            "fig2b",
            "Fig. 2b: PTQ of the state and of the other activations, static and dynamic ranges",
            {"model": small, "part": ("x", "activations"), "calibration": schemes.CALIBRATION, "bits": BITS},
            lambda cell: schemes.ptq_cell(
                cell["model"], cell["part"], cell["bits"], **schemes.dynamic(cell["part"], cell["calibration"])
            ),
            figure=figures.fig2b,
        ),
        Experiment(
            "fig2c",
            "Fig. 2c: PTQ with one scale per tensor, per head and (ours) per state",
            {
                "model": small,
                "part": ("A", "x", "all"),
                "granularity": ("tensor", "head", "state"),
                "bits": BITS,
            },
            lambda cell: (
                None
                if cell["part"] == "A" and cell["granularity"] == "state"  # states have formats, A's are per head
                else schemes.ptq_cell(cell["model"], cell["part"], cell["bits"], granularity=cell["granularity"])
            ),
            figure=figures.fig2c,
        ),
        Experiment(
            "fig2d",
            "Fig. 2d: PTQ with symmetric and asymmetric ranges",
            {"model": small, "part": ("A", "x", "all"), "symmetry": tuple(schemes.SYMMETRY), "bits": BITS},
            lambda cell: schemes.ptq_cell(
                cell["model"], cell["part"], cell["bits"], symmetric=schemes.SYMMETRY[cell["symmetry"]]
            ),
            figure=figures.fig2d,
        ),
        Experiment(
            "fig3",
            "Fig. 3: PTQ over width and word length",
            {"model": names, "bits": BITS},
            lambda cell: schemes.ptq_cell(cell["model"], "all", cell["bits"]),
            figure=figures.fig3,
        ),
        Experiment(
            "fig4a",
            "Fig. 4a: poles on the quantized grid",
            {"model": small, "bits": POLE_BITS},
            lambda cell: Poles(
                cell["model"],
                None if cell["bits"] == schemes.FULL_PRECISION else schemes.part_scheme("A", cell["bits"]),
            ),
            variables=("pole", "poles_outside"),
            figure=figures.fig4a,
            headline=lambda ds: ds["poles_outside"],
        ),
        Experiment(
            "fig4b",
            "Fig. 4b: error of the kernel against the number of steps",
            {"model": small, "bits": KERNEL_BITS},
            lambda cell: Kernel(cell["model"], schemes.part_scheme("parameters", cell["bits"]), steps),
            variables=("kernel_error",),
            figure=figures.fig4b,
            headline=figures.kernel_headline,
            center="median",  # a kernel that grows has an error of any size
        ),
        Experiment(
            "table3",
            "Table III: heterogeneous word lengths, PTQ and QAT",
            {"model": two, "scheme": tuple(schemes.TABLE3)},
            schemes.table3_cell,
            figure=figures.table3,
            paper=published3,
            constants={
                "memory_saving": Constant(
                    "percent",
                    "Memory saving",
                    lambda cell: schemes.saving(models[cell["model"]], cell["scheme"]),
                    {key: value for key, value in paper.MEMORY_SAVING.items() if key[0] in two},
                )
            },
        ),
        *(
            Experiment(
                name,
                f"Fig. {name[3:]}: QAT at 8 bits, three parameterisations of A, {', '.join(widths)}",
                {"model": widths, "parameterisation": PARAMETERISATIONS},
                lambda cell: Qat(cell["model"], schemes.qat_scheme(8, 8, 8, 8, cell["parameterisation"])),
                variables=("accuracy", "accuracy_validation", "loss_train"),
                figure=figures.fig5ab,
            )
            for name, widths in (("fig5a", small), ("fig5b", large))
        ),
        Experiment(
            "fig5c",
            "Fig. 5c: QAT with A frozen over the word lengths of A and x, other parts 8 bits",
            {
                "model": small,
                "parameterisation": ("frozen",),
                "bits_poles": QAT_BITS,
                "bits_state": QAT_BITS,
            },
            lambda cell: Qat(
                cell["model"],
                schemes.qat_scheme(cell["bits_poles"], cell["bits_state"], 8, 8, cell["parameterisation"]),
            ),
            figure=figures.fig5c,
        ),
        *(
            Experiment(
                name,
                f"Ours: PTQ of {what}, A x and B u rounded apart or once together",
                {
                    "model": small,
                    "granularity": ("head", "state"),
                    "order": ("separate", "joint"),
                    "bits": (schemes.FULL_PRECISION, 16, 12, 10, 8, 6),
                },
                lambda cell, part=part: schemes.ptq_cell(
                    cell["model"],
                    part,
                    cell["bits"],
                    granularity=cell["granularity"],
                    rounding_placement=cell["order"],
                ),
                figure=lambda ds, what=what: figures.order(ds, what),
            )
            for name, part, what in (("order", "x", "the state x"), ("order_all", "all", "everything"))
        ),
        Experiment(
            "discrete",
            "Ours: QAT at 8 bits of discrete poles with learning rates of their own",
            {"model": small, "rate_ssm": RATES},
            lambda cell: _discrete(cell, recipes.get(cell["model"], recipe)),
            variables=("accuracy", "accuracy_validation", "loss_train"),
            seeds=1,
            figure=lambda ds: figures.fig5ab(ds, "rate_ssm", "QAT at 8 bits, discrete A", "A and B at a rate of "),
            headline=figures.validation_headline,
        ),
        Experiment(
            "rates",
            "Ours: which learning rates reproduce the paper's accuracies",
            {"model": small, "stage": ("pre-training", RATES_QAT), "batch": (64, 512), "rate": RATES},
            lambda cell: _rate(cell, recipes.get(cell["model"], recipe)),
            variables=("accuracy", "accuracy_validation"),
            seeds=1,
            figure=lambda ds: figures.rates(ds, aims),
            headline=figures.validation_headline,  # the test sequences choose nothing
        ),
    )
    return Study(
        "zhao2025",
        "Quantizing small state-space models: Zhao et al. 2025, reproduced",
        task,
        recipe,
        experiments,
        models=models,
        recipes=recipes,
        coordinates=COORDINATES,
        source=paper.SOURCE,
    )


def _discrete(cell: Mapping[str, Any], recipe: Recipe) -> Job:
    """Fig. 5a's discrete cell; A and B with another rate, where it is not the recipe's."""
    start = Qat(cell["model"], schemes.qat_scheme(8, 8, 8, 8, "discrete"))
    if cell["rate_ssm"] == recipe.qat.learning_rate:
        return start
    return start.with_(training=recipe.qat.with_(learning_rate_ssm=cell["rate_ssm"]))


def _rate(cell: Mapping[str, Any], recipe: Recipe) -> Job | None:
    """Training with another rate and batch; pre-training: the printed rate and ours, at the documented batch."""
    change = {"learning_rate": cell["rate"], "batch": cell["batch"]}
    if cell["stage"] == RATES_QAT:
        start = schemes.table3_cell({"model": cell["model"], "scheme": RATES_SCHEME})
        return start.with_(training=recipe.qat.with_(change))
    if cell["batch"] != 512 or cell["rate"] < 1e-3:
        return None
    return Train(cell["model"], recipe.pretraining.with_(change))


STUDY = build()
