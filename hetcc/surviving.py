"""What a plan says of losing a device: which caches outlive it, what goes on in its place, and at which price."""

from __future__ import annotations

from collections.abc import Mapping

from hetcc.cost_model.transfer import transfer_time_s
from hetcc.options import CompileOptions
from hetcc.passes.shadows import LOSABLE, SECOND
from hetcc.plan.plan import CacheSpec, PhasePlan, SurvivalSpec, TransferStep


def surviving(phase: PhasePlan, stand_ins: Mapping[str, PhasePlan], options: CompileOptions) -> PhasePlan:
    """The phase with the policy of each cache, and what goes on when the device that holds some of them is lost.

    Args:
        phase: as planned.
        stand_ins: plans without that device, by name.
        options: of the compile.
    """
    variant = stand_ins.get(f"{phase.phase}-without-{LOSABLE}")
    if variant is None or not any(region.device == LOSABLE for region in phase.regions):
        return phase
    shadowed = options.choice.caches == "shadowed"
    kept = {"policy": options.choice.caches, "shadow": SECOND if shadowed else ""}
    caches = tuple(cache.model_copy(update=kept) if cache.device == LOSABLE else cache for cache in phase.caches)
    sent_s = sum(step.predicted_time_s for step in phase.steps if isinstance(step, TransferStep) and step.shadow)
    return phase.model_copy(update={"caches": caches, "survival": SurvivalSpec(
        device=LOSABLE, variant=variant.phase, shadow_time_s=sent_s,
        recovery_time_s=_recovery_time_s(phase, caches, variant, options))})


def _recovery_time_s(phase: PhasePlan, caches: tuple[CacheSpec, ...], variant: PhasePlan,
                     options: CompileOptions) -> float:
    """Predicted, with full caches: second copies to where the variant has them, or every step again; then the step."""
    step_s = variant.prediction.latency_s
    if options.choice.caches == "recomputable":
        return step_s * (phase.context // max(phase.tokens, 1))
    home = {cache.name: cache.device for cache in variant.caches}
    sizes = {buffer.value: buffer.size_bytes for buffer in phase.buffers if buffer.residency == "cache"}
    return step_s + sum(transfer_time_s(SECOND, home[cache.name], sizes[cache.name], options.links)
                        for cache in caches if cache.shadow and home[cache.name] != SECOND)


__all__ = ["surviving"]
