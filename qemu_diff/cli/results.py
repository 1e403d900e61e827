"""Commands that show what runs have left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qemu_diff.campaign.cell_sequence import cell_sequence
from qemu_diff.campaign.outcome import ExitCode, exit_code
from qemu_diff.cli.app import app
from qemu_diff.cli.report_files import (
    NO_FILES,
    Files,
    Told,
    any_asked,
    append_files,
    check_file,
    check_files,
    write_files,
)
from qemu_diff.cli.terminal import console_here, print_meaning
from qemu_diff.config.project import project_root
from qemu_diff.errors import UserError
from qemu_diff.kernels import cache_directory
from qemu_diff.report.matrix import markdown, matrix
from qemu_diff.report.picture import Picture, pictures, svg
from qemu_diff.report.png import png
from qemu_diff.report.results import (
    in_directory,
    read_results,
    stored_findings,
    write_whole,
)
from qemu_diff.report.sequence import render
from qemu_diff.report.terminal import print_matrix, print_result

MarkdownFile = Annotated[Path | None, Parameter(name="--markdown")]
SvgDirectory = Annotated[Path | None, Parameter(name="--svg")]
PngDirectory = Annotated[Path | None, Parameter(name="--png")]


@app.command
def show(results: Path, /, *, details: bool = False) -> int:
    """Show the results of a run again; the exit status is the run's.

    Parameters
    ----------
    results
        A results directory.
    details
        Every cell in sentences, however many there are.
    """
    result = read_results(results)
    console = console_here()
    print_result(result, console, details=details)
    print_meaning(exit_code(result), console)
    return exit_code(result)


@app.command
def report(
    results: Path,
    /,
    *,
    markdown_file: MarkdownFile = None,
    files: Files = NO_FILES,
    svg_directory: SvgDirectory = None,
    png_directory: PngDirectory = None,
) -> int:
    """Show the table of a run, scenario by kernel; or write a report. The exit status is the run's.

    Parameters
    ----------
    results
        A results directory.
    markdown_file
        Write the table there, as Markdown.
    svg_directory
        Write a picture of each scenario there: what came of an interrupt at each ns of each
        instruction's step, kernel above kernel.
    png_directory
        The same as PNG.
    """
    check_files(files)
    if markdown_file is not None:
        check_file("markdown", markdown_file)
    result = read_results(results)
    if markdown_file is not None:
        write_whole(markdown_file, markdown(matrix(result)))
    told = Told(result, findings=stored_findings(results))
    write_files(files, told)
    append_files(files, told)
    _write_pictures(pictures(result), svg_directory, png_directory)
    if not any((markdown_file, svg_directory, png_directory, any_asked(files))):
        print_matrix(matrix(result), result.name, console_here())
    return exit_code(result)


def _write_pictures(
    found: tuple[Picture, ...], svg_directory: Path | None, png_directory: Path | None
) -> None:
    """:raises UserError: there is nothing to draw, or nothing to draw words with."""
    if (svg_directory or png_directory) and not found:
        raise UserError("there is no picture to draw: no cell has placed an interrupt")
    for picture in found:
        drawn = svg(picture)
        if svg_directory is not None:
            write_whole(_picture_file(svg_directory, picture, "svg"), drawn)
        if png_directory is not None:
            write_whole(_picture_file(png_directory, picture, "png"), png(drawn))


def _picture_file(directory: Path, picture: Picture, kind: str) -> Path:
    return in_directory(directory, f"{picture.name}.{kind}")


@app.command
def sequence(
    results: Path,
    cell: str,
    /,
    *,
    boot: str | None = None,
    pass_number: Annotated[int | None, Parameter(name="--pass")] = None,
) -> int:
    """Show one pass of a cell, event by event, with the software step state at each entry and exit.

    Parameters
    ----------
    results
        A results directory.
    cell
        The id of one of its cells, as qemu-diff list shows it.
    boot
        A boot of that cell; default: that of its first finding, else its first.
    pass_number
        The pass over the payload, from 0; default: that of the first finding, else 0.
    """
    result = read_results(results)
    guest_images, cache = project_root() / "guest_images", cache_directory("guest")
    title, rows = cell_sequence(
        result,
        results,
        cell,
        boot=boot,
        number=pass_number,
        guest_images=guest_images,
        cache=cache,
    )
    console = console_here()
    console.print(title, style="bold", markup=False, highlight=False)
    for line in render(rows):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return ExitCode.AS_EXPECTED
