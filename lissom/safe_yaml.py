"""YAML of users, parsed with bounds: a few hundred bytes of aliases can otherwise grow to gigabytes."""

from typing import Any

import yaml

_LONGEST = 1_000_000
_DEEPEST = 50
_MOST_NODES = 100_000
_MERGE = "tag:yaml.org,2002:merge"


class _BoundedLoader(yaml.SafeLoader):
    """Counts the nodes that a document has once every alias is written out, before any value is built."""

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _written_out(node, {}, 1)
        return self.construct_document(node)


def parse(text: str) -> Any:
    """Return the value of a YAML document.

    Raises:
        yaml.YAMLError: it is no YAML, gives a key twice, is longer than 1 MB, nested deeper than 50, holds itself, or
            has more than 100,000 values once its aliases are written out.
    """
    if len(text) > _LONGEST:
        raise yaml.YAMLError(f"longer than {_LONGEST} characters; data belong into files of their own")
    if _nesting(text) > _DEEPEST:
        raise yaml.YAMLError(f"nested deeper than {_DEEPEST}; write it flat")
    try:
        return yaml.load(text, Loader=_BoundedLoader)  # a SafeLoader
    except yaml.YAMLError:
        raise
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        # PyYAML's constructors: a date with month 13, an int of 5,000 digits, `!!timestamp x`
        raise yaml.YAMLError(f"a value cannot be read: {str(error) or type(error).__name__}") from None


def _nesting(text: str) -> int:
    """Return the deepest nesting that PyYAML's composer, which recurses, would see."""
    depth = deepest = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > _DEEPEST:
                break
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return deepest


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that is given twice (YAML 1.2, 3.2.1.1): PyYAML would take the last one and drop the others."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        if key.value in seen:
            raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {key.value} is given twice; keep one")
        seen.add(key.value)


def _written_out(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Return the number of nodes below a node, with those of aliases counted at every use."""
    if depth > _DEEPEST:
        raise yaml.YAMLError(f"nested deeper than {_DEEPEST} through its aliases, or it holds itself; write it out")
    if id(node) not in sizes:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            _check_keys(node)
            parts = [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_written_out(part, sizes, depth + 1) for part in parts)
    if sizes[id(node)] > _MOST_NODES:
        raise yaml.YAMLError(f"more than {_MOST_NODES} values once its aliases are written out; remove aliases")
    return sizes[id(node)]
