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
DENSE = r"\\p{Han}\\p{Hiragana}\\p{Katakana}\\p{Hangul}\\p{Thai}"
# Stands between the forms of one text, so that no name reaches from one into the next.
_BETWEEN = "\\x1e"
# Takes the place of the name that is looked for; a code point that no text has.
_MARK = "\\xef\\xb7\\x90"
# Whether letters or digits touch the mark. In a script without blanks they may.
_BEFORE = f"(?:^|[^{_LETTERS}]|[{DENSE}])"
_AFTER = f"(?:$|[^{_LETTERS}]|[{DENSE}])"
_WORD = f"{_BEFORE}{_MARK}{_AFTER}"
# An address goes on in other characters than a word does: `a@x.org` is not in `ba@x.org`, `b.a@x.org` or `a@x.org.au`.
_ADDRESS_BEFORE = f"(?:^|[^{_LETTERS}._%+-]|[{DENSE}])"
_ADDRESS_END = f"$|[^{_LETTERS}.-]|[{DENSE}]|[.-](?:$|[^{_LETTERS}])"
_ADDRESS = f"{_ADDRESS_BEFORE}{_MARK}(?:{_ADDRESS_END})"
# Perhaps the name of a file: `export-a@x.org.csv`.
_FILE_ENDINGS = "csv|docx?|gz|html?|jpe?g|jsonl?|log|pdf|png|txt|xlsx?|xml|zip"
_ADDRESS_PERHAPS = f"{_BEFORE}{_MARK}(?:{_ADDRESS_END}|[.](?:{_FILE_ENDINGS})(?:$|[^{_LETTERS}]))"
# Bytes of a text in base64 from which on it may have letters beyond ASCII.
_LONG_BASE64 = 12


def read_forms(cells: str) -> str:
    """A query of `row`, `place`, `text` and `forms`: all that the text says, in lower case.

    Args:
        cells: a query of `row`, `place` and `text`.
    """
    return f"""
        SELECT row, place, text, lowerUTF8(arrayStringConcat(arrayFilter(form -> form != '', [
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


def list_anchors(text: str) -> str:
    """Digests by which a text in lower case is found: of each word, of any two words that follow each other, and of any
    two neighbouring characters of scripts without blanks.
    """
    words, pairs = _split_words(text), _split_dense(text)
    followed = f"arrayMap((one, next) -> cityHash64(one, next), arrayPopBack({words}), arrayPopFront({words}))"
    return (
        f"arrayConcat(arrayMap(word -> cityHash64(word), {words}), {followed}, "
        f"arrayMap(pair -> cityHash64(pair), {pairs}))"
    )


def list_anchors_of_name(name: str) -> str:
    """Those of `list_anchors` that a text has if it holds the name: of two words wherever it has several."""
    words = _split_words(name)
    pairs = f"arrayFilter(pair -> match(pair, '^[{DENSE}]{{2}}$'), {_split_dense(name)})"
    followed = f"arrayMap((one, next) -> cityHash64(one, next), arrayPopBack({words}), arrayPopFront({words}))"
    return (
        f"multiIf(notEmpty({pairs}), arrayMap(pair -> cityHash64(pair), {pairs}), "
        f"length({words}) > 1, {followed}, arrayMap(word -> cityHash64(word), {words}))"
    )


def _split_words(text: str) -> str:
    # `tokens` knows ASCII's punctuation only. To look for other is much cheaper than to replace it.
    other = f"[^\\\\x00-\\\\x7f{_LETTERS}]"
    return f"tokens(if({_is_ascii(text)} OR NOT match({text}, '{other}'), {text}, replaceRegexpAll({text}, '{other}+', ' ')))"


def _split_dense(text: str) -> str:
    return f"if(NOT ({_is_ascii(text)}) AND match({text}, '[{DENSE}]'), ngrams({text}, 2), [])"


def _is_ascii(text: str) -> str:
    return f"length({text}) = lengthUTF8({text})"


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


def leave_out(text: str, names: str) -> str:
    """A text without any of the names of an array, the longest first."""
    longest_first = f"arraySort(name -> -length(name), {names})"
    return f"arrayFold((left, name) -> replaceAll(left, name, '{_BETWEEN}'), {longest_first}, {text})"


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
    runs = f"arrayConcat(extractAll({text}, '[A-Za-z0-9+/]{{8,}}'), extractAll({text}, '[A-Za-z0-9_-]{{8,}}'))"
    decoded = f"arrayMap(run -> replaceAll(tryBase64URLDecode(run), '\\0', ''), arrayDistinct({runs}))"
    # An ordinary word decodes to bytes that are no text, or to a few characters of any script.
    is_text = f"isValidUTF8(form) AND (length(form) >= {_LONG_BASE64} OR {_is_ascii('form')})"
    return f"arrayStringConcat(arrayFilter(form -> {is_text}, {decoded}), '{_BETWEEN}')"
