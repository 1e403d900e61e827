"""Text of others: labels of payloads, the console of a kernel that may be broken."""

from __future__ import annotations

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text with nothing in it that a terminal or an XML parser would act on or refuse.

    Control and format characters (escape sequences, changes of direction, surrogates) become
    ``REPLACEMENT``; all white space becomes a space.
    """
    return "".join(
        one if one.isprintable() else " " if one.isspace() else REPLACEMENT for one in text
    )
