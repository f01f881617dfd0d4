"""Measuring a population before and after its defence: what is evaluated, and under which name it is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from atras.attacks import Attack, AttackSpec
from atras.experiment import trained_as
from atras.networks import Member, Variant

from .counters import Score
from .evaluator import Evaluator, Figures
from .recorder import Recorder
from .stored_signs import AllSigns, StoredSigns, signs_of_members


class Source(NamedTuple):
    """The adversarial training images of one candidate, on which every candidate of a run trains.

    Args:
        name: of the candidate that was attacked.
        signs: [S, N, C, H, W], those of its training images for each seed.
        seeds: the members of S.
        variants: theirs, where several of their first training share a seed; empty where seeds tell them apart.
    """

    name: str
    signs: AllSigns
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...] = ()

    def place_of(self, member: Member) -> int:
        """Whose signs a member takes: of its seed, and trained as it is before the defence."""
        if not self.variants:
            return self.seeds.index(member.seed)
        own = member.seed, trained_as(member).variant
        return list(zip(self.seeds, self.variants, strict=True)).index(own)

    def signs_for(self, evaluator: Evaluator) -> AllSigns:
        """[M, N, C, H, W], each member's own."""
        rows = [self.place_of(member) for member in evaluator.networks.members]
        return signs_of_members(self.signs, rows)


class Sources(NamedTuple):
    """The adversarial training images of several candidates, on which every candidate trains besides its own.

    Args:
        each: of one candidate.
        wanted: how many of them a member has: the first ones that are not of its own candidate.
    """

    each: tuple[Source, ...]
    wanted: int

    def signs_for(self, members: Sequence[Member]) -> list[StoredSigns]:
        """By source, in the order of a member's turns, [M, N, C, H, W]; nothing is copied on the CPU."""
        own = [[source for source in self.each if source.name != member.candidate.name] for member in members]
        return [
            StoredSigns(
                [of_member(kept[turn], member) for kept, member in zip(own, members, strict=True)],
                self.each[0].signs.device,
            )
            for turn in range(self.wanted)
        ]


def of_member(source: Source, member: Member) -> np.ndarray:
    """int8 [N, C, H, W], on the host, the signs that a source has for a member."""
    place = source.place_of(member)
    signs = source.signs
    return signs.members[place] if isinstance(signs, StoredSigns) else signs[place].cpu().numpy()


class Measurement:
    """A population under measurement.

    Args:
        evaluator: what evaluates and attacks it.
        recorder: what keeps the figures.
        source: whose adversarial images the members are trained on; None for their own.
    """

    def __init__(self, evaluator: Evaluator, recorder: Recorder, source: Source | None = None) -> None:
        self.evaluator, self.recorder, self.source = evaluator, recorder, source
        self.protocol = evaluator.protocol
        self.train_signs: AllSigns
        self.test_signs: AllSigns

    def trained(self) -> None:
        """Evaluate and attack the first model, and keep the signs of its adversarial images.

        The clean figures come from the forward passes of the attacks.
        """
        recorder, attack = self.recorder, self.protocol.attack
        with recorder.timed("attack"):
            recorder.record("train_accuracy", "train", self._training_images())
            figures, self.test_signs = self.evaluator.attack_test(attack, recorder.show)
            recorder.record("test_accuracy", "test", figures.clean)
            recorder.note_dead(figures.clean)
            recorder.record("attacked_accuracy_before", "test", figures.attacks[attack], attack.spec, "white-box")
            if attack == self.protocol.true_label_attack:
                recorder.copy_column("attacked_accuracy_before", "attacked_accuracy_before_true")
            self._record_attacks(figures, "attacked_accuracy_before_true", "worst_case_accuracy_before", (attack,))

    def given(self) -> None:
        """Evaluate and attack networks that came finished: nothing is known of how they were trained."""
        recorder = self.recorder
        with recorder.timed("attack"):
            figures, _ = self.evaluator.attack_test(on_examples=recorder.show)
            recorder.record("test_accuracy", "test", figures.clean)
            recorder.note_dead(figures.clean)
            self._record_attacks(figures, "attacked_accuracy_before_true", "worst_case_accuracy_before")

    def _training_images(self) -> Score:
        """The score of the training images; where there is a defence, the signs of the attack on them are kept."""
        if not self.protocol.defence.trains:
            return self.evaluator.score("train")
        if self.source is None:
            self.train_signs, clean = self.evaluator.signs_of("train")
            return clean
        self.train_signs = self.source.signs_for(self.evaluator)
        return self.evaluator.score("train")

    def make_signs(self) -> None:
        """Attack the model as it is with the protocol's attack, and keep the signs."""
        if self.source is None:
            self.train_signs, _ = self.evaluator.signs_of("train")
        else:
            self.train_signs = self.source.signs_for(self.evaluator)
        self.test_signs, _ = self.evaluator.signs_of("test")

    def defended(self) -> None:
        """Evaluate the second model on clean images, on the kept ones, and on new attacks."""
        recorder, old = self.recorder, self.protocol.attack.spec
        copies_of = old if self.source is None else old._replace(source=self.source.name)
        with recorder.timed("evaluate"):
            clean, copies = (
                self.evaluator.score("train"),
                self.evaluator.score("train", self.train_signs, "train-copies"),
            )
            recorder.record(None, "train", clean)
            recorder.record(None, "train", copies, copies_of, "static")
            both = clean.joined(copies)
            recorder.record("adversarial_train_accuracy", "train+adversarial", both, copies_of, "static")
            static = self.evaluator.score("test", self.test_signs, "test-static", outcomes=True)
        with recorder.timed("attack"):
            figures, _ = self.evaluator.attack_test(on_examples=recorder.show)
            recorder.record("adversarial_test_accuracy", "test", figures.clean)
            recorder.note_dead(figures.clean)
            recorder.record("attacked_accuracy_after_static", "test", static, old, "static")
            self._record_attacks(figures, "attacked_accuracy_after_white_box", "worst_case_accuracy_after")

    def record_gap(self, epoch: int, gap: Mapping[Attack, Score]) -> None:
        """Record how FGSM and PGD compare after an epoch: where they part, the model has learned FGSM alone."""
        for attack, score in gap.items():
            self.recorder.record(None, "train", score, attack.spec, "white-box", epoch)

    def _record_attacks(
        self, figures: Figures, column: str, worst_column: str, recorded: Sequence[Attack] = ()
    ) -> None:
        """Record FGSM at the true label, its epsilon curve, the stronger attacks and the worst case over them.

        Args:
            figures: of the model as it is.
            column, worst_column: of FGSM and of the worst case, in the table.
            recorded: the attacks that have their rows already, such as the one that the defence learns from.
        """
        recorder, stronger, white_box = self.recorder, self.protocol.stronger_attacks, self.protocol.true_label_attack
        if white_box not in recorded:
            recorder.record(column, "test", figures.attacks[white_box], white_box.spec, "white-box")
        for epsilon, score in figures.curve.items():
            if (curve := replace(white_box, epsilon=epsilon)) not in stronger:
                recorder.record(None, "test", score, curve.spec, "white-box")
        for attack in stronger:
            if attack not in recorded:
                recorder.record(None, "test", figures.attacks[attack], attack.spec, "white-box")
        if stronger:
            worst = AttackSpec(self.protocol.worst_case, self.protocol.epsilon, "true", "none", norm="linf")
            recorder.record(worst_column, "test", figures.worst, worst, "white-box")
        else:
            recorder.copy_column(column, worst_column)
