"""Mechanical mutants of KVM's single-step code: every statement of a kind, none left out.

Found in the syntax tree, so that no comment and no half of a statement is ever one. What is looked
for is ``TOKENS``; what is done to it, ``Operation``. Pure: text in, text out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

import tree_sitter_c
from tree_sitter import Language, Node, Parser

TOKENS = (
    "DBG_SPSR_SS", "DBG_SS_ACTIVE_PENDING", "pstate_ss", "DBG_MDSCR_SS",
    "kvm_incr_pc", "__kvm_adjust_pc",
)  # fmt: skip
"""What single-step hangs on in Linux 6.1's KVM: PSTATE.SS, the flag of the merged fix and what it
keeps of the guest's own, MDSCR_EL1.SS, and what moves PC past an emulated instruction."""

WHERE = re.compile(r"arch/arm64/(kvm/.*\.[chS]|include/asm/kvm_\w+\.h)")
"""Where it is looked for."""

_WORD = re.compile(rf"\b({'|'.join(TOKENS)})\b")
_C = Language(tree_sitter_c.language())
_OPPOSITES = (
    (re.compile(r"\bvcpu_set_flag\("), "vcpu_clear_flag("),
    (re.compile(r"\bvcpu_clear_flag\("), "vcpu_set_flag("),
    (re.compile(r"\|= (?=DBG_)"), "&= ~"),
    (re.compile(r"&= ~(?=DBG_)"), "|= "),
)
_NEIGHBOURS = ("expression_statement", "if_statement")
_DECLARES = re.compile(r"(DECLARE|DEFINE)_")
_FAMILY = re.compile(r"\A(__)?(kvm_)?(arch_vcpu_ioctl_|arm_|handle_)?")
"""Of a function's name, what tells little."""


class Operation(StrEnum):
    """What becomes of a statement, or of a condition."""

    NEGATE = "negate"
    """The condition that touches it is its opposite."""
    GUARD = "guard"
    """The innermost condition that it hangs on is its opposite."""
    DROP = "drop"
    OPPOSITE = "opposite"
    """Set becomes clear, clear becomes set, what is stored is stored negated."""
    SWAP = "swap"
    """It changes places with the statement that follows, or else with the one before."""


class Role(StrEnum):
    """What a token is part of."""

    CONDITION = "if"
    STATEMENT = "statement"
    BODY = "body"
    """The name of a function that is defined there."""
    MACRO = "macro"
    """The value of a macro."""
    ENTRY = "entry"
    """An element of a table."""
    DECLARATION = "declaration"
    """A prototype, a member, the name of a macro: nothing is done there."""


@dataclass(frozen=True)
class Site:
    """One place where a token stands.

    :param line: from 1.
    """

    line: int
    token: str
    role: Role


@dataclass(frozen=True)
class Mutation:
    """One change of one file.

    :param name: of the file, the function, the token and the operation: stays what it is when other
        lines of the file change.
    :param line: of what was there, from 1.
    :param was: its text, on one line.
    :param patch: a unified diff, for ``patch -p1``.
    """

    name: str
    path: str
    line: int
    operation: Operation
    was: str
    patch: str


def grep(source: str) -> list[int]:
    """Lines that hold a token, comments among them: what a plain grep counts."""
    return [n for n, line in enumerate(source.splitlines(), 1) if _WORD.search(line)]


def comments(source: str) -> set[int]:
    """Lines on which a token stands in a comment."""
    tree = _parse(source)
    return {
        node.start_point.row + 1 + _text(node)[: found.start()].count("\n")
        for node in _walk(tree)
        if node.type == "comment"
        for found in _WORD.finditer(_text(node))
    }


def sites(source: str) -> list[Site]:
    """Every place where a token stands, but for comments."""
    return [site for site, _ in _sites(source)]


def mutations(path: str, source: str) -> list[Mutation]:
    """Every mutant of a file.

    :param path: in the kernel's tree.
    :raise ValueError: two would have the same name.
    """
    made: dict[str, Mutation] = {}
    for site, node in _sites(source):
        for operation, part, becomes in _changes(site, node):
            name = _name(path, site, node, operation)
            changed = _replaced(source, part, becomes)
            line = part[0].start_point.row + 1
            was = " ".join(" ".join(_text(one) for one in part).split())
            mutation = Mutation(name, path, line, operation, was, _patch(path, source, changed))
            same = made.setdefault(name, mutation)
            if same.patch != mutation.patch:
                raise ValueError(f"{path}: two mutants {name!r}: lines {same.line} and {line}")
    return _distinct(made.values())


def _distinct(made: Iterator[Mutation]) -> list[Mutation]:
    """One of those that come to the same."""
    return list({one.patch: one for one in reversed(list(made))}.values())[::-1]


# --- where ---------------------------------------------------------------------------------------


def _parse(source: str) -> Node:
    return Parser(_C).parse(source.encode()).root_node


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _sites(source: str) -> Iterator[tuple[Site, Node]]:
    for node in _walk(_parse(source)):
        text = _text(node)
        if node.type == "preproc_arg":
            for found in _WORD.finditer(text):
                line = node.start_point.row + 1 + text[: found.start()].count("\n")
                yield Site(line, found[0], Role.MACRO), node
        elif not node.children and text in TOKENS:
            role, part = _role(node)
            yield Site(node.start_point.row + 1, text, role), part


