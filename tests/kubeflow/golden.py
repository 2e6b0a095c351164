"""Write the golden file anew: `python -m tests.kubeflow.golden`, after a change of the pipeline that is meant."""

from lissom.params import check_params
from lissom.pipelines.compiling import compile_pipeline
from tests.kubeflow.test_pipeline import GOLDEN, IMAGES, PARAMS

if __name__ == "__main__":
    compile_pipeline(check_params(PARAMS), IMAGES, GOLDEN)
