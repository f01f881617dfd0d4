"""Choices that go by a name: spellings go to objects and back, and whatever is misspelled is refused in one line."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atras import registry
from atras.attacks import ATTACKS, CW, FGSM, FMN, PGD, Attack, DeepFool, RandomFGSM
from atras.defences import DEFENCES, BatchCopies, Copies, Defence
from atras.engines import LoopEngine
from atras.errors import InputError
from atras.experiment import ENGINES
from atras.registry import UNSPELLED, Registry, name_of, spell, split_outside

COUNTS = st.integers(1, 10**6)
SHARES = st.floats(0.0, 1.0)
SHARED: dict[str, Any] = {
    "epsilon": st.none() | SHARES,
    "label_source": st.sampled_from(["true", "predicted"]),
    "target": st.sampled_from(["none", "random", "least-likely"]) | st.integers(0, 999999).map("class:{}".format),
}
STEPS: dict[str, Any] = {"steps": COUNTS, "step_size": st.none() | SHARES, "restarts": COUNTS}
ANY_ATTACK = st.one_of(
    st.builds(FGSM, **SHARED),
    st.builds(
        PGD, **SHARED, **STEPS, random_start=st.booleans(), norm=st.sampled_from(["linf", "l2"]),
        loss=st.sampled_from(["ce", "margin", "dlr"]),
    ),
    st.builds(RandomFGSM, **SHARED, **STEPS, random_start=st.booleans()),
    st.builds(
        DeepFool, label_source=SHARED["label_source"], norm=st.sampled_from(["l2", "linf"]), steps=COUNTS,
        overshoot=st.floats(0.0, 10.0), classes=st.integers(2, 10**6),
    ),
    st.builds(FMN, norm=st.sampled_from(["linf", "l2", "l1"]), steps=COUNTS, gamma=SHARES),
    st.builds(CW, confidence=SHARES, steps=COUNTS, binary_search_steps=COUNTS, learning_rate=SHARES),
)  # fmt: skip
HONEST = {"label_source": st.just("true"), "target": st.just("none")}
ANY_DEFENCE = st.one_of(
    st.builds(Copies, source=st.sampled_from(["own", "smallest", "24-192", "8"])),
    st.builds(BatchCopies, st.builds(FGSM, **{**SHARED, **HONEST})),
    st.builds(BatchCopies, st.builds(PGD, **{**SHARED, **HONEST}, **STEPS, random_start=st.booleans())),
)


@given(ANY_ATTACK)
def test_any_attacks_spelling_is_read_as_that_attack(attack: Attack) -> None:
    found = ATTACKS.parse(str(attack))
    assert found == attack
    assert type(found) is type(attack)
    assert str(found) == str(attack)
    assert name_of(str(attack)) == attack.name


@given(ANY_DEFENCE)
def test_any_defences_spelling_is_read_as_that_defence_with_the_attack_in_it(defence: Defence) -> None:
    found = DEFENCES.parse(str(defence))
    assert found == defence
    assert type(found) is type(defence)
    assert str(found) == str(defence)


@pytest.mark.parametrize(
    ("register", "text", "expected"),
    [
        (ATTACKS, "fgsm", FGSM()),
        (ATTACKS, " fgsm() ", FGSM()),
        (ATTACKS, "pgd(steps=40, restarts=5)", PGD(steps=40, restarts=5)),
        (ATTACKS, "pgd( steps = 40 ,epsilon=8/255 )", PGD(8 / 255, steps=40)),
        (ATTACKS, "pgd(8/255)", PGD(8 / 255)),
        (ATTACKS, "pgd(0.1, true, class:3, 7)", PGD(0.1, "true", "class:3", steps=7)),
        (ATTACKS, "pgd(random_start=false, step_size=none)", PGD(random_start=False)),
        (ATTACKS, "pgd(step_size=1e-3)", PGD(step_size=1e-3)),
        (ATTACKS, "deepfool(norm=linf)", DeepFool(norm="linf")),
        (DEFENCES, "copies", Copies()),
        (DEFENCES, "copies(fgsm, source=smallest)", Copies(source="smallest")),
        (DEFENCES, "batch(pgd(steps=7))", BatchCopies(PGD(steps=7))),
        (DEFENCES, "batch(attack=pgd(8/255, steps=7, restarts=2))", BatchCopies(PGD(8 / 255, steps=7, restarts=2))),
    ],
)
def test_spellings_are_read_as_people_write_them(register: Registry[Any], text: str, expected: object) -> None:
    assert register.parse(text) == expected


def test_what_is_as_by_default_is_not_spelled() -> None:
    assert str(PGD(0.1, steps=20)) == "pgd(epsilon=0.1)"
    assert str(PGD(steps=7, restarts=2, random_start=False)) == "pgd(steps=7, restarts=2, random_start=false)"
    assert str(BatchCopies(PGD(steps=7))) == "batch(pgd(steps=7))"
    assert str(BatchCopies()) == "batch"
    assert spell(PGD(0.1, steps=7), leave_out=("epsilon",)) == "pgd(steps=7)"
    assert repr(PGD(0.1, steps=7)) == "PGD(epsilon=0.1, steps=7)"


NAMES = "fgsm, random-fgsm, pgd, apgd, apgd-t, fab-t, square, autoattack, deepfool, cw, fmn, random-signs, kl"
OPTIONS = "epsilon, label_source, target, steps, step_size, restarts, random_start, norm, loss, keep"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", f"attack (='magic'): expected one of {NAMES}"),
        ("pdg(steps=3)", f"attack (='pdg'): did you mean pgd? There are {NAMES}"),
        ("pgd(step=3)", f"unknown option 'step=3'; did you mean steps? Options of pgd: {OPTIONS}"),
        ("pgd(bounds=3)", f"attack (='pgd(bounds=3)'): unknown option 'bounds=3'; options of pgd: {OPTIONS}"),
        ("pgd(steps=3, steps=4)", f"attack (='pgd(steps=3, steps=4)'): option steps twice; options of pgd: {OPTIONS}"),
        ("pgd(0.1, epsilon=0.2)", f"option epsilon twice; options of pgd: {OPTIONS}"),
        ("fgsm(0.1, true, none, 4)", "unknown option '4'; options of fgsm: epsilon, label_source, target"),
        ("pgd(steps=(3)", "'steps=(3': expected as many closing brackets as opening ones"),
        ("pgd(steps=3))", "'steps=3)': expected as many closing brackets as opening ones"),
        ("pgd(a)(b)", "'a)(b': expected as many closing brackets as opening ones"),
        ("pgd(steps=3", "attack (='pgd(steps=3'): expected a name, such as fgsm, or fgsm(option=1)"),
        ("pgd)", "attack (='pgd)'): expected a name, such as fgsm, or fgsm(option=1)"),
        ("", "attack (=''): expected a name, such as fgsm, or fgsm(option=1)"),
        ("fgsm(" + " " * 1000 + ")", "expected a name, such as fgsm, or fgsm(option=1)"),
        ("pgd(steps=many)", "pgd: steps (='many'): expected a whole number; write for example 10"),
        ("pgd(steps=1.5)", "pgd: steps (='1.5'): expected a whole number; write for example 10"),
        ("pgd(steps=²)", "pgd: steps (='²'): expected a whole number; write for example 10"),
        ("pgd(steps=" + "9" * 50 + ")", "expected a whole number; write for example 10"),
        ("pgd(steps=)", "pgd: steps (=''): expected a whole number; write for example 10"),
        ("pgd(steps=0)", "steps (=0): expected a whole number from 1 to 1000000"),
        ("pgd(epsilon=nan)", "expected a number or a fraction; write for example 0.05 or 8/255"),
        ("pgd(epsilon=inf)", "expected a number or a fraction; write for example 0.05 or 8/255"),
        ("pgd(epsilon=8/0)", "pgd: epsilon (='8/0'): expected a number or a fraction; write for example 0.05 or 8/255"),
        ("pgd(epsilon=2)", "epsilon (=2.0): expected a number from 0 to 1"),
        ("pgd(random_start=1)", "pgd: random_start (='1'): expected true or false"),
        ("pgd(label_source=mine)", "label_source (='mine'): expected one of predicted, true"),
        ("pgd(target=class:x)", "target (='class:x'): expected none, random, least-likely or class:N"),
        ("deepfool(norm=l1)", "norm (='l1'): expected one of l2, linf"),
        ("pgd(steps=\n\x1b[2J)", "expected a whole number; write for example 10"),
    ],
)  # fmt: skip
def test_whatever_is_misspelled_is_refused_in_one_line_that_says_what_there_is(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ATTACKS.parse(text)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch(magic)", f"attack (='magic'): expected one of {NAMES}"),
        ("batch(pgd(step=7))", f"unknown option 'step=7'; did you mean steps? Options of pgd: {OPTIONS}"),
        ("batch(pgd(target=random))", "batch: attack (=pgd(target=random)): expected an untargeted attack at the true"),
        ("copies(pgd)", "copies: attack (=pgd): expected fgsm without options"),
        ("copies(source=nobody)", "copies: source (='nobody'): expected own, smallest or a candidate"),
        ("copies(source=24,192)", "unknown option '192'; options of copies: attack, source"),
        ("copy", "defence (='copy'): did you mean copies? There are copies, none, batch"),
    ],
)
def test_a_misspelled_defence_is_refused_likewise(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        DEFENCES.parse(text)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [None, 3, b"fgsm", ["fgsm"], FGSM])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="expected a name, such as fgsm"):
        ATTACKS.parse(value)


@given(st.text(alphabet="pgdfsm(),=/.- \n\x00é0123456789", max_size=40) | st.text(max_size=40))
def test_no_text_makes_anything_but_an_attack_or_one_line(text: str) -> None:
    for candidate in (text, f"pgd({text})", f"pgd(steps={text})", f"batch({text})"):
        register: Registry[Any] = DEFENCES if candidate.startswith("batch") else ATTACKS
        message, found = "", None
        try:
            found = register.parse(candidate)
        except InputError as error:
            message = str(error)
        assert message.isprintable()
        assert message or register.parse(str(found)) == found


def test_a_text_is_cut_at_the_commas_outside_brackets() -> None:
    assert split_outside("a, b(c, d(e, f)), g") == ["a", "b(c, d(e, f))", "g"]
    assert split_outside("") == [""]


@dataclass(frozen=True, repr=False)
class Noise(FGSM):
    """Noise that stands for an attack. Not in the line.

    Args:
        loud: whether.
    """

    loud: bool = False
    hidden: int = field(default=0, metadata=UNSPELLED)

    name = "noise"


def test_a_class_of_ones_own_is_registered_once_and_spelled_like_all_others() -> None:
    assert ATTACKS.register(Noise) is Noise
    try:
        assert ATTACKS.parse("noise(0.1, loud=true)") == Noise(0.1, loud=True)
        assert ATTACKS.parse(str(Noise(hidden=3))) == Noise()
        assert DEFENCES.parse("batch(noise(loud=true))") == BatchCopies(Noise(loud=True))
        assert ATTACKS.texts()["noise"] == "Noise that stands for an attack. Not in the line"
        with pytest.raises(InputError, match=f"attack .='noise'.: expected a new name, there are {NAMES}, noise; re"):
            ATTACKS.register(Noise)
    finally:
        ATTACKS.unregister("noise")
    with pytest.raises(InputError, match=f"attack .='noise'.: expected one of {NAMES}$"):
        ATTACKS.parse("noise")
    for taken in (FGSM, PGD):
        with pytest.raises(InputError, match="expected a new name"):
            ATTACKS.register(taken)
    assert ATTACKS.get("fgsm") is FGSM


def entries(*found: EntryPoint) -> Any:
    """What stands for `importlib.metadata.entry_points` where packages declare these."""
    return lambda *, group: [entry for entry in found if entry.group == group]


def test_installed_packages_add_their_own_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    declared = entries(
        EntryPoint("slow", "atras.attacks.pgd:PGD", "atras.attacks"),
        EntryPoint("fgsm", "atras.attacks.pgd:PGD", "atras.attacks"),
        EntryPoint("gone", "atras_nowhere.attack:Gone", "atras.attacks"),
        EntryPoint("nameless", "atras.attacks.pgd:Nameless", "atras.attacks"),
        EntryPoint("other", "atras.attacks.pgd:PGD", "atras.defences"),
    )
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: asked.append(group) or declared(group=group)
    )
    monkeypatch.setattr(registry, "declared_groups", lambda: {"[atras.attacks]"})
    known = {"fgsm": ("atras.attacks.fgsm:FGSM", "one step")}
    register: Registry[Attack] = Registry("attack", known, group="atras.attacks")
    assert asked == []
    assert list(register) == ["fgsm", "slow", "gone", "nameless"]
    assert register.texts()["slow"] == "from the package atras.attacks.pgd"
    assert register.texts()["fgsm"] == "one step"
    assert register.parse("slow(steps=3)") == PGD(steps=3)
    assert register.get("fgsm") is FGSM  # a name that is taken stays ours
    assert asked == ["atras.attacks"]
    with pytest.raises(InputError, match=r"expected to import atras_nowhere\.attack:Gone, got an error .No module"):
        register.parse("gone")
    with pytest.raises(InputError, match=r"expected to import atras\.attacks\.pgd:Nameless, got an error .module"):
        register.parse("nameless")
    monkeypatch.setattr(importlib.metadata, "entry_points", declared)
    assert list(Registry("attack", known)) == ["fgsm"]


def test_engines_are_found_by_name() -> None:
    assert ENGINES.get("loop") is LoopEngine
    with pytest.raises(InputError, match=r"engine .='lop'.: did you mean loop. There are loop, stack, fused"):
        ENGINES.get("lop")


@pytest.mark.parametrize(
    "line",
    [
        'from atras.attacks import ATTACKS; ATTACKS.parse("pgd(steps=3)")',
        'from atras.defences import DEFENCES; DEFENCES.parse("batch(deepfool(norm=linf))")',
        'atras.Protocol(attacks=("fgsm", "pgd(steps=40)"), defence="copies(source=smallest)", stem="c32p2")',
        'atras.Candidate.parse("c32k5p2-64")',
        "from atras.attacks import ATTACKS; [ATTACKS.get(name) for name in ATTACKS]",
    ],
)
def test_checking_a_spelling_imports_no_torch(line: str) -> None:
    code = f'import atras, sys; {line}; assert "torch" not in sys.modules'
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
