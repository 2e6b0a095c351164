"""Params for a model and data of the user's: `lissom compress MODEL DATA` writes them, and says what it assumed."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lissom.artifacts import write_text
from lissom.data import files, hub
from lissom.data.config import EMBEDDED, PER_TOKEN, UNLABELLED_TASKS, WRITTEN, TaskKind
from lissom.errors import InputError
from lissom.models.source import is_gguf, locate
from lissom.overrides import apply_override
from lissom.params import check_params
from lissom.pipelines.columns import Columns, assume_columns
from lissom.pipelines.recipes import recipe_for

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SAMPLE = 2000
"""Rows of train that are looked at."""
_LONGEST = 512
_WINDOW = 256
"""Tokens that a language model is trained on at a time."""
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
    if not isinstance(given.get("data", {}), Mapping):
        raise InputError(f"--set data={given['data']}: data is a mapping; set a key of it, data.KEY=VALUE")
    base, source = _model_source(model), _data_source(data)
    lines = [f"base.model: {base}", f"data.source: {source}"]
    overridden = [override.partition("=")[0] for override in overrides]
    params: dict[str, Any] = {"base": {"model": base}, "data": {"source": source}}
    rows: list[Mapping[str, Any]] = []
    config = _config(base)
    count = 0
    if source in EMBEDDED:
        params["data"]["task"] = EMBEDDED[source]
    else:
        records = _train_rows(source, data)
        rows = list(itertools.islice(records, _SAMPLE))
        columns = assume_columns(rows, given.get("data", {}), writes=_written_by(config))
        params["data"] |= _columns_section(columns)
        labels, count = set(_classes(rows, columns)), len(rows)
        for row in records:
            labels.update(_classes([row], columns))
            count += 1
        lines += _columns_lines(columns, labels)
    task: TaskKind = given.get("data", {}).get("task") or params["data"].get("task", "classification")
    positions = int(getattr(config, "max_position_embeddings", None) or _LONGEST)
    if task in UNLABELLED_TASKS:
        params["base"]["max_length"] = min(_WINDOW, positions)
        lines.append(f"base.max_length: {params['base']['max_length']}: longer texts are cut into windows")
    elif lengths := _lengths(base, [part for row in rows for part in _texts(row, params["data"], task)], config):
        longest = min(_LONGEST, positions, _rounded_up(sorted(lengths)[int(0.99 * (len(lengths) - 1))]))
        params["base"]["max_length"] = longest
        lines.append(f"base.max_length: {longest}, which 99 % of the texts fit; the model has {positions} positions")
    params |= recipe_for(task, config, count)
    millions = _parameters(config) / 1e6
    params["gates"]["max_megabytes"] = math.ceil(millions)
    lines.append(
        f"gates.max_megabytes: {math.ceil(millions)}, a byte for each of the model's {millions:.1f} M parameters, as "
        "int8 alone would leave"
    )
    if task in PER_TOKEN:
        lines.append("factorize.min_count: null, since words that train lacks are what is looked for")
    lines.append(f"distill.blocks: {params['distill']['blocks']} of {config.num_hidden_layers}")
    for override in overrides:
        apply_override(params, override)
    check_params(params, f"params for {model} and {data}")
    text = _HEAD.format(model=model, data=data) + yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path} exists and holds other params; run `lissom compress {path}` to use it, or remove it")
    write_text(path, text)
    lines = [line for line in lines if not _is_set(line.partition(":")[0], overridden)]
    return [*lines, f"written to {path}; edit it and run `lissom compress {path}` to change anything"]


def _is_set(key: str, overridden: Sequence[str]) -> bool:
    """Return whether an override sets a key, or the section around it."""
    return any(key == name or key.startswith(f"{name}.") for name in overridden)


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
    kind = data.partition(":")[0]
    if kind == "embedded" and data not in EMBEDDED:
        raise InputError(f"data {data}: is not known; allowed: {', '.join(EMBEDDED)}")
    if kind in ("embedded", "files", "hub"):
        return data
    if Path(data).is_dir():
        return f"files:{data}"
    if Path(data).is_file():
        raise InputError(
            f"data {data}: a file; name a folder that holds train and test ({', '.join(files.FORMATS)}), since figures "
            "are measured on texts that nothing was trained on"
        )
    raise InputError(f"data {data}: no such folder; hub:owner/name and embedded:python-docs are allowed, too")


def _train_rows(source: str, data: str) -> Iterator[Mapping[str, Any]]:
    kind, _, place = source.partition(":")
    if kind == "hub":
        return hub.train_rows(place)
    train = files.find_split(Path(place), "train")
    if train is None:
        raise InputError(f"{data}: no train file; it must hold train and test as {', '.join(files.FORMATS)}")
    return files.records(train)


def _columns_section(columns: Columns) -> dict[str, Any]:
    section: dict[str, Any] = {"text": columns.text, "task": columns.task}
    section |= {"label": columns.label} if columns.label else {}
    return section | ({"text_pair": columns.text_pair} if columns.text_pair else {})


def _classes(rows: Sequence[Mapping[str, Any]], columns: Columns) -> Iterator[str]:
    """Yield the classes of rows, those of words one by one; none of other tasks, nor of rows without a label."""
    if columns.label is None or columns.task in WRITTEN or columns.task == "regression":
        return
    for row in rows:
        label = row.get(columns.label)
        yield from (str(each) for each in (label if isinstance(label, list) else [label]) if each not in (None, ""))


def _columns_lines(columns: Columns, labels: Set[str]) -> Iterator[str]:
    yield f"data.text: {columns.text!r}" + (f", data.text_pair: {columns.text_pair!r}" if columns.text_pair else "")
    if columns.label is None:
        yield f"data.task: {columns.task}, of texts alone"
        return
    if columns.task in WRITTEN:
        yield f"data.label: {columns.label!r}, the translations (data.task: {columns.task})"
        return
    kind = "numbers to predict" if columns.task == "regression" else f"{len(labels)} classes"
    yield f"data.label: {columns.label!r}, {kind} (data.task: {columns.task})"


def _texts(row: Mapping[str, Any], data: Mapping[str, Any], task: TaskKind) -> Iterator[tuple[str, ...]]:
    """Yield what the model reads or writes of a row: a text, a pair of texts, or a text and then its translation."""
    pair = data.get("text_pair")
    text = row.get(data["text"]) or ""
    if isinstance(text, list):
        text = " ".join(map(str, text))
    yield (str(text), *((str(row.get(pair) or ""),) if pair else ()))
    if task in WRITTEN:
        yield (str(row.get(data["label"]) or ""),)


def _written_by(config: "PreTrainedConfig") -> TaskKind | None:
    """Return the task of a model that writes texts; None of an encoder, or a family that is not known."""
    from lissom.models.families import FAMILIES

    family = FAMILIES.get(config.model_type)
    if family is None or not (family.has_encoder_and_decoder or family.decoder):
        return None
    return "translation" if family.has_encoder_and_decoder else "language_modeling"


def _config(base: str) -> "PreTrainedConfig":
    """Return the config of a model."""
    from lissom.models.gguf_file import read_config
    from lissom.models.loading import loading

    source, revision = locate(base)
    with loading(base, source, "model"):
        return read_config(source, revision)


def _lengths(base: str, texts: Sequence[tuple[str, ...]], config: "PreTrainedConfig") -> list[int]:
    """Return the lengths of texts, or pairs of them, in a model's tokens."""
    from lissom.models.base_tokenizer import read_tokenizers
    from lissom.models.loading import loading

    source, revision = locate(base)
    with loading(base, source, "model"):
        tokenizer = read_tokenizers(base, source, revision, config).texts
    return [len(encoding.ids) for encoding in tokenizer.encode_batch([t if len(t) > 1 else t[0] for t in texts])]


def _parameters(config: "PreTrainedConfig") -> int:
    """Return the number of parameters of a network without a head; no weights are read."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        return int(AutoModel.from_config(config).num_parameters())


def _rounded_up(length: int) -> int:
    return max(16, math.ceil(length / 8) * 8)
