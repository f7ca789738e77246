"""Queries of Metric checks: what is put into them, and what cannot be."""

from __future__ import annotations

import pytest

from sluice.api.query import MAX_QUERY, bind, placeholders, render
from sluice.errors import InvalidInputError

VALUES = {"revision": "iris-7f3a", "namespace": "prod", "name": "iris", "interval": "90s"}


def test_every_placeholder_is_replaced() -> None:
    query = 'sum(increase(x{rev="{{revision}}",ns="{{ namespace }}",app="{{name}}"}[{{interval}}]))'
    assert placeholders(query) == {"revision", "namespace", "name", "interval"}
    assert render(query, VALUES) == ('sum(increase(x{rev="iris-7f3a",ns="prod",app="iris"}[90s]))')


def test_a_query_without_placeholders_stays_as_it_is() -> None:
    query = 'sum by () (rate(x{a=~"b{2}"}[5m]))'
    assert placeholders(query) == frozenset()
    assert render(query, {}) == query


@pytest.mark.parametrize("query", ["{{pod}}", "x{{", "{{revision", "{{}}", "{{revision}", "{{ }}"])
def test_an_unknown_or_broken_placeholder_is_shown(query: str) -> None:
    with pytest.raises(InvalidInputError, match="which is not a placeholder") as caught:
        placeholders(query)
    assert "{{interval}}" in caught.value.hint
    with pytest.raises(InvalidInputError):
        render(query, VALUES)


@pytest.mark.parametrize("query", ["", "  \n", "x" * (MAX_QUERY + 1), "a\0b"])
def test_a_query_is_text_of_bounded_length(query: str) -> None:
    for reject in (placeholders, bind):
        with pytest.raises(InvalidInputError, match="must be text of 1 to 8192 characters"):
            reject(query)


@pytest.mark.parametrize(
    "value", ['a"} or vector(1)', "a\\", "a\nb", "{{name}}", "", "-a", "a" * 300, "Ä", "a b"]
)
def test_a_value_that_could_end_its_string_is_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be put into a query"):
        render('x{rev="{{revision}}"}', VALUES | {"revision": value})


@pytest.mark.parametrize("interval", ["0s", "90", "1.5s", "-1s", "1s]) or (x[1s", ""])
def test_an_interval_is_whole_seconds(interval: str) -> None:
    with pytest.raises(InvalidInputError, match="interval"):
        render("x[{{interval}}]", VALUES | {"interval": interval})


def test_a_placeholder_needs_a_value() -> None:
    with pytest.raises(InvalidInputError, match=r"\{\{name\}\}"):
        render("{{name}}", {})


WINDOW = "t >= :start AND t < :end"


def test_parameters_are_numbered_in_order_and_reused() -> None:
    bound = bind(f"SELECT 1 WHERE r = :candidate AND {WINDOW} OR r = :candidate ;\n")
    assert bound.parameters == ("candidate", "start", "end")
    assert bound.text == (
        "SELECT 1 WHERE r = $1::text AND t >= $2::timestamptz AND t < $3::timestamptz "
        "OR r = $1::text "
    )


@pytest.mark.parametrize(
    "text",
    [
        "':stable'",
        "'it''s :stable'",
        r"E'it\'s :stable'",
        '":stable"',
        '"a"":stable"',
        "-- :stable\n",
        "/* :stable\n {{x}} $1 */",
        "$$ :stable $$",
        "$a$ :stable $$ {{ $a$",
        "x::text",
        "a[1:2]",
        "a$1",
    ],
)
def test_text_names_comments_and_casts_are_left_alone(text: str) -> None:
    bound = bind(f"SELECT {text} WHERE {WINDOW}")
    assert bound.text.startswith(f"SELECT {text} WHERE t >= $1::timestamptz")
    assert bound.parameters == ("start", "end")


@pytest.mark.parametrize("text", [":pod", "$1", "{{revision}}", ":Start", "':x' || :x"])
def test_what_is_not_a_parameter_is_shown(text: str) -> None:
    with pytest.raises(InvalidInputError, match="which is not a parameter") as caught:
        bind(f"SELECT {text} WHERE {WINDOW}")
    assert ":candidate" in caught.value.hint


@pytest.mark.parametrize("where", ["", "t >= :start", "t < :end", "t >= ':start' AND t < :end"])
def test_a_query_keeps_to_the_window(where: str) -> None:
    with pytest.raises(InvalidInputError, match="does not use both :start and :end"):
        bind(f"SELECT 1 -- {where}\n WHERE {where}")
