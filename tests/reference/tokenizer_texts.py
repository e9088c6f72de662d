"""20,480 texts that try a tokenizer, from counter-based random numbers: tests/tokenizer_texts.cpp makes the same.

What they are made of lies in tokenizer_alphabets.json, which make_alphabets() writes.
"""
import html.entities
import json
import pathlib
import unicodedata

from philox import Random

ALPHABETS = pathlib.Path(__file__).parent / "tokenizer_alphabets.json"
COUNT = 20480
SEED = 7
WALK = 20  # characters of a text that walks through Unicode

PIECES = [
    " ", "  ", "\n", "\r\n", "\t", "\r", "\u2028", "\x0b", "\x0c", "\x00", "\x07", "\x1b[31;1m", "\x1b[0m", "\x1b",
    "\x7f", "\x85", "\x91", "\x9d", "\u00a0", "\u00ad", "\u200b", "\u200d", "\u202e", "\u3000", "\ufeff", "\ufffd",
    "'s", "'S", "'t", "'re", "'VE", "'m", "'ll", "'d", "\u2019s", "'\u017f", "'", "''", "\"", "\u201c", "\u201d",
    ",", ".", "...", "\u2026", "!", "?", "-", "\u2013", "\u2014", "/", "_", "#", "@", "$", "\u20ac", "%", "(", ")",
    "<", ">", "<b>", "</b>", "&", "&amp;", "&amp;amp;", "<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", "<|",
    "0", "7", "42", "1,000", "3.5", "\u00b2", "\u00bd", "\u2163", "\u0664", "\u2460",
    "\u03a3", "\u03c3", "\u0130", "\u0131", "\u00df", "\u1e9e", "\u0345", "\u0301", "\u0308", "\ufb01", "\u01c5",
    "\u0149", "\uff21", "\uff9e", "\u210b", "\u1f468\u200d", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea",
    "\u00c3\u00a9", "\u00e2\u20ac\u2122", "\u00c2 ", "\u00c3 ", "\u00c3\u0192\u00c2\u00a9", "\u00e2\u20ac\ufffd",
]
# Ranges of what is written, and so wrongly decoded, most.
WRITTEN = [(0xa0, 0xff), (0xc0, 0xff), (0x100, 0x17f), (0x2010, 0x203a), (0x20a0, 0x20b0), (0x2190, 0x21ff),
           (0x391, 0x3a1), (0x3b1, 0x3c9), (0x410, 0x44f), (0x5d0, 0x5ea), (0x627, 0x63a), (0x905, 0x939),
           (0xe01, 0xe2e), (0x3041, 0x3093), (0x4e00, 0x4fff), (0xac00, 0xad00), (0x1f300, 0x1f64f), (0x61, 0x7a)]
# References to what is no character, and at the edges of what is a reference.
ODD_NUMBERS = ["#0", "#00", "#59", "#38", "#x26", "#xD800", "#xdfff", "#xFFFE", "#xfdd0", "#x10FFFF", "#x110000",
               "#1114112", "#99999999999999999999", "#xFFFFFFFFFFFFFFFFF", "#000000000000000000000065",
               "#0000000000000000000000000065", "#x0000000000000000000041", "#x00000000000000000000000041", "#", "#x",
               "#X41", "#xg", "#65a", "#x4g", "#1;#2"]
ENCODINGS = ["latin-1", "windows-1252", "windows-1251", "windows-1250", "windows-1253", "windows-1254",
             "windows-1257", "iso-8859-2", "macroman", "cp437"]


def make_alphabets():
    assigned, first = [], None
    for c in range(0x110001):
        known = c < 0x110000 and unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")
        if known and first is None:
            first = c
        if not known and first is not None:
            assigned.append((first, c - 1))
            first = None
    tables = []
    for encoding in ENCODINGS:
        decoded = bytes(range(128, 256)).decode(encoding, "replace")
        tables.append("".join(chr(128 + i) if c == "\ufffd" else c for i, c in enumerate(decoded)))
    root = {"assigned": " ".join(f"{a:x} {b:x}" for a, b in assigned), "written": WRITTEN, "pieces": PIECES,
            "odd numbers": ODD_NUMBERS,
            "encodings": tables,
            "entities": " ".join(sorted(n[:-1] for n in html.entities.html5 if n.endswith(";")))}
    ALPHABETS.write_text(json.dumps(root, indent=0) + "\n", encoding="utf-8")


