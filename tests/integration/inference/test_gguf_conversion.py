"""What is converted computes what the original does: llama.cpp's probabilities against numpy's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xllamacpp  # type: ignore[import-untyped] # a C module without types
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from services.chassis.errors import Failure, Reason
from services.inference.engines import gguf_conversion
from services.inference.engines.gguf_header import read_header
from services.inference.engines.hf_folder import read_config
from tests.integration.inference.hf_reference import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

IDS = [72, 101, 108, 33, 44, 257, 258, 260, 15, 90, 91, 3]
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def convert(folder: Path, target: Path) -> None:
    steps: list[tuple[int, int]] = []
    gguf_conversion.convert(folder, target, lambda done, total: steps.append((done, total)), lambda: False)
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1][0] == steps[-1][1]
    assert list(target.parent.glob("*.part")) == []


def converted(folder: Path, target: Path) -> Any:
    """llama.cpp's server over what was converted, with nothing in it rounded to half precision but what the file has so."""
    convert(folder, target)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(target)
    parameters.n_parallel, parameters.n_ctx, parameters.cache_ram_mib = 1, 256, 0
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup, parameters.verbosity = False, 0
    parameters.endpoint_metrics = True
    server = xllamacpp.Server(parameters)
    server.handle_metrics()  # freed before its loop runs, it would never end
    return server


def completed(server: Any, prompt: Sequence[int] | str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = server.handle_completions(
        {"prompt": prompt, "n_predict": 1, "temperature": 0.0, "stream": False, "cache_prompt": False, **more}
    )
    return answer


def logprobs(model: Any, ids: list[int], tokens: int) -> NDArray[np.float64]:
    told = completed(model, ids, n_probs=tokens)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    found = np.full(tokens, np.nan)
    for one in told:
        found[one["id"]] = one["logprob"]
    assert not np.isnan(found).any()
    return found


@pytest.mark.parametrize(
    "reference",
    [
        Reference("llama"),
        Reference("qwen2"),
        Reference("qwen2", tied=True),
        Reference("llama", rope=LLAMA3),
        Reference("llama", rope={"rope_type": "linear", "factor": 4.0}),
    ],
    ids=["llama", "qwen2", "qwen2-tied", "llama3-rope", "linear-rope"],
)
def test_probabilities_agree_with_the_formulas(reference: Reference, tmp_path: Path) -> None:
    model = converted(reference.write(tmp_path / "hf"), tmp_path / "hf.gguf")
    expected = reference.logprobs(IDS)
    assert expected.std() > 0.3  # else agreeing would say little
    assert np.abs(logprobs(model, IDS, len(reference.tokens)) - expected).max() < 1e-3


@pytest.mark.parametrize(("kind", "quantization", "within"), [("float16", "F16", 0.01), ("bfloat16", "BF16", 0.1)])
def test_half_precision_stays_what_it_is(kind: str, quantization: str, within: float, tmp_path: Path) -> None:
    reference = Reference("llama")
    folder = reference.write(tmp_path / "hf", kind)
    model = converted(folder, tmp_path / "hf.gguf")
    assert read_config(folder).quantization == read_header(tmp_path / "hf.gguf").quantization == quantization
    assert np.abs(logprobs(model, IDS, len(reference.tokens)) - reference.logprobs(IDS)).max() < within


def test_the_header_says_what_the_config_says(tmp_path: Path) -> None:
    folder = Reference("qwen2").write(tmp_path / "hf")
    convert(folder, tmp_path / "hf.gguf")
    assert read_config(folder) == read_header(tmp_path / "hf.gguf")


def damaged(config: dict[str, Any], folder: Path) -> Path:
    path = Reference("llama").write(folder)
    told = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**told, **config}))
    return path


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"vocab_size": 9}, "vocab_size"),
        ({"rms_norm_eps": None}, "cannot be converted"),
    ],
)
def test_what_cannot_be_converted_is_said_with_its_reason(config: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = damaged(config, tmp_path / "hf")
    with pytest.raises(Failure) as caught:
        converted(folder, tmp_path / "hf.gguf")
    assert caught.value.reason is Reason.ENGINE_UNAVAILABLE
    assert named in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_cut_weights_are_noticed(tmp_path: Path) -> None:
    folder = Reference("llama").write(tmp_path / "hf")
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Failure, match="damaged"):
        converted(folder, tmp_path / "hf.gguf")


@pytest.mark.parametrize("config", [{"architectures": ["GPT2LMHeadModel"]}, {"quantization_config": {"bits": 4}}])
def test_models_of_other_kinds_are_none_of_ours(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"architecture|quantized"):
        read_config(damaged(config, tmp_path / "hf"))


def test_a_sentencepiece_tokenizer_cuts_as_the_original_does(tmp_path: Path) -> None:
    reference = Reference("llama")
    folder = reference.write(tmp_path / "hf")
    tokenizer = sentencepiece(len(reference.tokens))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "unk_token": "<unk>", "add_bos_token": False})
    )
    model = converted(folder, tmp_path / "hf.gguf")
    for text in ("the water flows", "then the thin hen", "the Ü and 水", "  two  spaces "):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        answer = completed(model, text)
        assert answer["usage"]["prompt_tokens"] == len(expected), text


def sentencepiece(size: int) -> Tokenizer:
    """As Llama 2 has it: BPE over characters with spaces as letters, and bytes for what it does not know."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "t"), ("e", "n"), ("h", "en"), ("w", "a")]
    merges += [("▁", "wa"), ("o", "w"), ("l", "ow")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += [left + right for left, right in merges]
    assert len(tokens) <= size
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106 - a token
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    return tokenizer


@pytest.mark.parametrize("digits", [r"\p{N}{1,3}", r"\p{N}"], ids=["llama-3", "qwen2"])
def test_text_is_cut_before_merging_as_the_original_does(digits: str, tmp_path: Path) -> None:
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    folder = Reference("llama").write(tmp_path / "hf")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    split = pre_tokenizers.Split(pattern=Regex(pattern), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    model = converted(folder, tmp_path / "hf.gguf")
    for text in ("the water of the inlet, 12345 litres", "It's\n\n  in the  gate's 水 flow", "then 1 and 2"):
        answer = completed(model, text)
        assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(text).ids), text
