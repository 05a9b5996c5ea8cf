"""The base of every configuration: frozen, validated, and exact about what it does not know."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, Union, get_args, get_origin

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from imc_ssm.errors import ConfigError, FileError, shown, unknown
from imc_ssm.units import card_html, quantity

__all__ = ["Config", "Kinds", "read_toml"]


class Config(BaseModel):
    """A frozen, validated, JSON- and TOML-round-trippable configuration.

    Unknown fields are errors that name the nearest valid field; every way to make one raises `ConfigError` with
    one line. Types are exact: neither `true` nor `"8"` is a number; NumPy's numbers are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, /, **fields):
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise ConfigError(_one_line(type(self), error, "")) from None

        # Configurations within another are made by pydantic itself, whose report then covers all of it.
        __init__.__pydantic_base_init__ = True

    @model_validator(mode="before")
    @classmethod
    def _exact(cls, data: Any) -> Any:
        """Numbers of NumPy become Python's; booleans and texts are no numbers, numbers are no booleans."""
        if not isinstance(data, dict):
            return data
        out = {str(name): _plain(value) for name, value in data.items()}
        for name, field in cls.model_fields.items():
            if name in out:
                _check_type(f"{cls.__name__} field {name!r}", out[name], field.annotation)
        return out

    @model_serializer(mode="wrap")
    def _dumped(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All fields; `type`, which tells kinds apart, even where defaults are left out."""
        out: dict[str, Any] = fields(self)
        kind = getattr(self, "type", None)
        return {"type": kind} | out if isinstance(kind, str) and "type" not in out else out

    @classmethod
    def parse(cls, data: Any, *, where: str = "") -> Self:
        """Validate `data` (a mapping, as read from JSON or TOML).

        Raises `ConfigError` with one line that names the field, its value, what is allowed and, for an
        unknown field, the nearest valid one. `where` names the origin (a file, an option) in the message.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_one_line(cls, error, where)) from None

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read and validate a TOML file; `FileError` if it cannot be read, `ConfigError` if it is wrong."""
        return cls.parse(read_toml(path), where=str(path))

    @classmethod
    def from_json(cls, text: str, *, where: str = "") -> Self:
        """Validate a JSON text."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where or cls.__name__} is not valid JSON: {error}") from None
        return cls.parse(data, where=where)

    def with_(self, changes: Mapping[str, Any] | None = None, /, **fields: Any) -> Self:
        """This configuration with other values, validated like a new one.

            scheme.with_(symmetric=True, bits__state=6)     fields of a field after two underscores
            scheme.with_({"bits.state": 6})                 or after a dot
            design.with_(adc_bits=6)                        short, where only one field can be meant: adc.bits

        Raises `ConfigError` as `parse` does, and where a field that is to be changed inside has none of its own.
        """
        given = dict(changes or {}) | {name.replace("__", "."): value for name, value in fields.items()}
        given = {self._whole(path, given): value for path, value in given.items()}
        outer: dict[str, Any] = {}
        inner: dict[str, dict[str, Any]] = {}
        for path, value in given.items():
            name, _, rest = path.partition(".")
            if rest:
                inner.setdefault(name, {})[rest] = value
            else:
                outer[name] = _changed(getattr(self, name, None), value)
        values = {name: getattr(self, name) for name in type(self).model_fields} | outer
        for name, rest_of in inner.items():
            owner = values.get(name)
            if name in type(self).model_fields and not isinstance(owner, Config):
                path = f"{name}.{next(iter(rest_of))}"
                raise ConfigError(
                    f"{type(self).__name__} field {path!r}: {name} is {shown(owner)}, which has no fields; "
                    f"set {name} as a whole"
                )
            values[name] = owner.with_(rest_of) if isinstance(owner, Config) else None
        return self.parse(values)

    def _whole(self, path: str, given: Mapping[str, Any]) -> str:
        """The path of a field that is given short: where it lies and its name joined by "_", or its name alone
        where only one configuration within has it; the path as it is where that is replaced as a whole."""
        if "." in path or path in type(self).model_fields:
            return path
        inside = [
            f"{outer}.{field}"
            for outer in type(self).model_fields
            if isinstance(owner := getattr(self, outer), Config) and not _is_cited(owner) and outer not in given
            for field in type(owner).model_fields
        ]
        found = [f for f in inside if f.replace(".", "_") == path]
        found = found or [f for f in inside if f.rpartition(".")[2] == path]
        if len(found) > 1:
            raise ConfigError(f"{type(self).__name__} has several {path!r}: {', '.join(found)}; give one of them")
        return found[0] if found else path

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Pydantic's, which does not validate `update`; this one does: the same as `with_`."""
        return self.with_(update) if update else super().model_copy(deep=deep)

    if not TYPE_CHECKING:

        @classmethod
        def model_construct(cls, _fields_set=None, **values):
            """Pydantic's, which does not validate; this one does: there is no unvalidated configuration."""
            return cls.parse(values)

    def _changes(self) -> dict[str, str]:
        """The fields that are not their default, in words."""
        fields = type(self).model_fields.items()
        return {
            n: _word(value)
            for n, f in fields
            if (value := getattr(self, n)) != f.get_default(call_default_factory=True)
        }

    def _card(self) -> tuple[str, dict[str, str]] | None:
        """Title and rows, of a thing that has a name and a description; None: its repr is one line."""
        name, text = getattr(self, "name", None), getattr(self, "description", None)
        if not isinstance(name, str) or not isinstance(text, str):
            return None
        rows = {n: value for n, value in self._changes().items() if n not in ("name", "description", "sources")}
        return f"{type(self).__name__} {name!r}: {text}", rows

    def __repr__(self) -> str:
        """At most ten lines: what differs from the defaults."""
        if (made := self._card()) is None:
            return f"{type(self).__name__}({', '.join(f'{n}={value}' for n, value in self._changes().items())})"
        title, rows = made
        packed = textwrap.wrap(", ".join(f"{n} {value}" for n, value in rows.items()), 100)
        return "\n  ".join([title, *(packed if len(packed) < 10 else [*packed[:8], "..."])])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        title, rows = self._card() or (type(self).__name__, self._changes())
        return card_html(title, rows)

    def described(self, name: str) -> str:
        """The description of a field, as its docstring has it."""
        return type(self).model_fields[name].description or ""

    def to_json(self) -> str:
        """JSON with sorted keys: equal configurations give equal texts (and hashes)."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)


C = TypeVar("C", bound=Config)


class Kinds(Generic[C]):
    """Configurations that a field `type` tells apart: a union that is open, since more can be registered.

    Used as `Annotated[SerializeAsAny[Base], BeforeValidator(KINDS.of)]`: a mapping with `type`, or the name alone,
    becomes the configuration of that kind. `what` names such a thing in errors.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.known: dict[str, type[C]] = {}

    def register(self, kind: type[C]) -> type[C]:
        """Class decorator; the name is the default of the field `type`. `ConfigError` for one that is taken."""
        name = str(kind.model_fields["type"].default)
        taken = self.known.get(name)
        if taken is not None and taken.__qualname__ != kind.__qualname__:  # the same again: a module reloaded
            raise ConfigError(f"the {self.what} {name!r} is registered already; give this one another type")
        self.known[name] = kind
        return kind

    def of(self, data: Any) -> Any:
        """The configuration behind a mapping, a name or itself; `ValueError` names the nearest kind or the wrong
        field."""
        if isinstance(data, str):
            data = {"type": data}
        if not isinstance(data, Mapping):
            return data
        if "type" not in data:
            raise ValueError(f"the {self.what} needs a type: {', '.join(sorted(self.known))}")
        name = str(data["type"])
        if name not in self.known:
            raise ValueError(unknown(self.what, name, self.known))
        return self.known[name].parse(data)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file; `FileError` if it cannot be read or is not TOML."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # not UTF-8, a null byte in the name
        why = getattr(error, "strerror", None) or error
        raise FileError(f"cannot read {path}: {why}; give the path of a TOML file") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError, as are numbers too long
        raise FileError(f"{path} is not valid TOML: {error}") from None


