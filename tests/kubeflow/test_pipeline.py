"""The compiled pipeline: its golden file, its graph next to dvc.yaml's, its commands, and what it asks of a cluster."""

import copy
import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from lissom.cluster import ClusterParams
from lissom.components import arguments
from lissom.components.executor import write_executor_output
from lissom.components.specs import STAGES, spec_of
from lissom.errors import InputError
from lissom.params import check_params
from lissom.pipelines.compiling import compile_pipeline
from lissom.pipelines.images import Images

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "compression.yaml"
IMAGES = Images("registry/lissom-train@sha256:" + "a" * 64, "registry/lissom-export@sha256:" + "b" * 64)
PARAMS = {
    "base": {"model": "dir:/models/base"},
    "data": {"source": "files:/data/task"},
    "distill": {"method": "logits", "blocks": [0, 2]},
    "quantize": {"method": "int8"},
    "cluster": {
        "training": {"cpu": "8", "memory": "32Gi", "gpus": 1},
        "tracking_uri": "http://mlflow.tools:5000",
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        "secrets": [{"name": "hub", "key": "token", "variable": "HF_TOKEN"}],
        "volumes": [{"claim": "datasets", "path": "/data"}],
        "checkpoints": "lissom-checkpoints",
    },
}


COMPILED: dict[str, list[dict]] = {}


def compiled(folder: Path, params=PARAMS, images=IMAGES) -> list[dict]:
    """The pipeline's spec, and its platform's part; what is asked for again takes seconds and is kept."""
    asked = json.dumps([params, repr(images)])
    if asked not in COMPILED:
        compile_pipeline(check_params(params), images, folder / "compression.yaml")
        COMPILED[asked] = list(yaml.safe_load_all((folder / "compression.yaml").read_text()))
    return copy.deepcopy(COMPILED[asked])


def test_the_compiled_pipeline_is_the_golden_one(tmp_path):
    """After a change that is meant: python -m tests.kubeflow.golden."""
    assert compiled(tmp_path) == list(yaml.safe_load_all(GOLDEN.read_text()))


def dvc_graph() -> dict[str, set[tuple[str, str]]]:
    """Every stage with the stages that it reads from, and what it reads: an artefact or metrics."""
    stages, result, reads = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"], {}, defaultdict(set)
    variants = yaml.safe_load((ROOT / "params.yaml").read_text())["variants"]
    unrolled = {}
    for name, stage in stages.items():
        for variant in variants if "matrix" in stage else [""]:
            text = json.dumps(stage).replace("${item.variant}", variant)
            unrolled[f"{name}@{variant}" if variant else name] = json.loads(text)
    for name, stage in unrolled.items():
        for out in stage["outs"]:
            result[out if isinstance(out, str) else next(iter(out))] = name
    for name, stage in unrolled.items():
        for dep in stage["deps"]:
            for path, maker in result.items():
                if path == dep or path.startswith(f"{dep}/"):
                    reads[name].add((maker, "metrics" if path.startswith("metrics") else "artefact"))
    return {name: reads[name] for name in unrolled}


def kubeflow_graph(spec: dict) -> dict[str, set[tuple[str, str]]]:
    tasks = spec["root"]["dag"]["tasks"]
    shown = {key: task["taskInfo"]["name"] for key, task in tasks.items()}
    return {
        shown[key]: {
            (
                shown[source["taskOutputArtifact"]["producerTask"]],
                "metrics" if source["taskOutputArtifact"]["outputArtifactKey"] == "metrics_output" else "artefact",
            )
            for source in task["inputs"].get("artifacts", {}).values()
        }
        for key, task in tasks.items()
    }


def test_dvc_and_kubeflow_run_the_same_graph_of_the_same_components(tmp_path):
    dvc, kubeflow = dvc_graph(), kubeflow_graph(compiled(tmp_path)[0])
    assert kubeflow == dvc
    stages = {name.partition("@")[0] for name in dvc}
    assert stages == {spec.name for spec in STAGES}
    assert stages == {path.parent.name for path in (ROOT / "lissom" / "components").glob("*/__main__.py")}
    assert stages == {path.parent.name for path in (ROOT / "lissom" / "components").glob("*/work.py")}


def test_variants_of_the_params_drive_the_loop(tmp_path):
    graph = kubeflow_graph(compiled(tmp_path, PARAMS | {"variants": ["teacher", "prune", "quantize"]})[0])
    assert {name for name in graph if "@" in name} == {
        f"{stage}@{variant}" for stage in ("export", "evaluate") for variant in ("teacher", "prune", "quantize")
    }
    assert {maker for maker, kind in graph["report"] if kind == "metrics"} == {
        "evaluate@teacher", "evaluate@prune", "evaluate@quantize", "emissions",
    }  # fmt: skip


def test_every_stage_is_given_the_sections_that_dvc_watches(tmp_path):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, task in compiled(tmp_path)[0]["root"]["dag"]["tasks"].items():
        stage = task["taskInfo"]["name"].partition("@")[0]
        argument = {key.removesuffix("_params") for key in task["inputs"]["parameters"] if key.endswith("_params")}
        assert set(stages[stage].get("params", ())) <= argument, name


def test_every_command_is_one_that_its_stage_understands(tmp_path, monkeypatch):
    for executor in compiled(tmp_path)[0]["deploymentSpec"]["executors"].values():
        container = executor["container"]
        actual = arguments.parse(
            spec_of(container["command"][-1].rpartition(".")[2]), list(map(str, container["args"]))
        )
        assert actual["executor_input"] == "{{$}}" and actual["checkpoints"] == Path(
            "/checkpoints/{{$.pipeline_job_uuid}}"
        )
        assert dict(actual["section"])["base"] == "{{$.inputs.parameters['base_params']}}"


