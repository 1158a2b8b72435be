from collections import Counter

import pytest

from pipeline.tools.wiki.encyclopaedia import _direction, _distance, articles, entities


def by_title(title, kind):
    (entity,) = [e for e in entities() if e.title == title and e.kind == kind]
    return entity


@pytest.mark.parametrize(
    ("title", "kind", "facts"),
    [
        ("Albania", "country", {"capital": "Tirana", "currency": "Lek", "calling_code": "+355"}),
        ("Kenya", "country", {"demonym": "Kenyan", "domain": ".ke", "capital": "Nairobi"}),
        ("Hamburg", "city", {"country": "Germany", "timezone": "Europe/Berlin"}),
        ("Tungsten", "element", {"symbol": "W", "number": "74", "year": "1783", "place": "Spain"}),
        ("Cook County, Illinois", "county", {"state": "Illinois", "fips": "17031"}),
        ("Oregon", "state", {"code": "OR"}),
    ],
)
def test_facts_are_true(title, kind, facts):
    assert by_title(title, kind).facts.items() >= facts.items()


def test_every_article_has_a_title_line_two_paragraphs_and_all_facts():
    written = {article["id"]: article["contents"].split("\n") for article in articles()}
    assert len(written) == len(entities()) > 5000
    for entity in entities():
        title, first, second = written[entity.id]
        assert title == entity.title
        assert entity.name in first
        assert "{" not in first + second
        for name, fact in entity.facts.items():
            assert fact or name == "role", (entity, name)
            assert fact.strip() in first + second, (entity, name)


def test_ids_and_titles_are_unique_within_a_kind():
    assert max(Counter(entity.id for entity in entities()).values()) == 1
    assert max(Counter((e.kind, e.title) for e in entities()).values()) == 1


def test_wordings_vary_and_names_are_shared():
    openings = Counter(
        article["contents"].split("\n")[1].replace(entity.name, "X")[:12]
        for entity, article in zip(entities(), articles())
        if entity.kind == "city"
    )
    assert len(openings) >= 3
    names = Counter(entity.name for entity in entities())
    assert sum(count > 1 for count in names.values()) > 300


def test_it_is_the_same_every_time():
    assert list(articles()) == list(articles())


def test_distance_and_direction():
    london = {"latitude": 51.507, "longitude": -0.128}
    paris = {"latitude": 48.857, "longitude": 2.352}
    new_york = {"latitude": 40.713, "longitude": -74.006}
    assert _distance(london, paris) == pytest.approx(344, abs=2)
    assert _distance(london, new_york) == pytest.approx(5570, abs=10)
    assert _direction(london, paris) == "south-east"
    assert _direction(paris, london) == "north-west"
    assert _direction(new_york, london) == "north-east"
