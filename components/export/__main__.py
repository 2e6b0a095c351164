"""Export one variant to ONNX and hold it to torch."""

from components.stage import Outcome, Stage, run_stage
from lissom.artifacts import ONNX
from lissom.export.onnx import export_onnx
from lissom.export.parity import check_parity


def work(stage: Stage) -> Outcome:
    """Write the graph, then compare its answers on the whole dev set."""
    model, folder = stage.load("model"), stage.outputs["export"]
    kernels = export_onnx(model, folder)
    parity = check_parity(model, folder, stage.encode(model, "dev"), stage.params.export)
    megabytes = (folder / ONNX).stat().st_size / 1e6
    return Outcome(
        metrics={"integer_kernels": kernels, "megabytes": megabytes, "parity": parity.model_dump(mode="json")}
    )


if __name__ == "__main__":
    run_stage("export", work, inputs=("data", "model"), outputs=("export",), option="variant")
