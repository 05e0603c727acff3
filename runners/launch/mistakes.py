"""Slips of the shell, each in a sentence of its own, before Hydra reads the words.

Hydra's grammar has other words for them ("mismatched input '='"), and argparse shows its usage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hydra._internal.utils import get_args_parser

from skipstep.guessing import guess

from ..errors import UserError

OPENS = ("'", '"', "[", "{", "$", "\\")  # a value that begins so may hold an = of its own


def check_words(words: Sequence[str], commands: Iterable[str] = ()) -> None:
    """Refuse what cannot be meant.

    Args:
        words: of the command line.
        commands: names of subcommands, which stand in the place of the first word.

    Raises:
        UserError: what was typed, and how it is written.

    Example:
        >>> check_words(["cache=uniform", "-m"])
        >>> check_words(["cache", "uniform"])
        Traceback (most recent call last):
        runners.errors.UserError: cache uniform: a setting is written with an =, cache=uniform
    """
    flags, valued = _options()
    is_value = False  # of an option
    for i, word in enumerate(words):
        following, third = [*words[i + 1 : i + 3], "", ""][:2]
        name = word.partition("=")[0]
        if is_value:
            is_value = False
        elif name in valued:
            is_value = "=" not in word
        elif name in flags:
            continue
        elif word.startswith("-"):
            raise UserError(_dashes(word, following, flags | valued))
        else:
            following += third if following == "=" else ""
            _check_word(word, following, i, commands)


def _options() -> tuple[set[str], set[str]]:
    """Hydra's own, without and with a value."""
    parser = get_args_parser()
    actions = [a for a in parser._actions if a.option_strings]
    valued = {o for a in actions if a.nargs != 0 for o in a.option_strings}
    return {o for a in actions for o in a.option_strings} - valued, valued


def _dashes(word: str, following: str, options: set[str]) -> str:
    setting = word.lstrip("-")
    if "=" not in setting and following and "=" not in following:
        return f"{word} {following}: settings have no dashes, {setting}={following}"
    if "=" in setting:
        return f"{word}: settings have no dashes, {setting}"
    return f"{word}: unknown option{guess(word, options) or '; --help shows what there is'}"


def _check_word(word: str, following: str, place: int, commands: Iterable[str]) -> None:
    key, equals, value = word.partition("=")
    loose = following and "=" not in following and not following.startswith("-")
    if not equals and not word.startswith("~"):
        if following.startswith("="):
            raise UserError(f"{word} {following}: no spaces around an =, {word}{following}")
        if loose:
            raise UserError(
                f"{word} {following}: a setting is written with an =, {word}={following}"
            )
        raise UserError(_no_setting(word, place, commands))
    if equals and not value and loose:
        raise UserError(f"{word} {following}: no spaces around an =, {word}{following}")
    if value.endswith(","):
        meant = word + following if loose else word.rstrip(",")
        raise UserError(f"{word} {following}".strip() + f": no spaces around a comma, {meant}")
    if "=" in value and not value.startswith(OPENS) and "(" not in value:
        raise UserError(f"{key}: a value with an = is quoted twice, \"{key}='{value}'\"")


def _no_setting(word: str, place: int, commands: Iterable[str]) -> str:
    """A word alone."""
    names = list(commands)
    if place == 0 and (near := guess(word, names)):
        return f"{word}: unknown command{near}"
    also = f", or the first word is one of {', '.join(names)}" if names and place == 0 else ""
    return f"{word}: a setting is written {word}=VALUE{also}"
