"""Which transformers model a name means, with overrides applied and nothing downloaded."""

from __future__ import annotations

import copy
import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hetcc.capture.blame import place_of
from hetcc.capture.model import CaptureRequest, Phase
from hetcc.errors import UserError

INCOMPLETE_FIX = ("name a folder with a checkpoint's config.json in place of the model type, or give the settings that "
                  "the type's defaults lack with --set")


@dataclass(frozen=True)
class HuggingFaceModel:
    """A configuration and the transformers class to build from it."""

    config: Any
    model_class: Any
    directory: Path | None
    """Folder of the checkpoint when the model was named by one."""
    is_decoder: bool

    def build(self) -> Any:
        """A freshly initialised module in evaluation mode, without gradients."""
        model = self.model_class._from_config(
            self.config, attn_implementation="eager", experts_implementation="batched_mm", dtype=self.config.dtype)
        return model.eval().requires_grad_(False)

    def build_shapes(self) -> Any:
        """The same module with weights nobody initialised: all a plan needs, and fake tensors have no numbers.

        Some models look at the numbers while they initialise, which cannot be done on fake tensors.
        """
        from transformers.initialization import no_init_weights

        with no_init_weights():
            model = self.build()
        model.tie_weights(recompute_mapping=False)
        return model

    def build_reference(self) -> Any:
        """The same model as Hugging Face runs it by default in eager mode (its own expert loop included)."""
        model = self.model_class._from_config(
            self.config, attn_implementation="eager", experts_implementation="eager", dtype=self.config.dtype)
        return model.eval().requires_grad_(False)

    def shortened(self, layers: int) -> HuggingFaceModel:
        """The same model with only its first ``layers`` hidden layers."""
        config = copy.deepcopy(self.config)
        counting = counts_layers(config)
        count = counting.num_hidden_layers
        for key, value in list(vars(counting).items()):
            if isinstance(value, list) and len(value) == count:
                setattr(counting, key, value[:layers])
        counting.num_hidden_layers = layers
        return replace(self, config=config)


def counts_layers(config: Any) -> Any:
    """The part of a configuration that counts the layers of text: where it describes several models, the text's."""
    if isinstance(getattr(config, "num_hidden_layers", None), int):
        return config
    try:
        return config.get_text_config(decoder=True)
    except ValueError:  # several models of text
        return config


def resolve(request: CaptureRequest) -> HuggingFaceModel:
    """Find the model ``request.model`` names.

    Raises:
        UserError: HET-C001 unknown name, HET-C002 impossible override.
    """
    import torch

    directory = _local_directory(request.model)
    config = _load_config(request.model, directory)
    config = _overridden(config, request.overrides, request)
    model_class, is_decoder = _model_class(config, request)
    for part, kind in config.sub_configs.items():
        if kind is model_class.config_class and kind is not type(config) and part in _parts(config):
            config = getattr(config, part)  # the class is that of one part alone, mostly the text
            break
    config.dtype = getattr(torch, request.dtype.value)
    if is_decoder and getattr(config, "is_decoder", None) is False and not getattr(config, "is_encoder_decoder", False):
        config.is_decoder = True  # without it these types attend to tokens that are yet to come
    return HuggingFaceModel(config, model_class, directory, is_decoder)


def _local_directory(model: str) -> Path | None:
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError("HET-C001", f"the folder '{model}' holds no config.json",
                            fix="name a folder saved by save_pretrained")
        return path.resolve()
    return None


