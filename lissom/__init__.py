"""lissom makes a Transformer small, fast and low-carbon, and proves it.

>>> import lissom
>>> model = lissom.load("artifacts/quantize")
>>> lissom.save(model, "elsewhere")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lissom.models.directory import load, save

__version__ = "0.1.0"
__all__ = ["__version__", "load", "save"]


def __getattr__(name: str) -> object:
    """Import `load` and `save` on first use: torch takes seconds, `import lissom` a few milliseconds."""
    if name in ("load", "save"):
        from lissom.models import directory

        return getattr(directory, name)
    raise AttributeError(f"module 'lissom' has no attribute {name!r}")
