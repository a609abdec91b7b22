"""YAML text as Kubernetes reads it, and the line at which a field of it stands.

Apart from documents.py because a run on JSON manifests need not wait for the import of PyYAML.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import yaml
from yaml.composer import Composer, ComposerError
from yaml.constructor import SafeConstructor
from yaml.reader import ReaderError

from ipvs_agent.documents import MalformedError, Step, line_at, steps_of

MAX_YAML_NODES = 20_000_000
"""What a YAML document may unfold to by its aliases."""


def read_yaml(data: bytes) -> Iterator[tuple[int, object]]:
    """Read the documents of YAML text; each comes with the line where it begins."""
    for node in _nodes(data):
        line = node.start_mark.line + 1
        try:
            yield line, _Loader(b"").construct_document(node)
        except yaml.MarkedYAMLError as error:
            raise _malformed(error) from None
        except (ValueError, KeyError, RecursionError) as error:
            raise MalformedError(line, f"a value that its tag does not allow: {error}") from None


class YamlLines:
    """Finds lines in YAML text. Documents must be asked for in the order of the text."""

    def __init__(self, data: bytes) -> None:
        self._nodes = _nodes(data)
        self._ahead = 0
        self._node: yaml.Node | None = None

    def line(self, document: int, field: str) -> int:
        """Return the line of a field of a document, or of as much of its path as there is."""
        node = self._find(document)
        # A key that is no field may look like a path.
        steps = [field] if _child(node, field) is not None else steps_of(field)
        for step in steps:
            child = _child(node, step)
            if child is None:
                break
            node = child
        return int(node.start_mark.line) + 1

    def repeated(self, document: int) -> str | None:
        """Return a key of a document, which is a mapping, that stands twice in it; None where none does."""
        node = self._find(document)
        assert isinstance(node, yaml.MappingNode)
        counts = Counter(key.value for key, _ in node.value)
        return next((key for key, count in counts.items() if count > 1), None)

    def _find(self, document: int) -> yaml.Node:
        while self._ahead <= document:
            self._node = next(self._nodes)
            self._ahead += 1
        assert self._node is not None
        return self._node


def _child(node: yaml.Node, step: Step) -> yaml.Node | None:
    children: Mapping[Step, yaml.Node] = {}
    if isinstance(node, yaml.MappingNode):
        children = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
    elif isinstance(node, yaml.SequenceNode):
        children = dict(enumerate(node.value))
    return children.get(step)


def _nodes(data: bytes) -> Iterator[yaml.Node]:
    loader = _Loader(data)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            yield node
    except yaml.MarkedYAMLError as error:
        raise _malformed(error) from None
    except ReaderError as error:
        raise MalformedError(line_at(data, error.position), error.reason) from None
    except RecursionError:
        raise MalformedError(1, "nested too deeply") from None
    finally:
        loader.dispose()


def _malformed(error: yaml.MarkedYAMLError) -> MalformedError:
    mark = error.problem_mark or error.context_mark
    reason = " ".join(part for part in (error.context, error.problem) if part)
    return MalformedError(mark.line + 1 if mark else 1, reason)


_TAGS = "tag:yaml.org,2002:"


class _Loader(Composer, yaml.CSafeLoader):
    """Parses in C but composes in Python: the composer in C overflows the stack where nesting is deep."""

    def __init__(self, data: bytes) -> None:
        yaml.CSafeLoader.__init__(self, data)
        Composer.__init__(self)
        self._size = 0
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node:
        """Compose a node and count what it unfolds to; an alias within its own anchor has no end."""
        event = self.peek_event()
        size_before = self._size
        node = super().compose_node(parent, index)
        assert node is not None
        if isinstance(event, yaml.AliasEvent):
            self._size += self._sizes.get(event.anchor or "", MAX_YAML_NODES)
        else:
            self._size += 1
            if isinstance(event, yaml.NodeEvent) and event.anchor:
                self._sizes[event.anchor] = self._size - size_before
        if self._size > MAX_YAML_NODES:
            raise ComposerError(problem="aliases that unfold without measure", problem_mark=node.start_mark)
        return node


# Plain scalars are read as in YAML 1.2: `on` and `no` are text, and so are 010, dates and 1:20.
_Loader.yaml_constructors = {
    tag: SafeConstructor.yaml_constructors[tag]
    for tag in (None, *(_TAGS + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")))
}
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"-?(?:0|[1-9][0-9]*)", list("-0123456789")),
    ("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", list("-0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAGS + _tag, re.compile(rf"^(?:{_pattern})$"), _first)
