"""What makes a new revision, and what must not: upgrades, placement, the order of words."""

from __future__ import annotations

from typing import Any

import pytest
from tests.worlds.rollout import digest_of, spec_for
from tests.worlds.stories import serving, state, until

from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.rollout.identity import canonical, identity, short_hash, source_hash


def revision(serving_block: dict[str, Any], image: str = "sluice:1") -> str:
    spec = ModelDeploymentSpec.model_validate({**spec_for("a"), "serving": serving_block})
    return short_hash(identity(digest_of("a"), image, spec.serving))


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical({"b": 1, "a": [2, "é"]}) == '{"a":[2,"é"],"b":1}'.encode()


@pytest.mark.parametrize(
    "block",
    [
        {"timeout": "3s"},
        {"env": [{"name": "A", "value": "1"}]},
        {"resources": {"limits": {"memory": "1Gi"}}},
        {"readinessGate": "Probe"},
    ],
)
def test_what_changes_how_it_answers_makes_a_new_revision(block: dict[str, Any]) -> None:
    assert revision(block) != revision({})


@pytest.mark.parametrize("block", [{"pod": {"nodeSelector": {"disk": "ssd"}}}, {"timeout": "2s"}])
def test_placement_and_written_defaults_do_not(block: dict[str, Any]) -> None:
    assert revision(block) == revision({})


def test_the_order_of_env_does_not() -> None:
    one, two = {"name": "A", "value": "1"}, {"name": "B", "value": "2"}
    assert revision({"env": [one, two]}) == revision({"env": [two, one]})


def test_the_source_is_the_model_block_as_written() -> None:
    first = ModelDeploymentSpec.model_validate(spec_for("a")).model
    other = ModelDeploymentSpec.model_validate(spec_for("b")).model
    assert source_hash(first) != source_hash(other)


def test_an_upgraded_operator_with_another_default_image_changes_nothing() -> None:
    world = serving()
    world.run(10)
    writes, revisions = world.writes, set(world.revisions)
    world.image = "sluice:2"
    world.run(30)
    assert (world.writes, set(world.revisions)) == (writes, revisions)
    assert state(world) == "Idle"


def test_the_next_model_takes_the_new_default_and_the_old_one_keeps_its_own() -> None:
    world = serving()
    world.image = "sluice:2"
    world.ask_for("b")
    until(world, "Watching")
    assert world.revisions[world.revision_of("b") or ""].runtime_image == "sluice:2"
    a = world.revision_of("a")
    world.ask_for("a")
    world.run(5)
    assert world.roles.stable == a, "going back makes no new revision"


def test_an_image_in_the_spec_makes_a_new_revision_of_the_same_package() -> None:
    world = serving()
    before = world.roles.stable
    world.change(serving={"runtime": {"image": "mine:3"}})
    until(world, "Watching")
    assert world.roles.stable != before
    assert world.revisions[world.roles.stable or ""].package.digest == digest_of("a")
