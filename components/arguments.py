"""The command line of every stage: the same options under DVC, Kubeflow and by hand."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lissom.errors import InputError
from lissom.params import Params, check_params, load_params

METRICS_FOLDER = "metrics"


def parse(name: str, inputs: Sequence[str], outputs: Sequence[str], option: str | None) -> dict[str, Any]:
    """Return the options of a stage as given on the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m components.{name}", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="params file (default: params.yaml)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one param, section.key=value"
    )
    parser.add_argument(
        "--section", action="append", default=[], nargs=2, metavar=("NAME", "JSON"),
        help="a section of the params, in place of a params file; once for every section (Kubeflow)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=float(os.environ.get("LISSOM_CHECKPOINT_SECONDS", "20")),
        help="time between checkpoints (default: LISSOM_CHECKPOINT_SECONDS, else 20)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="folder to resume from (default: checkpoints)"
    )
    parser.add_argument("--pipeline-run", default="", metavar="ID", help="tag of the MLflow run (Kubeflow's run id)")
    parser.add_argument("--executor-input", metavar="JSON", help="what Kubeflow says of the task's artefacts")
    for names, role in ((inputs, "input"), (outputs, "output")):
        for path in names:
            flag, meaning = f"--{path.replace('_', '-')}-{role}", f"{path.replace('_', ' ')}, {role} folder"
            one_by_one = (path, role) == (METRICS_FOLDER, "input")
            parser.add_argument(flag, type=Path, required=not one_by_one, help=meaning)
            if one_by_one:
                parser.add_argument(
                    "--metrics-of", action="append", default=[], nargs=2, metavar=("STAGE", "FOLDER"),
                    help="in place of --metrics-input, the metrics of one stage; once for every stage (Kubeflow)",
                )  # fmt: skip
    parser.add_argument(
        "--metrics-output", type=Path, required=True, help="folder of metrics.json, emissions.json, history.json"
    )
    if "report" in outputs:
        parser.add_argument("--page-output", type=Path, help="also write the page to this file (Kubeflow shows it)")
    if option:
        parser.add_argument(f"--{option}", required=True, help="which variant")
    return vars(parser.parse_args())


def read_params(arguments: dict[str, Any]) -> Params:
    """Return the params that a command line names: a file with overrides, or sections.

    Raises:
        InputError: they are wrong, all mistakes told at once.
    """
    if not arguments["section"]:
        return load_params(arguments["params"], arguments["set"])
    values = {}
    for name, text in arguments["section"]:
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"--section {name} {text[:60]!r}: not JSON: {error}") from None
    return check_params(values, "the run's parameters")


def metrics_folder(arguments: dict[str, Any], scratch: Path) -> Path:
    """Return the folder of all stages' metrics; where they came one by one, a folder of links to them.

    Raises:
        InputError: they came in neither way or in both, or a folder is missing.
    """
    whole: Path | None = arguments["metrics_input"]
    if (whole is None) == (not arguments["metrics_of"]):
        raise InputError("give either --metrics-input FOLDER, or --metrics-of STAGE FOLDER for every stage")
    if whole is not None:
        return whole
    collected = scratch / METRICS_FOLDER
    for stage, folder in arguments["metrics_of"]:
        if not Path(folder).is_dir():
            raise InputError(f"--metrics-of {stage} {folder}: no such folder; run the stage that makes it")
        (collected / stage).parent.mkdir(parents=True, exist_ok=True)
        (collected / stage).symlink_to(Path(folder).resolve())
    return collected
