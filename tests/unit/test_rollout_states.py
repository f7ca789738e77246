"""The table of states: complete, true to the code, and what the documentation shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tools.states import PAGE, page

from sluice.rollout import states
from sluice.rollout.model import Outcome, Progress, RolloutProgress, WatchProgress
from sluice.rollout.states import MEANING, TRANSITIONS, ImpossibleMoveError, Move, prove, state_of

ROOM = Path(states.__file__).parent
ROLLOUT = RolloutProgress(id="1", source="s")
WATCH = WatchProgress(revision="b", previous="a")
OUTCOME = Outcome(source="s", reason="x", message="y")


def test_the_documentation_is_in_sync() -> None:
    assert page(PAGE.read_text()) == PAGE.read_text(), "run: make crds"


def test_every_event_is_in_the_module_that_the_table_names() -> None:
    for transition in TRANSITIONS:
        source = (ROOM / f"{transition.where}.py").read_text()
        assert f'"{transition.event}"' in source, transition


def test_no_move_is_listed_twice_and_every_state_is_entered_and_left() -> None:
    moves = [(t.state, t.event, t.next) for t in TRANSITIONS]
    assert len(moves) == len(set(moves))
    assert {t.state for t in TRANSITIONS} == set(MEANING)
    assert {t.next for t in TRANSITIONS} == set(MEANING)


def test_an_impossible_event_names_state_and_event() -> None:
    with pytest.raises(ImpossibleMoveError, match=r"In Idle, 'all gates pass' leads to Promoting"):
        prove(Move("Idle", "all gates pass", "Promoting"))
    with pytest.raises(ImpossibleMoveError, match=r"In Idle, 'an event without a name'"):
        prove(Move("Idle", "", "Watching"))


def test_the_state_is_the_rollouts_then_the_watchs_then_how_the_last_ended() -> None:
    assert state_of(Progress()) == "Idle"
    assert state_of(Progress(outcome=OUTCOME)) == "Stopped"
    assert state_of(Progress(outcome=OUTCOME, watch=WATCH)) == "Watching"
    assert state_of(Progress(outcome=OUTCOME, watch=WATCH, rollout=ROLLOUT)) == "Resolving"
