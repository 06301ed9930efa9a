import pytest

from jaxcnn.text import printable, readable_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, with [brackets] and a \\", "plain, with [brackets] and a \\"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x9b31m\x85\x7f\0", "\\x9b31m\\x85\\x7f\\x00"),
        ("\u202eabc\u2028", "\\u202eabc\\u2028"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud83d", "\\ud83d"),
        ("café 猫 😀 \u3000\xa0", "café 猫 😀 \u3000\xa0"),
        ("\U000e0001", "\\U000e0001"),
        (3, "3"),
    ],
)
def test_what_is_not_printable_is_escaped(text, expected):
    assert printable(text) == expected
    assert printable(expected) == expected


def test_line_breaks_may_be_kept():
    assert printable("a\nb\r\n", keep="\n") == "a\nb\\r\n"


def test_every_character_comes_out_printable_or_as_a_space():
    for code in (*range(0x3100), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10010), *range(0xE0000, 0xE0200)):
        text = printable(chr(code))
        assert text.isprintable() or (text.isspace() and len(text.splitlines()) == 1), hex(code)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.0 kB"), (999_949, "999.9 kB"), (1_500_000, "1.5 MB"), (2_505_300_000_000, "2,505.3 GB")]
)
def test_sizes_have_the_unit_that_suits_them(size, text):
    assert readable_bytes(size) == text
