"""Blind votes: what a rater sees, how votes are kept and counted, and how they are exported."""

import itertools
import json
from collections import Counter
from random import Random

import pytest
from exact_tests import sign_test

from mlxtune.core.errors import InputError, MachineError
from mlxtune.data.rows import Message
from mlxtune.evaluation.blind.blind_session import BlindSession, BlindStatus, blind_status, count_differing, export_votes
from mlxtune.evaluation.blind.votes import QUESTIONS, preference_rows
from mlxtune.evaluation.evidence import AnswerPair
from mlxtune.evaluation.holdout.ledger import history, ledger_path, read
from mlxtune.evaluation.statistics.agreement import kappa
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.evaluation.statistics.significance import holm
from mlxtune.present.comparison import tally_text

PROMPT = (Message("system", "Be kind."), Message("user", "Where is it?"))


def _pair(id: str, first: str, second: str) -> AnswerPair:
    return AnswerPair(id, 1, f"g{id[1:]}", "ref", PROMPT, first=first, second=second)


def _pairs(count: int) -> list[AnswerPair]:
    return [_pair(f"r{at}", f"base says {at}", f"tuned says {at} at length") for at in range(count)]


def _vote_all(session: BlindSession, prefer) -> None:
    """Vote on every pair; ``prefer`` maps the shown pair to the preferred arm or a tie."""
    while (now := session.current) is not None:
        want = prefer(now)
        first_left = now.a.startswith("base")
        session.vote("tie" if want == "tie" else "a" if (want == "first") == first_left else "b")


def test_sides_are_balanced_and_hidden_until_last_vote(evaluation):
    with BlindSession(evaluation, "base", "tuned", _pairs(40), 30, seed=4) as session:
        left = []
        while (now := session.current) is not None:
            if now.question == "format":
                left.append(now.a.startswith("base"))
            with pytest.raises(InputError, match="sides"):
                session.reveal()
            with pytest.raises(InputError, match="sides"):
                session.choices()
            session.vote("a")
        header = (session.folder / "session.json").read_text()
    assert 15 - 4 <= sum(left) <= 15 + 4
    assert "first_is_a" not in header
    assert "seed" not in header
    assert json.loads(header)["n"] == 30


def test_session_is_reproducible_by_seed(evaluation, tmp_path):
    def shown(name: str, seed: int | None):
        folder = tmp_path / name / "evals" / "e"
        folder.mkdir(parents=True)
        with BlindSession(folder, "base", "tuned", _pairs(60), 20, seed=seed) as session:
            shown_pairs = []
            while (now := session.current) is not None:
                shown_pairs.append(now)
                session.vote("tie")
        return shown_pairs

    assert shown("one", 1) == shown("two", 1)
    assert shown("three", 2) != shown("four", 3)
    assert shown("five", None) != shown("six", None)


def test_repeats_come_later_swapped_and_do_not_count(evaluation):
    with BlindSession(evaluation, "base", "tuned", _pairs(24), 24, seed=9) as session:
        places: dict[str, list[tuple[int, bool]]] = {}
        while (now := session.current) is not None:
            if now.question == "format":
                number = (now.a if now.a.startswith("base") else now.b).split()[2]
                places.setdefault(number, []).append((now.index, now.a.startswith("base")))
            session.vote("tie")
        result = session.reveal()
    twice = [positions for positions in places.values() if len(positions) == 2]
    assert len(twice) == 3
    assert all(later - early >= 4 and left != right for (early, left), (later, right) in twice)
    assert result.pairs == 24
    assert result.repeated == 9
    assert [tally.ties for tally in result.tallies] == [24, 24, 24]


def test_result_is_sign_test_with_interval(evaluation):
    random = Random(2)
    with BlindSession(evaluation, "base", "tuned", _pairs(40), seed=3) as session:
        wants: dict[tuple[str, str], str] = {}

        def prefer(now):
            key = (now.a if now.a.startswith("base") else now.b, now.question)
            if key not in wants:
                wants[key] = random.choices(["second", "first", "tie"], [7, 1, 2])[0]
            return wants[key]

        _vote_all(session, prefer)
        result = session.reveal()
    for tally in result.tallies:
        counts = Counter(want for (_, question), want in wants.items() if question == tally.question)
        assert (tally.wins, tally.losses, tally.ties) == (counts["second"], counts["first"], counts["tie"])
        assert tally.p == sign_test(tally.wins, tally.losses)
        assert (tally.low, tally.high) == wilson(tally.wins, tally.wins + tally.losses)
    by = {tally.question: tally for tally in result.tallies}
    assert [by["format"].adjusted, by["voice"].adjusted] == holm([by["format"].p, by["voice"].p])
    assert by["send"].adjusted == by["send"].p
    assert by["send"].outcome == "better"
    assert tally_text(result.headline, "base", "tuned").startswith(
        f"Better. tuned won {by['send'].wins} of {by['send'].wins + by['send'].losses} votes"
    )
    assert (result.agreed, result.repeated) == (15, 15)
    assert result.consistency.value == pytest.approx(1)
    assert result.lengths == (12, 22) or result.lengths[0] < result.lengths[1]
    assert result.longer == sum(tally.wins for tally in result.tallies)