def _role(node: Node) -> tuple[Role, Node]:
    """What a token is part of, and that."""
    for one in _upwards(node):
        above = one.parent
        if one.type == "expression_statement":
            return Role.STATEMENT, one
        if (
            above is not None
            and above.type == "if_statement"
            and _is_field(above, one, "condition")
        ):
            return Role.CONDITION, one
        if above is not None and above.type == "initializer_list":
            return Role.ENTRY, one
        if one.type == "function_declarator" and above is not None:
            defined = above.type == "function_definition"
            return (Role.BODY, above) if defined else (Role.DECLARATION, one)
    return Role.DECLARATION, node


def _upwards(node: Node | None) -> Iterator[Node]:
    while node is not None:
        yield node
        node = node.parent


def _is_field(above: Node, node: Node, field: str) -> bool:
    found = above.child_by_field_name(field)
    return found is not None and found.id == node.id


# --- what ----------------------------------------------------------------------------------------

_Change = tuple[Operation, tuple[Node, ...], str]


def _changes(site: Site, node: Node) -> Iterator[_Change]:
    """(operation, what is replaced, by what) of each mutant of a site."""
    if site.role is Role.CONDITION:
        yield Operation.NEGATE, (node,), f"(!{_text(node)})"
        yield from _guard(node.parent)
    elif site.role is Role.STATEMENT:
        yield Operation.DROP, (node,), ";"
        if (opposite := _opposite(_text(node))) is not None:
            yield Operation.OPPOSITE, (node,), opposite
        yield from _swap(node)
        yield from _guard(node)
    elif site.role is Role.BODY:
        body = node.child_by_field_name("body")
        if body is not None:
            yield Operation.DROP, (body,), "{\n}"
    elif site.role is Role.MACRO:
        without = re.sub(rf"\b{site.token}\b\s*\|[\s\\]*", "", _text(node))
        yield Operation.DROP, (node,), without
    elif site.role is Role.ENTRY:
        comma = node.next_sibling
        yield Operation.DROP, (node, comma) if comma is not None else (node,), ""


def _opposite(text: str) -> str | None:
    for pattern, other in _OPPOSITES:
        if pattern.search(text):
            return pattern.sub(other, text, count=1)
    if re.search(r"[^=!<>|&]=[^=]", text):
        return re.sub(r"(?<==)(\s*)(\(.*\));$", r"\1!\2;", text, flags=re.DOTALL)
    return None


def _swap(node: Node) -> Iterator[_Change]:
    block = node.parent
    if block is None or block.type != "compound_statement":
        return
    after, before = _beside(node, 1), _beside(node, -1)
    if after is not None:
        yield Operation.SWAP, (node, after), ""
    elif before is not None:
        yield Operation.SWAP, (before, node), ""


def _beside(node: Node, way: int) -> Node | None:
    other = node.next_named_sibling if way > 0 else node.prev_named_sibling
    while other is not None and other.type == "comment":
        other = other.next_named_sibling if way > 0 else other.prev_named_sibling
    if other is None or other.type not in _NEIGHBOURS or _DECLARES.match(_text(other)):
        return None
    return other


def _guard(node: Node | None) -> Iterator[_Change]:
    """The innermost ``if`` around a statement, as long as no ``case`` or function comes between."""
    for one in _upwards(node.parent if node else None):
        if one.type in ("case_statement", "function_definition"):
            return
        if one.type == "if_statement":
            condition = one.child_by_field_name("condition")
            if condition is not None and not _WORD.search(_text(condition)):
                yield Operation.GUARD, (condition,), f"(!{_text(condition)})"
            return


def _replaced(source: str, parts: tuple[Node, ...], becomes: str) -> str:
    raw = source.encode()
    first, last = parts[0], parts[-1]
    if len(parts) == 2 and not becomes and last.is_named:
        between = raw[first.end_byte : last.start_byte]
        new = (last.text or b"") + between + (first.text or b"")
    else:
        new = becomes.encode()
    return (raw[: first.start_byte] + new + raw[last.end_byte :]).decode()


# --- its name and its patch ----------------------------------------------------------------------


def _name(path: str, site: Site, node: Node, operation: Operation) -> str:
    file = PurePosixPath(path)
    below = () if file.parent.name in ("kvm", "asm", "hyp") else (file.parent.name,)
    function = _FAMILY.sub("", _function(node))
    what = [_verb(site, node), site.token.removeprefix("DBG_").removeprefix("__").lower()]
    if site.role in (Role.BODY, Role.MACRO):
        what = [site.role]
    return "-".join([*below, file.stem, function, *filter(None, what), operation])


def _function(node: Node) -> str:
    for one in _upwards(node):
        if one.type == "function_definition":
            declarator = one.child_by_field_name("declarator")
            while declarator is not None and declarator.type != "identifier":
                declarator = declarator.child_by_field_name("declarator")
            return _text(declarator) if declarator is not None else "anonymous"
        if one.type == "preproc_def":
            name = one.child_by_field_name("name")
            return _text(name) if name is not None else "macro"
        if one.type == "init_declarator":
            declared = one.child_by_field_name("declarator")
            return (
                re.sub(r"\W.*", "", _text(declared).lstrip("*"))
                if declared is not None
                else "table"
            )
    return "file"


def _verb(site: Site, node: Node) -> str:
    if site.role is not Role.STATEMENT:
        return site.role
    text, verbs = _text(node), ("set", "clear", "set", "clear")
    found = (verb for (one, _), verb in zip(_OPPOSITES, verbs, strict=True) if one.search(text))
    return next(found, "")


def _patch(path: str, before: str, after: str) -> str:
    """With as much context as makes it one hunk."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    context = 3
    while True:
        lines = list(difflib.unified_diff(old, new, f"a/{path}", f"b/{path}", n=context))
        if sum(line.startswith("@@") for line in lines) == 1:
            return "".join(lines)
        context *= 2
