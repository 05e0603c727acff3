from __future__ import annotations

import torch

torch.set_num_threads(
    1
)  # small networks; threads that wait for each other cost more than they bring
