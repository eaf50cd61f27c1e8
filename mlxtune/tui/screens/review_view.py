"""What Review shows: the row by its parts, the contract beside it, and where the review stands; its verbs are in ``review``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.content import Content

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.core.text import one_line, restored, safe_text
from mlxtune.data.decisions import Decision, tags
from mlxtune.data.rows import Row, RowError
from mlxtune.planning.masks import Mask
from mlxtune.tui.draw import fold, key, line, lines
from mlxtune.tui.part_view import SIDES, PartView, is_pair, parts_of, wanted
from mlxtune.tui.review_view import Verdict, origin, verdicts, with_disclaimers
from mlxtune.tui.row_view import mark_of
from mlxtune.tui.screens.source_room import SourceRoom
from mlxtune.tui.snapshot import Snapshot
from mlxtune.tui.widgets import review_pictures as pictures
from mlxtune.tui.widgets import talk
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.editor import Editor
from mlxtune.tui.widgets.frame import Answer
from mlxtune.tui.widgets.pane import Pane
from mlxtune.tui.widgets.section import Section
from mlxtune.tui.widgets.talk import Rows, Talk
from mlxtune.tui.work import Work

_IDLE = 60.0  # seconds between two decisions beyond which somebody did something else


def _answer_of(parts: Sequence[PartView]) -> int:
    """The part that a reviewer looks at first: the answer that trains; of a pair, the first of both."""
    names = [part.name for part in parts]
    return names.index(SIDES[0]) if SIDES[0] in names else max(len(parts) - 1, 0)


def _unreadable(record: Row | DataError, width: int) -> list[Content]:
    """Why there is nothing to review here."""
    if not isinstance(record, DataError):
        return []
    why = record.why if isinstance(record, RowError) else record.message
    said = lines(
        line(("  ✗ ", "bold $error"), fold(f"This is no row: {one_line(why)}", width - 2, "    ", "")[4:]),
        fold(one_line(record.mend), width, "    "),
        "",
        line("    ", key("D", "findings and fixes", "app.room('data')"), "   ", key("→", "next row", "screen.next")),
    )
    return said.split("\n", allow_blank=True)


class ReviewView(SourceRoom):
    """The part of the room that shows."""

    def __init__(self) -> None:
        super().__init__()
        self._work: Work | None = None
        self._at = -1  # the record that is drawn
        self._index = 0  # where it stands among those that are shown
        self._flipped = False
        self._aside = False
        self._editing: PartView | None = None
        self._from = 0  # where the cursor stood before
        self._draft = ("", "")  # what is written anew: the hash of the row in the source, and the part's name
        self._drafts: dict[tuple[str, str], str] = {}
        self._decided_at: list[float] = []
        self._masks: dict[str, Mask | MlxtuneError] = {}
        self._asked: str = ""  # the row whose mask is being asked for
        self._verdicts: tuple[str, tuple[Verdict, ...], Row | None] = ("", (), None)
        self._tags: list[str] = []

    def body(self) -> ComposeResult:
        yield Section("Review", Draw(id="review-invite"), lit=True, id="review-empty")
        with Vertical(id="review-body"):
            yield Draw(id="progress")
            with Container(id="review-columns"):
                with Vertical(id="read-side"):
                    yield Section(
                        "Row",
                        Talk(
                            id="talk",
                            about="The row, part by part. What trains has a bar before it; e edits the part under the cursor.",
                        ),
                        Container(Editor(id="editor"), id="editor-box"),
                        id="read",
                        classes="fill",
                    )
                with Vertical(id="aside"):
                    yield Section(
                        "Contract",
                        Pane(id="contract", about="What the recipe asks of this answer, and whether it holds."),
                        id="contract-section",
                    )
                    yield Section(
                        "Findings", Pane(id="found-here", about="What checks find about this row."), id="findings-section"
                    )
                    yield Section(
                        "Tags",
                        Pane(id="tags", about="A digit puts a tag on the row or takes it off; t takes any word."),
                        id="tags-section",
                    )
                    yield Section(
                        "Where it comes from",
                        Pane(id="origin", about="Where the row stands, and who decided what about it."),
                        id="origin-section",
                    )
            yield Draw(id="contract-line")

    @property
    def work(self) -> Work | None:
        """The source on show, once it is open and has rows."""
        work = super().work
        return work if work is not None and len(work.source) and work.error is None else None

    @property
    def row(self) -> Row | None:
        """The row on show, as the review leaves it; ``None`` where it is no row."""
        if (work := self.work) is None:
            return None
        found = work.source.seen(work.at).now_or_error
        return None if isinstance(found, DataError) else found

    def draw(self, snapshot: Snapshot) -> None:
        work = self.bench.turn_to(self.desk.recipe)
        ready = self.work
        self.set_class(ready is None, "-bare")
        self.set_class(self._aside, "-aside")
        if work is not self._work:
            self._work, self._at, self._masks, self._asked, self._tags = work, -1, {}, "", []
            self._put_aside()
        if ready is None:
            self.query_one("#review-invite", Draw).show(lambda width, _height: self.without_rows(work, width))
            return
        if self.desk.wanted_row and (found := ready.source.starting(self.desk.wanted_row)):
            ready.at, self.desk.wanted_row = found[0], None
        self._place(ready)
        row, source = self.row, ready.source
        held = source.decision(ready.at)
        self._read(ready, row, held)
        self._beside(ready, row, held)
        usable = len(source) - source.bad
        decided = source.settled
        aside = f"{self._index + 1:,} of {len(ready.shown.rows):,} shown" if ready.shown.filter.strip() else ""
        pace = self._pace()
        self.query_one("#progress", Draw).show(lambda width, _height: pictures.progress(decided, usable, pace, aside, width))

    def _place(self, work: Work) -> None:
        """Find the row among those that are shown; where it is not among them any more, the review stays on it."""
        rows = work.shown.rows
        if not (self._index < len(rows) and rows[self._index] == work.at):
            self._index = work.index()
        if work.at != self._at:
            self._at, self._flipped = work.at, False
            self._put_aside()
            row = self.row
            parts = parts_of(row) if row else ()
            self.query_one(Talk).set(len(parts), self._rows(work, row), cursor=_answer_of(parts))
            self._ask_for_mask(work)

    def _read(self, work: Work, row: Row | None, held: Decision) -> None:
        """The row itself."""
        section, mark = self.query_one("#read", Section), mark_of(held)
        title = f"Row {work.at + 1:,}" + (f", editing {self._editing.name}" if self._editing else "")
        state = held.status if held.status != "pending" else ("edited" if held.record is not None else "")
        note = line((f"{mark[0]} {state}   ", f"bold {mark[1]}") if state else "", (self._note(row), "$muted"))
        section.head.set(title=title, note=note)
        section.set_class(self._editing is not None, "-editing")
        if self._editing is not None:
            self.query_one(Talk).set(1, self._rows(work, row), cursor=0)
        else:
            self.query_one(Talk).set(len(parts_of(row)) if row else 0, self._rows(work, row))

    def _note(self, row: Row | None) -> str:
        """What is known of its tokens, and how."""
        if row is None:
            return "cannot be read"
        found = self._masks.get(row.hash)
        label = f"{wanted(row)}, " if wanted(row) else ""
        if isinstance(found, Mask):
            return f"{label}{found.tokens:,} tokens, {found.trained:,} of them train"
        return f"{label}trained by turn" + ("; tokens are not known" if found else "")

    def _rows(self, work: Work, row: Row | None) -> Callable[[int, int], Rows]:
        source = work.source
        if row is None:
            record = source.seen(work.at).now_or_error
            return lambda width, cursor: (_unreadable(record, width), [])
        parts = parts_of(row)
        found = self._masks.get(row.hash)
        turns = found.turns if isinstance(found, Mask) else None
        window, air, flipped = (source.checked.max_tokens if source.checked else 0), self.tall, self._flipped
        if (part := self._editing) is not None:
            return lambda width, cursor: talk.written(parts, turns, part, window, width, air)
        if is_pair(row) and (self.size.width or 80) >= 70:
            return lambda width, cursor: talk.pair(parts, turns, width, cursor, air, flipped)
        return lambda width, cursor: talk.conversation(parts, turns, window, width, cursor, air)

    def _beside(self, work: Work, row: Row | None, held: Decision) -> None:
        """What stands beside the row."""
        source = work.source
        judged = self._judged(work, self._candidate(row))
        fails = sum(not one.holds for one in judged)
        note = f"{fails} of {len(judged)} {'fails' if fails == 1 else 'fail'}" if fails else "holds" if judged else ""
        self.query_one("#contract-section", Section).head.set(note=note)
        why = (
            "There is no contract."
            if work.where.recipe is None or not work.where.recipe.contract
            else "The contract is not about this row."
        )
        way = key("d", "add it", "screen.disclaimer") if self.amended else None
        self.query_one("#contract", Draw).show(lambda width, _height: pictures.contract(judged, why, width, way))
        self.query_one("#contract-line", Draw).show(lambda width, _height: pictures.contract_line(judged, width, way))
        found = [one for one in source.findings(work.at) if not one.check.startswith("contract-") and one.severity != "note"]
        self.query_one("#findings-section").display = bool(found)
        self.query_one("#found-here", Draw).show(lambda width, _height: pictures.findings(found, width))
        known, own = self._known_tags(work), tags(row) if row else ()
        self.query_one("#tags", Draw).show(lambda width, _height: pictures.tags(known, own, width))
        where = origin(work.source, work.at, row)
        self.query_one("#origin", Draw).show(lambda width, _height: pictures.facts(where, width))

    def _candidate(self, row: Row | None) -> Row | None:
        """The row as it would be with what is written in the editor."""
        if row is None or self._editing is None:
            return row
        from mlxtune.data.checks.look import rewritten

        name, text = self._editing.name, restored(self._editing.text, self.query_one(Editor).text)
        return rewritten(row, lambda part, said: text if part == name else said)

    def _judged(self, work: Work, row: Row | None) -> tuple[Verdict, ...]:
        """The contract's word on the row's answer."""
        if row is None or work.contract is None:
            return ()
        if self._verdicts[0] != row.hash:
            self._verdicts = (row.hash, verdicts(work.contract, row), with_disclaimers(work.contract, row))
        return self._verdicts[1]

    @property
    def amended(self) -> Row | None:
        """The row on show with the disclaimers that its answer lacks; ``None`` where that is not what is wrong with it."""
        row, (of, _, found) = self.row, self._verdicts
        return found if self._editing is None and row is not None and row.hash == of else None

    def _known_tags(self, work: Work) -> list[str]:
        """The tags that digits stand for: the most frequent ones first, and none changes its place while the room is open."""
        counts = work.source.tags
        for held in work.source.decided.values():
            counts.update(held.tags or ())
        self._tags += [tag for tag, _ in counts.most_common(20) if tag not in self._tags]
        return self._tags[:9]

    def _ask_for_mask(self, work: Work) -> None:
        """Ask which tokens train, for this row and then for the next."""
        wanted = [work.at, *(int(at) for at in work.shown.rows[self._index + 1 : self._index + 2])]
        if work.where.recipe is None or isinstance(self._masks.get(""), MlxtuneError):
            return
        rows = [row for at in wanted if not isinstance(row := work.source.seen(at).now_or_error, DataError)]
        rows = [row for row in rows if row.hash not in self._masks]
        if not rows or rows[0].hash == self._asked:
            return
        self._asked = rows[0].hash

        def job() -> dict[str, Mask | MlxtuneError]:
            return work.masks_of(rows)

        def done(found: dict[str, Mask | MlxtuneError]) -> None:
            self._asked = ""
            self._masks |= found
            if self.is_current:
                self.show()

        self.fetch(job, done, group="mask")

    def _pace(self) -> float | None:
        """Seconds that a decision took, the median of the last ones."""
        gaps = sorted(gap for one, two in zip(self._decided_at, self._decided_at[1:], strict=False) if (gap := two - one) < _IDLE)
        return gaps[len(gaps) // 2] if len(gaps) >= 3 else None

    def _put_aside(self) -> None:
        """Another row takes the place of the one that is being written."""
        if self._keep_draft():
            self.call_later(self.desk.reply, Answer("·", "$muted", "What you wrote waits with its row."))
        self._leave()

    def _keep_draft(self) -> bool:
        """Let what is written wait; whether it says anything else than the row."""
        if self._editing is None or (text := self.query_one(Editor).text) == safe_text(self._editing.text):
            return False
        self._drafts[self._draft] = text
        return True

    def _leave(self) -> None:
        if self._editing is not None:
            self._editing = None
            if (work := self.work) is not None and (row := self.row) is not None:
                self.query_one(Talk).set(len(parts_of(row)), self._rows(work, row), cursor=self._from)
            self.query_one(Talk).focus()
