"""Rows of data, each with its place: JSON lines, JSON lists and Parquet, also gzipped; folders and sets of the hub."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, cast

import yaml

from pastalm.files.lines import DataError, json_line, parse_json, parse_object, text_of
from pastalm.files.packages import require

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
ENDINGS = (".jsonl", ".json", ".parquet", ".gz")
SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves in a folder
BATCH = 256
PACKAGED = "pasta-instruct"  # the data set that comes with the package


@dataclass(frozen=True)
class Row:
    """An object of a data file. ``number`` counts its lines, items or rows (``unit``) from 1; ``text`` is the line
    itself, without its line break. One that is no object has a ``problem``, a sentence, and no fields."""

    source: str
    number: int
    fields: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    problem: str = ""
    unit: str = "line"

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"{self.source}, {self.unit} {self.number}"


def read_rows(source: str | Path, split: str = "train") -> Iterator[Row]:
    """The rows of a file, of a folder, or of a data set of the hub, as they come; blank lines are none.

    A file holds JSON lines, one JSON list, or Parquet, and may be gzipped. A folder is one that ``datasets`` loads or
    has saved, of which ``split`` is read; so is a data set of the hub, by its id. ``FOLDER:SPLIT`` names another split,
    and ``pasta-instruct`` the data set that comes with the package. Raises ``DataError`` for a source that cannot be
    read at all, ``OSError`` for a file that cannot be opened.
    """
    path, split = located(source, split)
    if path.is_dir() and _is_dataset(path):
        return _folder(path, split)
    if path.exists() or not _may_be_hub(str(source)):
        return _file(path)
    return _hub(str(source), split)


def objects(source: str | Path, split: str = "train") -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and fields of each row. Raises ``DataError`` with the place of one that is no object; else as
    :func:`read_rows`."""
    for row in read_rows(source, split):
        if row.problem:
            raise DataError(f"{row.place}: {row.problem}")
        yield row.place, row.fields


def count_rows(source: str | Path) -> int | None:
    """About how many rows there are; None where only reading them tells."""
    path, _ = located(source, "")
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        start = file.read(4)
        if start == PARQUET:
            return _parquet_file(file, path).metadata.num_rows
        if start.startswith(GZIP) or start.lstrip().startswith(b"["):
            return None
        file.seek(0)
        return sum(1 for line in file if line.strip())


def located(source: str | Path, split: str = "train") -> tuple[Path, str]:
    """Where a source of :func:`read_rows` lies, there or not, and which split of it is meant."""
    path, folder, name = Path(source), *str(source).rpartition(":")[::2]
    if path.exists():
        return path, split
    if folder and located(folder, "")[0].is_dir():
        return located(folder, "")[0], name
    first, *rest = path.parts or ("",)
    return (Path(str(files("pastalm"))).joinpath("data", first, *rest), split) if first == PACKAGED else (path, split)


def _may_be_hub(source: str) -> bool:
    """Whether a name that is no file can be an id of the hub; else it is a file that is missing."""
    if source.endswith(ENDINGS) or source.startswith(("/", ".", "~")):
        return False
    if source.count("/") != 1:
        raise DataError(f"{source}: no such file, and not a data set id like Open-Orca/SlimOrca.")
    return True


def _file(path: Path) -> Iterator[Row]:
    with open(path, "rb") as file:
        start = _peek(file)
        if start.startswith(GZIP) or path.suffix == ".gz":
            yield from _unzipped(file, path)
        else:
            yield from _plain(file, path)


