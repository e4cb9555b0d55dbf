"""Words that say little by themselves, in English, Russian and Chinese."""

from __future__ import annotations

from typing import Final

_ENGLISH: Final = (
    "a an the and or but if of at by for with about to from in on as into than then that this these those it its it's "
    "he she they them his her their we you your i me my our us is are was were be been being am do does did doing has "
    "have had having will would can could should may might must shall also only very just so such there here what which "
    "who whom whose when where why how all any each every both other another some own same too up down out over under "
    "again more most between through during before after above below it's that's there's s t usually really one longer "
    "still yet anymore already"
)
_RUSSIAN: Final = (
    "и в во на с со к ко у о об от до из за по для при а но или же бы ли что чтобы как так это этот эта эти этого этой "
    "этих того той тот та те то он она оно они его её ее их им ей ему мы вы я ты нам вам нас вас мой твой наш ваш свой "
    "был была было были быть есть будет будут может могут можно нужно надо должен должна должны который которая которые "
    "которого когда где кто чем только также тоже уже ещё еще все всё всех весь очень более менее если"
)
_CHINESE: Final = (
    "的 了 在 是 于 为 有 和 与 及 或 也 都 就 而 之 其 这 那 个 把 被 对 从 到 由 会 能 可 以 "
    "要 将 过 着 吗 呢 吧 啊 上 下 中 里 所 他 她 它"
)

FUNCTION_WORDS: Final = frozenset(f"{_ENGLISH} {_RUSSIAN}".split())
# Single characters of Chinese.
FUNCTION_CHARACTERS: Final = frozenset(_CHINESE.split())
