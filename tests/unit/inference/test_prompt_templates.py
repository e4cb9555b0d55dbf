from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.prompts.templates import MOST_STEPS, RenderError, Room, TemplateError, parsed


def rendered(source: str, **variables: Any) -> str:
    return parsed(source).render(variables, Room())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Hello {{ name }}!", "Hello Аня!"),
        ("{{ name|upper }} {{ name | lower }} {{ '  x '|trim }}", "АНЯ аня x"),
        ("{% if vip %}Dear{% elif name == 'Аня' %}Hi{% else %}Hey{% endif %}", "Hi"),
        (
            "{% for one in items %}{{ loop.index }}. {{ one.title }}{% if not loop.last %}; {% endif %}{% endfor %}",
            "1. 水; 2. ток",
        ),
        ("{% for one in items if one.title == '水' %}{{ one.title }}{% else %}none{% endfor %}", "水"),
        ("{% for one in [] %}x{% else %}none{% endfor %}", "none"),
        ("{{ items[1].title }} {{ items|length }} {{ items|first|tojson }}", 'ток 2 {"title": "水"}'),
        ("{{ count }} {{ count > 2 and 'many' or 'few' }} {{ 'yes' if vip else 'no' }}", "3 many no"),
        ("{{ missing|default('-') }}{{ missing is defined }}{{ vip }}", "-falsefalse"),
        ("{{ ['a', 'b']|join(', ') }} {{ 'a' in ['a'] }} {{ 'z' not in name }}", "a, b true true"),
        ("{# a remark #}{% raw %}{{ as it is }}{% endraw %}", "{{ as it is }}"),
        ("  {% if true %}\n  line\n  {% endif %}\n", "  line\n"),
    ],
)
def test_what_templates_can(source: str, text: str) -> None:
    items = [{"title": "水"}, {"title": "ток"}]
    assert rendered(source, name="Аня", vip=False, items=items, count=3.0) == text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ f() }}", "a call"),
        ("{{ ''.join(x) }}", "a call"),
        ("{{ 'a' * 1000000000 }}", "`mul`"),
        ("{{ 9 ** 999999999 }}", "`pow`"),
        ("{{ 'a' ~ 'b' }}", "`~`"),
        ("{{ x[1:] }}", "a slice"),
        ("{% set x = 1 %}", "`set`"),
        ("{% include 'etc' %}", "`include`"),
        ("{% import 'etc' as x %}", "`import`"),
        ("{% extends 'etc' %}", "`extends`"),
        ("{% macro m() %}{% endmacro %}", "`macro`"),
        ("{% for i in range(1000000000) %}{% endfor %}", "a call"),
        ("{% for a, b in x %}{% endfor %}", "one name"),
        ("{% for loop in x %}{% endfor %}", "one name"),
        ("{{ x|attr('y') }}", "not one of"),
        ("{{ x|join(',', attribute='y') }}", "one argument"),
        ("{{ x is odd }}", "`odd`"),
        ("{{ x", "unexpected"),
        ("{% if x %}", "end"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "too deep"),
        ("{% if x %}" * 50 + "{% endif %}" * 50, "deep"),
    ],
)
def test_all_else_is_refused_when_it_is_read(source: str, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        parsed(source)


def test_attributes_of_python_are_out_of_reach() -> None:
    for source in ("{{ x.__class__ }}", "{{ x['__class__'] }}", "{{ name.__class__ }}", "{{ items.append }}", "{{ x.keys }}"):
        with pytest.raises(RenderError):
            rendered(source, x={"a": 1}, name="text", items=[1])


@pytest.mark.parametrize(
    ("source", "variable"),
    [
        ("{{ name }}", "name"),
        ("{{ user.name }}", "user.name"),
        ("{{ user.name.first }}", "user.name"),
        ("{% if user.vip %}{% endif %}", "user.vip"),
        ("{% for one in user.items %}{% endfor %}", "user.items"),
        ("{{ user.items|join }}", "user.items"),
        ("{{ user.age|upper }}", "user.age"),
        ("{{ user.age < 'x' }}", "user.age"),
        ("{% for one in user.age %}{% endfor %}", "user.age"),
    ],
)
def test_what_cannot_be_rendered_is_named(source: str, variable: str) -> None:
    with pytest.raises(RenderError) as caught:
        rendered(source, user={"age": 7})
    assert caught.value.variable == variable


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in x %}{% for b in x %}{% for c in x %}{{ c }}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in x %}{% if long|upper == long %}{% endif %}{% endfor %}",
        "{% for a in x %}{% if 'b' in long %}{% endif %}{% endfor %}",
        "{% for a in x %}{{ long }}{% endfor %}",
        "{% for a in x %}{% for b in x if b == 7 %}{% endfor %}{% endfor %}",
    ],
)
def test_bombs_fizzle(source: str) -> None:
    room = Room()
    with pytest.raises(RenderError, match=r"steps|bytes"):
        parsed(source).render({"x": list(range(1000)), "long": "a" * 900_000}, room)
    assert room.steps > -MOST_STEPS, "what is refused costs no more than what is allowed"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
PIECES = st.sampled_from(
    [
        *(
            "{{ a }}",
            "{{ b.a }}",
            "{{ a|join('-') }}",
            "{{ c[0] }}",
            "{% for x in a %}",
            "{{ x }}",
            "{% endfor %}",
            "{% if b %}",
        ),
        *("{% endif %}", "{% else %}", "text", "{{", "%}", "{{ a|length }}", "{{ b|tojson }}", "{{ a == b }}", "{{ a < c }}"),
    ]
)


@given(st.lists(PIECES, max_size=12), st.fixed_dictionaries({"a": JSON, "b": JSON, "c": JSON}))
def test_nothing_but_the_two_errors_comes_out(pieces: list[str], variables: dict[str, Any]) -> None:
    try:
        template = parsed("".join(pieces))
        assert isinstance(template.render(variables, Room()), str)
    except (TemplateError, RenderError):
        pass
