"""Reads the parts of a message of the OpenAI API: texts and images."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from services.chassis.errors import Failure, Reason
from services.inference.form import Image

_MEDIA_TYPES: Final = ("image/png", "image/jpeg", "image/webp", "image/gif")
_MAX_URL: Final = 2048


def wrong_parameter(field: str, problem: str) -> Failure:
    """INVALID_OPENAI_REQUEST; `problem` continues the sentence that the parameter's name begins."""
    message = f"{field}: {problem}" if field else problem
    return Failure(
        Reason.INVALID_OPENAI_REQUEST,
        message,
        metadata={"field": field} if field else {},
        violations=[(field, problem)] if field else (),
    )


def part_of(field: str, part: dict[str, Any]) -> str | Image:
    """Reads one part. Raises INVALID_OPENAI_REQUEST, naming it."""
    kind = part.get("type")
    if kind == "text":
        text = part.get("text")
        if not isinstance(text, str):
            raise wrong_parameter(f"{field}.text", "it must be a string")
        return text
    if kind == "image_url":
        given = part.get("image_url")
        url = given.get("url") if isinstance(given, dict) else None
        if not isinstance(url, str):
            raise wrong_parameter(f"{field}.image_url.url", "it must be a string")
        return _image(f"{field}.image_url.url", url)
    raise wrong_parameter(f"{field}.type", "only parts of type 'text' and 'image_url' are supported")


def _image(field: str, url: str) -> Image:
    if url.startswith("https://") and len(url) <= _MAX_URL:
        return Image(url=url)
    head, _, data = url.partition(";base64,")
    media_type = head.removeprefix("data:")
    if not head.startswith("data:") or media_type not in _MEDIA_TYPES:
        problem = f"it must begin with https:// or be data: of {', '.join(_MEDIA_TYPES)} in base64"
        raise wrong_parameter(field, problem)
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise wrong_parameter(field, "what follows `base64,` is not base64") from error
    if not content:
        raise wrong_parameter(field, "the image is empty")
    return Image(content, media_type)
