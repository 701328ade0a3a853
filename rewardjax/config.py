"""Typed settings: frozen dataclasses ↔ YAML ↔ command line. Defaults < YAML < command line.

Every field of a settings class that is read from YAML has a default. A string under a field
becomes its help text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import re
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import tyro
import yaml

from rewardjax.bounded_yaml import BoundedLoader
from rewardjax.errors import RewardJaxError, nearest, short

T = TypeVar("T")


class _Loader(BoundedLoader):
    """YAML without duplicate keys, and with `1e-4` read as a number (YAML 1.1 makes it text)."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        # What `!!map` makes of a word or a list is refused below.
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"a key is a {type(key).__name__}; expected text, in quotes if need be",
                    problem_mark=key_node.start_mark,
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {short(key)}", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)  # pyright: ignore[reportArgumentType]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
_LARGEST = 1 << 18  # bytes of a file: more take PyYAML seconds
_LONGEST_NAME = 1000  # of a file that is extended


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            what = "is a directory" if path.is_dir() else "does not exist"
            raise RewardJaxError(f"config {str(path)!r} {what}; expected a YAML file")
        if path.stat().st_size > _LARGEST:
            raise RewardJaxError(
                f"config {str(path)!r} has {path.stat().st_size:,} bytes; expected YAML of at most "
                f"{_LARGEST:,}: settings, not data"
            )
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise RewardJaxError(f"config {str(path)!r} is not UTF-8 text; expected YAML") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise RewardJaxError(f"{path}{line}: not valid YAML: {problem}") from error
    except OSError as error:  # a name that is too long, a file of another user
        raise RewardJaxError(f"config {str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a date or a number that cannot be
        raise RewardJaxError(f"{path}: not usable YAML: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # PyYAML looks up and computes without checking: `!!bool 3`, `!!int ''`, `!!map x`
        raise RewardJaxError(f"{path}: not usable YAML: a value does not fit its tag") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RewardJaxError(
            f"config {str(path)!r} holds a {type(value).__name__}; expected keys and values"
        )
    return value


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both else value  # pyright: ignore
    return merged


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; its `extends: other.yaml` (beside it) lies below it, one level only."""
    path = Path(path)
    values = _read_mapping(path)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str) or len(parent) > _LONGEST_NAME:
        raise RewardJaxError(f"{path}: extends: expected one file name, got {short(parent)}")
    try:
        below = _read_mapping(path.parent / parent)
    except RewardJaxError as error:
        raise RewardJaxError(f"{path}: extends: {error}") from error
    if "extends" in below:
        raise RewardJaxError(
            f"{path}: extends {parent!r}, which extends another file; at most one level is read"
        )
    return _merge(below, values)


def field_types(cls: type) -> dict[str, Any]:
    """Dotted name → type of every leaf field of a settings class."""
    hints = typing.get_type_hints(cls)
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            inner = field_types(typing.cast(type, kind))
            leaves |= {f"{field.name}.{name}": value for name, value in inner.items()}
        else:
            leaves[field.name] = kind
    return leaves


def _suggest(name: str, options: Iterable[str]) -> str:
    """A hint at the nearest option, or at one with the same last word in another section."""
    options = list(options)
    hint = nearest(name, options)
    if hint:
        return hint
    by_word = {option.lstrip("-").rsplit(".", 1)[-1]: option for option in options}
    close = difflib.get_close_matches(name.lstrip("-").rsplit(".", 1)[-1], by_word, n=1)
    return f"; did you mean {by_word[close[0]]!r}?" if close else ""


def _unknown(name: str, cls: type, where: str) -> RewardJaxError:
    keys = list(field_types(cls))
    sections = {key.rsplit(".", 1)[0] for key in keys if "." in key}
    hint = _suggest(name[:100], [*keys, *sections])
    return RewardJaxError(f"{where}unknown key {short(name)}{hint}")


def from_dict(cls: type[T], values: dict[str, Any], *, source: str = "") -> T:
    """Build settings from nested plain values, checking every key and type.

    Raises:
      RewardJaxError: unknown key (the nearest valid one is named), wrong type, missing key.
    """
    where = f"{source}: " if source else ""
    return _build(cls, values, cls, "", where)


def _build(
    cls: type[T], values: Any, root: type, prefix: str, where: str, default: Any = None
) -> T:
    """`default`: what a section without values would be; a value changes it alone."""
    if not isinstance(values, dict):
        raise RewardJaxError(
            f"{where}{prefix.rstrip('.') or 'settings'}: expected keys and values, got "
            f"{short(values)}"
        )
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    for key in values:
        if key not in fields:
            raise _unknown(f"{prefix}{key}", root, where)
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in values:
            required = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
            if required and default is None:
                raise RewardJaxError(f"{where}missing key {prefix}{name!r}")
            continue
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            inner, below = typing.cast(type, kind), getattr(default, name, None)
            if below is None and field.default_factory is not dataclasses.MISSING:
                below = field.default_factory()
            arguments[name] = _build(inner, values[name], root, f"{prefix}{name}.", where, below)
        else:
            arguments[name] = _leaf(kind, values[name], f"{prefix}{name}", where)
    return cls(**arguments) if default is None else dataclasses.replace(default, **arguments)


def _leaf(kind: Any, value: Any, name: str, where: str) -> Any:
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None
    if dataclasses.is_dataclass(item) and isinstance(value, list):  # a list of settings
        inner = typing.cast(type, item)
        return tuple(
            from_dict(inner, part, source=f"{where}{name}, entry {i}")
            for i, part in enumerate(value, 1)
        )
    # JSON in strict mode is YAML's notion of types: lists fit tuples, text never fits numbers.
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:  # a date, bytes, a list that holds itself
        raise RewardJaxError(
            f"{where}{name}: cannot use the value {short(value)}; expected plain text or numbers"
        ) from error
    try:
        return pydantic.TypeAdapter(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"]
        reason = reason.removeprefix("Input should be ").removeprefix("Value error, ")
        raise RewardJaxError(f"{where}{name}: got {short(value)}, expected {reason}") from error


def _flag_names(cls: type) -> dict[str, str]:
    """Every flag that tyro makes for the leaves, as typed → dotted name."""
    flags = {}
    for name, kind in field_types(cls).items():
        flags[f"--{name.replace('_', '-')}"] = name
        if kind is bool:
            head, _, last = name.replace("_", "-").rpartition(".")
            flags[f"--{head + '.' if head else ''}no-{last}"] = name
    return flags


# What Python says of text that is no number → what was expected.
_NUMBERS = {
    "could not convert string to float": "a number",
    r"invalid literal for int\(\) with base 10": "an integer",
}


def _parse_error(cls: type, argv: list[str], prog: str, box: str) -> RewardJaxError:
    """tyro's boxed message as one line; for an unknown flag, one that names the nearest."""
    if "Unrecognized options" in box:
        flags = _flag_names(cls)
        for word in argv:
            flag = word.split("=", 1)[0].replace("_", "-")
            if word.startswith("--") and flag not in flags:
                hint = _suggest(flag, flags) or f"; see {prog} --help"
                return RewardJaxError(f"unknown option {flag!r}{hint}")
    if "Required options" in box:
        names = re.findall(r"(?m)^[│|\s]*(--\w[\w.-]*)", box)
        return RewardJaxError(
            f"missing: {', '.join(names) or 'a required option'}; see {prog} --help"
        )
    lines = [re.sub(r"[╭╮╰╯│─━┃┏┓┗┛]", " ", line).strip(" -") for line in box.splitlines()]
    title, *body = [line for line in lines if line] or [box]
    # The first paragraph under the title says what is wrong; help for the argument follows it.
    start = lines.index(body[0]) if body else 0
    message = " ".join(itertools.takewhile(bool, lines[start:])) if body else title
    for words, expected in _NUMBERS.items():
        if match := re.fullmatch(rf"Error parsing (\S+): {words}: (.*)", message):
            return RewardJaxError(f"{match[1]}: got {match[2]}, expected {expected}")
    several = r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]"
    if match := re.fullmatch(several, message):
        kind = field_types(cls).get(_flag_names(cls).get(match[1], ""))
        numbers = any(number in typing.get_args(kind) for number in (int, float))
        expected = "a number" if numbers else "other values"
        return RewardJaxError(f"{match[1]}: got {match[2]}, expected {expected}")
    return RewardJaxError(f"{message.rstrip('.')}; see {prog} --help")


def parse(
    cls: type[T],
    argv: list[str],
    *,
    prog: str,
    description: str,
    yaml_positional: bool = False,
) -> T:
    """Settings from the command line, over a YAML file's, over the class's defaults.

    Args:
      cls: a frozen dataclass, nested as wished.
      argv: the arguments after the command's name. With `yaml_positional` the first word may be
        a YAML file; the rest are flags (`--section.field value`).
      prog: the command as typed, for the help text.

    Raises:
      RewardJaxError: unknown key or flag (the nearest is named), wrong type, unreadable file.
      SystemExit: with code 0 after `--help`.
    """
    default: T | None = None
    if yaml_positional:
        prog_usage = f"{prog} [CONFIG.yaml]"
        if argv and not argv[0].startswith("-"):
            default = from_dict(cls, load_yaml(argv[0]), source=argv[0])
            argv = argv[1:]
    else:
        prog_usage = prog
    out, err = io.StringIO(), io.StringIO()
    arguments: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return tyro.cli(cls, args=argv, prog=prog_usage, description=description, **arguments)
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.write(out.getvalue())
            raise
        raise _parse_error(cls, argv, prog, err.getvalue() or out.getvalue()) from stop


def to_plain(config: Any) -> dict[str, Any]:
    """Settings as nested dicts, lists and scalars."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def to_yaml(config: Any) -> str:
    """Settings as YAML text, in the order of the fields; `from_dict` reads it back."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
