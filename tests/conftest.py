"""Settings of all tests."""

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
settings.register_profile("shared_machine", deadline=None, max_examples=50)
settings.load_profile("shared_machine")
