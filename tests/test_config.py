"""Configurations are changed by `with_` alone, which validates."""

from __future__ import annotations

import pytest

from imc_ssm.config import Config
from imc_ssm.errors import ConfigError
from imc_ssm.quantization import Scheme
from imc_ssm.training import TrainConfig


def test_fields_and_fields_of_fields() -> None:
    scheme = Scheme()
    changed = scheme.with_(symmetric=True, bits__state=6, bits__poles=7)
    assert (changed.spec("gelu").symmetric, changed.bits.state, changed.bits.poles) == (True, 6, 7)
    assert changed == Scheme(symmetric=True, bits=scheme.bits.with_(state=6, poles=7))
    assert scheme == Scheme()
    assert scheme.with_({"bits.state": 6}) == scheme.with_(bits__state=6)
    assert scheme.with_({"bits.state": 6}, symmetric=True).spec("gelu").symmetric
    assert scheme.with_(bits=scheme.bits.with_(c=4), bits__b=5).bits == scheme.bits.with_(c=4, b=5)
    assert scheme.with_() == scheme


@pytest.mark.parametrize(
    ("changes", "naming"),
    [
        ({"epochs": -1}, "TrainConfig field 'epochs' = -1: allowed is at least 0"),
        ({"epochs": "many"}, "TrainConfig field 'epochs' = 'many'"),
        ({"epoch": 1}, "unknown field 'epoch'; did you mean 'epochs'"),
        ({"epoch.s": 1}, "unknown field 'epoch'; did you mean 'epochs'"),
        ({"epochs.late": 1}, r"field 'epochs\.late': epochs is 10, which has no fields; set epochs as a whole"),
    ],
)
def test_every_change_is_validated(changes: dict[str, object], naming: str) -> None:
    for change in (lambda: TrainConfig().with_(changes), lambda: TrainConfig().model_copy(update=changes)):
        with pytest.raises(ConfigError, match=naming):
            change()


def test_no_other_way_copies_with_changes() -> None:
    config = TrainConfig()
    assert config.model_copy() == config
    assert config.model_copy(update={"epochs": 3}) == config.with_(epochs=3)
    with pytest.raises(ConfigError, match="unknown field 'stat'"):
        Scheme().with_(bits__stat=6)


def test_a_field_with_underscores_of_its_own() -> None:
    class Odd(Config):
        a_b: int = 1

    assert Odd().with_(a_b=2).a_b == 2
