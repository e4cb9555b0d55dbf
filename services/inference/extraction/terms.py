"""What a text is about, as weighed terms: stems of words for English and Russian, pairs of characters for Chinese."""

from __future__ import annotations

import functools
import re
from enum import StrEnum
from typing import Final

import Stemmer  # type: ignore[import-not-found] # a C module without types

HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
CYRILLIC: Final = re.compile(r"[\u0400-\u04ff]")
LATIN: Final = re.compile(r"[a-zA-Z]")
# An identifier such as `rpc_seconds` is one term: its parts are no words of the sentence.
TOKEN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+|[^\W_]+(?:['’][^\W_]+|(?:_+[^\W_]+)+)?")

ENGLISH_STOP_WORDS: Final = """
    a an the and or but if then than so of to in on at by for with from as into about over under after before
    between through is are was were be been being am do does did done doing have has had having will would can
    could shall should may might must i you he she it we they me him her us them my your his its our their mine
    yours this that these those there here what which who whom whose when where why how not no nor only just also
    too very more most some any all each both other such own same s t don now please tell explain describe say
    give show know want need let get got there's what's it's i'm
"""
RUSSIAN_STOP_WORDS: Final = """
    и в во не что он на я с со как а то все она так его но да ты к у же вы за бы по только ее её мне было вот от
    меня еще ещё нет о из ему теперь когда даже ну вдруг ли если уже или ни быть был него до вас нибудь опять уж
    вам сказал ведь там потом себя ничего ей может они тут где есть надо ней для мы тебя их чем была сам чтоб
    чтобы без будто человек чего раз тоже себе под будет ж тогда кто этот того потому этого какой какая какие
    какое каким какого какую каком каких которые который которая которое совсем ним здесь этом один почти мой тем
    нее неё сейчас были куда зачем всех никогда можно при наконец два об другой хоть после над больше тот через
    эти нас про всего них много разве три эту моя впрочем хорошо свою этой перед иногда лучше чуть том нельзя
    такой им более всегда конечно всю между это эта сколько почему откуда как-то расскажи скажи объясни опиши
    является являются также такое такая такие какой-то это-то
"""
STOP_WORDS: Final = frozenset((*ENGLISH_STOP_WORDS.split(), *RUSSIAN_STOP_WORDS.split()))
# Longest first: what is left between them carries the meaning of a Chinese question.
STOP_HAN: Final = re.compile(
    "为什么|是什么|有什么|有哪些|是哪些|哪一个|哪一年|什么时候|什么样|多少|什么|哪些|哪个|哪里|哪儿|哪年|哪种|哪位|哪两|何时|何地|何处|为何|如何|"
    "怎么样|怎么|怎样|请问|是否|可以|能够|这个|那个|这些|那些|他们|她们|它们|我们|你们|以及|或者|还是|并且|而且|但是|因为|所以|如果|关于|对于|"
    "[的了是在和与或及由被于有几何谁吗呢吧啊也都就又而但把将从到对给让使为其之此该这那他她它我你您请问哪]"
)


class Language(StrEnum):
    """Languages told apart by their script; every Latin script counts as English."""

    ENGLISH = "en"
    RUSSIAN = "ru"
    CHINESE = "zh"


def language(text: str) -> Language:
    """The language of a text by its letters; Russian and Chinese name things in Latin, so a third of their own is enough."""
    han = sum(len(run) for run in HAN.findall(text))
    cyrillic, latin = len(CYRILLIC.findall(text)), len(LATIN.findall(text))
    if 4 * han > han + cyrillic + latin:  # a character of Chinese says as much as several letters
        return Language.CHINESE
    return Language.RUSSIAN if 2 * cyrillic > latin else Language.ENGLISH


def terms(text: str) -> list[str]:
    """All terms of a text, in order, repeated as they are repeated."""
    found: list[str] = []
    for token in TOKEN.findall(text):
        if HAN.match(token):
            found.extend(_pairs(token))
            found.extend(token)
        else:
            word = token.casefold()
            if word not in STOP_WORDS:
                found.append(_stem(word))
    return found


def question_terms(text: str) -> list[str]:
    """The terms that an answer should hold, each once; a Chinese question loses its words of asking first."""
    found: dict[str, None] = {}
    for token in TOKEN.findall(text):
        if HAN.match(token):
            for run in STOP_HAN.split(token):
                found.update(dict.fromkeys(_pairs(run) if len(run) > 1 else run))
        else:
            word = token.casefold()
            if word not in STOP_WORDS:
                found[_stem(word)] = None
    return list(found)


def _pairs(run: str) -> list[str]:
    return [run[place : place + 2] for place in range(len(run) - 1)]


@functools.lru_cache(maxsize=16_384)
def _stem(word: str) -> str:
    stem: str = _stemmers()[CYRILLIC.match(word) is not None].stemWord(word.replace("ё", "е"))
    return stem


@functools.cache
def _stemmers() -> dict[bool, Stemmer.Stemmer]:
    # Their own caches are off: they are not safe across threads, and ours is in front.
    return {False: Stemmer.Stemmer("english", 0), True: Stemmer.Stemmer("russian", 0)}
