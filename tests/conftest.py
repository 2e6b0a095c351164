"""Settings of all tests."""

import gc
import os
import sys

from hypothesis import settings

from tests import warm
from tests.warm.onnx_operators import keep_operators

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Several processes share the cores: threads that spin while they wait take them from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The collector looks at torch's and sympy's objects again and again: a tenth of the time of tests that trace graphs.
gc.set_threshold(100_000, 20, 20)
settings.register_profile("shared_machine", deadline=None, max_examples=50)
settings.load_profile("shared_machine")

pytest_plugins = ["tests.durations"]


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # xdist's workers inherit the session of the process that started them
        warm.open_session()


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        warm.close_session()


def pytest_collection_finish():
    if "torch" in sys.modules:  # some tests have imported it
        keep_operators()
