"""Writes models/tokenizer_entities.cpp: HTML's named references to characters.

The names are those of https://html.spec.whatwg.org/multipage/named-characters.html, as Python's
html.entities has them.
"""
import html.entities
import pathlib
import textwrap

HEAD = '''// HTML's named references to characters (WHATWG HTML, "Named character references"). Made by
// tests/reference/make_html_entities.py.
#include "models/tokenizer_repair.h"

namespace clip {

// clang-format off
const std::string_view kHtmlEntities =
'''

names = []
for name, characters in sorted(html.entities.html5.items()):
    if not name.endswith(";"):
        continue
    separator = "=" if name[:-1] in html.entities.html5 else ";"
    names.append(name[:-1] + separator + "+".join(f"{ord(c):x}" for c in characters))
lines = textwrap.wrap(" ".join(names), 94, break_long_words=False, break_on_hyphens=False)
body = "\n".join(f'  "{line} "' for line in lines[:-1]) + f'\n  "{lines[-1]}";\n'
path = pathlib.Path(__file__).parents[2] / "models" / "tokenizer_entities.cpp"
path.write_text(HEAD + body + "// clang-format on\n\n}  // namespace clip\n", encoding="utf-8")
