"""Print what lissom needs with extras, from the pyproject.toml beside this file: python requirements.py EXTRA ..."""

import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict, extra: str) -> list[str]:
    """Return what lissom and the extra need; an extra that names others of lissom has theirs."""
    found = list(project["dependencies"])
    for one in project["optional-dependencies"][extra]:
        own = re.fullmatch(r"lissom\[(.+)\]", one)
        found += [need for name in own[1].split(",") for need in requirements(project, name)] if own else [one]
    return sorted(set(found))


if __name__ == "__main__":
    project = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text(encoding="utf-8"))["project"]
    print("\n".join(sorted({need for extra in sys.argv[1:] for need in requirements(project, extra)})))
