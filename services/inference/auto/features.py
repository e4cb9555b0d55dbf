"""What of a request may tell how hard it is. Cheap on purpose: a long text is looked at where it begins and where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING, Final

from services.inference.auto import cues
from services.inference.engine import Role

if TYPE_CHECKING:
    from services.inference.engine import Generation

# Raised when a vector changes its meaning: what was recorded under another one is not calibrated from.
VERSION: Final = 1
# Characters looked at, of either end of a text.
_END: Final = 512
# Characters that tell the script.
_THIN: Final = 96
# Characters a token, by script: rough means over current tokenizers. Han is counted by the character.
_LATIN, _CYRILLIC, _HAN = 4.0, 2.7, 1.4
# So many marks of code make a text code.
_CODE_ENOUGH: Final = 4
# As many as tell harder requests from the hardest.
_MOST: Final = 5
_PUNCTUATION: Final = ",.:!?;()\"'\u00ab\u00bb\n"


@dataclass(frozen=True, slots=True)
class Features:
    """What a request looks like.

    Attributes:
        question_tokens: Of the last message of the user, estimated from its length and script.
        total_tokens: Of all messages and passages, estimated so.
        turns: Messages of the user.
        questions: Question marks in the last message of the user; of a long one, near its ends, as with all that follows.
        steps: Words that put one thing after another.
        reasons: Words that ask to explain, compare, prove and the like.
        has_code: Whether there is code, or talk of it.
        has_maths: Whether there is mathematics, or talk of it.
        tools: Tools that the model may call.
        has_output: Whether the form of the text is prescribed.
        passages: Passages to answer from.
        images: Images to read.
        cyrillic: Share of Cyrillic among the characters, 0 to 1.
        han: Share of Chinese characters, 0 to 1.
        max_tokens: Most tokens to generate; 0 where the request does not say.
    """

    question_tokens: int
    total_tokens: int
    turns: int = 1
    questions: int = 0
    steps: int = 0
    reasons: int = 0
    has_code: bool = False
    has_maths: bool = False
    tools: int = 0
    has_output: bool = False
    passages: int = 0
    images: int = 0
    cyrillic: float = 0.0
    han: float = 0.0
    max_tokens: int = 0

    def vector(self) -> tuple[float, ...]:
        """Numbers of about 0 to 1, the first of them always 1."""
        return (
            1.0,
            log2(1 + self.question_tokens) / 12,
            log2(1 + self.total_tokens) / 16,
            log2(1 + self.turns) / 6,
            min(self.questions, _MOST) / _MOST,
            min(self.steps, _MOST) / _MOST,
            min(self.reasons, _MOST) / _MOST,
            float(self.has_code),
            float(self.has_maths),
            log2(1 + self.tools) / 7,
            float(self.has_output),
            log2(1 + self.passages) / 7,
            min(self.images, _MOST) / _MOST,
            self.cyrillic,
            self.han,
            log2(1 + self.max_tokens) / 17,
        )


# How long a vector is.
LENGTH: Final = len(Features(0, 0).vector())


def features_of(generation: Generation, max_tokens: int | None = None) -> Features:
    """Looks at a request; `max_tokens` is what holds where the request does not say."""
    question, turns, ascii_rest, other_rest, images = "", 0, 0, 0, 0
    for message in generation.messages:
        text = message.text
        if message.role is Role.USER:
            turns += 1
            question = text
        images += len(message.images)
        if text.isascii():
            ascii_rest += len(text)
        else:
            other_rest += len(text)
    for passage in generation.passages:
        if passage.text.isascii():
            ascii_rest += len(passage.text)
        else:
            other_rest += len(passage.text)
    if question.isascii():
        ascii_rest -= len(question)
        cyrillic = han = 0.0
    else:
        other_rest -= len(question)
        cyrillic, han = _script(question)
    per_token = 1 / (cyrillic / _CYRILLIC + han / _HAN + (1 - cyrillic - han) / _LATIN)
    question_tokens = round(len(question) / per_token)
    other_per_token = per_token if cyrillic or han else _CYRILLIC
    form = generation.form
    steps, reasons, has_code, has_maths, questions = _cues(question, has_han=han > 0)
    return Features(
        question_tokens,
        question_tokens + round(ascii_rest / _LATIN + other_rest / other_per_token),
        turns,
        questions,
        steps,
        reasons,
        has_code,
        has_maths,
        len(form.tools),
        form.output is not None,
        len(generation.passages),
        images,
        cyrillic,
        han,
        generation.max_tokens or max_tokens or 0,
    )


def _script(text: str) -> tuple[float, float]:
    thin = text[:: 1 + len(text) // _THIN]
    cyrillic = sum(1 for letter in thin if "\u0400" <= letter <= "\u04ff")
    han = sum(1 for letter in thin if "\u4e00" <= letter <= "\u9fff")
    return cyrillic / len(thin), han / len(thin)


def _cues(question: str, *, has_han: bool) -> tuple[int, int, bool, bool, int]:
    """Steps, reasons, whether there is code, whether there is mathematics, questions."""
    text = question if len(question) <= 2 * _END else f"{question[:_END]} {question[-_END:]}"
    questions = text.count("?") + (text.count("\uff1f") if has_han else 0)
    plain = text.lower()
    for mark in _PUNCTUATION:
        if mark in plain:
            plain = plain.replace(mark, " ")
    found = cues.WORDS.intersection(plain.split())
    steps, reasons = len(found & cues.STEPS), len(found & cues.REASONS)
    code, maths = 2 * len(found & cues.CODE) + len(found & cues.PERHAPS_CODE), len(found & cues.MATHS)
    if has_han:
        steps += sum(cue in text for cue in cues.HAN_STEPS)
        reasons += sum(cue in text for cue in cues.HAN_REASONS)
        code += 2 * any(cue in text for cue in cues.HAN_CODE)
        maths += any(cue in text for cue in cues.HAN_MATHS)
    has_code = (
        code > 1 or any(sign in text for sign in cues.CODE_SIGNS) or sum(map(text.count, cues.CODE_MARKS)) >= _CODE_ENOUGH
    )
    return steps, reasons, has_code, maths > 0 or any(mark in text for mark in cues.MATH_MARKS), questions
