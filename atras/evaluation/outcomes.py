"""What became of every test image under an attack: kept over an evaluation, and how many rows that makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from atras.attacks import Attack, Attacked, Spent, norm_of
from atras.experiment import Protocol

MOST_ROWS = 2_000_000
"""Most rows of frame `outcomes` that `auto` keeps: some 5 MB of file, and 300 MB of memory where they are read."""

_KINDS = {
    "correct": (torch.bool, "?"),
    "prediction": (torch.int32, "<u4"),
    "change": (torch.float32, "<f4"),
    "queries": (torch.int32, "<u4"),
    "gradients": (torch.int32, "<u4"),
    "made_at": (torch.float64, "<f8"),
    "counts": (torch.bool, "?"),
    "part": (torch.int8, "i1"),
}
"""What is kept of each image, its type while it is, and in a row."""

IMAGE_BYTES = sum(dtype.itemsize for dtype, _ in _KINDS.values())
"""Bytes of all that is kept of an image."""


class Outcomes:
    """What became of all images of one evaluation, [M, B] of each chunk on the device."""

    def __init__(self) -> None:
        self.chunks: dict[str, list[Tensor]] = {name: [] for name in _KINDS}

    def add(
        self,
        correct: Tensor,
        logits: Tensor,
        change: Tensor | float = 0.0,
        spent: Spent | None = None,
        made_at: Tensor | float = 0.0,
        counts: Tensor | bool = False,
        part: Tensor | None = None,
    ) -> None:
        """Keep one chunk.

        Args:
            correct: bool [M, B].
            logits: [M, B, Y].
            change: [M, B], norm of each image's change.
            spent: on each image; None for nothing.
            made_at: [M, B], epsilon at which each image was made.
            counts: bool [M, B], whether the worst case counts it.
            part: int8 [M, B], number of the attack's part that fooled it, -1 for none; None without parts.
        """
        queries, gradients = (0, 0) if spent is None else spent
        own = (correct, logits.argmax(-1), change, queries, gradients, made_at, counts, -1 if part is None else part)
        for (name, (dtype, _)), values in zip(_KINDS.items(), own, strict=True):
            if not isinstance(values, Tensor):
                values = correct.new_full((), values, dtype=dtype)  # filled on the device, for which nobody waits
            self.chunks[name].append(values.to(dtype).expand(correct.shape))

    def add_attacked(
        self,
        attack: Attack,
        attacked: Attacked,
        correct: Tensor,
        logits: Tensor,
        spent: Spent | None,
        made_at: Tensor | float,
        counts: Tensor | bool = False,
    ) -> None:
        """Keep one chunk of adversarial images, whose change is measured in the attack's norm; the rest as in `add`."""
        change = norm_of((attacked.clipped - attacked.images).flatten(0, 1), attack.norm).view(correct.shape)
        self.add(correct, logits, change, spent, made_at, counts, attacked.part)

    def columns(self, parts: Sequence[str] = ()) -> list[dict[str, bytes | None]]:
        """Of each member, what the frame's columns hold of all images, and their numbers.

        Args:
            parts: names of the attack's parts: a line an image, empty for none; without any there are no lines.
        """
        own = {name: torch.cat(chunks, dim=1).cpu().numpy() for name, chunks in self.chunks.items()}
        members, images = own["correct"].shape
        numbers = torch.arange(images).numpy().astype("<u4").tobytes()
        part, lines = own.pop("part"), [*(name.encode() for name in parts), b""]  # -1 is the last one
        return [
            {
                "image": numbers,
                **{name: values[i].astype(_KINDS[name][1]).tobytes() for name, values in own.items()},
                "part": b"\n".join(lines[number] for number in part[i].tolist()) if parts else None,
            }
            for i in range(members)
        ]


def figures_kept(protocol: Protocol) -> tuple[list[Attack], int]:
    """What a member has outcomes of: the attacks of both phases, FGSM's other epsilons left out; and how many figures
    besides have a row an image (clean images, static ones and those epsilons)."""
    white_box, stronger = protocol.true_label_attack, protocol.stronger_attacks
    others = sum(replace(white_box, epsilon=epsilon) not in stronger for epsilon in protocol.curve_epsilons)
    trained = dict.fromkeys([protocol.attack, white_box, *stronger])
    return [*trained, white_box, *stronger], 3 + 2 * others


def outcome_rows(protocol: Protocol, test_size: int) -> int:
    """Rows of frame `outcomes`, where no member diverges."""
    figures = 0
    for one in protocol.plain:
        attacks, others = figures_kept(one)
        figures += len(one.candidates) * (len(attacks) + others)
    return len(protocol.seeds) * figures * test_size


def keeps_outcomes(protocol: Protocol, test_size: int) -> bool:
    """Whether outcomes are kept image by image."""
    few = outcome_rows(protocol, test_size) <= MOST_ROWS
    return protocol.outcomes == "all" or (protocol.outcomes == "auto" and few)


def outcome_memory(protocol: Protocol, test_size: int) -> int:
    """Bytes a member of the outcomes that the evaluation of a phase keeps."""
    attacks, others = figures_kept(protocol)
    phase = -(-(len(attacks) + others) // 2)
    return IMAGE_BYTES * phase * test_size if keeps_outcomes(protocol, test_size) else 0


def outcome_bytes(protocol: Protocol, classes: int, test_size: int) -> int:
    """Predicted bytes of frame `outcomes` as a file.

    Numbers of images and text repeat, and cost hardly anything; a verdict is a bit and a class its logarithm. Changes
    are of a few sizes in `linf`, where attacks go to the end, and of any elsewhere. Passes differ where an attack ends
    with an image that is fooled.
    """
    if protocol.axes:
        return sum(outcome_bytes(one, classes, test_size) for one in protocol.plain)
    members = len(protocol.candidates) * len(protocol.seeds)
    attacks, others = figures_kept(protocol)
    bits = (len(attacks) + others) * (2 + math.log2(max(classes, 2)))
    for attack in attacks:
        bits += 4 if attack.bounded and attack.norm == "linf" else 28
        bits += 12 if attack.drops_fooled else 0
        bits += math.log2(1 + len(attack.part_names))
    return int(members * (6000 + test_size * bits / 8))


def outcomes_line(protocol: Protocol, classes: int, test_size: int) -> str:
    """What becomes of outcomes image by image, as plain text."""
    rows = outcome_rows(protocol, test_size)
    if keeps_outcomes(protocol, test_size):
        size = outcome_bytes(protocol, classes, test_size) / 2**10
        return f"outcomes image by image: {rows:,} rows, about {size:,.0f} KiB"
    if protocol.outcomes == "none":
        return "outcomes image by image are left out, as was asked for"
    return f"outcomes image by image are left out: {rows:,} rows; --outcomes all keeps them"
