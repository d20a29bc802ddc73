"""What a bundle was made from: the request as data, and the command that makes it again."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from typing import Any

from hetcc.capture.model import CapturedModel, CaptureRequest, Phase
from hetcc.errors import UserError
from hetcc.ir import DType
from hetcc.options import CompileOptions


def request_to_bytes(captured: CapturedModel, options: CompileOptions) -> bytes:
    """The capture request and the facts about the model, as canonical JSON."""
    request = options.request
    document: dict[str, Any] = {
        "model": request.model, "phases": [phase.value for phase in request.phases], "batch": request.batch,
        "context": request.context, "prompt": request.prompt, "dtype": request.dtype.value,
        "overrides": [list(pair) for pair in request.overrides], "weights": request.weights,
    }
    assert set(document) == {field.name for field in fields(CaptureRequest)}
    whole = {"request": document, "description": dict(captured.description),
             "without_rewrites": list(options.without_rewrites)}
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def request_from_bytes(data: bytes) -> CaptureRequest:
    """The request of :func:`request_to_bytes`.

    Raises:
        UserError: HET-B003, the file is damaged.
    """
    try:
        document = json.loads(data)["request"]
        return CaptureRequest(
            document["model"], tuple(Phase(name) for name in document["phases"]), document["batch"],
            document["context"], document["prompt"], DType(document["dtype"]),
            tuple((key, value) for key, value in document["overrides"]), document["weights"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("HET-B003", f"request.json cannot be read: {error}", fix="compile the model again") from error


def compile_command(options: CompileOptions) -> list[str]:
    """The arguments of the command that makes the same bundle; the output folder is left to the caller."""
    request = options.request
    words = ["hetcc", "compile", request.model]
    for phase in request.phases:
        words += ["--phase", phase.value]
    words += ["--batch", str(request.batch), "--context", str(request.context), "--dtype", request.dtype.value]
    if request.prompt:
        words += ["--prompt", str(request.prompt)]
    for key, value in request.overrides:
        words += ["--set", f"{key}={value}"]
    if request.weights:
        words += ["--weights", request.weights]
    words += ["--gpu", options.gpu, "--fpga", options.fpga, "--baseline", options.baseline, "--link", options.links,
              "--partitioner", options.choice.partitioner, "--emit", options.emit]
    for pattern, device in options.choice.forced:
        words += ["--place", f"{pattern}={device}"]
    if options.choice.file is not None:
        words += ["--placement", str(options.choice.file)]
    words += ["--time-weight", str(options.choice.objective.time_weight),
              "--energy-weight", str(options.choice.objective.energy_weight)]
    for target in options.emission.targets:
        words += ["--target", target]
    words += ["--on-unsupported", options.emission.on_unsupported, "--policy", options.emission.policy]
    if options.choice.caches != "single":
        words += ["--caches", options.choice.caches]
    if options.fpga_launch != "start":
        words += ["--fpga-launch", options.fpga_launch]
    if not options.emission.verilog:
        words += ["--no-verilog"]
    for name in options.without_rewrites:
        words += ["--no-rewrite", name]
    words += ["--robustness", str(options.robustness_samples)]
    if options.ignore_capacity:
        words += ["--ignore-capacity"]
    return words


def repro_script(options: CompileOptions) -> str:
    """A shell script that takes the output folder as its only argument."""
    command = shlex.join(compile_command(options))
    comment = "# Makes this bundle again in the folder given as the first argument."
    return f'#!/bin/sh\n{comment}\nset -e\nexec {command} --output "$1"\n'
