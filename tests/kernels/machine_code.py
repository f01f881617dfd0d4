"""Machine code of capability 9 as nvdisasm writes it: what an asynchronous product has yet to read."""

from __future__ import annotations

import re
from typing import NamedTuple

INSTRUCTION = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@!?(\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
# Of others the first operand is what they write, where that is a register; of these the second, behind a predicate.
BEHIND_A_PREDICATE = ("SHFL", "LOP3", "VOTE", "MATCH", "ATOM", "LEA", "SHF")


class Instruction(NamedTuple):
    """Its predicate, name and operands, where it may lead by a jump, and whether what follows is never reached."""

    predicate: str
    name: str
    operands: list[str]
    target: str
    last: bool

    @property
    def written(self) -> set[int]:
        """Registers that it writes; more where that is not certain."""
        operands = self.operands
        if operands and re.fullmatch(r"U?P[T\d]", operands[0]) and self.name.startswith(BEHIND_A_PREDICATE):
            operands = operands[1:]
        found = re.match(r"R(\d+)\b", operands[0]) if operands else None
        if found is None or self.name.startswith(("ST", "RED", "BRA")):
            return set()
        first, (count, _) = int(found[1]), self._sizes()
        return set(range(first, first + count))

    def _sizes(self) -> tuple[int, int]:
        """Numbers of registers that are written, and of a product's first operand where it lies in registers."""
        if shape := re.match(r"HGMMA\.64x(\d+)x", self.name):
            return int(shape[1]) // 2, 4
        for mark, count in ((".128", 4), (".64", 2), (".WIDE", 2), ("M88.4", 4), ("M88.2", 2), ("MT88.4", 4)):
            if mark in self.name:
                return count, 0
        return (4 if self.name.startswith(("HMMA", "LDSM")) else 1), 0

    @property
    def read_later(self) -> set[int]:
        """Registers that it reads when it is its turn, not at once: the first operand of an asynchronous product."""
        found = re.fullmatch(r"R(\d+)", self.operands[1]) if self.name.startswith("HGMMA") else None
        return set() if found is None else set(range(int(found[1]), int(found[1]) + self._sizes()[1]))


def parse(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions, and the one that each label stands before."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L\w*):", line):
            labels[label[1]] = len(code)
        if found := INSTRUCTION.search(line):
            predicate, name, rest = found[1] or "", found[2], found[3]
            target = re.search(r"`\((\.L\w*)\)", rest)
            operands = [each.strip() for each in rest.split(",")] if rest else []
            conditional = predicate not in ("", "PT") or bool(operands and re.fullmatch(r"!?U?P\d", operands[0]))
            last = name.split(".")[0] in ("BRA", "EXIT", "RET") and not conditional
            code.append(Instruction(predicate, name, operands, target[1] if target else "", last))
    return code, labels


def overwritten(text: str) -> list[str]:
    """Instructions that write to a register which a product issued before, and not waited for, has yet to read."""
    code, labels = parse(text)
    found: dict[int, str] = {}
    # Registers still to be read: of each group of products that was committed, and of the one that is being issued.
    todo: list[tuple[int, tuple[frozenset[int], ...]]] = [(0, (frozenset(),))]
    seen = set(todo)
    while todo:
        at, pending = todo.pop()
        if at >= len(code):
            continue
        each, after = code[at], pending
        clash = each.written & frozenset().union(*pending)
        if clash and not each.name.startswith("HGMMA"):
            found[at] = f"{each.name} {', '.join(each.operands)} writes R{min(clash)}, which a product has yet to read"
        if each.name.startswith("HGMMA"):
            after = (*pending[:-1], pending[-1] | each.read_later)
            if "gsb0" in each.operands:
                after = (*after, frozenset())
        elif each.name.startswith("WARPGROUP.DEPBAR"):
            left = int(each.operands[-1], 0)  # the latest groups, which may be unfinished
            *groups, issued = pending
            after = (*groups[len(groups) - left if left else len(groups) :], issued) if left < len(groups) else pending
        steps = [] if each.last else [at + 1]
        for step in (*steps, *([labels[each.target]] if each.target in labels else [])):
            if (step, after) not in seen:
                seen.add((step, after))
                todo.append((step, after))
    return list(found.values())
