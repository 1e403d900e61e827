"""Mechanical mutants: what is found in a source, and what becomes of it."""

from __future__ import annotations

import pytest
from mutants.__main__ import MECHANICAL
from mutants.mutations import WHERE, Operation, Role, comments, grep, mutations, sites

PATH = "arch/arm64/kvm/debug.c"


def function(body: str) -> str:
    return f"static void kvm_arm_setup_debug(struct kvm_vcpu *vcpu)\n{{\n{body}}}\n"


def changed(body: str) -> dict[Operation, list[str]]:
    """Operation → the lines that come in place of others."""
    return {
        one.operation: [
            line[1:].strip()
            for line in one.patch.splitlines()
            if line.startswith("+") and not line.startswith("+++") and line[1:].strip()
        ]
        for one in mutations(PATH, function(body))
    }


def test_a_statement_is_dropped_turned_over_and_swapped() -> None:
    body = "\tfirst();\n\t*vcpu_cpsr(vcpu) |= DBG_SPSR_SS;\n\tlast();\n"
    assert changed(body) == {
        Operation.DROP: [";"],
        Operation.OPPOSITE: ["*vcpu_cpsr(vcpu) &= ~DBG_SPSR_SS;"],
        Operation.SWAP: ["last();"],
    }


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("mdscr |= DBG_MDSCR_SS;", "mdscr &= ~DBG_MDSCR_SS;"),
        ("mdscr &= ~DBG_MDSCR_SS;", "mdscr |= DBG_MDSCR_SS;"),
        (
            "vcpu_set_flag(vcpu, DBG_SS_ACTIVE_PENDING);",
            "vcpu_clear_flag(vcpu, DBG_SS_ACTIVE_PENDING);",
        ),
        (
            "vcpu_clear_flag(vcpu, DBG_SS_ACTIVE_PENDING);",
            "vcpu_set_flag(vcpu, DBG_SS_ACTIVE_PENDING);",
        ),
        ("kept.pstate_ss = (cpsr & DBG_SPSR_SS);", "kept.pstate_ss = !(cpsr & DBG_SPSR_SS);"),
    ],
)
def test_the_opposite_of_a_statement(was: str, becomes: str) -> None:
    assert changed(f"\t{was}\n")[Operation.OPPOSITE] == [becomes]


def test_a_call_has_no_opposite() -> None:
    assert set(changed("\tkvm_incr_pc(vcpu);\n")) == {Operation.DROP}


def test_a_condition_is_negated_and_so_is_the_one_around_it() -> None:
    body = "\tif (debug)\n\t\tif (cpsr & DBG_SPSR_SS)\n\t\t\tother();\n"
    assert changed(body) == {
        Operation.NEGATE: ["if (!(cpsr & DBG_SPSR_SS))"],
        Operation.GUARD: ["if (!(debug))"],
    }


def test_a_case_is_no_guard() -> None:
    body = "\tif (a)\n\t\tswitch (b) {\n\t\tcase 1:\n\t\t\tkvm_incr_pc(vcpu);\n\t\t}\n"
    assert Operation.GUARD not in changed(body)


@pytest.mark.parametrize("neighbour", ["return 1;", "int i;", "DECLARE_REG(int, i, a, 1);"])
def test_a_declaration_or_a_return_changes_places_with_nothing(neighbour: str) -> None:
    around = (f"\t{neighbour}\n\tkvm_incr_pc(vcpu);\n", f"\tkvm_incr_pc(vcpu);\n\t{neighbour}\n")
    assert all(Operation.SWAP not in changed(body) for body in around)


def test_a_body_a_macro_and_a_table_s_entry_are_dropped() -> None:
    source = (
        "#define MASK\t(DBG_MDSCR_SS | \\\n\t\tOTHER)\n"
        "void __kvm_adjust_pc(struct kvm_vcpu *vcpu)\n{\n\tmove();\n}\n"
        "static const hcall_t host_hcall[] = {\n"
        "\tHANDLE_FUNC(other),\n\tHANDLE_FUNC(__kvm_adjust_pc),\n};\n"
    )
    assert [one.role for one in sites(source)] == [Role.MACRO, Role.BODY, Role.ENTRY]
    found = {one.name: one.patch for one in mutations(PATH, source)}
    assert list(found) == [
        "debug-MASK-macro-drop",
        "debug-adjust_pc-body-drop",
        "debug-host_hcall-entry-kvm_adjust_pc-drop",
    ]
    assert "+#define MASK\t(OTHER)" in found["debug-MASK-macro-drop"]
    assert "-\tmove();" in found["debug-adjust_pc-body-drop"]
    assert (
        "-\tHANDLE_FUNC(__kvm_adjust_pc),\n" in found["debug-host_hcall-entry-kvm_adjust_pc-drop"]
    )


def test_comments_and_declarations_are_counted_and_left_alone() -> None:
    source = (
        "/* sets\n * DBG_SPSR_SS\n */\nvoid __kvm_adjust_pc(struct kvm_vcpu *vcpu);\n"
        "struct s {\n\tbool pstate_ss;\n};\n"
    )
    assert mutations(PATH, source) == []
    assert grep(source) == [2, 4, 6]
    assert comments(source) == {2}
    assert [(one.line, one.role) for one in sites(source)] == [
        (4, Role.DECLARATION),
        (6, Role.DECLARATION),
    ]


def test_two_statements_of_one_name_are_refused() -> None:
    body = "\tkvm_incr_pc(vcpu);\n\treturn;\n\tkvm_incr_pc(vcpu);\n"
    with pytest.raises(ValueError, match="two mutants 'debug-setup_debug-kvm_incr_pc-drop'"):
        mutations(PATH, function(body))


def test_every_patch_that_is_kept_is_one_hunk_of_a_file_that_is_looked_through() -> None:
    patches = sorted(MECHANICAL.glob("*.patch"))
    assert patches
    for path in patches:
        lines = path.read_text().splitlines()
        assert sum(line.startswith("@@ ") for line in lines) == 1, path
        target = next(line for line in lines if line.startswith("--- a/"))
        assert WHERE.fullmatch(target.removeprefix("--- a/")), path
