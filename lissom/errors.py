"""Errors that a user can fix; they are shown without a traceback."""


class InputError(ValueError):
    """Invalid input. The message says what was given, what is allowed and what to change."""


class ParamsError(InputError):
    """One or more params are wrong; the message lists all of them."""


class DataError(InputError):
    """A data source is missing, broken or does not match its description."""


class ModelFormatError(InputError):
    """A model directory is incomplete, changed since it was written, or of another format version."""


class DivergenceError(InputError):
    """A training's loss is no longer finite."""


class GateError(InputError):
    """A model did not pass the gates of the registry."""


_EXTRAS = {
    "mlflow": "tracking",
    "pandas": "tracking",
    "codecarbon": "emissions",
    "sklearn": "report",
    "scipy": "report",
    "matplotlib": "report",
    "jinja2": "report",
    "textblob": "augment",
    "sacrebleu": "translation",
    "gguf": "gguf",
    "accelerate": "gguf",
    "cyllama": "gguf",
    "xllamacpp": "gguf",
    "lm_eval": "harness",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "h11": "serve",
    "kfp": "kubeflow",
    "kubeflow": "trainer",
    "kfp_server_api": "kubeflow",
    "kubernetes": "kubeflow",
    "urllib3": "kubeflow",
    "ruamel": "pipeline",
}


def advice_for(error: ModuleNotFoundError) -> str | None:
    """Return which extra of lissom to install for a missing package; None for packages of no extra."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return None
    return f"this needs the package {package}: pip install 'lissom[{_EXTRAS[package]}]'"
