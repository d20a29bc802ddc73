"""The answers of ``hetcc explain`` as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hetcc.report.hardware_text import hardware_block, hardware_lines
from hetcc.report.packing_text import packing_block
from hetcc.report.tables import label_lines, text_table
from hetcc.units import format_bytes, format_count, format_energy, format_time

_NODES_SHOWN = 12
_HOST_SHOWN = 12
_REWRITES_SHOWN = 6
_FLIPS_SHOWN = 4


def overview_text(answer: Mapping[str, Any]) -> str:
    """A phase: totals, stages by device, largest clusters, the host's nodes, rewrites."""
    blocks = [_headline(answer), _stage_table(answer), _largest_table(answer), _host_block(answer),
              _code_totals(answer), hardware_block(answer["hardware"]),
              packing_block(answer["packing"], answer["phase"]), _rewrite_block(answer)]
    return "\n\n".join(block for block in blocks if block)


def _headline(answer: Mapping[str, Any]) -> str:
    prediction, partition = answer["prediction"], answer["partition"]
    devices = ", ".join(f"{device} {profile}" for device, profile in answer["devices"].items())
    return f"{answer['phase']}\n" + label_lines([
        ("devices", f"{devices}; GPU baseline '{answer['baseline']}'"),
        ("predicted step", f"{format_time(prediction['latency_s'])}, {format_energy(prediction['energy_j'])}"),
        ("the GPU alone", (f"{format_time(prediction['gpu_only_latency_s'])}, "
                           f"{format_energy(prediction['gpu_only_energy_j'])}")),
        ("placement", (f"{partition['partitioner']}: objective {partition['objective']:.6g}, lower bound "
                       f"{partition['lower_bound']:.6g}, gap {100 * partition['gap']:.3g} %")),
        *robustness_lines(partition.get("robustness")),
    ])