def _unzipped(file: BinaryIO, path: Path) -> Iterator[Row]:
    try:
        with gzip.open(file) as unzipped:
            yield from _plain(cast(BinaryIO, unzipped), path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not what its name says, or damaged ({error}); pack it with gzip again.") from error


def _plain(file: BinaryIO, path: Path) -> Iterator[Row]:
    start = _peek(file)
    if start.startswith(PARQUET) or path.suffix == ".parquet":
        yield from _parquet(file, path)
    elif start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _list(file, path)
    else:
        yield from _lines(file, path)


def _peek(file: BinaryIO) -> bytes:
    start = file.read(1024)
    file.seek(0)
    return start


def _lines(file: BinaryIO, path: Path) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        text = ""
        try:
            text = text_of(line)
            if text.strip():
                yield Row(str(path), number, parse_object(text), text)
        except DataError as error:
            yield Row(str(path), number, text=text, problem=str(error))


def _list(file: BinaryIO, path: Path) -> Iterator[Row]:
    try:
        items = parse_json(text_of(file.read()))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if not items:
        raise DataError(f"{path} is an empty list, not an object; write one object a line, or a list of objects.")
    for number, item in enumerate(items, 1):
        yield _row(str(path), number, item, "item")


def _row(source: str, number: int, fields: Any, unit: str) -> Row:
    if isinstance(fields, dict):
        return Row(source, number, fields, json_line(fields), unit=unit)
    return Row(source, number, text=json_line(fields), problem="not an object; write a list of objects.", unit=unit)


def _parquet(file: BinaryIO, path: Path) -> Iterator[Row]:
    parquet = _parquet_file(file, path)
    try:
        rows = (row for batch in parquet.iter_batches(batch_size=BATCH) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield _row(str(path), number, row, "row")
    except (require("pyarrow").ArrowException, OSError) as error:
        raise DataError(f"{path} is a damaged Parquet file ({_first_line(error)}); write it again.") from error


def _parquet_file(file: BinaryIO, path: Path) -> Any:
    whole = file if isinstance(file, io.BufferedReader) else io.BytesIO(file.read())  # arrow jumps about in it
    try:
        return require("pyarrow.parquet").ParquetFile(whole)
    except (require("pyarrow").ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file, or damaged ({_first_line(error)}).") from error


def _is_dataset(folder: Path) -> bool:
    """Whether a folder is meant as a data set: one that was saved, that has a card with its files, or data files."""
    card = folder / "README.md"
    named = card.is_file() and "\nconfigs:" in card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
    saved = any((folder / name).is_file() for name in SAVED)
    return named or saved or any(path.name.endswith(ENDINGS[:3]) for path in folder.iterdir())


def _folder(folder: Path, split: str) -> Iterator[Row]:
    """A data set in a folder: the files that its card names, or else what ``datasets`` makes of it."""
    named = _named_files(folder, split)
    for path in named:
        yield from _file(path)
    if not named:
        yield from _loaded(folder, split)


def _named_files(folder: Path, split: str) -> list[Path]:
    """The files of a split that the card of a data set names one by one; none where it has no card, or patterns."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    try:
        configs = yaml.safe_load(head.split("\n---")[0].removeprefix("---"))["configs"]
        files_of = {one["split"]: one["path"] for one in configs[0]["data_files"]}
    except (yaml.YAMLError, LookupError, TypeError):
        return []
    if split not in files_of:
        raise DataError(f"{folder} has no split {split!r}; it has {', '.join(map(str, files_of))}.")
    named = [files_of[split]] if isinstance(files_of[split], str) else files_of[split]
    paths = [folder / name for name in named]
    return paths if all(path.is_file() for path in paths) else []


def _loaded(folder: Path, split: str) -> Iterator[Row]:
    datasets = require("datasets", "train")
    try:
        if any((folder / name).is_file() for name in SAVED):
            found = datasets.load_from_disk(str(folder))
            rows = found[split] if isinstance(found, dict) else found
        else:
            rows = datasets.load_dataset(str(folder), split=split)
    except Exception as error:  # the library raises many kinds, most with pages of advice
        raise DataError(f"{folder} is a folder that `datasets` cannot load: {_first_line(error)}") from error
    yield from (_row(f"{folder} ({split})", number, row, "row") for number, row in enumerate(rows, 1))


def _hub(name: str, split: str) -> Iterator[Row]:
    datasets = require("datasets")
    try:
        rows = datasets.load_dataset(name, split=split, streaming=True)
    except Exception as error:  # as above
        raise DataError(
            f"{name} is no file, and cannot be loaded as a data set of the hub: {_first_line(error)}"
        ) from error
    yield from (_row(name, number, row, "row") for number, row in enumerate(rows, 1))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
