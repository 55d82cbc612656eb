r"""SQL that reads a text as people do: whatever it is written in, in lower case, and split into words.

A name is looked for in the text as it stands, and once more with these undone: percent encoding, JSON's and Python's
backslashes (`\u00e9`, `\"`, `\n`), HTML entities, UTF-16, Latin-1, and base64 of any run of its letters. Each of percent
encoding and entities is undone twice, since software encodes what is encoded. Undoing them once for all is cheaper than
writing every name in every encoding, and it finds what stands directly after an escape.
"""

from __future__ import annotations

# Letters, marks and digits: what words are made of, in a regular expression within an SQL text.
_LETTERS = r"\\p{L}\\p{M}\\p{N}"
# Scripts that write no blanks between words.
_DENSE = r"\\p{Han}\\p{Hiragana}\\p{Katakana}\\p{Hangul}\\p{Thai}"
# Stands between the forms of one text, so that no name reaches from one into the next.
_BETWEEN = "\\x1e"
# Takes the place of the name that is looked for; a code point that no text has.
_MARK = "\\xef\\xb7\\x90"
# Whether letters or digits touch the mark. In a script without blanks they may.
_BEFORE = f"(?:^|[^{_LETTERS}]|[{_DENSE}])"
_AFTER = f"(?:$|[^{_LETTERS}]|[{_DENSE}])"
_WORD = f"{_BEFORE}{_MARK}{_AFTER}"
# An address goes on in other characters than a word does: `a@x.org` is not in `ba@x.org`, `b.a@x.org` or `a@x.org.au`.
_ADDRESS_BEFORE = f"(?:^|[^{_LETTERS}._%+-]|[{_DENSE}])"
_ADDRESS_END = f"$|[^{_LETTERS}.-]|[{_DENSE}]|[.-](?:$|[^{_LETTERS}])"
_ADDRESS = f"{_ADDRESS_BEFORE}{_MARK}(?:{_ADDRESS_END})"
# Perhaps the name of a file: `export-a@x.org.csv`.
_FILE_ENDINGS = "csv|docx?|gz|html?|jpe?g|jsonl?|log|pdf|png|txt|xlsx?|xml|zip"
_ADDRESS_PERHAPS = f"{_BEFORE}{_MARK}(?:{_ADDRESS_END}|[.](?:{_FILE_ENDINGS})(?:$|[^{_LETTERS}]))"


def read_forms(cells: str) -> str:
    """A query of `row`, `place` and `forms`: all that a text says, in lower case.

    Args:
        cells: a query of `row`, `place` and `text`.
    """
    return f"""
        SELECT row, place, lowerUTF8(arrayStringConcat(arrayFilter(form -> form != '', [
                   text,
                   if(decoded = text, '', decoded),
                   if(may_be_utf16, toValidUTF8(convertCharset(text, 'UTF-16LE', 'UTF-8')), ''),
                   if(may_be_utf16, toValidUTF8(convertCharset(text, 'UTF-16BE', 'UTF-8')), ''),
                   if(isValidUTF8(text), '', convertCharset(text, 'ISO-8859-1', 'UTF-8')),
                   base64,
                   if({_is_encoded("base64")}, {_decode("base64")}, '')
               ]), '{_BETWEEN}')) AS forms
        FROM (
            SELECT row, place, text, if({_is_encoded("text")}, {_decode("text")}, text) AS decoded,
                   {_decode_base64("decoded")} AS base64,
                   length(text) % 2 = 0 AND (position(text, '\\0') > 0 OR NOT isValidUTF8(text)) AS may_be_utf16
            FROM ({cells})
        )
    """


def split_words(text: str) -> str:
    """The words of a text in lower case, as an array; of scripts without blanks also any two neighbouring characters."""
    is_ascii = f"length({text}) = lengthUTF8({text})"
    # `tokens` knows ASCII's punctuation only.
    spaced = f"if({is_ascii}, {text}, replaceRegexpAll({text}, '[^\\\\x00-\\\\x7f{_LETTERS}]+', ' '))"
    pairs = f"if(NOT ({is_ascii}) AND match({text}, '[{_DENSE}]'), ngrams({text}, 2), [])"
    return f"arrayConcat(tokens({spaced}), {pairs})"


def choose_anchor(text: str) -> str:
    """The word of a name by which texts are found that may hold it: its longest one."""
    pairs = f"arrayFilter(word -> match(word, '^[{_DENSE}]{{2}}$'), {split_words(text)})"
    longest = f"arraySort(word -> -length(word), tokens({text}))[1]"
    return f"if(match({text}, '[{_DENSE}]{{2}}'), {pairs}[1], {longest})"


def squeeze(text: str) -> str:
    """A text with one blank in the place of whatever stands between its words."""
    return f"replaceRegexpAll({text}, '[^{_LETTERS}{_BETWEEN}]+', ' ')"


def holds_word(text: str, word: str) -> str:
    """True where `word` stands in `text` and no letter or digit touches it."""
    return f"match(replaceAll({text}, {word}, '{_MARK}'), '{_WORD}')"


def holds_address(text: str, address: str) -> str:
    """True where `address` stands in `text` as a whole."""
    return f"match(replaceAll({text}, {address}, '{_MARK}'), '{_ADDRESS}')"


def may_hold_address(text: str, address: str) -> str:
    """True where `address` may stand in `text`, or else another one that ends alike."""
    return f"match(replaceAll({text}, {address}, '{_MARK}'), '{_ADDRESS_PERHAPS}')"


def _is_encoded(text: str) -> str:
    # Most texts have nothing to undo, and then this look is all that it costs.
    return f"match({text}, '[\\\\x00\\\\\\\\%&]')"


def _decode(text: str) -> str:
    unquoted = f"decodeURLComponent(decodeURLComponent({text}))"
    undone = f"decodeHTMLComponent(decodeHTMLComponent({_undo_backslashes(unquoted)}))"
    return f"replaceAll({undone}, '\\0', '')"


def _undo_backslashes(text: str) -> str:
    # `\u00e9` becomes an entity and `\xc3` percent encoding, which functions of the engine undo.
    bytes_undone = f"decodeURLComponent(replaceRegexpAll({text}, '\\\\\\\\x([0-9a-fA-F]{{2}})', '%\\\\1'))"
    undone = f"replaceRegexpAll({bytes_undone}, '\\\\\\\\u([0-9a-fA-F]{{4}})', '&#x\\\\1;')"
    undone = f"if(match({text}, '\\\\\\\\[ux]'), {undone}, {text})"
    for blank in "nrtbf":
        undone = f"replaceAll({undone}, '\\\\{blank}', ' ')"
    return f"replaceAll(replaceAll({undone}, '\\\\0', ''), '\\\\', '')"


def _decode_base64(text: str) -> str:
    # Both alphabets: `/` and `-` may stand beside such a text as well as in it.
    runs = f"arrayConcat(extractAll({text}, '[A-Za-z0-9+/]{{6,}}'), extractAll({text}, '[A-Za-z0-9_-]{{6,}}'))"
    decoded = f"arrayMap(run -> replaceAll(tryBase64URLDecode(run), '\\0', ''), arrayDistinct({runs}))"
    # An ordinary word decodes to bytes that are no text.
    return f"arrayStringConcat(arrayFilter(form -> isValidUTF8(form), {decoded}), '{_BETWEEN}')"
