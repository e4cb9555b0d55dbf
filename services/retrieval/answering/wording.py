"""What an answer says by itself, in the language of the question."""

from __future__ import annotations

from typing import Final

from services.retrieval.languages import CJK, CYRILLIC, script

_LANGUAGES: Final = {CYRILLIC: "ru", CJK: "zh"}
_REFUSALS: Final = {
    "en": "The documents do not answer this question.",
    "ru": "В документах нет ответа на этот вопрос.",
    "zh": "文档中没有这个问题的答案。",
}
_NOTICES: Final = {
    "en": "The documents do not answer this question; what follows does not come from them.",
    "ru": "В документах нет ответа на этот вопрос; дальнейшее взято не из них.",
    "zh": "文档中没有这个问题的答案；以下内容并非来自文档。",
}
_OUT_OF_CHAT: Final = {
    "en": "I answer questions from the documents, with sources. Ask me one.",
    "ru": "Я отвечаю на вопросы по документам и указываю источники. Задайте вопрос.",
    "zh": "我根据文档回答问题并注明出处。请提问。",
}


def language(text: str) -> str:
    """`ru`, `zh`, or `en` for every other, told by the script."""
    return _LANGUAGES.get(script(text), "en")


def refusal(query: str) -> str:
    """That the documents do not answer the question."""
    return _REFUSALS[language(query)]


def notice(query: str) -> str:
    """That what follows is the model's own."""
    return _NOTICES[language(query)]


def out_of_chat(query: str) -> str:
    """What there is to ask, from a model that cannot chat."""
    return _OUT_OF_CHAT[language(query)]
