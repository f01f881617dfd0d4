"""Op dropout against torch's own, which draws its mask from shared state and stores it."""

from __future__ import annotations

import torch

from atras.kernels import dropout
from atras.kernels.dropout import reference
from atras.testing import assert_close, make_dropout_inputs

from .side_by_side import DEVICES, synchronize

# members, [B, F] or [B, C, H, W], and whether the features are padded.
CASES = {
    "8 members, padded features": (8, (128, 1024), True),
    "8 members, stem images": (8, (128, 32, 14, 14), False),
}
RATE256 = 64


class Dropout:
    """Forward, over all members by vmap."""

    param_names = ("device", "case")
    params = (DEVICES, list(CASES))
    timeout = 300

    def setup(self, device: str, case: str) -> None:
        members, shape, padded = CASES[case]
        self.x, self.key, self.width = make_dropout_inputs(members, shape, padded=padded, device=device)
        width = None if self.width is None else self.width[1]
        expected = reference.dropout(self.x[1], self.key[1], torch.tensor(7, device=device), 1, RATE256, width)
        assert_close(self.ours()[1], expected)

    def ours(self) -> torch.Tensor:
        def one(x: torch.Tensor, key: torch.Tensor, width: torch.Tensor | None) -> torch.Tensor:
            return dropout(x, key, 7, layer=1, rate256=RATE256, width=width)

        return torch.vmap(one, in_dims=(0, 0, None if self.width is None else 0))(self.x, self.key, self.width)

    def time_ours(self, device: str, case: str) -> None:
        self.ours()
        synchronize(device)

    def time_torch(self, device: str, case: str) -> None:
        torch.nn.functional.dropout(self.x, RATE256 / 256)
        synchronize(device)
