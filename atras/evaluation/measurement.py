"""Measuring a population before and after its defence: what is evaluated, and under which name it is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from atras.attacks import Attack, AttackSpec
from atras.experiment import Protocol, trained_as
from atras.networks import Member, Variant

from .counters import Score
from .evaluator import Evaluator, Figures
from .evaluators import AtEpsilon, Evaluators
from .recorder import Recorder
from .stored_signs import AllSigns, StoredSigns, signs_of_members

BEFORE = ("attacked_accuracy_before_true", "worst_case_accuracy_before")
AFTER = ("attacked_accuracy_after_white_box", "worst_case_accuracy_after")
"""Columns of the table for FGSM at the true label and for the worst case over attacks, by phase."""


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
        evaluators: what evaluates and attacks it.
        recorder: what keeps the figures.
        source: whose adversarial images the members are trained on; None for their own.
    """

    def __init__(self, evaluators: Evaluators, recorder: Recorder, source: Source | None = None) -> None:
        self.evaluators, self.recorder, self.source = evaluators, recorder, source
        self.evaluator = evaluators.whole
        self.protocol = self.evaluator.protocol
        self.train_signs: AllSigns
        self.test_signs: dict[AtEpsilon, AllSigns] = {}

    def trained(self) -> None:
        """Evaluate and attack the first model, and keep the signs of its adversarial images.

        The clean figures come from the forward passes of the attacks.
        """
        with self.recorder.timed("attack"):
            self.recorder.record("train_accuracy", "train", self._training_images())
            for one in self._each():
                self._attack_trained(one)

    def _each(self) -> Iterator[AtEpsilon]:
        """The members of one epsilon after the other, of whom alone is then recorded."""
        for one in self.evaluators.each:
            one.refresh()
            with self.recorder.only(one.places):
                yield one

    def _attack_trained(self, one: AtEpsilon) -> None:
        recorder, protocol = self.recorder, one.evaluator.protocol
        attack = protocol.attack
        figures, self.test_signs[one] = one.evaluator.attack_test(attack, recorder.show)
        recorder.record("test_accuracy", "test", figures.clean)
        recorder.note_dead(figures.clean)
        recorder.record("attacked_accuracy_before", "test", figures.attacks[attack], attack.spec, "white-box")
        if attack == protocol.true_label_attack:
            recorder.copy_column("attacked_accuracy_before", "attacked_accuracy_before_true")
        self._record_attacks(protocol, figures, *BEFORE, recorded=(attack,))

    def given(self) -> None:
        """Evaluate and attack networks that came finished: nothing is known of how they were trained."""
        recorder = self.recorder
        with recorder.timed("attack"):
            for one in self._each():
                figures, _ = one.evaluator.attack_test(on_examples=recorder.show)
                recorder.record("test_accuracy", "test", figures.clean)
                recorder.note_dead(figures.clean)
                self._record_attacks(one.evaluator.protocol, figures, *BEFORE)

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
        for one in self.evaluators.each:
            one.refresh()
            self.test_signs[one], _ = one.evaluator.signs_of("test")

    def defended(self) -> None:
        """Evaluate the second model on clean images, on the kept ones, and on new attacks."""
        recorder = self.recorder
        with recorder.timed("evaluate"):
            clean, copies = (
                self.evaluator.score("train"),
                self.evaluator.score("train", self.train_signs, "train-copies"),
            )
            recorder.record(None, "train", clean)
            for one in self.evaluators.each:
                with recorder.only(one.places):
                    self._record_copies(one, clean.of(one.places), copies.of(one.places))
            static = {one: self._static(one) for one in self._each()}
        with recorder.timed("attack"):
            for one in self._each():
                figures, _ = one.evaluator.attack_test(on_examples=recorder.show)
                recorder.record("adversarial_test_accuracy", "test", figures.clean)
                recorder.note_dead(figures.clean)
                old = one.evaluator.protocol.attack.spec
                recorder.record("attacked_accuracy_after_static", "test", static[one], old, "static")
                self._record_attacks(one.evaluator.protocol, figures, *AFTER)

    def _record_copies(self, one: AtEpsilon, clean: Score, copies: Score) -> None:
        """Record what members of one epsilon make of the copies of the training images, and of both together."""
        own = one.evaluator.protocol.attack.spec
        made = own if self.source is None else own._replace(source=self.source.name)
        self.recorder.record(None, "train", copies, made, "static")
        both = clean.joined(copies)
        self.recorder.record("adversarial_train_accuracy", "train+adversarial", both, made, "static")

    def _static(self, one: AtEpsilon) -> Score:
        """The score on the test images as they were attacked before the defence."""
        return one.evaluator.score("test", self.test_signs[one], "test-static", outcomes=True)

    def record_gap(self, epoch: int, one: AtEpsilon, gap: Mapping[Attack, Score]) -> None:
        """Record how FGSM and PGD compare after an epoch: where they part, the model has learned FGSM alone."""
        with self.recorder.only(one.places):
            for attack, score in gap.items():
                self.recorder.record(None, "train", score, attack.spec, "white-box", epoch)

    def _record_attacks(
        self, protocol: Protocol, figures: Figures, column: str, worst_column: str, recorded: Sequence[Attack] = ()
    ) -> None:
        """Record FGSM at the true label, its epsilon curve, the stronger attacks and the worst case over them.

        Args:
            protocol: of the members.
            figures: of the model as it is.
            column, worst_column: of FGSM and of the worst case, in the table.
            recorded: the attacks that have their rows already, such as the one that the defence learns from.
        """
        recorder, stronger, white_box = self.recorder, protocol.stronger_attacks, protocol.true_label_attack
        if white_box not in recorded:
            recorder.record(column, "test", figures.attacks[white_box], white_box.spec, "white-box")
        for epsilon, score in figures.curve.items():
            if (curve := replace(white_box, epsilon=epsilon)) not in stronger:
                recorder.record(None, "test", score, curve.spec, "white-box")
        for attack in stronger:
            if attack not in recorded:
                recorder.record(None, "test", figures.attacks[attack], attack.spec, "white-box")
        if stronger:
            worst = AttackSpec(protocol.worst_case, protocol.epsilon, "true", "none", norm="linf")
            recorder.record(worst_column, "test", figures.worst, worst, "white-box")
        else:
            recorder.copy_column(column, worst_column)
