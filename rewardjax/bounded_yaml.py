"""YAML of bounded depth and size: no small file takes long to read, or much memory."""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 50
"""Levels of values in values."""
MOST = 5_000
"""Values, those behind an alias counted each time."""
_DIGITS = 100


class BoundedLoader(yaml.SafeLoader):
    """`yaml.SafeLoader`, which refuses what grows beyond all bounds with little text.

    Those are aliases of aliases ("billion laughs"), values that hold themselves, deep nesting and
    endless numbers.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._open: list[list[int]] = []  # [values, levels] so far of each node that is being read
        self._whole: dict[int, list[int]] = {}  # the same of those that were, by their identity
        self._keys: list[Any] = []

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Text is read far ahead of its values: [[[[… ends here already."""
        if self.flow_level > DEEPEST:
            raise ValueError(f"line {self.line + 1}: values lie more than {DEEPEST} levels deep")
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: Any, index: Any) -> Any:
        where = f"line {self.peek_event().start_mark.line + 1}"
        alias = self.check_event(yaml.AliasEvent)
        self._keys.append(index)
        self._open.append([1, 1])
        if len(self._open) > DEEPEST:
            raise ValueError(f"{where}: values lie more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        size = self._open.pop()
        if not alias:
            self._whole[id(node)] = size
        elif id(node) in self._whole:
            size = self._whole[id(node)]
        else:
            names = [str(key.value) for key in self._keys if isinstance(key, yaml.ScalarNode)]
            raise ValueError(f"{'.'.join(names)}: cannot use the value, which holds itself")
        self._keys.pop()
        if self._open:
            above = self._open[-1]
            above[:] = above[0] + size[0], max(above[1], size[1] + 1)
            if above[0] > MOST or above[1] > DEEPEST:
                raise ValueError(f"{where}: more than {MOST:,} values, or {DEEPEST} levels of them")
        return node


def _number(read: Any) -> Any:
    def construct(loader: BoundedLoader, node: yaml.ScalarNode) -> Any:
        if len(str(node.value)) > _DIGITS:
            raise ValueError(f"a number of {len(str(node.value))} characters")
        return read(loader, node)

    return construct


for _tag in ("int", "float"):
    _read = getattr(yaml.SafeLoader, f"construct_yaml_{_tag}")
    BoundedLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number(_read))