def test_params_become_parameters_and_come_back_as_they_were(tmp_path):
    params = check_params(PARAMS)
    argument = compiled(tmp_path)[0]["root"]["inputDefinitions"]["parameters"]
    sections = [(name, value["defaultValue"]) for name, value in argument.items()]
    again = arguments.read_params({"section": sections})
    assert again == params.model_copy(update={"cluster": again.cluster})


def test_resources_reach_the_tasks(tmp_path):
    spec, platform = compiled(tmp_path)
    executors = spec["deploymentSpec"]["executors"]
    teacher, report = executors["exec-teacher"]["container"], executors["exec-report"]["container"]
    assert teacher["image"] == IMAGES.train and report["image"] == IMAGES.export
    assert teacher["resources"]["resourceCpuLimit" if "resourceCpuLimit" in teacher["resources"] else "cpuLimit"] in (
        8.0,
        "8",
    )
    env = {item["name"]: item["value"] for item in teacher["env"]}
    assert env["MLFLOW_TRACKING_URI"] == "http://mlflow.tools:5000" and env["LISSOM_IMAGE"] == IMAGES.train
    assert ClusterParams.model_validate_json(env["LISSOM_CLUSTER"]) == check_params(PARAMS).cluster
    assert report["env"] == [{"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow.tools:5000"}]
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks["teacher"]["retryPolicy"] == {
        "maxRetryCount": 3, "backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "3600s",
    }  # fmt: skip
    assert tasks["report"]["retryPolicy"]["maxRetryCount"] == 1
    actual = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounted = {
        mount["pvcNameParameter"]["runtimeValue"]["constant"]: mount["mountPath"]
        for mount in actual["exec-teacher"]["pvcMount"]
    }
    assert mounted == {"datasets": "/data", "lissom-checkpoints": "/checkpoints"}
    assert actual["exec-teacher"]["nodeSelector"]["labels"] == {"pool": "gpu"}
    assert actual["exec-teacher"]["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert "nodeSelector" not in actual["exec-report"] and "secretAsEnv" in actual["exec-report"]


def test_the_task_of_several_nodes_only_watches_over_them(tmp_path):
    params = PARAMS | {"parallel": {"nodes": 2, "data": 8}}
    executors = compiled(tmp_path, params)[0]["deploymentSpec"]["executors"]
    asked = {name: executors[f"exec-{name}"]["container"]["resources"] for name in ("teacher", "report")}
    assert asked["teacher"] == asked["report"] and "accelerator" not in asked["teacher"]


@pytest.mark.parametrize(
    "base, source, cached",
    [
        ("package:nltk/model", "embedded:python-docs", True),
        (f"hub:owner/name@{'a' * 40}", f"hub:owner/texts@{'b' * 40}", True),
        ("hub:owner/name", "embedded:python-docs", False),
        ("package:nltk/model", "files:/data/task", False),
    ],
)
def test_results_are_cached_if_nothing_can_change_behind_its_name(base, source, cached, tmp_path):
    params = PARAMS | {"base": {"model": base}, "data": {"source": source}}
    tasks = compiled(tmp_path, params)[0]["root"]["dag"]["tasks"].values()
    assert {bool(task["cachingOptions"].get("enableCache")) for task in tasks} == {cached}


def test_an_image_without_a_digest_is_not_cached(tmp_path):
    spec = compiled(tmp_path, images=Images())[0]
    assert all(not task["cachingOptions"] for task in spec["root"]["dag"]["tasks"].values())


def test_manifests_are_kubernetes_objects(tmp_path):
    target = tmp_path / "objects.yaml"
    compile_pipeline(check_params(PARAMS), IMAGES, target, manifests=True, namespace="team", version="abc123")
    pipeline, version = yaml.safe_load_all(target.read_text())
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert version["metadata"] == {"name": "abc123", "namespace": "team"}
    assert version["spec"]["pipelineSpec"]["root"]["dag"]["tasks"].keys() >= {"teacher", "register"}
    with pytest.raises(InputError, match=r"let the name end in \.yaml"):
        compile_pipeline(check_params(PARAMS), IMAGES, tmp_path / "pipeline.json")
    assert list(tmp_path.iterdir()) == [target]


def test_kubeflow_understands_what_a_stage_tells(tmp_path):
    from kfp.local.executor_output_utils import load_executor_output

    def artifact(name: str, kind: str) -> dict:
        return {"artifacts": [{"name": name, "type": {"schemaTitle": kind}, "uri": f"/root/{name}", "metadata": {}}]}

    outputs = {"outputFile": str(tmp_path / "out" / "executor_output.json")}
    outputs["artifacts"] = {
        "metrics": artifact("metrics", "system.Metrics"),
        "student": artifact("student", "system.Model"),
    }
    write_executor_output(
        json.dumps({"outputs": outputs}),
        {"dev_score": 0.9, "method": "logits", "fine": True, "none": None},
        {"stage": "distill"},
    )
    read = load_executor_output(outputs["outputFile"]).artifacts
    assert dict(read["metrics"].artifacts[0].metadata) == {"dev_score": 0.9}
    assert dict(read["student"].artifacts[0].metadata) == {"stage": "distill"}
    assert read["student"].artifacts[0].uri == "/root/student"
    with pytest.raises(InputError, match="the JSON that Kubeflow puts"):
        write_executor_output("{}", {}, {})


def test_interfaces_are_light():
    import subprocess

    code = "import sys, lissom.pipelines.compression; print([name for name in ('torch', 'transformers', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
