"""Settings of an application: which values a parameter may have (Margo application description, `configuration`)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from margo_oci.faults import Place, twice

SCALARS: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "double": (int, float), "boolean": bool,
}  # fmt: skip
DATA_TYPE = re.compile(rf"({'|'.join(SCALARS)})|array\[({'|'.join(SCALARS)})\]")
REGEX_LIMIT_CHARS = 1024
VALUE_LIMIT_CHARS = 4096
_OF_TEXT = ("minLength", "maxLength", "regexMatch")
_OF_NUMBERS = ("minValue", "maxValue")
_OF_DOUBLES = ("minPrecision", "maxPrecision")
_OF_SELECTS = ("multiselect", "options")
_WORDS = {"string": "text", "integer": "a whole number", "double": "a number", "boolean": "true or false"}


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What values of a kind must be. `most` and `least` are lengths, values or digits after the point."""

    name: str
    data_type: str
    allow_empty: bool = False
    lengths: tuple[float | None, float | None] = (None, None)
    values: tuple[float | None, float | None] = (None, None)
    digits: tuple[float | None, float | None] = (None, None)
    regex: re.Pattern[str] | None = None
    options: Sequence[Any] = ()
    multiselect: bool = False

    @property
    def scalar(self) -> str:
        """The type of a value, or of the entries of a list."""
        return self.data_type.removeprefix("array[").removesuffix("]")

    @property
    def is_list(self) -> bool:
        """Whether values are lists."""
        return self.multiselect or self.data_type.startswith("array[")

    def faults_of(self, value: Any) -> list[str]:
        """Return what is wrong with a value, in words; a regular expression must match all of it."""
        if value in (None, "", []):
            return [] if self.allow_empty else ["a value is expected"]
        if not self.is_list:
            return list(self._scalar_faults(value))
        if not isinstance(value, list):
            return [f"a list is expected, got {value!r:.80}"]
        return [fault for item in value for fault in self._scalar_faults(item)]

    def _scalar_faults(self, value: Any) -> Iterator[str]:
        fits = isinstance(value, SCALARS[self.scalar]) and (self.scalar == "boolean" or not isinstance(value, bool))
        if not fits:
            yield f"{_WORDS[self.scalar]} is expected, got {value!r:.80}"
            return
        if isinstance(value, str) and len(value) > VALUE_LIMIT_CHARS:
            yield f"{len(value)} characters, at most {VALUE_LIMIT_CHARS} are read"
            return
        if self.options and value not in self.options:
            yield f"{value!r:.80} is none of {', '.join(map(str, self.options))}"
        if isinstance(value, str):
            yield from _outside(len(value), self.lengths, f"{value!r:.80} has {len(value)} characters")
            if self.regex and not self.regex.fullmatch(value):
                yield f"{value!r:.80} does not fit {self.regex.pattern}"
        elif not isinstance(value, bool):
            yield from _outside(value, self.values, f"{value}")
            digits = _digits(value)
            yield from _outside(digits, self.digits, f"{value} has {digits} digits after the point")

    def value_of(self, text: str) -> Any:
        """Return what a text from a command line means here; what does not fit stays text, and so a fault."""
        if self.is_list:
            return [_scalar_of(part.strip(), self.scalar) for part in text.split(",") if part.strip()]
        return _scalar_of(text, self.scalar)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How one parameter is shown and checked."""

    parameter: str
    name: str
    schema: str
    immutable: bool = False


@dataclass(frozen=True)
class Settings:
    """All settings and schemas of a description."""

    settings: Sequence[Setting] = ()
    schemas: Mapping[str, Schema] = field(default_factory=dict)

    def schemas_of(self, parameter: str) -> Sequence[Schema]:
        """Return the schemas a parameter's value must fit: of each setting that shows it."""
        return [self.schemas[one.schema] for one in self.settings if one.parameter == parameter]

    def is_immutable(self, parameter: str) -> bool:
        """Tell whether a parameter keeps the value it was installed with."""
        return any(one.immutable for one in self.settings if one.parameter == parameter)

    def faults_of(self, parameter: str, value: Any) -> list[str]:
        """Return what is wrong with a parameter's value."""
        return list(dict.fromkeys(fault for schema in self.schemas_of(parameter) for fault in schema.faults_of(value)))


def read_settings(place: Place, parameters: Mapping[str, Any]) -> Settings:
    """Read `configuration`; `parameters` are those of the description."""
    if place.value is None or not place.is_map("12.8"):
        return Settings((), {})
    place.known("12.11", "sections", "schema")
    schemas = _schemas(place)
    settings: list[Setting] = []
    for section in place.each("sections", "12.8", required=True):
        if section.is_map("12.8"):
            section.known("12.11", "name", "settings")
            section.text("name", "12.8", required=True, hint="what the section is called")
            settings += [_setting(one, parameters, schemas) for one in section.each("settings", "12.8", required=True)]
    read = Settings(tuple(one for one in settings if one.schema in schemas), schemas)
    for name in schemas.keys() - {one.schema for one in settings}:
        place.at("schema").fault("12.9", f"{name!r:.80} is used by no setting", level="warning")
    return read


