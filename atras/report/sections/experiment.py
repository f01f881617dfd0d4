"""The section that tells what was run, in words."""

from __future__ import annotations

import re
from typing import Any

from atras.analysis import begins
from atras.report.charts import Table
from atras.report.section import Section
from atras.results import Results
from atras.rounding import counted


def experiment(results: Results) -> Section:
    """Data, candidates, seeds and procedure of a run, and the cautions about it.

    Args:
        results: the run.

    Returns:
        The section.
    """
    data = results.run.get("data", {})
    there = "train_size" in data
    sizes = f", {data['train_size']} training and {counted(data['test_size'], 'test image')}" if there else ""
    text = [f"{_population(results)}, on {results.dataset}{sizes}."]
    if not results.trains:
        text.append(_given(results.run["protocol"]))
    elif "epochs" in results.run["protocol"]:
        text.append(_procedure(results.run["protocol"], results.run.get("model", {})))
    if results.run.get("status") != "finished":
        text.append("This run has not finished: what follows is what it had written so far.")
    warnings = tuple((str(line),) for line in results.run.get("warnings", ()))
    tables = (Table("Cautions: what may make these figures mislead", ("caution",), warnings),) if warnings else ()
    return Section("experiment", "What was run", tuple(text), tables=tables)


def _population(results: Results) -> str:
    candidates, seeds = (results.run["protocol"][name] for name in ("candidates", "seeds"))
    depths = sorted(set(results.table["depth"]))
    span = ""
    if depths:
        low, high = depths[0], depths[-1]
        span = f" of {counted(high, 'hidden layer')}" if low == high else f" of {low} to {high} hidden layers"
    with_seeds = f"with {len(seeds)} seeds" if len(seeds) > 1 else f"with seed {seeds[0]}" if seeds else "with no seed"
    each = "each " if len(candidates) > 1 and seeds else ""
    return f"{counted(len(candidates), 'candidate network')}{span}, {each}{with_seeds}"


def _given(protocol: dict[str, Any]) -> str:
    attacks = ", ".join(dict.fromkeys(["fgsm", *map(str, protocol.get("attacks", ()))]))
    return (
        "The networks were finished when the run began: nothing was trained. They were attacked at the true label with "
        f"{attacks}, at epsilon {protocol.get('epsilon')} where an attack has none of its own."
    )


def _procedure(protocol: dict[str, Any], model: dict[str, Any]) -> str:
    candidates = protocol.get("candidates", ())
    target, source = protocol.get("target"), protocol.get("label_source")
    towards = f"towards the target {target}" if target not in (None, "none") else f"away from the {source} label"
    stem = model.get("stem", protocol.get("stem"))
    if model.get("stem_auto") and stem != "none" and not all(re.fullmatch(r"\d.*", each) for each in candidates):
        stem = f"{stem} before dense layers"
    more, defence = protocol.get("adversarial_epochs"), protocol.get("defence", "copies")
    how = "on clean and adversarial images" if defence == "copies" else f"with the defence {defence}"
    length = f"anew from its initial weights for {more}" if begins(defence) == "scratch" else f"for {more} more"
    then = f"trained {length} {how}, and attacked again" if more else "and not defended"
    return (
        f"Each was trained for {counted(protocol['epochs'], 'epoch')} ({protocol.get('optimizer')}, learning rate "
        f"{protocol.get('learning_rate')}, batches of {protocol.get('batch_size')}, stem {stem}, "
        f"{protocol.get('activation')}), attacked with FGSM at epsilon {protocol.get('epsilon')}, {towards}, "
        f"{then}."
    )
