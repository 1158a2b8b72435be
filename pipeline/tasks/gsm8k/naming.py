"""Names for the results of a solution's calculations, from the words around them.

`Weng earns 12/60 = $0.2 per minute` calculates what he `earns_per_minute`.
"""

import ast
import builtins
import keyword
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

LONGEST = 32
"""Longer names, in characters, are not taken: small models lose their way in them."""

_WORD = re.compile(r"[A-Za-z]+")
_CLAUSE = re.compile(r"[.,;:!?()\[\]]\s|[.,;:!?()\[\]\n]$|\b(?:because|since|that|which|if|but)\b")
_CALCULATION = re.compile(r"[\d$%+*/=<>×÷]|\s[-–—x]\s")
_RESULT = re.compile(r"\s*[$€£]?\s*-?\s*[$€£]?[\d.,]*\d%?")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SILENT = _words(
    "a an the this that these those some any such own its it he she they we i you his her their our my "
    "him them us me your there here s t so then thus therefore hence and or also now next first second "
    "third finally lastly since because as if when while where who whom whose what how which but plus "
    "minus times divided multiplied added subtracted equals equal makes make made gives give gave means "
    "mean meaning is are was were be been being am will would can could should shall may might must has "
    "have had having do does did done get gets got getting going go goes went only just still already "
    "about around exactly actually even not no yes ok well let lets know find calculate need needed to of "
    "in on at by from for with without into onto over after before during between under than out off up "
    "down through across within until one two three four five six seven eight nine ten dollar dollars "
    "cent cents usd x amount number answer result overall every both all total altogether together "
    "combined per each respectively able adding multiplying dividing subtracting multiply divide add "
    "subtract another other same more less fewer left remaining new later ago sum mark end"
)
"""Words that tell nothing of a result when they stand alone."""

_ENDS = _words(
    "and or because since so which that if when while but then as at on by from for with than to after "
    "before during who where is are was were will would can has have had do does did he she they it we i "
    "x plus minus times into out off until without between"
)
"""Words after a result that begin something else."""

_ARTICLES = _words(
    "a an the his her their its our my this that these those s t dollars dollar cents"
)
_TOTAL = _words("total altogether together combined all overall sum")
_LEFT = _words("left remaining remain remains")
_MORE = _words("more extra additional another")
_LESS = _words("less fewer")
_INSIDE = _words("of in per")
_EVERY = _words("a an per each every")
_PERIODS = _words(
    "second minute hour day night week weekend weekday month year decade trip person student child "
    "customer box bag pack bottle piece pound mile dozen row page game class visit gallon head item lap "
    "meal session shift order"
)
_PASSED = _TOTAL | _LEFT | _MORE | _LESS | _ARTICLES | _EVERY
_PREFIXES = ((_TOTAL, ["total"]), (_MORE, ["more"]), (_LESS, ["less"]))
_SOUGHT = re.compile(
    r"\b(?:find|calculate|determine|get)(?: out)? (?:the )?(?:total )?(?:(?:number|amount) of )?((?:(?!by\b|if\b|how\b|what\b)[a-z]+ ?){1,5})(?=[:,]| by)"
)
_MANY = re.compile(r"[Hh]ow many ([a-z ]+)")
_MUCH = re.compile(r"[Hh]ow much ([A-Za-z ]+)")
_WHAT = re.compile(
    r"[Ww]hat (?:is|was|are|were|will be|would be) (?:the |his |her |their )?(?:total )?(?:(?:number|amount) of )?([a-z ]+)"
)
_RESERVED = frozenset(keyword.kwlist) | frozenset(dir(builtins)) | {"solution"}

_RESULTS: dict[type[ast.operator] | None, str] = {
    ast.Add: "total",
    ast.Sub: "difference",
    ast.Mult: "product",
    ast.Div: "share",
}


PLAIN = frozenset(("result", "amount", *_RESULTS.values()))
"""Names that tell only what was calculated."""


def name_of(before: str, after: str, taken: Collection[str]) -> str | None:
    """A name for a result from the text before its calculation and after it, that is not `taken` yet.

    None where the text tells nothing of it.
    """
    return _first_free(_candidates(before, after), taken)


def name_asked(question: str, taken: Collection[str]) -> str | None:
    """A name for what the question asks; None where it does not say."""
    return _first_free(_asked(question), taken)


def plain_name(sign: type[ast.operator] | None, taken: Collection[str]) -> str:
    """A name that tells only what was calculated, like `total`; `other_total` where that is taken.

    Args:
        sign: what the calculation does last; None for nothing.
    """
    name = _RESULTS.get(sign, "amount")
    while name in taken:
        name = f"other_{name}"
    return name