def test_position_bias_is_reported(evaluation):
    with BlindSession(evaluation, "base", "tuned", _pairs(32), seed=3) as session:
        while session.current is not None:
            session.vote("a")
        result = session.reveal()
    assert result.left == result.decided == session.votes_needed
    assert result.agreed == 0
    assert all(tally.outcome == "cannot_tell" for tally in result.tallies)
    assert all(tally.wins == tally.losses == 16 for tally in result.tallies)


def test_one_pair_and_all_ties_give_cannot_tell(evaluation, tmp_path):
    with BlindSession(tmp_path / "evals" / "one", "base", "tuned", _pairs(1), seed=3) as session:
        _vote_all(session, lambda _: "first")
        result = session.reveal()
    assert (result.pairs, result.repeated, result.consistency, result.tallies[0].outcome) == (1, 0, None, "cannot_tell")
    with BlindSession(evaluation, "base", "tuned", _pairs(8), seed=3) as session:
        _vote_all(session, lambda _: "tie")
        result = session.reveal()
    assert tally_text(result.headline, "base", "tuned").startswith("Cannot tell. All 8 votes were ties")
    assert (result.tallies[0].low, result.tallies[0].share, result.tallies[0].high) == (0.0, 0.5, 1.0)


def test_revealed_session_allows_no_vote_or_undo_and_counts_as_one_evaluation(evaluation):
    ids = [pair.id for pair in _pairs(6)]
    with BlindSession(evaluation, "base", "tuned", _pairs(6), seed=3) as session:
        _vote_all(session, lambda _: "second")
        assert history(read(ledger_path(evaluation)), ids).evaluations == 0
        first = session.reveal()
    with BlindSession(evaluation, "base", "tuned", _pairs(6)) as session:
        assert session.opened
        assert not session.undo()
        with pytest.raises(ValueError, match="nothing to vote"):
            session.vote("a")
        assert session.reveal() == first
    assert history(read(ledger_path(evaluation)), ids).evaluations == 1


def test_sample_size_is_fixed_before_first_vote(evaluation):
    with BlindSession(evaluation, "base", "tuned", _pairs(20), 8, seed=3):
        pass
    with pytest.raises(InputError, match="created with 8 pairs"):
        BlindSession(evaluation, "base", "tuned", _pairs(20), 12)
    with BlindSession(evaluation, "base", "tuned", _pairs(20), 8) as session:
        assert session.n == 8


def test_a_changed_key_answer_or_header_ends_a_session(evaluation):
    with BlindSession(evaluation, "base", "tuned", _pairs(6), seed=3) as session:
        key, header = session.folder / "key.json", session.folder / "session.json"
    changed = [_pair("r0", "other", "words"), *_pairs(6)[1:]]
    with pytest.raises(InputError, match="changed after this session"):
        BlindSession(evaluation, "base", "tuned", changed)
    sides = json.loads(key.read_text())
    sides["first_is_a"][0] = not sides["first_is_a"][0]
    key.write_text(json.dumps(sides))
    with pytest.raises(InputError, match="was changed"):
        BlindSession(evaluation, "base", "tuned", _pairs(6))
    header.write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        blind_status(evaluation, "base", "tuned")


def test_identical_answers_are_neither_shown_nor_counted(evaluation):
    same = [_pair(f"s{at}", "one", "one") for at in range(5)]
    assert count_differing([*_pairs(12), *same]) == 12
    with pytest.raises(InputError, match="identical answers"):
        BlindSession(evaluation, "base", "tuned", same)
    with pytest.raises(InputError, match="differ on only 3 rows"):
        BlindSession(evaluation, "base", "tuned", [*same, *_pairs(3)], 4)
    with BlindSession(evaluation, "base", "tuned", [*same, *_pairs(3)]) as session:
        assert session.n == 3


def test_second_process_cannot_vote_in_same_session(evaluation):
    with BlindSession(evaluation, "base", "tuned", _pairs(6), seed=3), pytest.raises(MachineError, match="another process"):
        BlindSession(evaluation, "base", "tuned", _pairs(6))


