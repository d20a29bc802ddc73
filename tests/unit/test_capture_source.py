"""What a model's name and its overrides mean, and how impossible ones are refused."""

from __future__ import annotations

import pytest

from hetcc.capture import CaptureRequest, Phase, capture
from hetcc.capture.source import resolve
from hetcc.errors import UserError

from corpus.tiny import tiny


def refused(request: CaptureRequest) -> UserError:
    with pytest.raises(UserError) as caught:
        capture(request)
    return caught.value


@pytest.mark.parametrize("count", [2, 7])
def test_lists_per_layer_follow_the_number_of_layers(count: int) -> None:
    config = resolve(tiny("gpt_oss", num_hidden_layers=count)).config
    assert config.num_hidden_layers == count == len(config.layer_types)
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    shorter = resolve(tiny("gpt_oss", num_hidden_layers=count)).shortened(1).config
    assert shorter.num_hidden_layers == 1 == len(shorter.layer_types)
    assert len(config.layer_types) == count, "the original is left alone"


def test_settings_derived_from_others_follow_them() -> None:
    assert resolve(tiny("llama")).config.head_dim == 16, "hidden size 64 over 4 heads"
    assert resolve(tiny("llama", head_dim=24)).config.head_dim == 24


def test_a_given_list_is_kept() -> None:
    request = CaptureRequest("gpt_oss", overrides=(
        ("num_hidden_layers", "2"), ("layer_types", '["full_attention", "full_attention"]')))
    assert resolve(request).config.layer_types == ["full_attention"] * 2


@pytest.mark.parametrize(("key", "text", "said"), [
    ("hidden_sise", "64", "hidden_size"), ("num_hidden_layers", "many", "give a int"),
    ("num_hidden_layers", "2.5", "give a int"), ("use_cache", "1", "give a bool"),
    ("rms_norm_eps", "true", "give a float"), ("hidden_act", "3", "give a str"), ("zzz", "1", "configuration class"),
])
def test_impossible_overrides(key: str, text: str, said: str) -> None:
    error = refused(CaptureRequest("llama", overrides=((key, text),)))
    assert error.code == "HET-C002" and said in error.fix and f"--set {key}={text}" in error.where


@pytest.mark.parametrize(("key", "text", "value"), [
    ("rms_norm_eps", "1", 1.0), ("hidden_size", "64.0", 64), ("hidden_act", "gelu", "gelu"),
    ("use_cache", "false", False),
])
def test_numbers_are_taken_as_they_are_meant(key: str, text: str, value: object) -> None:
    found = getattr(resolve(CaptureRequest("llama", overrides=((key, text),))).config, key)
    assert found == value and type(found) is type(value)


def test_settings_that_do_not_fit_each_other() -> None:
    error = refused(tiny("llama", weights="", num_attention_heads=3, num_key_value_heads=2))
    assert error.code == "HET-C002" and "num_attention_heads" in error.render()


@pytest.mark.parametrize(("model", "said"), [
    ("lama", "did you mean"), ("no/such-model", "hf download"), ("none.pt2", "check the path"),
    ("none.py:make", "check the path"),
])
def test_unknown_models(model: str, said: str) -> None:
    error = refused(CaptureRequest(model))
    assert error.code == "HET-C001" and said in error.fix


def test_a_folder_that_is_no_checkpoint(tmp_path) -> None:
    assert refused(CaptureRequest(str(tmp_path))).code == "HET-C001"


@pytest.mark.parametrize(("model", "phase"), [("llama", Phase.ENCODE), ("distilbert", Phase.DECODE)])
def test_phases_a_model_has_not(model: str, phase: Phase) -> None:
    error = refused(CaptureRequest(model, (phase,)))
    assert error.code == "HET-C007" and "--phase" in error.fix


def test_models_without_text() -> None:
    error = refused(CaptureRequest("mimi"))
    assert error.code == "HET-C004"


def test_an_encoder_that_also_decodes() -> None:
    """A type with a masked and a causal model is the one the phase asks for; decoding, it looks at the past alone."""
    assert not resolve(CaptureRequest("bert")).is_decoder
    assert not resolve(CaptureRequest("bert", (Phase.ENCODE,))).is_decoder
    source = resolve(CaptureRequest("bert", (Phase.DECODE,)))
    assert source.is_decoder and source.config.is_decoder and source.model_class.__name__ == "BertLMHeadModel"


def test_settings_of_a_part() -> None:
    """Of a configuration that describes several models; lists per layer of the part follow its number of layers."""
    config = resolve(CaptureRequest("gemma3", overrides=(
        ("text_config.num_hidden_layers", "7"), ("vision_config.num_hidden_layers", "1")))).config
    assert (config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers) == (7, 1)
    assert len(config.text_config.layer_types) == 7
    shorter = resolve(CaptureRequest("gemma3")).shortened(3).config
    assert shorter.text_config.num_hidden_layers == len(shorter.text_config.layer_types) == 3
    error = refused(CaptureRequest("gemma3", overrides=(("num_hidden_layers", "7"),)))
    assert "did you mean text_config.num_hidden_layers, vision_config.num_hidden_layers?" in error.fix
    error = refused(CaptureRequest("gemma3", overrides=(("text_config.hidden_sise", "64"),)))
    assert "did you mean text_config.hidden_size" in error.fix and "--set text_config.hidden_sise=64" in error.where
    error = refused(CaptureRequest("gemma3", overrides=(("text.hidden_size", "64"),)))
    assert "no setting 'text.hidden_size'" in error.what


def test_a_class_of_the_text_alone_gets_its_configuration() -> None:
    """The type describes several models, transformers decodes with the one of the text."""
    source = resolve(CaptureRequest("llama4", overrides=(("text_config.num_hidden_layers", "2"),)))
    assert source.model_class.__name__ == "Llama4ForCausalLM" and source.config.model_type == "llama4_text"
    assert source.config.num_hidden_layers == 2
    assert resolve(CaptureRequest("musicgen")).config.model_type == "musicgen_decoder", "a part of another name"


def test_a_setting_that_a_configuration_refuses_to_take() -> None:
    error = refused(CaptureRequest("prophetnet", overrides=(("num_hidden_layers", "2"),)))
    assert error.code == "HET-C002" and "num_decoder_layers" in error.what
