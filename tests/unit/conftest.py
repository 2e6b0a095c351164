"""Settings of the unit tests."""

import torch

# Tiny networks gain nothing from threads, and two test processes with two threads each wait for each other most of
# the time: minutes instead of seconds.
torch.set_num_threads(1)
