"""Studies as data: declare what is varied, run it cell by cell, compare it with a paper.

A study is a folder `experiments/NAME/` whose `study.py` defines `STUDY`:

    from imc_ssm.quantization import Scheme
    from imc_ssm.study import Cost, Deploy, Experiment, Ptq, Qat, Recipe, Study, vary

    widths = Experiment(
        "widths",
        "Accuracy over the word length of the state",
        dimensions={"model": ("s4d-16h",), "bits": (8, 6, 4)},
        job=lambda cell: Ptq(cell["model"], Scheme.uniform(state=cell["bits"])),
    )
    quantized = Qat("s4d-16h", Scheme())
    chips = Experiment(
        "chips",
        "Accuracy and energy of chips over the columns that share a converter, and the word length of the state",
        dimensions={"design.columns_per_adc": (8, 4, 1), "scheme.bits.state": (8, 6)},
        job=vary(Deploy(quantized, "pcm-256"), Cost(quantized, "pcm-256")),
        variables=("accuracy_digital", "accuracy", "energy", "area"),
    )
    STUDY = Study("mine", "My study", task="digits", recipe=Recipe(), experiments=(widths, chips))

`imc-ssm experiment run widths` then computes it. The concepts:

- An *experiment* varies *dimensions*; `seed` is always the last one. Its *cells* are the points of this grid
  for which `job(coordinates)` is not None. Any field of model, scheme, training and chip design can be a
  dimension: `job` makes the configurations of a cell with `.with_(...)`, or `vary` by the dimensions' names.
- A *job* says how a cell is computed, or a part of one: `Train` (in full precision), `Ptq`, `Qat`, `Poles`,
  `Kernel`, `Deploy` (chips over time), `Cost`. It is data, and its key is a hash of everything that decides the
  numbers (task, model, scheme, design, recipe, seed). A job names the job whose model it `start`s from; the name
  of a model stands for its training. Cells of any experiment that need the same job share it.
- A *kind* of job is a file in `imc_ssm/study/jobs` and a line in its `KINDS`; it declares the variables that it
  measures, once.
- The *recipe* holds the training numbers. Another recipe is another key: what was computed with the old one
  stays in the ledger and is no longer read. A field at its default is not part of the key, so that a field
  that is added later changes no key.
- The *ledger*, `results/ledger.jsonl`, has one line for every finished job. `results/EXPERIMENT.nc` and its
  figure are made from it, after every cell. Full-precision models are in `models/`, all else that jobs leave, and
  work in progress, in `runs/`.
- `paper` holds published numbers (mean, deviation) by cell, in the order of the dimensions.
"""

from imc_ssm.study.declare import Constant, Experiment, GridCell, Recipe, Study, vary
from imc_ssm.study.demo import FINE_TUNING, initial_steps
from imc_ssm.study.engine import Finished, run
from imc_ssm.study.folder import find, load_study, studies
from imc_ssm.study.jobs import KINDS, Cost, Deploy, Disturb, Job, Kernel, Poles, Ptq, Qat, Train
from imc_ssm.study.workplace import Workplace

__all__ = [
    "FINE_TUNING",
    "KINDS",
    "Constant",
    "Cost",
    "Deploy",
    "Disturb",
    "Experiment",
    "Finished",
    "GridCell",
    "Job",
    "Kernel",
    "Poles",
    "Ptq",
    "Qat",
    "Recipe",
    "Study",
    "Train",
    "Workplace",
    "find",
    "initial_steps",
    "load_study",
    "run",
    "studies",
    "vary",
]
