"""Device profiles: data files with a source and a range per number, and the only place where such numbers are."""

from __future__ import annotations

import json
import tomllib
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from hetcc.cost_model.quantity import Quantity, Record
from hetcc.errors import UserError
from hetcc.ir import DType, OperatorClass

DEVICES_FOLDER = Path(__file__).parent / "devices"
SCHEMA_FILE = DEVICES_FOLDER / "schema.json"
_DEFAULT = "default"


class DeviceKind(Enum):
    """What a device is; links and back ends go by it."""

    GPU = "gpu"
    FPGA = "fpga"
    HOST = "host"


class Memory(Record):
    """The memory weights and caches live in, and the fast memory beside the arithmetic."""

    capacity_bytes: Quantity
    bandwidth_bytes_per_s: Quantity
    on_chip_bytes: Quantity


class Power(Record):
    """Board power: at rest, and what is added while working, by what limits the work."""

    idle_w: Quantity
    memory_bound_w: Quantity
    compute_bound_w: Quantity


class Achieved(Record):
    """What operators of one class reach of the peak."""

    bandwidth_fraction: Quantity
    compute_fraction: Quantity
    overhead_s: Quantity | None = Field(default=None, description="added per operator beside the launch; absent: none")


class Baseline(Record):
    """One way of programming the device, said by name."""

    description: str
    kernel_launch_s: Quantity = Field(description="per cluster, inside a region that is already running")
    region_launch_s: Quantity = Field(description="per region: host call and completion")
    achieved: dict[str, Achieved] = Field(description="by operator class; 'default' for all others")

    @model_validator(mode="after")
    def _check_classes(self) -> Baseline:
        known = {_DEFAULT, *(item.value for item in OperatorClass)}
        if _DEFAULT not in self.achieved or not known.issuperset(self.achieved):
            raise ValueError(f"achieved has 'default' and otherwise operator classes, not {sorted(self.achieved)}")
        return self

    def achieved_by(self, operator_class: OperatorClass) -> Achieved:
        """The fractions of a class."""
        return self.achieved.get(operator_class.value, self.achieved[_DEFAULT])


class Streaming(Record):
    """An FPGA as streaming stages: how many scalars a stage takes per cycle."""

    clock_hz: Quantity
    dsp_count: Quantity
    dsp_usable_fraction: Quantity
    hbm_ports: Quantity
    elements_per_cycle: Quantity
    topk_elements_per_cycle: Quantity
    sort_elements_per_cycle: Quantity
    dsp_per_mac: dict[DType, Quantity]


class Device(Record):
    """A device profile."""

    schema_name: Literal["hetcc-device/1"] = Field(alias="schema")
    name: str
    title: str
    kind: DeviceKind
    default_baseline: str
    memory: Memory
    matrix_flops_per_s: dict[DType, Quantity] = Field(description="peak of matrix units; empty if streaming")
    vector_flops_per_s: dict[DType, Quantity] = Field(description="peak of everything else; empty if streaming")
    power: Power
    streaming: Streaming | None = None
    baselines: dict[str, Baseline]

    @model_validator(mode="after")
    def _check_parts(self) -> Device:
        if self.default_baseline not in self.baselines:
            raise ValueError(f"default_baseline '{self.default_baseline}' is not one of {sorted(self.baselines)}")
        rates = (self.matrix_flops_per_s, self.vector_flops_per_s)
        if self.streaming is None and not all(DType.FLOAT32 in rate for rate in rates):
            raise ValueError("a device that is not streaming needs matrix and vector peaks, float32 at least")
        if self.streaming is not None and DType.FLOAT32 not in self.streaming.dsp_per_mac:
            raise ValueError("streaming.dsp_per_mac needs float32 at least")
        return self

    @property
    def capacity_bytes(self) -> int:
        """Memory for weights and caches."""
        return int(self.memory.capacity_bytes.value)

    def baseline(self, name: str | None = None) -> Baseline:
        """A baseline by name, or the default one.

        Raises:
            UserError: HET-M001 for an unknown name.
        """
        if name is not None and name not in self.baselines:
            raise UserError("HET-M001", f"device '{self.name}' has no baseline '{name}'; it has "
                                        f"{', '.join(sorted(self.baselines))}", where=self.name)
        return self.baselines[name or self.default_baseline]


def list_devices() -> tuple[str, ...]:
    """Names of the profiles that come with hetcc, sorted."""
    return tuple(sorted(path.stem for path in DEVICES_FOLDER.glob("*.toml")))


def load_device(name_or_path: str) -> Device:
    """A device profile.

    Args:
        name_or_path: one of ``list_devices()``, or the path of a ``.toml`` file of the same form.

    Raises:
        UserError: HET-M001 if there is none, HET-M002 if the file is not a valid profile.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = DEVICES_FOLDER / f"{name_or_path}.toml"
        if name_or_path not in list_devices():
            raise UserError("HET-M001", f"no device is called '{name_or_path}'; known: {', '.join(list_devices())}",
                            where=name_or_path, fix="use one of these, or the path of a .toml file of the same form")
    if not path.is_file():
        raise UserError("HET-M001", f"there is no file '{path}'", where=name_or_path)
    return _read_device(path.resolve(), path.stat().st_mtime_ns)


def device_schema() -> dict[str, Any]:
    """The JSON Schema of a profile, as published in ``devices/schema.json``."""
    schema = Device.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The published file, to the byte."""
    return json.dumps(device_schema(), indent=1, sort_keys=True) + "\n"


@lru_cache(maxsize=32)
def _read_device(path: Path, modified_ns: int) -> Device:
    del modified_ns  # part of the key only: a file that changed is read again
    try:
        return Device.model_validate(read_toml(path, "a device profile"))
    except ValidationError as error:
        raise invalid(error, path) from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """A TOML file as plain data.

    Raises:
        UserError: HET-M002 if it is not TOML or cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError("HET-M002", f"not {what}: {error}", where=str(path)) from error


def invalid(error: ValidationError, path: Path) -> UserError:
    """The error for a file that breaks the schema: the first few fields and what is wrong with each."""
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'profile'}: {fault['msg']}" for fault in error.errors()[:5]]
    return UserError("HET-M002", f"{error.error_count()} faults; " + "; ".join(faults), where=str(path),
                     fix="cost_model/devices/schema.json describes the form")
