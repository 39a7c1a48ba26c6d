"""Lines of TOML keys: against files written key by key, and against the values that tomllib reads."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from dicomplan.machine.library import machine_names, machine_text
from dicomplan.machine.toml_lines import key_lines

AWKWARD = (
    '''\
a = 1 # [not.a.table]
"b c" = "x # no comment" # comment
'd.e'.f = 'it\\'
[g]
h = """
i = 1
""" # the end
j = [ # open
  1, [2, 3],

  { k = "]", l = 5 },
  \'\'\'
]'\'\'\',
] ; '''.removesuffix(" ; ")
    + '''
[[m]]
n = 1
[[m]]
n = {o.p = 1979-05-27 07:32:00, q = """"""}
[m.r]
s = "\\""
[ "t" . u ]
v = -1e5
'''
)


def test_awkward_text() -> None:
    tomllib.loads(AWKWARD)
    assert key_lines(AWKWARD) == {
        ("a",): 1,
        ("b c",): 2,
        ("d.e",): 3,
        ("d.e", "f"): 3,
        ("g",): 4,
        ("g", "h"): 5,
        ("g", "j"): 8,
        ("g", "j", 0): 9,
        ("g", "j", 1): 9,
        ("g", "j", 1, 0): 9,
        ("g", "j", 1, 1): 9,
        ("g", "j", 2): 11,
        ("g", "j", 2, "k"): 11,
        ("g", "j", 2, "l"): 11,
        ("g", "j", 3): 12,
        ("m",): 15,
        ("m", 0): 15,
        ("m", 0, "n"): 16,
        ("m", 1): 17,
        ("m", 1, "n"): 18,
        ("m", 1, "n", "o"): 18,
        ("m", 1, "n", "o", "p"): 18,
        ("m", 1, "n", "q"): 18,
        ("m", 1, "r"): 19,
        ("m", 1, "r", "s"): 20,
        ("t",): 21,
        ("t", "u"): 21,
        ("t", "u", "v"): 22,
    }


def paths(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """Every path of a value that tomllib read."""
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    found = {path} if path else set()
    for key, item in items:
        found |= paths(item, (*path, key))
    return found


def test_the_shipped_files_have_a_line_for_every_value() -> None:
    for name in machine_names():
        text = machine_text(name)
        lines = key_lines(text)
        assert set(lines) == paths(tomllib.loads(text))
        written = text.splitlines()
        for path, line in lines.items():
            key = next(part for part in reversed(path) if isinstance(part, str))
            if isinstance(path[-1], str):
                assert key in written[line - 1]


NAMES = st.text("abc-_09", min_size=1, max_size=4)
SCALARS = st.one_of(
    st.integers(-9, 9).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.sampled_from(['"a, [b] # c"', "'x = 1'", '"\\\\"', '"""\n[x]\n"""', "'''\ny = 2'''", "1.5e3", '""', "''"]),
)


@given(st.lists(st.tuples(NAMES, st.lists(st.tuples(NAMES, st.lists(SCALARS, max_size=3))))), st.data())
def test_random_files(tables: list[tuple[str, list[tuple[str, list[str]]]]], data: st.DataObject) -> None:
    """A file is written table by table; each key and item must be found on the line where it was written."""
    written, expected = "", {}

    def here() -> int:
        return written.count("\n") + 1

    for number, (table, keys) in enumerate(tables):
        name = f"{table}{number}"
        expected[name,] = here()
        written += f"[{name}]\n"
        for position, (key, items) in enumerate(keys):
            path = (name, f"{key}{position}")
            expected[path] = here()
            written += f"{path[1]} = ["
            for index, item in enumerate(items):
                written += data.draw(st.sampled_from(["", " ", "\n", " # ] =\n"]))
                expected[*path, index] = here()
                written += item + data.draw(st.sampled_from([",", " ,\n"]))
            written += "]" + data.draw(st.sampled_from(["\n", " # x\n", "\n\n"]))
    tomllib.loads(written)
    assert key_lines(written) == expected
    assert key_lines(written.replace("\n", "\r\n")) == expected