@pytest.mark.parametrize("arm", ["../../../etc", "a/b", "..", "x" * 300])
def test_arm_name_cannot_escape_evaluations_folder(evaluation, arm):
    with BlindSession(evaluation, arm, "tuned", _pairs(3), seed=3) as session:
        assert session.folder.parent == evaluation / "blind"


def test_decided_votes_become_preference_pairs(evaluation):
    pairs = _pairs(12)
    pairs[0] = _pair("r0", "base says 0", " ")
    with BlindSession(evaluation, "base", "tuned", pairs, 12, seed=3) as session:
        wants = itertools.cycle(["first", "second", "tie"])  # questions per pair: format, voice, send
        _vote_all(session, lambda now: next(wants))
        session.reveal()
        choices = session.choices()
    assert preference_rows(choices, "send") == []
    rows = preference_rows(choices, "format")
    assert len(rows) == 11  # an empty answer is useless for training
    assert all(set(row) == {"prompt", "chosen", "rejected"} for row in rows)
    assert all(row["chosen"].startswith("base") and row["rejected"].startswith("tuned") for row in rows)
    assert all(row["chosen"].startswith("tuned") for row in preference_rows(choices, "voice"))
    assert rows[0]["prompt"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where is it?"}]


def test_killed_session_resumes_at_next_vote_and_the_journal_keeps_what_was_undone(evaluation):
    with BlindSession(evaluation, "base", "tuned", _pairs(12), 10, seed=5) as session:
        assert not session.undo()
        for vote in ("a", "b", "tie", "a", "b"):
            session.vote(vote)
        assert (session.current.index, session.pending_votes) == (1, ("a", "b"))
        assert all(session.undo() for _ in range(3))
        now = session.current
        assert (now.index, now.question, session.pending_votes) == (0, "send", ("a", "b"))
        journal = session.folder / "votes.jsonl"
        written = journal.read_bytes()
    journal.write_bytes(written + b'{"t": 1, "vote": "a"')  # a torn line
    with BlindSession(evaluation, "base", "tuned", _pairs(12)) as session:
        assert (session.votes, session.n, session.current) == (2, 10, now)
        session.vote("b")
        assert session.pending_votes == ()
    assert len(journal.read_text().splitlines()) == 9


def test_consistency_is_kappa_over_repeats(evaluation):
    with BlindSession(evaluation, "base", "tuned", _pairs(24), seed=9) as session:
        counter = itertools.count()
        _vote_all(session, lambda _: ["first", "second", "second", "tie"][next(counter) % 4])
        result = session.reveal()
        repeats = []
        order = json.loads((session.folder / "session.json").read_text())["order"]
        votes = [["first", "second", "second", "tie"][at % 4] for at in range(session.votes_needed)]
        for at, id in enumerate(order):
            if (before := order.index(id)) != at:
                repeats += [(votes[3 * before + q], votes[3 * at + q]) for q in range(len(QUESTIONS))]
    assert result.consistency == kappa(repeats)
    assert result.agreed == sum(one == two for one, two in repeats)


def test_status_is_read_from_journal_without_lock(evaluation):
    assert blind_status(evaluation, "base", "tuned") is None
    with BlindSession(evaluation, "base", "tuned", _pairs(12), 6, seed=1) as session:
        due = session.votes_needed
        assert blind_status(evaluation, "base", "tuned") == BlindStatus(6, 0, due, False)
        session.undo()
        for vote in ("a", "b", "tie"):
            session.vote(vote)
        session.undo()
        assert blind_status(evaluation, "base", "tuned") == BlindStatus(6, session.votes, due, False)
        while session.current is not None:
            session.vote("a")
        session.reveal()
    assert blind_status(evaluation, "base", "tuned") == BlindStatus(6, due, due, True)


def test_votes_export_as_pairs_and_are_recorded_in_ledger(evaluation, tmp_path):
    with BlindSession(evaluation, "base", "tuned", _pairs(12), 4, seed=1) as session:
        with pytest.raises(InputError, match="hidden until the last vote"):
            export_votes(session, tmp_path / "pairs.jsonl")
        while (now := session.current) is not None:
            tie = now.question != "send" or now.index == 0
            session.vote("tie" if tie else "a" if now.a.startswith("tuned") else "b")
        session.reveal()
        ties = sum(choice == "tie" for _, question, choice in session.choices() if question == "send")
        count = export_votes(session, tmp_path / "pairs.jsonl")
        assert count == 4 - ties
        with pytest.raises(InputError, match="yields a preference pair"):
            export_votes(session, tmp_path / "none.jsonl", "format")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == count
    assert all(row["chosen"].startswith("tuned") and row["rejected"].startswith("base") for row in rows)
    assert not (tmp_path / "none.jsonl").exists()
    assert history(read(ledger_path(evaluation)), [pair.id for pair in _pairs(12)]).exported == count
