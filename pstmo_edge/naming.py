"""Names a user types: the nearest known one, and the error that suggests it."""

from collections.abc import Iterable

from pstmo_edge.errors import UsageError


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """Return the choice most like `value`, ignoring case, or None where nothing comes close."""
    from difflib import get_close_matches  # only a mistake pays for this import

    by_folded = {choice.casefold(): choice for choice in choices}
    matches = get_close_matches(value.casefold(), by_folded, n=1, cutoff=0.5)
    return by_folded[matches[0]] if matches else None


def unknown(kind: str, value: str, choices: Iterable[str]) -> UsageError:
    """Make the error for an unknown name, to be raised by the caller.

    It reads "unknown model 'p-stmo-x': did you mean 'p-stmo-s'? Known: p-stmo-s, p-stmo".
    """
    known = list(choices)
    guess = nearest(value, known)
    hint = f": did you mean {guess!r}?" if guess else "."
    return UsageError(f"unknown {kind} {value!r}{hint} Known: {', '.join(known)}")
