"""Members of which no epoch was selected, though the run selects: the last one stands."""

from __future__ import annotations

from collections.abc import Iterator

from .recorder import Row, Rows


def unselected(rows: Rows) -> Iterator[tuple[str, Row]]:
    """What that means, and a row of each such member; those that diverged are told of as it is.

    Args:
        rows: of a group, complete.
    """
    diverged = {_member(row) for row in rows.table if row["status"] == "diverged"}
    measured = [row for row in rows.history if row.get("validation_robust_accuracy") is not None]
    chosen = {_member(row) for row in measured if row.get("selected") is not None}
    for member, row in {_member(row): row for row in measured}.items():
        if member not in chosen | diverged:
            yield (
                "select: after no epoch more robust on the images held out than always answering one class, nothing "
                "to select by, the last epoch is kept",
                row,
            )


def _member(row: Row) -> tuple[object, ...]:
    return row["hidden_layers"], row.get("variant", ""), row["seed"]
