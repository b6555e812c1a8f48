"""What the steps of a plan are called where people read them."""

from __future__ import annotations

from torch2rt.engine.plan import REFORMAT, Plan


def step_title(plan: Plan, position: int) -> str:
    """The layer of a step; of a reformat, whose value it changes and for which layers."""
    step = plan.steps[position]
    if step.layer:
        return step.layer
    source, target = step.inputs[0], step.outputs[0]
    makers = [row.layer or REFORMAT for row in plan.steps[:position] if source in row.outputs]
    readers = [row.layer or REFORMAT for row in plan.steps[position + 1 :] if target in row.inputs]
    maker = makers[-1] if makers else plan.tensors[source].name
    wanted = readers or [f"output {plan.tensors[target].storage.name}".rstrip()]
    return f"{REFORMAT} of {maker} for {', '.join(dict.fromkeys(wanted))}"


def shorten(text: str, width: int) -> str:
    """The text in a column: what is too long keeps both ends."""
    if len(text) <= width:
        return text
    kept = width - 2
    return f"{text[: kept // 2]}..{text[len(text) - (kept - kept // 2) :]}"
