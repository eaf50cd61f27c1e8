"""Read a folder of documents: as rows of text, or divided into passages that a teacher can ask about."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import home, open_regular, write_chunks
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import one_line

TEXT_SUFFIXES = (".md", ".markdown", ".txt", ".rst")
PASSAGE = 2400  # characters, about a page
_MAX_BYTES = 20 * 2**20  # maximum size of a document
_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True)
class Passage:
    """A part of a document: its name, the character offset of ``text`` in it, and the text."""

    file: str
    start: int
    text: str


def read_passages(folder: Path) -> list[Passage]:
    """Return the passages of all documents in ``folder`` (or of one file), in order. Hidden files and those of other kinds are skipped.

    Raises ``DataError`` if there is none, and ``InputError`` if one cannot be read or is a link, which could lead out of the folder.
    """
    passages = [passage for name, text in _texts(folder.resolve()) for passage in split_passages(name, text)]
    if not passages:
        raise DataError(f"{folder} has no documents with text.", hint="Use a folder with Markdown, text, or PDF files.")
    return passages


def is_folder_of_texts(path: Path) -> bool:
    """Return whether ``path`` is a folder without JSON Lines, in which Markdown, text, or PDF files are."""
    return path.is_dir() and not any(path.glob("*.jsonl")) and any(_documents(path))


def to_json_lines(folder: Path) -> Path:
    """Write a row with the ``text`` of each document in ``folder``, and its ``file``, to a file in mlxtune's cache, and return its path."""
    folder = folder.resolve()
    out = home() / "documents" / sha256_json(str(folder))[:16] / f"{folder.name}.jsonl"
    rows = ({"text": text, "file": name} for name, text in _texts(folder) if text.strip())
    write_chunks(out, (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    return out


def split_passages(name: str, text: str) -> list[Passage]:
    """Divide ``text`` between paragraphs into passages of about a page. A longer paragraph may be divided anywhere."""
    passages: list[Passage] = []
    start = 0
    while start < len(text):
        end = min(len(text), start + PASSAGE)
        if end < len(text):
            breaks = [match.end() for match in _PARAGRAPHS.finditer(text, start + PASSAGE // 4, end)]
            end = breaks[-1] if breaks else end
        part = text[start:end]
        if part.strip():
            lead = len(part) - len(part.lstrip())
            passages.append(Passage(name, start + lead, part.strip()))
        start = end
    return passages


def find_quote(passage: Passage, quote: str) -> tuple[int, int] | None:
    """Return the character offsets of ``quote`` in the document, ignoring whitespace and case, or ``None`` if it is not there."""
    words = quote.split()
    if not words:
        return None
    match = re.search(r"\s+".join(map(re.escape, words)), passage.text, re.IGNORECASE)
    return (passage.start + match.start(), passage.start + match.end()) if match else None


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    if not folder.exists():
        raise DataError(f"There are no documents at {folder}.", hint="Use a folder with Markdown, text, or PDF files.")
    root = folder if folder.is_dir() else folder.parent
    for file in sorted(_documents(folder)) if folder.is_dir() else [folder]:
        yield str(file.relative_to(root)), _read(file)


def _documents(folder: Path) -> Iterator[Path]:
    folders = [folder]
    for path in (path for folder in folders for path in folder.iterdir() if not path.name.startswith(".")):
        if path.is_symlink():
            raise DataError(f"{path} is a symbolic link, so it was not read.", hint="Replace it with a copy, or remove it.")
        if path.is_dir():
            folders.append(path)
        elif path.suffix.lower() in (*TEXT_SUFFIXES, ".pdf"):
            yield path


def _read(file: Path) -> str:
    with open_regular(file) as stream:
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise DataError(f"{file} is larger than {_MAX_BYTES // 2**20} MB.", hint="Split it, or leave it out.")
    if file.suffix.lower() == ".pdf":
        return _pdf_text(file, data)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8.", hint="Save it as UTF-8.") from error


def _pdf_text(file: Path, data: bytes) -> str:
    try:
        from pypdf import PdfReader
    except ImportError as error:
        raise InputError("Reading PDF files requires pypdf.", hint="Run: pip install 'mlxtune[pdf]'") from error
    try:
        return "\n\n".join(page.extract_text() for page in PdfReader(io.BytesIO(data)).pages)
    except Exception as error:  # pypdf raises many kinds for damaged files
        raise DataError(f"Cannot read {file}: {one_line(str(error), 120)}.", hint="Convert it to text first.") from error
