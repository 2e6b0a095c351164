"""Settings of the unit tests."""

import pytest
import torch

from lissom.export.onnx import export_onnx
from tests.unit import tiny

# Tiny networks gain nothing from threads, and two test processes with two threads each wait for each other most of
# the time: minutes instead of seconds.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def plain_export(tmp_path_factory):
    """A tiny network as it comes, exported once for all who only read it: tracing takes seconds."""
    folder = tmp_path_factory.mktemp("plain_export")
    export_onnx(tiny.model("bert"), folder)
    return folder