def _first_free(candidates: Iterable[Sequence[str]], taken: Collection[str]) -> str | None:
    names = ("_".join(words) for words in candidates if words)
    return next(
        (n for n in names if len(n) <= LONGEST and n not in taken and n not in _RESERVED), None
    )


def _candidates(before: str, after: str) -> Iterator[list[str]]:
    """Names as words, the best first."""
    clauses = [_CALCULATION.split(clause)[0] for clause in _CLAUSE.split(before)]
    leads = [words for words in map(_spoken, clauses) if words]
    lead = leads[-1] if leads else []
    if sought := _SOUGHT.search(before):
        yield _things(sought.group(1))[0]
    things, every, done = _after(after)
    said = {word.lower() for word in _WORD.findall(f"{clauses[-1]} {after.partition('.')[0]}")}
    prefix = next((name for words, name in _PREFIXES if said & words), [])
    suffix = every or (["left"] if said & _LEFT else [])
    verbs = [word for word in lead if not word[0].isupper()]
    people = [word.lower() for word in lead if word[0].isupper()]
    if things:
        if not _INSIDE & set(things):
            yield [*prefix, *things, *suffix]
        yield [*things, *every]
        if done:
            yield [*things, *done]
        yield _ended([*verbs[-1:], *things, *suffix])
        yield [*people[-1:], *things, *suffix]
        yield _ended([*people[-1:], *verbs[-1:], *things, *suffix])
    if verbs:
        yield _ended([*prefix, *_last_two(verbs), *suffix])
        yield _ended([*people[-1:], *verbs[-1:], *prefix, *suffix])
    if people:
        yield [*people[-1:], *(prefix or suffix or ["amount"])]
    if every:
        yield ["amount", *every]
    if suffix:
        yield ["amount", *suffix]


def _asked(question: str) -> Iterator[list[str]]:
    if many := _MANY.search(question):
        yield _things(many.group(1))[0]
    if what := _WHAT.search(question):
        yield _things(what.group(1))[0]
    if much := _MUCH.search(question):
        yield [word for word in _spoken(much.group(1)) if word.islower()][:2]


def _spoken(text: str) -> list[str]:
    """The words that tell something, and `of` between two of them."""
    found: list[str] = []
    for word in _WORD.findall(text):
        joins = word == "of" and found and found[-1] != "of"
        if joins or (len(word) > 1 and word.lower() not in _SILENT):
            found.append(word)
        elif found and found[-1] == "of" and word.lower() not in _ARTICLES:
            found.pop()
    return _ended(found)


def _ended(words: list[str]) -> list[str]:
    """Without `of` at the ends."""
    start = 1 if words[:1] == ["of"] else 0
    return words[start : -1 if words[-1:] == ["of"] else None]


def _last_two(words: list[str]) -> list[str]:
    """The last two words, three where the middle one is `of`."""
    return words[-3:] if words[-2:-1] == ["of"] else words[-2:]


def _after(text: str) -> tuple[list[str], list[str], list[str]]:
    """`_things` of what stands after a calculation: its result first, which is passed over."""
    rest = _RESULT.sub("", text, count=1) if _RESULT.match(text) else text
    if rest.startswith((".", ",", ";", ")")):
        return [], [], []
    return _things(_CALCULATION.split(_CLAUSE.split(rest.lstrip("*"))[0].replace("/", " per "))[0])


def _things(text: str) -> tuple[list[str], list[str], list[str]]:
    """What is counted, as in `clips in May`; `per` what, as in `a minute`; what was done, as in `were sold`."""
    things: list[str] = []
    every: list[str] = []
    words = _WORD.findall(text)
    place = 0
    for place, word in enumerate(words):
        following = words[place + 1].lower() if place + 1 < len(words) else ""
        if word in _EVERY and following and (word == "per" or following in _PERIODS):
            every = ["per", following]
            break
        if word in _ENDS or len(things) >= 4:
            break
        if word not in _PASSED:
            things.append(word)
    done = ["not"] if "not" in words[place:] else []
    done += [w for w in _spoken(" ".join(words[place:])) if w != "of" and w not in things][:1]
    things = things[:3]
    while things and (things[-1] in _INSIDE or things[-1] in _SILENT):
        things.pop()
    while things and (things[0] in _INSIDE or things[0] in _SILENT):
        things.pop(0)
    return [word.lower() for word in things], every, done if place else []