def robustness_lines(sure: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """How sure the placement is, and the numbers that change it alone; nothing when it is not known."""
    if sure is None:
        return []
    if sure["proved"]:
        return [("robustness", f"proved: no value of the {sure['parameters']} uncertain numbers makes another better")]
    share = (f"{sure['stays_optimal']:.0%} [{sure['low']:.0%}, {sure['high']:.0%}] of {sure['samples']} draws of "
             f"{sure['parameters']} uncertain numbers keep this placement")
    flips = [f"{name} ({'one end' if part < 1 else 'both ends'} of its range)" for name, part in sure["flips"]]
    return [("robustness", share), *([("flips alone", ", ".join(flips[:_FLIPS_SHOWN]))] if flips else [])]


def _stage_table(answer: Mapping[str, Any]) -> str:
    """Stages by device. Sums of single clusters: launches, transfers and fusion are not in them."""
    devices = [device for device in answer["devices"]
               if any(device in row["time_s"] for row in answer["stages"])]
    headers = ["stage", "clusters", "placed", "flops", "bytes", *(f"on {device}" for device in devices), "as placed"]
    rows = [[row["stage"] or "outside", str(row["clusters"]),
             ", ".join(f"{device} {count}" for device, count in row["placed"].items()),
             format_count(row["flops"]), format_bytes(row["bytes"]),
             *(_stage_time(row, device) for device in devices), format_time(row["chosen_time_s"])]
            for row in answer["stages"] if row["clusters"]]
    numeric = (1, *range(3, len(headers)))
    note = "predicted, without launches and transfers; (n) clusters are refused there and not in the sum"
    return f"stages ({note})\n" + text_table(headers, rows, right=numeric)


def _stage_time(row: Mapping[str, Any], device: str) -> str:
    if device not in row["time_s"]:
        return "refused" if device in row["refused"] else "-"
    refused = f" ({row['refused'][device]})" if device in row["refused"] else ""
    return format_time(row["time_s"][device]) + refused


def _largest_table(answer: Mapping[str, Any]) -> str:
    rows = [[entry["cluster"], f"x{entry['alike']}" if entry["alike"] > 1 else "", entry["stage"] or "-",
             entry["device"], format_time(entry["time_s"]), f"{entry['share']:.1%}",
             ", ".join(f"{device} {format_time(time_s)}" for device, time_s in entry["prices_s"].items()
                       if device != entry["device"])]
            for entry in answer["largest"]]
    return "largest clusters (predicted)\n" + text_table(
        ["cluster", "alike", "stage", "on", "time each", "share", "elsewhere"], rows, right=(4, 5))


def _host_block(answer: Mapping[str, Any]) -> str:
    host = answer["host"]
    if not host:
        return "on the host: nothing"
    lines = [f"on the host: {sum(len(entry['nodes']) for entry in host)} nodes in {len(host)} clusters"]
    for entry in host[:_HOST_SHOWN]:
        lines.append(f"  {entry['cluster']}")
        lines += [f"    {device}: {reason['rule']} ({reason['node']})" for device, reason in entry["reasons"].items()]
    if len(host) > _HOST_SHOWN:
        lines.append(f"  ... and {len(host) - _HOST_SHOWN} more; --json has all")
    return "\n".join(lines)


def _code_totals(answer: Mapping[str, Any]) -> str:
    if not answer["code"]:
        return "GPU code: none in the bundle"
    rows = [[entry["target"], str(entry["calls"]), str(entry["modules"]), str(entry["kernel_objects"]),
             ", ".join(f"{name} {count}" for name, count in entry["kernels"].items()) or "-"]
            for entry in answer["code"]]
    table = text_table(["target", "calls per step", "modules", "kernel objects", "kernel operations"], rows,
                       right=(1, 2, 3))
    left_out = "".join(f"\nleft out  {reason}" for reason in answer["kernels_left_out"])
    return f"GPU code (equal programs share it)\n{table}{left_out}"


def _code_block(answer: Mapping[str, Any]) -> str:
    """The code objects of a cluster or region, one row per call and target."""
    if not answer["code"]:
        return ""
    rows = []
    for entry in answer["code"]:
        files = [file.rpartition("/")[2] for file in entry["files"]] or ["(interpreted source)"]
        rows.append([entry["target"], entry["kind"], str(len(entry["nodes"])), files[0]])
        rows += [["", "", "", file] for file in files[1:]]
    return "runs as\n" + text_table(["target", "what", "nodes", "code objects (in gpu/)"], rows, right=(2,))


def _rewrite_block(answer: Mapping[str, Any]) -> str:
    rewrites = answer["rewrites"]
    if not rewrites:
        return "rewrites: none"
    applied = sum(entry["applied"] for entry in rewrites)
    lines = [f"rewrites: {applied} applied, {len(rewrites) - applied} refused"]
    for entry in sorted(rewrites, key=lambda entry: entry["applied"])[:_REWRITES_SHOWN]:
        verdict = f"  {'applied' if entry['applied'] else 'refused'}  {entry.get('rule', '')}"
        lines.append(f"{verdict}  {entry['node']}: {entry['reason']}")
    if len(rewrites) > _REWRITES_SHOWN:
        lines.append(f"  ... and {len(rewrites) - _REWRITES_SHOWN} more; --json has all")
    return "\n".join(lines)


def cluster_text(answer: Mapping[str, Any]) -> str:
    """One cluster: what it is, its prices, its cut, the decision and what would flip it."""
    intensity = answer["intensity_flops_per_byte"]
    rows = [
        ("phase", answer["phase"]),
        ("stage", answer["stage"] or "outside every memory pipeline"),
        *([("pipeline", answer["pipeline"])] if answer["pipeline"] else []),
        *(("evidence", line) for line in answer["evidence"]),
        ("work", _work_text(answer["work"])),
        ("intensity", "moves no bytes" if intensity is None else f"{intensity:.3g} flops per byte"),
        ("placed on", f"{answer['device']}, in region {answer['region']}"
                      + (f", launched by step {answer['launch_step']}" if answer["launch_step"] is not None else "")),
    ]
    blocks = [f"cluster {answer['cluster']}\n" + label_lines(rows), _node_block(answer), _price_table(answer),
              _refusals(answer), _code_block(answer), _cut_block(answer), _decision_block(answer)]
    return "\n\n".join(block for block in blocks if block)


def _work_text(work: Mapping[str, Any]) -> str:
    return (f"{format_count(work['flops'])} flops, {format_bytes(work['bytes_read'])} read, "
            f"{format_bytes(work['bytes_written'])} written")


def _node_block(answer: Mapping[str, Any]) -> str:
    nodes = answer["nodes"]
    shown = sorted(nodes[:_NODES_SHOWN] + [node for node in nodes[_NODES_SHOWN:] if node["name"] == answer["asked"]],
                   key=nodes.index)
    rows = [[node["name"] + (" <-" if node["name"] == answer["asked"] != answer["cluster"] else ""),
             node["operator"], f"{node['module_path'] or '(top)'} ({node['module_class']})" if node["module_class"]
             else node["module_path"] or "(top)", node["source"] or "-",
             "; ".join(output.rpartition(": ")[2] for output in node["outputs"])] for node in shown]
    more = f"\n... and {len(nodes) - len(shown)} more; --json has all" if len(nodes) > len(shown) else ""
    return "nodes\n" + text_table(["node", "operator", "module", "source", "result"], rows) + more


def _price_table(answer: Mapping[str, Any]) -> str:
    rows = [[device + (" *" if device == answer["device"] else ""), format_time(price["time_s"]),
             f"{format_time(price['low_s'])} to {format_time(price['high_s'])}", format_energy(price["energy_j"]),
             price["bound"], price["source"]] for device, price in answer["prices"].items()]
    return "prices (predicted; * is where it is; the least certain number behind a price gives its source)\n" + \
        text_table(["device", "time", "interval", "energy", "bound by", "source"], rows, right=(1, 2, 3))


def _refusals(answer: Mapping[str, Any]) -> str:
    lines = [f"  {device}: {entry['rule']} ({entry['node']})" for device, entry in answer["rejections"].items()]
    return "\n".join(["refused by", *lines]) if lines else ""


def _cut_block(answer: Mapping[str, Any]) -> str:
    if not answer["cut"]:
        return "nothing it reads or writes crosses between devices"
    rows = [[entry["value"], f"{entry['from']} -> {entry['to']}", format_bytes(entry["size_bytes"]),
             format_time(entry["time_s"])] for entry in answer["cut"]]
    return f"what crosses (predicted, {format_time(answer['cut_time_s'])} in all)\n" + \
        text_table(["value", "way", "size", "time"], rows, right=(2, 3))


def _decision_block(answer: Mapping[str, Any]) -> str:
    if not answer["alternatives"]:
        return f"decision: no other accelerator takes it, so it is on the {answer['device']}"
    lines = [f"decision ({answer['partitioner']}): on the {answer['device']}"]
    for device, entry in answer["alternatives"].items():
        word = "worse" if entry["margin"] >= 0 else "better"
        lines.append(f"  moved alone to the {device}: objective {abs(entry['margin']):.3g} {word}; {entry['flip']}")
    return "\n".join(lines)


def region_text(answer: Mapping[str, Any]) -> str:
    """One region: device, engine, code, launch, clusters."""
    launch = answer["launch"]
    rows = [
        ("phase", answer["phase"]), ("device", answer["device"]), ("engine", answer["engine"]),
        ("code", answer["code_file"] or "none in the bundle"),
        ("program", answer["digest"][:24] + (f", the same as {len(answer['same_program'])} other regions"
                                             if answer["same_program"] else "")),
        ("work", _work_text(answer["work"])),
        ("stages", ", ".join(f"{stage} {count}" for stage, count in answer["stages"].items()) or "none"),
        *(("updates", f"{cache} becomes {value}") for cache, value in answer["updates"]),
        *hardware_lines(answer["hardware"], answer["policy"]),
    ]
    if launch:
        after = f" after steps {', '.join(map(str, launch['waits']))}" if launch["waits"] else ""
        rows += [("launched by", f"step {answer['launch_step']} on stream {launch['stream']}{after}"),
                 ("takes", f"{format_time(launch['predicted_time_s'])} (predicted)"),
                 ("reads", ", ".join(launch["inputs"]) or "only weights and caches"),
                 ("writes", ", ".join(launch["outputs"]) or "only caches")]
    clusters = "\n".join(f"  {name}" for name in answer["clusters"])
    code = _code_block(answer)
    return f"region {answer['region']}\n" + label_lines(rows) + (f"\n\n{code}" if code else "") + \
        f"\n\nclusters\n{clusters}"
