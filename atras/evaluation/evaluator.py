"""Evaluating and attacking a population on a data set, chunk by chunk.

The meaning of each figure is defined in docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atras.attacks import FGSM, PGD, Attack, Attacked, AttackSpec, Progress, Signed, Start, starts
from atras.data import Dataset, Split, StoredImages, pixels, stratified
from atras.errors import InputError
from atras.experiment import Protocol
from atras.kernels import apply_signs
from atras.networks import Classifier, random_targets, seeds_of

from .attack_work import Attacking, AttackWork
from .carried import Carried
from .counters import Counter, Score, Survivors
from .outcomes import keeps_outcomes
from .progress import PREFIX, Course, Signs, Within, below_of
from .recorder import shown_attacks
from .stored_signs import AllSigns, StoredSigns

OnExamples = Callable[[AttackSpec, Attacked, Tensor, slice], None]
"""Told of each chunk that one of `shown_attacks` attacked: its examples, their logits [M, B, Y], and their numbers."""

GAP_IMAGES = 100
"""Training images, of each class its share, on which FGSM and PGD are compared after each epoch whose copies were made
in every batch."""

GAP_STEPS = 10
"""Steps of PGD in that comparison."""


VALIDATION_STEPS = 10
"""Steps of PGD under which an epoch is selected."""


class Figures(NamedTuple):
    """The scores of one pass over the test images.

    Args:
        clean: of the images as they are.
        attacks: of each attack.
        curve: of FGSM at the true label at each epsilon of the protocol but its own.
        worst: an image counts where it survives FGSM at the true label and all the stronger attacks.
    """

    clean: Score
    attacks: dict[Attack, Score]
    curve: dict[float, Score]
    worst: Score


class Evaluator:
    """Evaluation and attacks of a population on a data set.

    Args:
        networks: the members, at any point of their training.
        data: on their device.
        protocol: which attacks.
        evaluation_batch: images a forward pass in evaluation and attack.
        label: tells the names of its tensors from those of other evaluators: empty, or `@` and more without a point.
        epsilons: float64 [M], where members have their own: then it evaluates and makes signs, and attacks nothing.
    """

    def __init__(
        self,
        networks: Classifier,
        data: Dataset,
        protocol: Protocol,
        evaluation_batch: int = 250,
        label: str = "",
        epsilons: Tensor | None = None,
    ) -> None:
        self.networks, self.data, self.protocol = networks, data, protocol
        self.label = label
        self.epsilon = protocol.epsilon if epsilons is None else epsilons
        self.evaluation_batch = evaluation_batch
        self.occurring = data.occurring
        self.classes = None if len(self.occurring) == data.classes else self.occurring
        """What attacks may aim at; None for all classes."""
        self.keeps = keeps_outcomes(protocol, len(data.test))
        """Whether it keeps what becomes of every test image."""
        self.seeds, places = seeds_of(networks.members)
        self.seed_of = torch.tensor(places, dtype=torch.int64, device=networks.device)
        self.pause: Callable[[], None] = lambda: None
        """Called between the chunks of an evaluation, its attacks and their steps; may raise to stop it there."""
        self.attacking: Callable[[], Attacking | None] = lambda: None
        """What attack is being made on the test images; None where none is."""
        self._courses: dict[str, Course] = {}
        self._left: dict[str, Tensor] = {}
        self._drawn_targets: dict[str, Tensor] = {}
        self._ranges: dict[str, bool] = {}

    def tensors(self) -> dict[str, Tensor]:
        """Where the evaluations since `forget` stand, for `load`: also those that are done, and those to come."""
        own = {name: course.tensors() for name, course in self._courses.items()}
        live = {f"{PREFIX}{name}.{key}": values for name, found in own.items() for key, values in found.items()}
        return self._left | live

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Let evaluations of these names go on from `tensors`; those that were done give their scores at once."""
        own = {name: values for name, values in tensors.items() if name.startswith(PREFIX)}
        self._left |= {name: values for name, values in own.items() if _label_of(name) == self.label}

    def forget(self) -> None:
        """Let the next evaluations begin anew."""
        self._courses, self._left = {}, {}

    def _course(self, name: str, **counted: Any) -> Course:
        """An evaluation, from where it stands."""
        name += self.label
        course = self._courses[name] = Course(counted, self._paused)
        prefix = f"{PREFIX}{name}."
        if kept := below_of(self._left, prefix):
            course.load({key: values.to(self.networks.device) for key, values in kept.items()})
            self._left = {key: values for key, values in self._left.items() if not key.startswith(prefix)}
        return course

    def _paused(self) -> None:
        self.pause()

    def score(
        self, split: str, signs: AllSigns | None = None, name: str | None = None, outcomes: bool = False
    ) -> Score:
        """Evaluate on clean images, or on the adversarial ones that these signs [M, N, C, H, W] make of them.

        Args:
            split: `train` or `test`.
            signs: of the split.
            name: of the evaluation; None for the split's.
            outcomes: whether to keep those of every image, where the run does.
        """
        counter = Counter(self.networks, outcomes and self.keeps)
        made_at = 0.0 if signs is None else self.protocol.epsilon
        for chunk, images, labels in self.chunks(split, self._course(name or split, counter=counter)):
            seen = images
            if signs is not None:
                seen = apply_signs(images, signs[:, chunk], self.epsilon, dtype=self.networks.dtype)
            logits = self.networks.logits(seen)
            hits = counter.add(logits, labels)
            if counter.outcomes is not None:
                counter.outcomes.add(hits, logits, (seen - images).flatten(-3).abs().amax(-1), made_at=made_at)
        return counter.score()

    def signs_of(self, split: str) -> tuple[AllSigns, Score]:
        """Signs [M, N, C, H, W] of the protocol's attack on a split, and the score of its clean images."""
        counter, signs = Counter(self.networks), Signs(self._empty_signs(split))
        course = self._course(f"signs-{split}", counter=counter, signs=signs)
        self._make_missing(signs, split)
        for chunk, images, labels in self.chunks(split, course):
            attacked = self._signed(split, chunk, images, labels)
            signs.put(chunk, attacked.signs)
            counter.add(attacked.clean_logits, labels)
        return signs.values, counter.score()

    def _signed(self, split: str, chunk: slice, images: Tensor, labels: Tensor) -> Signed:
        """The protocol's attack on one chunk of a split."""
        attack = self.protocol.attack
        targets = self._targets(attack, split, chunk)
        start = Start(targets=targets, classes=self.classes, in_range=self.in_range(split))
        return attack(self.networks, images, labels, start=start)

    def _make_missing(self, signs: Signs, split: str) -> None:
        """Attack the images again whose signs an earlier process made and did not keep."""
        for chunk, images, labels in self.chunks(split, last=signs.missing):
            signs.put(chunk, self._signed(split, chunk, images, labels).signs)
        signs.missing = 0

    def gap(self) -> dict[Attack, Score]:
        """Attack a few training images with FGSM and with the PGD that it should not be far from."""
        epsilon = self.protocol.epsilon
        attacks: tuple[Attack, ...] = (FGSM(epsilon), PGD(epsilon, steps=GAP_STEPS))
        counters = {attack: Counter(self.networks) for attack in attacks}
        course, part = self._course("gap", attacks=_numbered(counters)), self.data.train
        chosen = stratified(part.labels, min(GAP_IMAGES, len(part)), "gap")
        for chunk, images, labels in self.chunks("train", course, chosen):
            for _, counter, attacked in self._attack(counters, "train", chunk, images, labels, course.within):
                counter.add_attacked(attacked, attacked.logits_of(self.networks), labels)
        return {attack: counter.score() for attack, counter in counters.items()}

    def validate(self) -> Score:
        """Attack the training images that were held out, by which an epoch is selected.

        Raises:
            InputError: if there are none.

        Source: Rice, Wong, Kolter 2020, section 4.2.
        """
        if self.data.validation is None:
            raise InputError("data: expected training images held out to select an epoch by, found none; load some")
        attack = PGD(self.protocol.epsilon, steps=VALIDATION_STEPS)
        counters: dict[Attack, Counter] = {attack: Counter(self.networks)}
        course = self._course("validation", attacks=_numbered(counters))
        for chunk, images, labels in self.chunks("validation", course):
            for _, counter, attacked in self._attack(counters, "validation", chunk, images, labels, course.within):
                counter.add_attacked(attacked, attacked.logits_of(self.networks), labels)
        return counters[attack].score()

    def attack_test(self, first: FGSM | None = None, on_examples: OnExamples | None = None) -> tuple[Figures, AllSigns]:
        """Attack every test image with FGSM at the true label and with what else the protocol names.

        Args:
            first: an attack to be made besides.
            on_examples: told of every chunk and attack that is shown.

        Returns:
            The figures, and the signs [M, N, C, H, W] of the first attack, N being 0 without one.

        Raises:
            InputError: if an attack left its ball.
        """
        white_box = self.protocol.true_label_attack
        counted = [white_box, *self.protocol.stronger_attacks]
        made, shown = list(dict.fromkeys([first, *counted] if first else counted)), shown_attacks(self.protocol)
        following = dict(zip(made, [*made[1:], None], strict=True))
        counters = {attack: Counter(self.networks, self.keeps) for attack in made}
        curve = {e: Counter(self.networks, self.keeps) for e in self.protocol.curve_epsilons}
        clean, survivors = Counter(self.networks, self.keeps), Survivors(self.networks)
        signs = Signs(self._empty_signs("test", wanted=first is not None))
        course = self._course(
            "attacks",
            attacks=_numbered(counters),
            curve=_numbered(curve),
            clean=clean,
            survivors=survivors,
            signs=signs,
        )
        self._make_missing(signs, "test")
        work = AttackWork(made, self.networks.classes, len(self.networks.members), len(self.data.test.labels))
        self.attacking = partial(_attacking, course, work)
        for chunk, images, labels in self.chunks("test", course):
            within, alive = course.within, course.within.alive
            for attack, counter, attacked in self._attack(counters, "test", chunk, images, labels, within):
                work.made(within.at, attacked, attacked.clipped.shape[0] * len(labels))
                attacked, logits, made_at = within.carried.over(self.networks, attack, attacked)
                correct, change = counter.add_attacked(attacked, logits, labels, attack.norm)
                within.carried = Carried.behind(attack, following[attack], attacked, logits, made_at, correct)
                counts = self._within(attack, change) & (attack in counted)
                alive.append(correct | ~counts)
                if counter.outcomes is not None:
                    spent = attack.passes_of(attacked, self.networks.classes)
                    counter.outcomes.add_attacked(attack, attacked, correct, logits, spent, made_at, counts)
                if attack == next(iter(counters)) and isinstance(attacked, Signed):
                    hits = clean.add(attacked.clean_logits, labels)
                    if clean.outcomes is not None:
                        clean.outcomes.add(hits, attacked.clean_logits)
                    if first is not None:
                        signs.put(chunk, attacked.signs)
                if attack == white_box and isinstance(attacked, Signed):
                    self._count_curve(curve, attacked, labels)
                if on_examples is not None and attack in shown:
                    on_examples(attack.spec, attacked, logits, chunk)
            survivors.add(alive, labels)
        self.attacking = lambda: None
        _check_inside(counters)
        worst = survivors.score([counters[attack] for attack in counted])
        scores = {attack: counter.score()._replace(parts=attack.part_names) for attack, counter in counters.items()}
        return Figures(clean.score(), scores, {e: counter.score() for e, counter in curve.items()}, worst), signs.values

    def _within(self, attack: Attack, change: Tensor) -> Tensor:
        """bool [M, B]: which images an attack changed by at most the protocol's epsilon, largest changes [M, B]."""
        within = torch.ones_like(change, dtype=torch.bool)
        return within if self.protocol.wholly_within(attack) else change <= self.protocol.epsilon

    def chunks(
        self,
        split: str,
        course: Course | None = None,
        chosen: Tensor | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Places, pixels and labels of a split's images, a forward pass at a time.

        Args:
            split: `train`, `validation` or `test`.
            course: which images are done; None for those before `first`.
            chosen: numbers of some of its images, among which places are counted; None for all.
            first: place of the first one, without a course.
            last: place before which to stop; None for the end.
        """
        part: Split = getattr(self.data, split)
        count = len(part.labels if chosen is None else chosen)
        count = min(count, count if last is None else last)
        for chunk in (course or Course({}, self._paused, first)).chunks(count, self.evaluation_batch):
            index = chunk if chosen is None else chosen[chunk]
            yield chunk, pixels(part.images[index], self.networks.dtype), part.labels[index]

    def _attack(
        self,
        counters: dict[Attack, Counter],
        split: str,
        chunk: slice,
        images: Tensor,
        labels: Tensor,
        within: Within,
    ) -> Iterator[tuple[Attack, Counter, Attacked]]:
        """Make the attacks that are left on one chunk, one by one; the first one's clean logits serve all."""
        for attack, counter in list(counters.items())[within.at :]:
            within.stop = chunk.stop
            known = within.clean_logits, within.steps, within.carried.fooled
            attacked = self.attack(attack, split, chunk, images, labels, *known)
            yield attack, counter, attacked
            within.attacked(chunk.stop, attacked.clean_logits)

    def attack(
        self,
        attack: Attack,
        split: str,
        chunk: slice,
        images: Tensor,
        labels: Tensor,
        clean_logits: Tensor | None = None,
        progress: Progress | None = None,
        fooled: Tensor | None = None,
    ) -> Attacked:
        """Attack one chunk of a split, as `chunks` gives it, with the random starts and targets of its images.

        Args:
            attack: with a definite epsilon.
            split, chunk, images, labels: numbers, pixels [B, C, H, W] and labels [B] of the images.
            clean_logits: [M, B, Y] of the images, where they are known already.
            progress: where the attack stands; None for its beginning.
            fooled: bool [M, B], images that need no attack; None for none.
        """
        draw = starts(self.networks, images, attack.name, split, chunk.start)
        targets, known = self._targets(attack, split, chunk), self.in_range(split)
        start = Start(clean_logits, draw, targets, self.classes, progress, fooled, known)
        return attack(self.networks, images, labels, start=start)

    def _count_curve(self, curve: dict[float, Counter], attacked: Signed, labels: Tensor) -> None:
        """Evaluate other epsilons of an attack on one chunk, from the signs that it has."""
        for epsilon, counter in curve.items():
            adversarial = attacked.moved_by(epsilon)
            moved = replace(attacked, clipped=adversarial, epsilon=epsilon)
            logits = self.networks.logits(adversarial) if epsilon else attacked.clean_logits
            correct, _ = counter.add_attacked(moved, logits, labels)
            if counter.outcomes is not None:  # its gradient is that of the run's epsilon
                counter.outcomes.add_attacked(self.protocol.true_label_attack, moved, correct, logits, None, epsilon)

    def in_range(self, split: str) -> bool:
        """Whether all of a split's pixels are known to be in [0, 1]: looked at once, and not at each of its chunks."""
        if split not in self._ranges:
            images = getattr(self.data, split).images
            known = images.dtype == torch.uint8
            if not known and isinstance(images, Tensor) and len(images):
                lowest, highest = images.aminmax()
                known = bool((lowest >= 0) & (highest <= 1))
            self._ranges[split] = known
        return self._ranges[split]

    def _targets(self, attack: Attack, split: str, chunk: slice) -> Tensor | None:
        if attack.target != "random":
            return None
        if split not in self._drawn_targets:
            labels = getattr(self.data, split).labels
            own = [random_targets(seed, split, labels, self.occurring) for seed in self.seeds]
            self._drawn_targets[split] = torch.stack(own)
        return self._drawn_targets[split][:, chunk][self.seed_of]

    def _empty_signs(self, split: str, wanted: bool = True) -> AllSigns:
        images = getattr(self.data, split).images
        shape = (len(self.networks.members), len(images) if wanted else 0, *images.shape[1:])
        if isinstance(images, StoredImages):
            return StoredSigns.empty(shape, images.device)
        return torch.empty(shape, dtype=torch.int8, device=images.device)


def _attacking(course: Course, work: AttackWork) -> Attacking:
    """Where an evaluation by some attacks stands."""
    within = course.within
    standing = torch.stack(within.alive).all(0) if within.alive else None
    return work.now(within.at, course.done, max(within.stop - course.done, 0), within.steps, standing)


def _check_inside(counters: Mapping[Attack, Counter]) -> None:
    """Refuse the figures of attacks that left their balls; a GPU is waited for once."""
    made = {attack: own for attack, counter in counters.items() if (own := counter.distances.farthest) is not None}
    farthest = torch.stack(list(made.values())).tolist() if made else []
    for attack, far in zip(made, farthest, strict=True):
        attack.check_inside(far)


def _label_of(name: str) -> str:
    """The label of the evaluator that a tensor's name is of."""
    course = name.removeprefix(PREFIX).partition(".")[0]
    return course[course.index("@") :] if "@" in course else ""


def _numbered(counters: Mapping[Any, Counter]) -> dict[str, Counter]:
    """Counters by their place: the names of what they are of may hold anything."""
    return {str(place): counter for place, counter in enumerate(counters.values())}
