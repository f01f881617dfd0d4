"""Op fgsm against a copy of the same bytes: memory is what it waits for."""

from __future__ import annotations

import torch

from atras.kernels import apply_signs, fgsm
from atras.kernels.fgsm import reference
from atras.testing import assert_close, make_fgsm_inputs

from .side_by_side import DEVICES, bytes_to_copy, fastest_launches, synchronize

EPSILON = 8 / 255
# members, [B, C, H, W], the images' dtype, and whether the members share them.
CASES = {
    "40 members, shared MNIST batch": (40, (128, 1, 28, 28), torch.uint8, True),
    "8 members, own CIFAR-10 images": (8, (500, 3, 32, 32), torch.float32, False),
}


class Fgsm:
    """The op as it is called: its outputs are allocated anew, as the copy's are."""

    param_names = ("device", "case")
    params = (DEVICES, list(CASES))
    timeout = 300

    def setup(self, device: str, case: str) -> None:
        members, shape, image_dtype, shared = CASES[case]
        kind = {"image_dtype": image_dtype, "shared": shared, "corners": False, "device": device}
        self.images, self.gradients = make_fgsm_inputs(members, shape, **kind)
        signs = reference.signs(self.gradients, 1)
        expected = reference.apply_signs(self.images, signs, EPSILON, 0.0, 1.0, torch.float32)
        assert_close(fgsm(self.images, self.gradients, EPSILON).values, expected)
        self.signs = fgsm(self.images, self.gradients, EPSILON, output="signs").values
        assert_close(self.signs, signs)
        assert_close(apply_signs(self.images, self.signs, EPSILON), expected)
        values = self.gradients.nbytes
        self.image_copy = bytes_to_copy(self.images.nbytes + self.gradients.nbytes + values, device)
        self.sign_copy = bytes_to_copy(self.gradients.nbytes + self.signs.nbytes, device)

    def time_images(self, device: str, case: str) -> None:
        fgsm(self.images, self.gradients, EPSILON)
        synchronize(device)

    def time_copy(self, device: str, case: str) -> None:
        self.image_copy.clone()
        synchronize(device)

    def track_images_share_of_copy(self, device: str, case: str) -> float:
        works = (lambda: fgsm(self.images, self.gradients, EPSILON)), self.image_copy.clone
        op, copy = fastest_launches(*works, device=device)
        return copy / op

    def track_signs_share_of_copy(self, device: str, case: str) -> float:
        works = (lambda: fgsm(self.images, self.gradients, EPSILON, output="signs")), self.sign_copy.clone
        op, copy = fastest_launches(*works, device=device)
        return copy / op

    track_images_share_of_copy.unit = track_signs_share_of_copy.unit = "share of copy bandwidth"
