"""Text of others: labels of payloads, the console of a kernel that may be broken."""

from __future__ import annotations

import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text with nothing in it that a terminal or an XML parser would act on or refuse.

    Control and format characters (escape sequences, changes of direction, surrogates) become
    ``REPLACEMENT``; all white space becomes a space.
    """
    return "".join(
        one if one.isprintable() else " " if one.isspace() else REPLACEMENT for one in text
    )


_MARKUP = re.compile(r"[\\`*_\[\]<>#|~&$]")

_COMMAND = re.compile("::|##")
"""What commands begin with. GitHub: ``::error …::`` at the begin of a line, and ``##[error]``
anywhere; Azure: ``##vso[…]``; TeamCity: ``##teamcity[…]``."""


def markdown_text(text: str) -> str:
    """The text on one line of Markdown, in which nothing is markup."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", printable(text))


def without_commands(text: str) -> str:
    """The text with nothing in it that a CI's runner takes for a command in a job's output."""
    return _COMMAND.sub(lambda found: f"{found[0][0]} {found[0][1]}", text)
