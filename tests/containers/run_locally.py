"""Run a compiled pipeline in containers, one after the other: python -m tests.containers.run_locally FILE ROOT.

In a process of its own: kfp.local keeps its settings globally, and what it creates must be writable for the user of
the images, who is not the one who starts them.
"""

import os
import sys

from kfp import components, local


def main(package: str, root: str) -> None:
    os.umask(0)
    local.init(runner=local.DockerRunner(network_mode="host"), pipeline_root=root)
    components.load_component_from_file(package)()


if __name__ == "__main__":
    main(*sys.argv[1:])
