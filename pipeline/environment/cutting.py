"""A tool's output that is too long for an episode: what of it stays."""

from collections.abc import Callable, Sequence


def shares(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each length stays, so that the sum is at most `room`.

    All that are cut keep the same, but for what does not divide; what the short ones leave goes to them.
    """
    kept = [0] * len(lengths)
    shortest_first = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for waiting, place in zip(range(len(lengths), 0, -1), shortest_first):
        kept[place] = min(lengths[place], max(0, room) // waiting)
        room -= kept[place]
    return kept


def cut_alike(
    parts: Sequence[str],
    room: int,
    encode: Callable[[str], list[int]],
    decode: Callable[[Sequence[int]], str],
    mark: str,
) -> str:
    """The parts, a line each, cut alike so that they have about `room` tokens together.

    Args:
        encode, decode: from text to token ids, and back.
        mark: what a part that was cut ends in.
    """
    tokens = [encode(part) for part in parts]
    around = len(encode(f"{mark}\n")) * len(parts)
    lines = []
    for part, ids, kept in zip(parts, tokens, shares([len(t) for t in tokens], room - around)):
        # The last token may be the first bytes of a character.
        lines.append(part if kept == len(ids) else decode(ids[:kept]).rstrip("\ufffd ") + mark)
    return "\n".join(lines)
