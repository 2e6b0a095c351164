"""Settings of the tests with several processes."""

import torch

torch.set_num_threads(1)  # threads of OpenMP do not survive a fork, and tiny networks need none