def _one_line(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    """The first problem of a pydantic report, as one sentence."""
    problems = error.errors(include_url=False)
    # a mistyped field is often missing under its right name too: the mistyped one says more
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    first["loc"] = tuple(p for p in first["loc"] if not isinstance(p, str) or not _BRANCH.match(p))
    path = ".".join(str(part) for part in first["loc"])
    place = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        owner = _owner(cls, first["loc"][:-1])
        fields = owner.model_fields if owner is not None else {}
        message = unknown("field", str(first["loc"][-1]), fields)
        parent = ".".join(str(part) for part in first["loc"][:-1])
        return f"{place}{message}" + (f" (in {parent!r})" if parent else "")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    nested = first.get("ctx", {}).get("error")
    if isinstance(nested, ConfigError):  # a configuration within, which has said all of it
        return f"{place}{nested}"
    value = "" if first["type"] == "missing" else f" = {shown(first['input'])}"
    said = _bounds(cls, first) if first["type"] in _OUTSIDE else ""
    if first["type"] == "model_type" and (inner := _owner(cls, first["loc"])) is not None:
        needed = [name for name, field in inner.model_fields.items() if field.is_required()]
        said = f"give its fields, {{ {', '.join(f'{name} = ...' for name in needed)} }}"
    said = said or first["msg"].removeprefix("Value error, ")
    if not path:  # of several fields together
        return f"{place}{cls.__name__}: {said}{more}"
    return f"{place}{cls.__name__} field {path!r}{value}: {said}{more}"


_OUTSIDE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_SAID = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


_BRANCH = re.compile(r"(int|float|str|bool|none|constrained-\w+|(tuple|list|function-\w+|literal)\[.*)$")
"""What pydantic puts into the path of a problem for the branch of a union."""


def _bounds(cls: type[BaseModel], problem: Any) -> str:
    """What a number may be, both ends, from the field's declaration, else the end that pydantic names."""
    loc = problem["loc"]
    owner = _owner(cls, loc[:-1])
    field = owner.model_fields.get(str(loc[-1])) if owner is not None else None
    ends = [
        f"{said} {getattr(bound, end)}"
        for bound in (field.metadata if field is not None else ())
        for end, said in _SAID.items()
        if hasattr(bound, end)
    ]
    ends = ends or [
        f"{said} {problem['ctx'][end]}" for end, said in _SAID.items() if end in problem.get("ctx", {})
    ]
    return f"allowed is {' and '.join(ends)}" if ends else ""


def _owner(cls: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The configuration class that a location of pydantic's report points into."""
    kind: Any = cls
    for part in loc:
        if isinstance(part, int):  # an element of a list
            kind = next(iter(get_args(kind)), None)
        else:
            field = kind.model_fields.get(part) if _is_config(kind) else None
            kind = None if field is None else field.annotation
            if get_origin(kind) in (Union, UnionType):  # a field that may be None
                kind = next((one for one in get_args(kind) if _is_config(one)), kind)
    return kind if _is_config(kind) else None


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's, also in lists and tuples; all else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, (list, tuple)) and any(isinstance(part, np.generic) for part in value):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value
    return value


def _is_cited(value: Any) -> bool:
    """Whether it is a number with its unit and source (`devices.Cited`)."""
    return isinstance(value, Config) and {"value", "unit", "source"} <= type(value).model_fields.keys()


def _changed(old: Any, new: Any) -> Any:
    """What a field becomes: a number in the place of one with a source is that, with its source said."""
    new = _plain(new)
    if not _is_cited(old) or not isinstance(new, (int, float)) or isinstance(new, bool):
        return new
    return old.with_(value=new, source=f"assumed: {new:g} in the place of {old.value:g} ({old.source})")


def _word(value: Any) -> str:
    """A field's value in a repr: numbers with a source as quantities, what is long cut."""
    if _is_cited(value) and isinstance(value.value, int | float):
        return f"{value.value:g}" if value.unit == "1" else quantity(value.value, value.unit)
    if isinstance(value, Config) and value._card() is not None:
        return f"{type(value).__name__} {getattr(value, 'name', '')!r}"
    if isinstance(value, tuple) and value and isinstance(value[0], Config):
        return f"({', '.join(map(_word, value[:3]))}{', ...' if len(value) > 3 else ''})"
    return shown(value)


def _check_type(what: str, value: Any, annotation: Any) -> None:
    """`ConfigError` for a boolean or text where a number is meant, and anything but a boolean where one is."""
    kinds, words, parts = _kinds(annotation)
    if isinstance(value, int) and abs(value) >= 1 << 64:
        raise ConfigError(f"{what} is a number of {value.bit_length()} bits; give one below 2^64")
    if isinstance(value, (list, tuple)) and parts is not None:
        for i, part in enumerate(value):
            _check_type(f"{what}[{i}]", part, parts)
        return
    allowed = type(value) in kinds or value is None or Any in kinds or (isinstance(value, str) and value in words)
    if allowed or not (isinstance(value, (bool, str)) or bool in kinds):
        return
    if kinds & {int, float}:
        also = f" or {', '.join(map(repr, words))}" if words else ""
        raise ConfigError(f"{what} = {shown(value)}: give a number{also}")
    elif bool in kinds:
        raise ConfigError(f"{what} = {shown(value)}: give true or false")


def _kinds(annotation: Any) -> tuple[set[Any], set[Any], Any]:
    """The types that a field may have, single values, and, for a list, the annotation of its elements."""
    origin, within = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return set(), set(within), None
    if origin in (tuple, list):
        return {origin}, set(), within[0] if len({*within} - {...}) == 1 else None
    if hasattr(annotation, "__metadata__"):
        return _kinds(within[0])
    if origin in (Union, UnionType):
        kinds, words, parts = set[Any](), set[Any](), None
        for found, values, inner in map(_kinds, within):
            kinds, words, parts = kinds | found, words | values, parts if inner is None else inner
        return kinds, words, parts
    return {annotation}, set(), None
