"""The command line of every stage, with the same options under DVC, under Kubeflow and by hand."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lissom.components.specs import EVERY, METRICS_FOLDER, StageSpec, option
from lissom.errors import InputError
from lissom.params import Params, check_params, load_params


def parse(spec: StageSpec, words: Sequence[str]) -> dict[str, Any]:
    """Parse the command line of a stage."""
    parser = argparse.ArgumentParser(prog=f"python -m lissom.components.{spec.name}", description=spec.help)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (default: params.yaml)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one param, section.key=value"
    )
    parser.add_argument(
        "--section", action="append", default=[], nargs=2, metavar=("NAME", "JSON"),
        help="a section of the params, in place of a params file; once for every section (Kubeflow)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=os.environ.get("LISSOM_CHECKPOINT_SECONDS", "20"),
        help="time between checkpoints (default: LISSOM_CHECKPOINT_SECONDS, else 20)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="folder to resume from (default: checkpoints)"
    )
    parser.add_argument(
        "--pipeline-run", default=os.environ.get("LISSOM_PIPELINE_RUN", ""), metavar="ID",
        help="pipeline run that the stage belongs to (default: LISSOM_PIPELINE_RUN, else the `dvc repro` around it)",
    )  # fmt: skip
    parser.add_argument("--executor-input", metavar="JSON", help="Kubeflow's description of the task's artefacts")
    for name, source in spec.inputs.items():
        every = source.variant == EVERY
        meaning = f"{name.replace('_', ' ')}, input folder" + ("; one folder in it for each variant" if every else "")
        parser.add_argument(option(name, "input"), type=Path, required=not every, help=meaning)
        if every:
            parser.add_argument(
                option(name, "of"), action="append", default=[], nargs=2, metavar=("VARIANT", "FOLDER"),
                help=f"in place of {option(name, 'input')}, the folder of one variant; once for each (Kubeflow)",
            )  # fmt: skip
    for name in (*spec.outputs, METRICS_FOLDER):
        parser.add_argument(option(name, "output"), type=Path, required=True, help=f"{name}, output folder")
    if "report" in spec.outputs:
        parser.add_argument("--page-output", type=Path, help="also write the page to this file (Kubeflow shows it)")
    if spec.per_variant:
        parser.add_argument("--variant", required=True, help="the variant: the stage whose model it is")
    return vars(parser.parse_args(words))


def read_params(arguments: dict[str, Any]) -> Params:
    """Return the params given on the command line: a file with overrides, or sections.

    Raises:
        InputError: they are invalid; the message lists all mistakes.
    """
    if not arguments["section"]:
        return load_params(arguments["params"], arguments["set"])
    values = {}
    for name, text in arguments["section"]:
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"--section {name} {text[:60]!r}: not JSON: {error}") from None
    return check_params(values, "the run's parameters", of_one_stage=True)


def input_folders(spec: StageSpec, arguments: dict[str, Any], scratch: Path) -> dict[str, Path]:
    """Return the folder of every input; for variants given one by one, a folder of links to them.

    Raises:
        InputError: an input is missing, or variants are given in neither way or in both.
    """
    folders = {}
    for name, source in spec.inputs.items():
        flag, folder = option(name, "input"), arguments[f"{name}_input"]
        if source.variant == EVERY:
            folder = _linked(name, folder, arguments[f"{name}_of"], scratch)
        if not folder.exists():
            raise InputError(f"{flag} {folder}: no such folder; run the stage that makes it, or lissom compress")
        folders[name] = folder
    return folders


def _linked(name: str, all_variants: Path | None, single: list[tuple[str, str]], scratch: Path) -> Path:
    if (all_variants is None) == (not single):
        raise InputError(f"give either {option(name, 'input')} FOLDER, or {option(name, 'of')} for every variant")
    if all_variants is not None:
        return all_variants
    links = scratch / name
    links.mkdir()
    for variant, folder in single:
        if not Path(folder).is_dir():
            raise InputError(f"{option(name, 'of')} {variant} {folder}: no such folder; run the stage that makes it")
        (links / variant).symlink_to(Path(folder).resolve())
    return links
