"""Compiling the pipeline to IR YAML, or to Kubernetes objects for GitOps."""

import os
from pathlib import Path

from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from lissom.errors import InputError
from lissom.params import Params
from lissom.pipelines.compression import compression
from lissom.pipelines.images import NAME, Images


def compile_pipeline(
    params: Params,
    images: Images,
    target: Path,
    *,
    manifests: bool = False,
    namespace: str | None = None,
    version: str | None = None,
) -> None:
    """Write the compiled pipeline atomically.

    Args:
        params: default params of runs, and the resources on the cluster.
        images: container images of the tasks.
        target: the file to write, `.yaml`.
        manifests: write a Pipeline and a PipelineVersion for `kubectl apply` in place of IR YAML.
        namespace: namespace of the manifests.
        version: name of the PipelineVersion, such as a git revision; objects with the same name replace each other.

    Raises:
        InputError: the file's name does not end in .yaml.
    """
    if target.suffix not in (".yaml", ".yml"):
        raise InputError(f"{target}: a compiled pipeline is YAML; let the name end in .yaml")
    options = None
    if manifests:
        options = KubernetesManifestOptions(
            pipeline_name=NAME,
            pipeline_version_name=version or NAME,
            namespace=namespace,
            include_pipeline_manifest=True,
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        compiler.Compiler().compile(
            compression(params, images), str(temporary),
            kubernetes_manifest_options=options, kubernetes_manifest_format=manifests,
        )  # fmt: skip
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
