"""What other tools read: the priced graph with its placement, and the schema of the plan."""

from __future__ import annotations

import json
from typing import Any

from hetcc.plan.placement import Placement, PlacementProblem
from hetcc.plan.plan import plan_schema


def placement_document(problem: PlacementProblem, placement: Placement) -> dict[str, Any]:
    """The placement problem with the device of every cluster under ``placement``.

    The devices may be edited and the document given to ``compile --placement``; regions follow from the devices, so
    they are left out.
    """
    return {"placement": dict(placement.device_of), "objective_value": placement.objective,
            "lower_bound": placement.lower_bound, **problem.to_json()}


def plan_schema_text() -> str:
    """The JSON Schema of ``plan.json`` as published in ``docs/plan.schema.json``, to the byte."""
    return json.dumps(plan_schema(), indent=1, sort_keys=True) + "\n"