class Texts:
    def __init__(self):
        root = json.loads(ALPHABETS.read_text(encoding="utf-8"))
        bounds = [int(b, 16) for b in root["assigned"].split()]
        self.assigned = [c for a, b in zip(bounds[::2], bounds[1::2]) for c in range(a, b + 1)]
        self.written, self.pieces, self.encodings = root["written"], root["pieces"], root["encodings"]
        self.entities, self.odd_numbers = root["entities"].split(), root["odd numbers"]

    def text(self, index):
        r = Random(SEED, f"text/{index}")
        kind = index % 8
        if kind < 3:
            return self.walk(r, index // 8 * 3 + kind)
        if kind == 7:  # long, of several kinds
            return " ".join(self.of_kind(r, 3 + r.below(4)) for _ in range(2 + r.below(12)))
        return self.of_kind(r, kind)

    def of_kind(self, r, kind):
        if kind == 3:
            return self.mixed(r)
        if kind == 4:
            return self.wrongly_decoded(r)
        return self.bytes_of_an_encoding(r) if kind == 5 else self.references(r)

    def walk(self, r, step):
        """All assigned characters in their order, a few in each text."""
        out = ""
        for i in range(WALK):
            out += chr(self.assigned[(step * WALK + i) % len(self.assigned)])
            out += ["", "", "", "a", " ", "'s", "1"][r.below(7)]
        return out

    def word(self, r):
        return "".join("etaoinshrdluetaoinshrdlucmfwypvbgkjqxzETAOIN"[r.below(44)] for _ in range(1 + r.below(9)))

    def written_word(self, r):
        low, high = self.written[r.below(len(self.written))]
        return "".join(chr(low + r.below(high - low + 1)) for _ in range(1 + r.below(5)))

    def mixed(self, r):
        out = ""
        for _ in range(1 + r.below(10)):
            what = r.below(5)
            if what == 0:
                out += self.word(r)
            elif what == 1:  # any character, the lower ones more often
                out += chr(self.assigned[r.below(1 + r.below(1 + r.below(len(self.assigned))))])
            elif what == 2:
                out += self.written_word(r)
            else:
                out += self.pieces[r.below(len(self.pieces))]
            out += ["", " ", " "][r.below(3)]
        return out

    def wrongly_decoded(self, r):
        text = self.word(r)
        for _ in range(1 + r.below(4)):
            text += ["", " ", "'s ", ", "][r.below(4)] + [self.word, self.written_word][r.below(2)](r)
        for _ in range(1 + r.below(2)):
            table = self.encodings[r.below(len(self.encodings))]
            text = "".join(chr(b) if b < 128 else table[b - 128] for b in text.encode())
            damage = r.below(6)
            if damage == 0:
                text = "".join("\ufffd" if "\x80" <= c <= "\x9f" else c for c in text)
            elif damage == 1:
                text = text.replace("\u00a0", " ")
            elif damage == 2:
                text = "".join("\ufffd" if r.below(12) == 0 else c for c in text)
        if r.below(3) == 0:
            text = self.mixed(r) + " " + text
        return text

    def bytes_of_an_encoding(self, r):
        table = self.encodings[r.below(len(self.encodings))]
        out = ""
        for _ in range(1 + r.below(6)):
            out += self.word(r) if r.below(2) == 0 else ""
            out += "".join(table[r.below(128)] for _ in range(1 + r.below(4))) + ["", " "][r.below(2)]
        return out

    def references(self, r):
        out = ""
        for _ in range(1 + r.below(6)):
            name = self.entities[r.below(len(self.entities))]
            how = r.below(8)
            if how == 0:
                name = name.upper()
            elif how == 1:
                name = "amp;" + name
            elif how == 2:
                name = name[:1 + r.below(len(name))]
            elif how == 3:
                name = "#" + str(self.assigned[r.below(1 + r.below(len(self.assigned)))])
            elif how == 4:
                name = "#x" + format(r.below(0x100), "x")
            elif how == 5:
                name = self.odd_numbers[r.below(len(self.odd_numbers))]
            out += "&" + name + [";", ";", ";", "", " ", "x", ";;"][r.below(7)]
            out += self.word(r) if r.below(2) == 0 else ""
        return out


if __name__ == "__main__":
    make_alphabets()
