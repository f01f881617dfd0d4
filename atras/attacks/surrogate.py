"""The networks that an attack is made on, in place of the one that it is tried on, and how they are spelled."""

from __future__ import annotations

import re
from dataclasses import dataclass

from atras.errors import InputError, shown
from atras.networks import Candidate

HOWS = ("logits", "probabilities", "losses")
"""The means that an ensemble can be; the first where nothing is said."""

EXAMPLES = "independent, undefended, undefended:independent, 24-192, 24-192/1, 24+40-80 or losses(24+40-80)"


@dataclass(frozen=True)
class Stand:
    """One network that stands for the one that an attack is tried on.

    Args:
        candidate: None for the same.
        seed: None for the same, or with `independent` for the next of the run.
        independent: whether it has been trained with another seed.
        undefended: whether it is taken before its defence.
    """

    candidate: Candidate | None = None
    seed: int | None = None
    independent: bool = False
    undefended: bool = False

    def __str__(self) -> str:
        name = "" if self.candidate is None else self.candidate.name
        who = "independent" if self.independent else name if self.seed is None else f"{name}/{self.seed}"
        return ":".join(filter(None, ["undefended" if self.undefended else "", who]))


@dataclass(frozen=True)
class Surrogate:
    """The networks that an attack is made on.

    Args:
        stands: one, or those of an ensemble.
        how: of an ensemble, what it is the mean of.
    """

    stands: tuple[Stand, ...]
    how: str = HOWS[0]

    def __str__(self) -> str:
        text = "+".join(map(str, self.stands))
        return text if self.how == HOWS[0] else f"{self.how}({text})"


def parse_surrogate(text: object) -> Surrogate:
    """Read a surrogate: one network or, with `+` between them, those of an ensemble.

    A network is `independent` (the same candidate with another seed), a candidate such as `24-192` (of the same seed),
    or a candidate and a seed, `24-192/1`; with `undefended:` before it as it was before its defence, and `undefended`
    alone is the attacked network itself before its defence. An ensemble is by its mean logits, or as
    `losses(24+40-80)` or `probabilities(24+40-80)` says.

    Raises:
        InputError: if it is anything else.
    """
    match = re.fullmatch(rf"(?:({'|'.join(HOWS)})\((.*)\)|(.*))", text.strip()) if isinstance(text, str) else None
    if match is None:
        raise InputError(f"surrogate (={shown(text)}): expected {EXAMPLES}")
    parts = (match[2] if match[1] else match[3]).split("+")
    stands = tuple(_stand(part.strip(), text) for part in parts)
    if len(set(stands)) < len(stands):
        raise InputError(f"surrogate (={shown(text)}): expected different networks; name each once")
    return Surrogate(stands, match[1] if match[1] and len(stands) > 1 else HOWS[0])


def _stand(part: str, text: object) -> Stand:
    if part == "undefended":
        return Stand(undefended=True)
    undefended, who = part.startswith("undefended:"), part.removeprefix("undefended:").strip()
    if who == "independent":
        return Stand(independent=True, undefended=undefended)
    match = re.fullmatch(r"([\w.-]+)(?:/(\d{1,19}))?", who, flags=re.ASCII)
    if match is None:
        raise InputError(f"surrogate (={shown(text)}): expected {EXAMPLES}")
    try:
        candidate = Candidate.parse(match[1])
    except InputError as error:
        raise InputError(f"surrogate (={shown(text)}): expected {EXAMPLES}; {error}") from None
    return Stand(candidate, int(match[2]) if match[2] else None, False, undefended)
