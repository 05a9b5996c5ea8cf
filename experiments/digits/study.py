"""The demo's claim over seeds: full precision, PTQ and noise-aware QAT at 8 bits on the digits, on chips.

    imc-ssm experiment run pcm-256

Every seed trains and programs anew.
"""

from imc_ssm.study.demo import build, over_chips

STUDY = build(
    "digits",
    "pcm-256",
    experiment="pcm-256",
    title="S4D on digits, deployed on pcm-256",
    states=(8,),
    seeds=10,
    headline=over_chips,
)
