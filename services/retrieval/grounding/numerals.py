"""Reads numbers in texts, in digits or in words, in English, Russian and Chinese, with their units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Number:
    """A number and where it stands; `unit` is empty where none is known."""

    value: float
    unit: str
    start: int
    end: int


_UNITS: Final = {
    "m": "m metre metres meter meters метр метра метров метрах м 米 公尺",
    "km": "km kilometre kilometres kilometer kilometers километр километра километров км 公里 千米",
    "cm": "cm centimetre centimetres centimeters сантиметр сантиметра сантиметров см 厘米",
    "mm": "mm millimetre millimetres millimeters миллиметр миллиметра миллиметров мм 毫米",
    "ft": "ft foot feet фут фута футов 英尺",
    "kg": "kg kilogram kilograms килограмм килограмма килограммов кг 公斤 千克",
    "g": "g gram grams грамм грамма граммов г 克",
    "mg": "mg milligram milligrams миллиграмм миллиграмма миллиграммов мг 毫克",
    "kB": "kb kilobyte kilobytes килобайт кб 千字节",
    "MB": "mb mib megabyte megabytes мегабайт мегабайта мб 兆字节 兆",
    "GB": "gb gib gigabyte gigabytes гигабайт гигабайта гб 吉字节",
    "TB": "tb tib terabyte terabytes терабайт терабайта тб 太字节",
    "%": "% percent процент процента процентов 百分点",
    "s": "s sec second seconds секунд секунды секунду с 秒",
    "min": "min minute minutes минут минуты минуту мин 分钟",
    "h": "h hour hours час часа часов ч 小时",
    "d": "day days день дня дней дни 天 日",
    "week": "week weeks неделя недели недель неделю 周 星期",
    "month": "month months месяц месяца месяцев 个月",
    "y": "year years год года лет 年",
    "USD": "$ usd dollar dollars доллар доллара долларов 美元",
    "EUR": "€ eur euro euros евро 欧元",
    "RUB": "₽ rub rubles roubles рубль рубля рублей руб 卢布",
    "CNY": "¥ cny yuan юань юаня юаней 元 块",
}
_UNIT_OF: Final = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_MAGNITUDES: Final = {
    **dict.fromkeys(("hundred", "сотен", "сотни"), 1e2),
    **dict.fromkeys(("thousand", "тыс", "тысяч", "тысячи", "тысяча", "千"), 1e3),
    **dict.fromkeys(("万", "萬"), 1e4),
    **dict.fromkeys(("million", "millions", "млн", "миллион", "миллиона", "миллионов", "百万"), 1e6),
    **dict.fromkeys(("亿", "億"), 1e8),
    **dict.fromkeys(("billion", "billions", "млрд", "миллиард", "миллиарда", "миллиардов"), 1e9),
}
_DIGITS: Final = r"\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)(?:[.,]\d+)?|\d{1,3}(?:,\d{3})+(?![\d])(?:\.\d+)?|\d+(?:[.,]\d+)?"
_FIGURE: Final = re.compile(rf"(?<!\w)(?<!\d[.,])[$€₽¥]?({_DIGITS})|(?<=[\u4e00-\u9fff])({_DIGITS})|(?<=[A-Za-zА-я-])(\d+)")
# Chinese units follow without a space, and the longest one counts.
_WIDE_FOLLOWS: Final = re.compile(
    "|".join(sorted((n for n in (*_UNIT_OF, *_MAGNITUDES) if "\u4e00" <= n[0] <= "\u9fff"), key=len, reverse=True))
)
_WORD_FOLLOWS: Final = re.compile(r"[ \u00a0-]{0,2}([^\W\d_]+|[%$€₽¥])")

_ENGLISH_ONES: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
)
_ENGLISH_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety"
_RUSSIAN: Final = {
    **dict.fromkeys(("два", "две", "двух", "двум", "двумя"), 2),
    **dict.fromkeys(("три", "трёх", "трех", "трём", "трем"), 3),
    **dict.fromkeys(("четыре", "четырёх", "четырех"), 4),
    **dict.fromkeys(("пять", "пяти"), 5),
    **dict.fromkeys(("шесть", "шести"), 6),
    **dict.fromkeys(("семь", "семи"), 7),
    **dict.fromkeys(("восемь", "восьми"), 8),
    **dict.fromkeys(("девять", "девяти"), 9),
    **dict.fromkeys(("десять", "десяти"), 10),
    **dict.fromkeys(("одиннадцать", "одиннадцати"), 11),
    **dict.fromkeys(("двенадцать", "двенадцати"), 12),
    **dict.fromkeys(("тринадцать", "тринадцати"), 13),
    **dict.fromkeys(("четырнадцать", "четырнадцати"), 14),
    **dict.fromkeys(("пятнадцать", "пятнадцати"), 15),
    **dict.fromkeys(("шестнадцать", "шестнадцати"), 16),
    **dict.fromkeys(("семнадцать", "семнадцати"), 17),
    **dict.fromkeys(("восемнадцать", "восемнадцати"), 18),
    **dict.fromkeys(("девятнадцать", "девятнадцати"), 19),
    **dict.fromkeys(("двадцать", "двадцати"), 20),
    **dict.fromkeys(("тридцать", "тридцати"), 30),
    **dict.fromkeys(("сорок", "сорока"), 40),
    **dict.fromkeys(("пятьдесят", "пятидесяти"), 50),
    **dict.fromkeys(("шестьдесят", "шестидесяти"), 60),
    **dict.fromkeys(("семьдесят", "семидесяти"), 70),
    **dict.fromkeys(("восемьдесят", "восьмидесяти"), 80),
    **dict.fromkeys(("девяносто",), 90),
    **dict.fromkeys(("сто", "ста"), 100),
    **dict.fromkeys(("двести", "двухсот"), 200),
    **dict.fromkeys(("триста", "трёхсот", "трехсот"), 300),
    **dict.fromkeys(("пятьсот", "пятисот"), 500),
}
# `one` and `один` are mostly articles and pronouns: they count in a compound only.
_WORDS: Final[dict[str, float]] = {
    **{word: float(value) for value, word in enumerate(_ENGLISH_ONES.split())},
    **{word: 20.0 + 10 * place for place, word in enumerate(_ENGLISH_TENS.split())},
    **{word: float(value) for word, value in _RUSSIAN.items()},
    **dict.fromkeys(("один", "одна", "одно"), 1.0),
}
_ALONE_NO_NUMBER: Final = frozenset({"one", "один", "одна", "одно"})
_SPELLED: Final = re.compile(
    rf"(?<![^\W_])(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))})"
    rf"(?:[ -](?:{'|'.join(sorted(_WORDS, key=len, reverse=True))}))*(?![^\W_])",
    re.IGNORECASE,
)
_THOUSANDS: Final = re.compile(r"\d{3}(?!\d)")
_HALF: Final = re.compile(r" (?:and a half|с половиной)(?![^\W_])", re.IGNORECASE)

_WIDE_DIGITS: Final = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_WIDE_PLACES: Final = {"十": 10, "百": 100, "千": 1000}
_WIDE_NUMBER: Final = re.compile(r"[零〇一二两三四五六七八九十百千]+(?:点[零〇一二三四五六七八九]+)?")
# A single Chinese numeral counts where one of these follows.
_COUNTED: Final = re.compile("[个個天年月日次片件米元岁人号周倍层名位条种张台辆]|小时|分钟|公里|千米|万|亿|兆")
_WIDE_HALF: Final = re.compile("个?半")


def numbers(text: str) -> Iterator[Number]:
    """The numbers of a text in which full-width characters are normal ones (NFKC)."""
    for match in _FIGURE.finditer(text):
        digits = next(group for group in match.groups() if group)
        yield _with_unit(text, _value(digits), match.start(), match.end())
    for match in _SPELLED.finditer(text):
        words = re.split("[ -]", match[0].casefold())
        if len(words) == 1 and words[0] in _ALONE_NO_NUMBER:
            continue
        value, end = sum(_WORDS[word] for word in words), match.end()
        if half := _HALF.match(text, end):
            value, end = value + 0.5, half.end()
        yield _with_unit(text, value, match.start(), end)
    yield from _wide(text)


def _wide(text: str) -> Iterator[Number]:
    for match in _WIDE_NUMBER.finditer(text):
        half = _WIDE_HALF.match(text, match.end())
        if len(match[0]) == 1 and not half and (match[0] == "一" or not _COUNTED.match(text, match.end())):
            continue
        value = _wide_value(match[0])
        if value is None:
            continue
        end = half.end() if half else match.end()
        yield _with_unit(text, value + 0.5 if half else value, match.start(), end)


def _wide_value(numeral: str) -> float | None:
    whole, _, fraction = numeral.partition("点")
    if not any(character in _WIDE_PLACES for character in whole):
        digits = "".join(str(_WIDE_DIGITS[character]) for character in whole)
        total = float(digits)
    else:
        total, digit = 0.0, None
        for character in whole:
            if character in _WIDE_PLACES:
                total += (1 if digit is None else digit) * _WIDE_PLACES[character]
                digit = None
            else:
                digit = _WIDE_DIGITS[character] or None
        total += digit or 0
    if fraction:
        total += float("0." + "".join(str(_WIDE_DIGITS[character]) for character in fraction))
    return total


def _value(digits: str) -> float:
    digits = re.sub(r"[ \u00a0\u202f]", "", digits)
    head, comma, tail = digits.partition(",")
    if comma and head != "0" and _THOUSANDS.match(tail):
        return float(digits.replace(",", ""))
    return float(digits.replace(",", "."))


def _with_unit(text: str, value: float, start: int, end: int) -> Number:
    """Takes in a magnitude (2 million) and a unit that follow."""
    unit = {"$": "USD", "€": "EUR", "₽": "RUB", "¥": "CNY"}.get(text[start], "")
    for _ in range(2):
        wide = _WIDE_FOLLOWS.match(text, end)
        word = wide or _WORD_FOLLOWS.match(text, end)
        if word is None:
            break
        name = word[0] if wide else word[1].casefold()
        if name in _MAGNITUDES:
            value, end = value * _MAGNITUDES[name], word.end()
            continue
        unit = unit or _UNIT_OF.get(name, "")
        break
    return Number(value, unit, start, end)
