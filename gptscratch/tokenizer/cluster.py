"""Where text may be cut on its way to a screen: never inside an emoji made of several characters.

A part of Unicode's rules for grapheme clusters (UAX #29), those of emoji and combining marks: joiners,
variation selectors, skin tones, tags, keycaps and pairs of flag letters.
"""

from __future__ import annotations

import unicodedata

_JOINER = "\u200d"
_LIMIT = 32  # characters: a longer run of them is no emoji, and is not waited for


def whole(text: str) -> int:
    """How much of a text can be shown though more may come: what is left could still grow together.

    Only what begins an emoji or was joined to the character before it is held back: plain letters never
    wait, an accent that follows them is drawn over them.
    """
    start = _last_cluster(text)
    if start == len(text) or len(text) - start > _LIMIT:
        return len(text)
    return start if _may_grow(text[start:]) else len(text)


def joined(text: str, at: int) -> bool:
    """Whether the character at this place belongs to the one before it."""
    if _extends(text[at]) or text[at - 1] == _JOINER:
        return True
    if not _is_flag_letter(text[at]):
        return False
    before = 0
    while before < at and _is_flag_letter(text[at - 1 - before]):
        before += 1
    return before % 2 == 1


def _last_cluster(text: str) -> int:
    """Where the last cluster begins."""
    at = len(text)
    while at > 0:
        at -= 1
        if not at or not joined(text, at):
            break
    return at


def _may_grow(cluster: str) -> bool:
    if _is_flag_letter(cluster[0]):
        return True  # also a pair: a joiner or a selector may follow, as after every emoji
    return _is_emoji(cluster[0]) or cluster[-1] == _JOINER or (len(cluster) > 1 and cluster[1] == "\ufe0f")


def _extends(character: str) -> bool:
    code = ord(character)
    return (
        character == _JOINER
        or 0x1F3FB <= code <= 0x1F3FF  # skin tones
        or 0xE0020 <= code <= 0xE007F  # tags: the flags of England, Scotland and Wales
        or unicodedata.category(character) in ("Mn", "Me")  # variation selectors among them
    )


def _is_flag_letter(character: str) -> bool:
    return 0x1F1E6 <= ord(character) <= 0x1F1FF


def _is_emoji(character: str) -> bool:
    """Pictographs, by the blocks that hold them: a few that are none wait for one more token."""
    code = ord(character)
    return (
        0x1F000 <= code <= 0x1FAFF or 0x2190 <= code <= 0x2BFF or code in (0xA9, 0xAE, 0x203C, 0x2049, 0x2122)
    )
