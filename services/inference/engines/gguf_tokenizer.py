"""Writes a Hugging Face tokenizer into a GGUF file, in llama.cpp's terms."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import gguf

if TYPE_CHECKING:
    from pathlib import Path

# How text is cut before merging: the pattern in tokenizer.json, and llama.cpp's name for it.
_CUTS: Final = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": (
        "llama-bpe"
    ),
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")
# Of a token that no merge makes.
_LOWEST: Final = -1e6


def write(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    """Writes tokens, merges, special tokens and chat template. Raises ValueError where the tokenizer is of no known kind."""
    tokenizer = _json(folder / "tokenizer.json")
    if tokenizer is None:
        raise ValueError("it has no tokenizer.json")
    model = tokenizer["model"]
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"its tokenizer is of the type {model['type']}; BPE is known")
    settings = _json(folder / "tokenizer_config.json") or {}
    tokens, types = _tokens(tokenizer, int(config["vocab_size"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if model.get("byte_fallback", False):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        types = [gguf.TokenType.BYTE if _BYTE.fullmatch(token) else kind for token, kind in zip(tokens, types, strict=True)]
        if model.get("unk_token") in tokens:
            types[tokens.index(model["unk_token"])] = gguf.TokenType.UNKNOWN
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix("Prepend" in str(tokenizer.get("normalizer")) or "Metaspace" in str(tokenizer))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_cut(tokenizer.get("pre_tokenizer") or {}))
        writer.add_token_merges(merges)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _special(writer, tokens, tokenizer, settings, config)
    template = _template(folder, settings)
    if template:
        writer.add_chat_template(template)


def _tokens(tokenizer: dict[str, Any], size: int) -> tuple[list[str], list[gguf.TokenType]]:
    """All tokens in the order of their ids; ids that the model has and the tokenizer has not are filled up."""
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    added = tokenizer.get("added_tokens") or []
    if max([*vocabulary.values(), *(one["id"] for one in added)]) >= size:
        raise ValueError(f"its tokenizer knows more tokens than the {size} of config.json's vocab_size")
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, gguf.TokenType.NORMAL
    for one in added:
        tokens[one["id"]] = one["content"]
        types[one["id"]] = gguf.TokenType.CONTROL if one.get("special") else gguf.TokenType.USER_DEFINED
    return tokens, types


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """llama.cpp merges the pair whose whole has the highest score: the order of the merges, counted down."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        ranks.setdefault(left + right, rank)
    return [-float(ranks[token]) if token in ranks else _LOWEST for token in tokens]


def _cut(pre_tokenizer: dict[str, Any]) -> str:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    patterns = [step["pattern"]["Regex"] for step in steps if step.get("type") == "Split" and "Regex" in step["pattern"]]
    cuts_itself = any(step.get("type") == "ByteLevel" and step.get("use_regex", True) for step in steps)
    if not patterns and cuts_itself:
        return "gpt-2"
    if len(patterns) == 1 and patterns[0] in _CUTS and not cuts_itself:
        return _CUTS[patterns[0]]
    raise ValueError("its tokenizer cuts text in a way that is not known; those of GPT-2, Llama 3 and Qwen2 are")


def _special(
    writer: gguf.GGUFWriter, tokens: list[str], tokenizer: dict[str, Any], settings: dict[str, Any], config: dict[str, Any]
) -> None:
    adders = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "pad": writer.add_pad_token_id,
        "unk": writer.add_unk_token_id,
    }
    found = {}
    for name, add in adders.items():
        told = settings.get(f"{name}_token")
        text = told.get("content") if isinstance(told, dict) else told
        number = config.get(f"{name}_token_id")
        if isinstance(number, list):
            number = number[0] if number else None
        if text in tokens:
            number = tokens.index(text)
        if isinstance(number, int) and 0 <= number < len(tokens):
            add(number)
            found[name] = tokens[number]
    begins = settings.get("add_bos_token")
    if not isinstance(begins, bool):
        begins = _begins_with(tokenizer.get("post_processor") or {}, found.get("bos"))
    writer.add_add_bos_token(begins)


def _begins_with(processor: dict[str, Any], token: str | None) -> bool:
    """Whether the tokenizer itself puts the token before each text."""
    for step in processor.get("processors", [processor]):
        single = step.get("single") or [{}]
        if token is not None and (single[0].get("SpecialToken") or {}).get("id") == token:
            return True
    return False


def _template(folder: Path, settings: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    told = settings.get("chat_template") or ""
    if isinstance(told, list):
        named = {one["name"]: one["template"] for one in told}
        told = named.get("default", next(iter(named.values()), ""))
    return str(told)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"its {path.name} cannot be read") from error
    if not isinstance(document, dict):
        raise ValueError(f"its {path.name} is not an object")  # noqa: TRY004 - of a file, not of a program
    return document
