"""Texts as windows of characters: a sample is some characters, its targets are the characters that follow each.

Windows share no character, so every cut between samples is a clean one.
"""

import numpy as np

from engine.data.values import Array, RawData
from engine.errors import InvalidData, InvalidSpec

CONTEXT = 64
FEWEST_WINDOWS = 2


def windows(text: str, context: int = CONTEXT) -> RawData:
    """The text cut into windows of ``context + 1`` characters, from its beginning; an incomplete last one is dropped.

    Parameters
    ----------
    text : str
        Its distinct characters, in the order of their code points, are the classes.
    context : int
        Characters that a sample has, and targets.

    Raises
    ------
    InvalidSpec
        If `context` is below 1.
    InvalidData
        If there are not enough characters, or all are the same.
    """
    if context < 1:
        raise InvalidSpec(f"context {context} must be at least 1")
    n = len(text) // (context + 1)
    if n < FEWEST_WINDOWS:
        least = FEWEST_WINDOWS * (context + 1)
        raise InvalidData(f"the text has {len(text)} characters; {least} are needed for a context of {context}")
    points = np.frombuffer(text[: n * (context + 1)].encode("utf-32-le"), np.uint32)
    alphabet, codes = np.unique(points, return_inverse=True)
    if len(alphabet) < 2:
        raise InvalidData(f"the text has no character but {chr(alphabet[0])!r}; there is nothing to predict")
    rows = codes.astype(np.int64).reshape(n, context + 1)
    inputs, targets = np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
    return RawData("language", inputs, targets, classes=tuple(map(chr, alphabet)))


def parse_text(filename: str, payload: bytes) -> RawData:
    """Windows of a text file in UTF-8."""
    return windows(read_text(filename, payload))


def read_text(filename: str, payload: bytes) -> str:
    """The text of a file in UTF-8.

    Raises
    ------
    InvalidData
        If it is not in UTF-8, or has the character NUL.
    """
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidData(f"{filename!r} is not a text in UTF-8: {error}") from error
    if "\0" in text:
        raise InvalidData(f"{filename!r} is not a text: it has the character NUL at place {text.index(chr(0))}")
    return text


def text_of(raw: RawData) -> str:
    """The text whose windows these are."""
    codes: Array = np.column_stack([raw.X_train, raw.y_train[:, -1]])
    return "".join(np.array(raw.classes)[codes.ravel()])
