"""Longest files first, by what they took before: else a long one that comes last leaves one process working alone.

`pytest --durations-output FILE` writes the seconds of every file. `tests/durations.json` is such a file, of one run; what
it does not name is new and goes first. Only the order depends on it.
"""

import json
from collections import defaultdict
from pathlib import Path

import pytest

FIRST = 6
WAITING = "tests/containers/"
"""What needs images, which are built in the background from the start: it comes after the first six of the others."""
KNOWN = Path(__file__).with_name("durations.json")


def pytest_addoption(parser):
    parser.addoption("--durations-output", type=Path, metavar="FILE", help="write the seconds of every test file")


def pytest_configure(config):
    if config.getoption("durations_output") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config.getoption("durations_output")))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    known = json.loads(KNOWN.read_text())
    files = sorted({file_of(item.nodeid) for item in items}, key=lambda name: (-known.get(name, float("inf")), name))
    waiting = [name for name in files if name.startswith(WAITING)]
    others = [name for name in files if name not in waiting]
    places = {name: place for place, name in enumerate([*others[:FIRST], *waiting, *others[FIRST:]])}
    items.sort(key=lambda item: places[file_of(item.nodeid)])


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class Recorder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report):
        self.seconds[file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        longest_first = sorted(self.seconds.items(), key=lambda entry: -entry[1])
        self.path.write_text(json.dumps({name: round(seconds, 1) for name, seconds in longest_first}, indent=1) + "\n")
