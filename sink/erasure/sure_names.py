"""SQL that says in which form names are compared, and which of them are hardly words of some language."""

from __future__ import annotations

from sink.erasure.text_forms import DENSE, squeeze

# A user name of letters alone is a word of some language unless it is long; with a digit or a sign in it, sooner no word.
_LONG = 10
_LONG_MIXED = 6
# A full name has several words and so many letters, in a script without blanks fewer.
_LONG_NAME = 8
_LONG_NAME_DENSE = 4
# Long words that a learning platform's own texts are full of, and that are user names somewhere.
_WORDS_OF_LEARNING = """
    administrator assessment assignment assignments certificate certificates completion coordinator curriculum
    department discussion discussions enrollment enrollments engineering evaluation examination information instructor
    instructors management moderation moderators professional professor programming registration supervisor technology
    university verification
"""


def express_form(kind: str, text: str) -> str:
    """A name as it is compared: in lower case, of a full name only its words.

    Args:
        kind: an expression that is `address`, `user name` or `full name`.
        text: an expression that is the name.
    """
    return f"if({kind} = 'full name', trimBoth({squeeze(f'lowerUTF8({text})')}), lowerUTF8({text}))"


def express_kind(kind: str, text: str) -> str:
    """The kind by which a name is compared: a user name that is an address is compared as one."""
    return f"if({_is_address(text)}, 'address', {kind})"


def express_is_sure(kind: str, form: str) -> str:
    """True where what holds the name is about the person. Arguments: as of `express_form`, and what that makes."""
    mixed = f"if(match({form}, '^\\\\p{{L}}+$'), {_LONG}, {_LONG_MIXED})"
    is_word = f"has(splitByWhitespace('{_WORDS_OF_LEARNING}'), {form})"
    user_name = f"lengthUTF8({form}) >= {mixed} AND match({form}, '\\\\p{{L}}') AND NOT {is_word}"
    letters = f"lengthUTF8(replaceAll({form}, ' ', ''))"
    several = f"position({form}, ' ') > 0 AND {letters} >= {_LONG_NAME}"
    full_name = f"if(match({form}, '[{DENSE}]'), {letters} >= {_LONG_NAME_DENSE}, {several})"
    return f"multiIf({kind} = 'address', {_is_address(form)}, {kind} = 'full name', {full_name}, {user_name})"


def _is_address(text: str) -> str:
    return f"match({text}, '^[^\\\\s@]+@[^\\\\s@]+$')"
