"""The only sentences the extractive engine says of its own: that there is nothing to answer from."""

from __future__ import annotations

from typing import Final

from services.inference.extraction.terms import Language

WAYS: Final = "OLLAMA_BASE_URL, VLLM_BASE_URL, OPENAI_BASE_URL"

NOTHING_GIVEN: Final = {
    Language.ENGLISH: "I can only quote from passages, and none were given with this question. "
    f"To get generated answers, connect a generative model: set {WAYS}, or put a GGUF file into MODELS_DIR.",
    Language.RUSSIAN: "Я умею только цитировать фрагменты документов, а к этому вопросу их нет. "
    f"Чтобы получать сгенерированные ответы, подключите генеративную модель: задайте {WAYS} или положите файл GGUF в MODELS_DIR.",
    Language.CHINESE: "我只能从给定的段落中摘录原文，而这个问题没有附带任何段落。"
    f"若需要生成式回答，请接入生成模型：设置 {WAYS}，或将 GGUF 文件放入 MODELS_DIR。",
}
NOTHING_RELEVANT: Final = {
    Language.ENGLISH: "The given passages do not say anything that answers this question, and I can only quote from them. "
    f"To get generated answers, connect a generative model: set {WAYS}, or put a GGUF file into MODELS_DIR.",
    Language.RUSSIAN: "В данных фрагментах нет ответа на этот вопрос, а я умею только цитировать их. "
    f"Чтобы получать сгенерированные ответы, подключите генеративную модель: задайте {WAYS} или положите файл GGUF в MODELS_DIR.",
    Language.CHINESE: "给定的段落中没有能回答这个问题的内容，而我只能从中摘录原文。"
    f"若需要生成式回答，请接入生成模型：设置 {WAYS}，或将 GGUF 文件放入 MODELS_DIR。",
}