def _setting(place: Place, parameters: Mapping[str, Any], schemas: Mapping[str, Schema]) -> Setting:
    place.is_map("12.8")
    place.known("12.11", "parameter", "name", "description", "immutable", "schema")
    place.text("description", "12.8")
    setting = Setting(
        parameter=place.text("parameter", "12.8", required=True, hint="the name of a parameter"),
        name=place.text("name", "12.8", required=True, hint="what the setting is called"),
        schema=place.text("schema", "12.8", required=True, hint="the name of a schema"),
        immutable=place.flag("immutable", "12.8"),
    )
    if setting.parameter and setting.parameter not in parameters:
        place.at("parameter").fault("12.8", f"{setting.parameter!r:.80} is no parameter: add it below `parameters`")
    if setting.schema and setting.schema not in schemas:
        place.at("schema").fault("12.8", f"{setting.schema!r:.80} is no schema: add it below `configuration.schema`")
    return setting


def _schemas(place: Place) -> Mapping[str, Schema]:
    read = [(one, _schema(one)) for one in place.each("schema", "12.9", required=True) if one.is_map("12.9")]
    names = set(twice([(schema.name, one.at("name")) for one, schema in read], "12.9"))
    return {schema.name: schema for _, schema in read if schema.name in names}


def _schema(place: Place) -> Schema:
    written = place.text(
        "dataType", "12.9", required=True, pattern=DATA_TYPE, hint=f"{', '.join(SCALARS)} or array[…] of one of these"
    )
    data_type = written if DATA_TYPE.fullmatch(written) else "string"
    scalar = data_type.removeprefix("array[").removesuffix("]")
    own = {"string": _OF_TEXT, "integer": _OF_NUMBERS, "double": (*_OF_NUMBERS, *_OF_DOUBLES)}.get(scalar, ())
    place.known("12.9", "name", "dataType", "allowEmpty", *_OF_SELECTS, *own)
    whole = scalar == "integer"
    return Schema(
        name=place.text("name", "12.9", required=True, hint="what settings call it"),
        data_type=data_type,
        allow_empty=place.flag("allowEmpty", "12.9"),
        lengths=_range(place, "minLength", "maxLength", whole=True, least=0),
        values=_range(place, "minValue", "maxValue", whole=whole),
        digits=_range(place, "minPrecision", "maxPrecision", whole=True, least=0),
        regex=_regex(place),
        options=_options(place, scalar),
        multiselect=place.flag("multiselect", "12.9"),
    )


def _range(
    place: Place, low: str, high: str, *, whole: bool, least: float | None = None
) -> tuple[float | None, float | None]:
    found = (
        place.number(low, "12.9", whole=whole, least=least),
        place.number(high, "12.9", whole=whole, least=least),
    )
    if found[0] is not None and found[1] is not None and found[0] > found[1]:
        place.at(high).fault("12.9", f"{found[1]} is less than {low} {found[0]}: no value fits")
    return found


def _regex(place: Place) -> re.Pattern[str] | None:
    text = place.text("regexMatch", "12.9")
    if len(text) > REGEX_LIMIT_CHARS:
        place.at("regexMatch").fault("12.9", f"{len(text)} characters, at most {REGEX_LIMIT_CHARS} are read")
        return None
    try:
        return re.compile(text) if text else None
    except (re.error, RecursionError, OverflowError) as error:
        place.at("regexMatch").fault("12.9", f"no regular expression: {error}")
        return None


def _options(place: Place, scalar: str) -> Sequence[Any]:
    if place.at("multiselect").value is None and place.at("options").value is None:
        return ()
    options = [one.value for one in place.each("options", "12.9", required=True)]
    for i, option in enumerate(options):
        if not isinstance(option, SCALARS[scalar]) or (isinstance(option, bool) and scalar != "boolean"):
            place.at("options", i).fault("12.9", f"{_WORDS[scalar]} is expected, got {option!r:.80}")
    return tuple(option for option in options if isinstance(option, str | int | float))


def _outside(value: float, bounds: tuple[float | None, float | None], words: str) -> Iterator[str]:
    low, high = bounds
    if low is not None and value < low:
        yield f"{words}, at least {low} is expected"
    if high is not None and value > high:
        yield f"{words}, at most {high} is expected"


def _digits(number: float) -> int:
    exponent = Decimal(repr(number)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _scalar_of(text: str, scalar: str) -> Any:
    try:
        if scalar == "integer":
            return int(text) if len(text) <= 40 else text
        if scalar == "double":
            number = float(text) if len(text) <= 40 else text
            return number if number not in (float("inf"), float("-inf")) and number == number else text
    except ValueError:
        return text
    return {"true": True, "false": False}.get(text, text) if scalar == "boolean" else text
