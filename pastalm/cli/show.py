"""`pasta show`: an annotated answer as a tree of threads, with its metrics and, if wished, its timeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pastalm.cli.live import printable
from pastalm.cli.models import load_tokenizer
from pastalm.cli.options import BUNDLED, PositionsWithoutModel, Tokenizer, place_argument, place_option
from pastalm.cli.tables import figures_grid, page_console
from pastalm.files.lines import DataError, parse_object
from pastalm.files.rows import located
from pastalm.lang.answer import Answer, Block, Node
from pastalm.lang.metrics import AnswerMetrics, answer_metrics
from pastalm.lang.parse import AnnotationError, parse
from pastalm.lang.positions import DEFAULT, position_policy
from pastalm.lang.script import Script, compile_script
from pastalm.lang.tags import is_whole
from pastalm.lang.vocabulary import Vocabulary

DEEPEST = 8
SHORT = 60  # characters of a text in the tree


class ShowError(ValueError):
    """A file that holds no annotated answer, and what to do."""


def show(
    file: Annotated[Path, place_argument("A text file with an annotated answer, or a JSONL file.", "FILE")],
    line: Annotated[
        int | None, typer.Option(min=1, help="The line of a JSONL file whose field 'annotated' is meant.")
    ] = None,
    svg: Annotated[Path | None, place_option("A file to write a timeline of the threads to.")] = None,
    tokenizer: Tokenizer = BUNDLED,
    positions: PositionsWithoutModel = DEFAULT,
) -> None:
    """Show an annotated answer: its threads as a tree, its plain text, and what its parallelism is worth."""
    policy = position_policy(positions)
    answer = _read(file, line)
    vocabulary = Vocabulary(load_tokenizer(tokenizer or BUNDLED))
    script = compile_script(answer, vocabulary, policy, end=False)
    console = page_console()
    console.print(thread_tree(answer, script, policy.unit))
    console.rule("plain text", style="dim")
    if console.is_terminal:
        console.print(Text(printable(answer.plain)))
    else:
        typer.echo(answer.plain)
    console.rule("metrics", style="dim")
    plain = len(vocabulary.encode(answer.plain))
    console.print(_metrics_table(answer_metrics(script, vocabulary, policy), plain))
    if svg is not None:
        _write_svg(svg, script, vocabulary, policy.unit)


def _read(file: Path, line: int | None) -> Answer:
    """The answer in a file, or in one line of a JSONL file."""
    file, _ = located(file)
    text = _annotated(file, line)
    if not text.strip():
        raise ShowError(f"{file} is empty: it needs an annotated answer.")
    if not is_whole(text):
        raise ShowError(f"{file}, line {line}: 'annotated' holds half of a surrogate pair, which is no character.")
    try:
        return parse(text, max_depth=DEEPEST)
    except AnnotationError as error:
        where = str(file) if line is None else f"{file}, line {line}, in 'annotated'"
        raise ShowError(f"{where}: {error}") from error


def _annotated(file: Path, line: int | None) -> str:
    """The annotated text of a file, or of one line of a JSONL file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ShowError(f"{file} is not UTF-8 text; save it as UTF-8.") from error
    if line is None and file.suffix == ".jsonl":
        raise ShowError(f"{file} holds one answer a line: say which with --line N.")
    if line is None:
        return text.removesuffix("\n")
    lines = text.splitlines() if not text else text.rstrip("\n").split("\n")
    if line > len(lines):
        raise ShowError(f"{file} has {len(lines)} lines, so there is no line {line}.")
    try:
        fields = parse_object(lines[line - 1])
    except DataError as error:
        raise ShowError(f"{file}, line {line}: {error}") from error
    if not isinstance(fields.get("annotated"), str):
        raise ShowError(f"{file}, line {line}: needs an object with the text field 'annotated'.")
    return fields["annotated"]


def thread_tree(answer: Answer, script: Script, unit: int) -> Tree:
    """The threads with their topics, lengths and own texts, in document order."""
    tree = Tree(Text("main", style="bold"))
    _grow(tree, answer.nodes, iter(script.blocks[1:]), unit)
    return tree


def _grow(tree: Tree, nodes: tuple[Node, ...], blocks: Any, unit: int) -> None:
    for node in nodes:
        if isinstance(node, Block):
            block = next(blocks)
            lengths = f"  promised {block.promised} (~{unit * block.promised} tokens), has {block.content}"
            label = Text.assemble((printable(node.topic), "bold cyan"), (lengths, "dim"))
            _grow(tree.add(label), node.body, blocks, unit)
        elif isinstance(node, str):
            tree.add(Text(_short(node)))
        else:
            tree.add(Text("sync", style="yellow"))


def _short(text: str) -> str:
    """A text on one line, its middle left out if it is long."""
    line = printable(text.replace("\n", "\\n"))
    if len(line) <= SHORT:
        return f'"{line}"'
    return f'"{line[: SHORT // 2]} .. {line[-SHORT // 3 :]}"'


def _metrics_table(metrics: AnswerMetrics, plain: int) -> Table:
    table = figures_grid()
    speedup = f"{plain / metrics.critical_path:.2f} x" if metrics.critical_path else "-"
    errors = ", ".join(f"{error:+d}" for error in metrics.length_errors) or "-"
    table.add_row("tokens", str(metrics.tokens), "that the model writes, marks included")
    table.add_row("plain tokens", str(plain), "the same text without marks")
    table.add_row("chunks", str(metrics.blocks), "")
    table.add_row("critical path", str(metrics.critical_path), "decode steps with unlimited threads")
    table.add_row("parallelism", f"{metrics.parallelism:.2f}", "content tokens / critical path")
    table.add_row("theoretical speedup", speedup, "plain tokens / critical path")
    table.add_row("redundancy", f"{metrics.redundancy:.2f}", "4-grams that a sibling has too")
    table.add_row("length errors", errors, "promised - measured")
    return table


def _write_svg(place: Path, script: Script, vocabulary: Vocabulary, unit: int) -> None:
    from pastalm.evaluation.timeline import timeline
    from pastalm.evaluation.timeline_svg import draw

    place.write_text(draw(timeline(script, vocabulary), unit), encoding="utf-8")
    typer.echo(f"Timeline written to {place}.", err=True)
