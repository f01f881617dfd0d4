"""What a column of the table depends on besides the network and the test images: two runs may mean different things."""

from __future__ import annotations

from atras.results import FIELDS, Results


def other_meaning(a: Results, b: Results, column: str) -> str:
    """Why two runs do not measure the same by a column, such as `other attacks`; empty where they do."""
    left, right = a.run["protocol"], b.run["protocol"]
    names = [name for name in FIELDS.get(column, ()) if _value(left.get(name)) != _value(right.get(name))]
    return f"other {', '.join(name.replace('_', ' ') for name in names)}" if names else ""


def _value(field: object) -> object:
    # The worst case over several attacks, and the epsilons of a curve, do not depend on their order.
    return sorted(map(str, field)) if isinstance(field, list | tuple) else field
