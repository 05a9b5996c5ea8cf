"""The kinds of job: one file each. A kind of your own is a file and a line in `KINDS`."""

from imc_ssm.study.jobs.base import Bench, Dimension, FromModel, Job, Variable
from imc_ssm.study.jobs.cost import Cost
from imc_ssm.study.jobs.deploy import Deploy
from imc_ssm.study.jobs.disturb import Disturb
from imc_ssm.study.jobs.kernel import Kernel
from imc_ssm.study.jobs.poles import Poles
from imc_ssm.study.jobs.ptq import Ptq
from imc_ssm.study.jobs.qat import Qat
from imc_ssm.study.jobs.train import Train

__all__ = [
    "KINDS",
    "Bench",
    "Cost",
    "Deploy",
    "Dimension",
    "Disturb",
    "FromModel",
    "Job",
    "Kernel",
    "Poles",
    "Ptq",
    "Qat",
    "Train",
    "Variable",
]

KINDS: dict[str, type[Job]] = {kind.kind: kind for kind in (Train, Ptq, Qat, Poles, Kernel, Deploy, Disturb, Cost)}
"""Every kind by its name, the one in keys and files."""
