"""Params for a model and data of the user's: `lissom compress MODEL DATA` writes them, and says what it assumed."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lissom.artifacts import write_text
from lissom.data import files
from lissom.data.config import PER_TOKEN
from lissom.errors import InputError
from lissom.models.source import is_gguf, locate
from lissom.overrides import apply_override
from lissom.params import check_params
from lissom.pipelines.columns import Columns, assume_columns
from lissom.pipelines.init import template

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SAMPLE = 2000
"""Rows of train that are looked at."""
_LONGEST = 512
_HEAD = "# Written by `lissom compress {model} {data}`. docs/params.md explains every key.\n"


def write_params(path: Path, model: str, data: str, overrides: Sequence[str] = ()) -> list[str]:
    """Write a params file for a model and data, and return what was assumed, one line each.

    Args:
        path: the params file.
        model: a folder, a name on the hub, or a source as `base.model` takes it.
        data: a folder with train and test, or a source as `data.source` takes it.
        overrides: `section.key=value`; what they set is not assumed.

    Raises:
        InputError: model or data are not found, the column of a role is ambiguous or missing, or the file exists with
            other contents.
    """
    given: dict[str, Any] = {}
    for override in overrides:
        apply_override(given, override)
    base, source = _model_source(model), _data_source(data)
    lines = [f"base.model: {base}", f"data.source: {source}"]
    params: dict[str, Any] = {"base": {"model": base}, "data": {"source": source}}
    rows: list[Mapping[str, Any]] = []
    count = 0
    if source.startswith("files:"):
        train = files.find_split(Path(source.removeprefix("files:")), "train")
        if train is None:
            raise InputError(f"{data}: no train file; it must hold train and test as {', '.join(files.FORMATS)}")
        records = files.records(train)
        rows = list(itertools.islice(records, _SAMPLE))
        count = len(rows) + sum(1 for _ in records)
        columns = assume_columns(rows, given.get("data", {}))
        params["data"] |= _columns_section(columns)
        lines += _columns_lines(columns, rows)
    config, lengths = _inspect(base, [_texts(row, params["data"]) for row in rows])
    if lengths:
        positions = int(getattr(config, "max_position_embeddings", _LONGEST))
        longest = min(_LONGEST, positions, _rounded_up(sorted(lengths)[int(0.99 * (len(lengths) - 1))]))
        params["base"]["max_length"] = longest
        lines.append(f"base.max_length: {longest}, which 99 % of the texts fit; the model has {positions} positions")
    params |= _recipe(config, count)
    millions = _parameters(config) / 1e6
    params["gates"]["max_megabytes"] = math.ceil(millions)
    lines.append(
        f"gates.max_megabytes: {math.ceil(millions)}, a byte for each of the model's {millions:.1f} M parameters, as "
        "int8 alone would leave"
    )
    if params["data"].get("task") in PER_TOKEN:
        params["factorize"]["min_count"] = None
        lines.append("factorize.min_count: null, since words that train lacks are what is looked for")
    lines.append(f"distill.blocks: {params['distill']['blocks']} of {config.num_hidden_layers}")
    for override in overrides:
        apply_override(params, override)
    check_params(params, f"params for {model} and {data}")
    text = _HEAD.format(model=model, data=data) + yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path} exists and holds other params; run `lissom compress {path}` to use it, or remove it")
    write_text(path, text)
    return [*lines, f"written to {path}; edit it and run `lissom compress {path}` to change anything"]


def _model_source(model: str) -> str:
    if model.partition(":")[0] in ("package", "hub", "dir"):
        return model
    if Path(model).is_dir() or is_gguf(Path(model)):
        return f"dir:{model}"
    if model.count("/") == 1 and not Path(model).exists():
        return f"hub:{model}"
    raise InputError(
        f"model {model}: no such folder or GGUF file, and no name on the hub (owner/name); package:... is allowed, too"
    )


def _data_source(data: str) -> str:
    if data.partition(":")[0] in ("embedded", "files", "hub"):
        return data
    if Path(data).is_dir():
        return f"files:{data}"
    if Path(data).is_file():
        raise InputError(
            f"data {data}: a file; name a folder that holds train and test ({', '.join(files.FORMATS)}), since figures "
            "are measured on texts that nothing was trained on"
        )
    raise InputError(f"data {data}: no such folder; hub:owner/name and embedded:python-docs are allowed, too")


def _columns_section(columns: Columns) -> dict[str, Any]:
    section: dict[str, Any] = {"text": columns.text, "label": columns.label, "task": columns.task}
    return section | ({"text_pair": columns.text_pair} if columns.text_pair else {})


def _columns_lines(columns: Columns, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"data.text: {columns.text!r}" + (f", data.text_pair: {columns.text_pair!r}" if columns.text_pair else "")
    labels = {str(row[columns.label]) for row in rows}
    kind = "numbers to predict" if columns.task == "regression" else f"{len(labels)} classes"
    yield f"data.label: {columns.label!r}, {kind} (data.task: {columns.task})"


def _texts(row: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, ...]:
    pair = data.get("text_pair")
    text = row[data["text"]] or ""
    if isinstance(text, list):
        text = " ".join(map(str, text))
    return (str(text), *((str(row[pair] or ""),) if pair else ()))


def _inspect(base: str, texts: Sequence[tuple[str, ...]]) -> tuple["PreTrainedConfig", list[int]]:
    """Return the config of a model, and the lengths of texts in its tokens."""
    from transformers import AutoConfig, AutoTokenizer

    from lissom.models.gguf_file import pretrained

    source, revision = locate(base)
    source, more = pretrained(source)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, **more)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, **more).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"model {base}: cannot be read: {str(error).splitlines()[0]}") from None
    tokenizer.no_truncation()
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch([t if len(t) > 1 else t[0] for t in texts])]
    return config, lengths


def _parameters(config: "PreTrainedConfig") -> int:
    """Return the number of parameters of a network without a head; no weights are read."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        return int(AutoModel.from_config(config).num_parameters())


def _recipe(config: "PreTrainedConfig", rows: int) -> dict[str, Any]:
    """Return the shipped recipe, fitted to the shape of a model and the number of training rows (0: unknown)."""
    recipe: dict[str, Any] = yaml.safe_load(template("params.yaml"))
    blocks, width = config.num_hidden_layers, config.hidden_size
    kept = max(1, math.ceil(blocks / 2))
    recipe["distill"]["blocks"] = [i * (blocks - 1) // max(1, kept - 1) for i in range(kept)]
    recipe["distill"]["max_dev_drop"] = _MAX_DEV_DROP
    recipe["factorize"]["rank"] = min(recipe["factorize"]["rank"], max(1, width // 3))
    if rows:
        for section, updates in _UPDATES.items():
            training = recipe[section] if section == "teacher" else recipe[section]["training"]
            epochs = updates * training.get("batch_size", 32) / rows
            training["epochs"] = round(min(_MOST_EPOCHS, max(training["epochs"], epochs)), 2)
    return {name: value for name, value in recipe.items() if name not in ("base", "data")}


_UPDATES = {"teacher": 600, "distill": 1500, "prune": 600, "factorize": 600, "quantize": 300}
"""A training on little data lasts longer than the shipped epochs, until it has done so many updates."""
_MOST_EPOCHS = 10.0
_MAX_DEV_DROP = 0.02
"""A student that loses more is made of more blocks: the gate allows 0.05 for all steps together."""


def _rounded_up(length: int) -> int:
    return max(16, math.ceil(length / 8) * 8)