def _load_config(model: str, directory: Path | None) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if directory is not None:
        try:
            return AutoConfig.from_pretrained(str(directory), local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
            raise UserError("HET-C008", f"config.json cannot be used: {_on_one_line(error)}", where=str(directory),
                            fix="save the model again with save_pretrained") from error
    if model in CONFIG_MAPPING:
        try:
            return AutoConfig.for_model(model)
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
            raise UserError("HET-C002", f"transformers refuses its own default configuration of '{model}': "
                            f"{_on_one_line(error)}", where=place_of(error), fix=INCOMPLETE_FIX) from error
    if "/" in model:
        try:
            return AutoConfig.from_pretrained(model, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError("HET-C001", f"'{model}' is not in the local Hugging Face cache",
                            fix="download it with `hf download`, or name a local folder or a model type") from error
    close = difflib.get_close_matches(model, list(CONFIG_MAPPING), n=3)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    raise UserError("HET-C001", f"'{model}' is neither a model type of transformers, a folder nor a file",
                    fix=hint + "model types are the keys of transformers.CONFIG_MAPPING")


def _overridden(config: Any, overrides: tuple[tuple[str, str], ...], request: CaptureRequest, within: str = "") -> Any:
    """A configuration with settings changed; ``part.setting`` is a setting of one of its parts."""
    own = tuple((key, text) for key, text in overrides if not _part_of(config, key))
    parsed = _parse_overrides(config, own, request, within)
    for part in dict.fromkeys(_part_of(config, key) for key, _ in overrides):
        if part:
            inner = tuple((key.partition(".")[2], text) for key, text in overrides if _part_of(config, key) == part)
            parsed[part] = _overridden(getattr(config, part), inner, request, f"{within}{part}.").to_dict()
    return _apply(config, parsed, request)


def _part_of(config: Any, key: str) -> str:
    """The part a dotted key names; empty if it names none."""
    part, dot, _ = key.partition(".")
    return part if dot and part in _parts(config) else ""


def _parts(config: Any) -> list[str]:
    """Names of the configurations that a configuration consists of."""
    from transformers import PreTrainedConfig

    return [name for name, value in vars(config).items() if isinstance(value, PreTrainedConfig)]


def _meant(config: Any, key: str) -> list[str]:
    """Settings that a misspelt one may stand for, those of parts by their dotted names."""
    text = counts_layers(config)
    inside = [f"{part}.{key}" for part in sorted(_parts(config), key=lambda part: getattr(config, part) is not text)
              if hasattr(getattr(config, part), key)]
    return inside or difflib.get_close_matches(key, list(config.to_dict()), n=3)


def _parse_overrides(config: Any, overrides: tuple[tuple[str, str], ...], request: CaptureRequest,
                     within: str) -> dict[str, Any]:
    known = config.to_dict()
    found: dict[str, Any] = {}
    for key, text in overrides:
        if not hasattr(config, key):
            close = [f"{within}{name}" for name in _meant(config, key)]
            raise UserError("HET-C002", f"the configuration of {request.model} has no setting '{within}{key}'",
                            where=f"--set {within}{key}={text}",
                            fix=f"did you mean {', '.join(close)}?" if close else "see the model's configuration class")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        present = known.get(key)
        if present is not None and not _compatible(present, value):
            raise UserError("HET-C002", f"'{key}' is {type(present).__name__} ({present!r}) but was set to {text!r}",
                            where=f"--set {within}{key}={text}", fix=f"give a {type(present).__name__}")
        is_number = isinstance(present, (int, float)) and not isinstance(present, bool)
        found[key] = type(present)(value) if is_number else value
    return found


def _compatible(present: Any, value: Any) -> bool:
    if isinstance(present, bool) or isinstance(value, bool):
        return isinstance(present, bool) and isinstance(value, bool)
    if isinstance(present, (int, float)):
        return isinstance(value, (int, float)) and (isinstance(present, float) or float(value).is_integer())
    return value is None or isinstance(value, type(present))


def _apply(config: Any, overrides: dict[str, Any], request: CaptureRequest) -> Any:
    """A configuration built anew, so that settings derived from others follow the overrides."""
    from huggingface_hub.errors import StrictDataclassError

    if not overrides:
        return config
    settings = config.to_dict()
    layers_before = getattr(config, "num_hidden_layers", None)
    layers_after = int(overrides.get("num_hidden_layers", layers_before) or 0)
    defaults = type(config)().to_dict()
    for key, value in list(settings.items()):
        per_layer = isinstance(value, list) and len(value) == layers_before and layers_after != layers_before
        if per_layer and key not in overrides:
            if value == defaults.get(key) or layers_after > int(layers_before or 0):
                del settings[key]
            else:
                settings[key] = value[:layers_after]
    settings.update(overrides)
    settings.pop("model_type", None)
    derived = {key for key, value in settings.items() if key not in overrides and value == defaults.get(key)}
    try:
        return type(config)(**{key: value for key, value in settings.items() if key not in derived})
    except (ValueError, TypeError, LookupError, ZeroDivisionError, AttributeError, NotImplementedError,
            StrictDataclassError) as error:
        given = ", ".join(f"{key}={text}" for key, text in request.overrides)
        raise UserError("HET-C002", f"the configuration of {request.model} refuses these settings: "
                        f"{_on_one_line(error)}", where=f"--set {given}",
                        fix="change the settings so that they fit each other") from error


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _model_class(config: Any, request: CaptureRequest) -> tuple[Any, bool]:
    """The transformers class for a configuration, and whether it decodes with a cache.

    A checkpoint says so itself (``architectures``); a bare configuration is a decoder when its type has a causal
    language model and no masked one, or when a phase of a decoder is asked for.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    named = [getattr(transformers, name, None) for name in (config.architectures or [])]
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING
    if named and named[0] is not None:
        return named[0], named[0].__name__.endswith("ForCausalLM")
    asked = any(phase is not Phase.ENCODE for phase in request.phases)
    if type(config) in causal and (asked or type(config) not in masked):
        return causal[type(config)], True
    if type(config) in modeling_auto.MODEL_MAPPING:
        return modeling_auto.MODEL_MAPPING[type(config)], False
    raise UserError("HET-C004", f"transformers has no text model for '{config.model_type}'",
                    fix="name the model with path.py:factory, a .pt2 or an .onnx file")
