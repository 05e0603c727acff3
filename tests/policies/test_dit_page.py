"""The lines of docs/how-to/multi_task_dit.md, run one after the other on the recorded policy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies import load_policy
from tests.helpers.lerobot_folder import expected, write
from tests.helpers.places import PROJECT

NAME = "v061_dit_flow"


def test_the_lines_of_the_page_run(tmp_path: Path) -> None:
    recorded = {k: torch.from_numpy(v) for k, v in expected(NAME).items() if v.ndim}
    conditioning, folder = recorded["conditioning_vec"], write(NAME, tmp_path / NAME)
    spec = load_policy(folder).obs_spec
    widths = np.cumsum([array.shape[0] for array in spec.values()])[:-1].tolist()
    parts = torch.tensor_split(conditioning.unflatten(1, (2, -1)), widths, dim=2)
    obs = {**dict(zip(spec, parts, strict=True)), "state": recorded["observation.state"]}

    class Noise(list[torch.Generator]):
        """The same at each query of the page."""

        def __iter__(self) -> Any:
            return iter([torch.Generator().manual_seed(1101 + row) for row in range(len(self))])

    given = {
        **{"folder": folder, "obs": obs, "conditioning": conditioning},
        **{"noise": Noise([torch.Generator()] * 2)},
        **{"many_obs": {name: array.repeat(4, 1, 1) for name, array in obs.items()}},
        "many_noise": [torch.Generator().manual_seed(row) for row in range(8)],
    }
    page = (PROJECT / "docs/how-to/multi_task_dit.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, "multi_task_dit.md", "exec"), given)
    actions: Any = given["actions"]
    torch.testing.assert_close(actions, given["same"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actions, recorded["action"], atol=1e-3, rtol=0)
    assert not torch.equal(given["cached"], actions)
    assert float((given["quantised"] - actions).abs().max()) > 0
    assert torch.equal(
        load_policy(folder / "denoiser").model.output_proj.bias.half(),
        given["policy"].model.output_proj.bias.half(),
    )
