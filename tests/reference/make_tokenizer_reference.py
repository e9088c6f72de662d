"""Reference ids for tests/tokenizer_test.cpp, from open_clip's SimpleTokenizer.

Writes tokenizer_merges.txt (the first 2,000 merges of CLIP's file), tokenizer_ids.json (texts and
their ids by those merges) and tokenizer_hashes.json: of the texts of tokenizer_texts.py, one hash
per 64 texts, by those merges and by all of CLIP's. Texts with characters that Unicode 14 does not
know (some repairs make them) are left out: what they are depends on a library's version.
Needs open_clip_torch, ftfy and regex. Made with open_clip_torch 3.3.0, ftfy 6.3.1, Python 3.11.

--compare FILE: prints the texts whose ids differ from those in FILE, "index: id id ..." a line,
which the test writes when a hash differs.

--check FOLDER holds a folder written by Tokenizer::save and made from tokenizer_merges.txt
against the stored ids, read by Hugging Face's tokenizers (needs tokenizers). Three texts differ:
there, a final sigma before an apostrophe is not seen, a special token is found after punctuation
too, and one with a long s is no word.

--speed PROGRAM: runs tests/tokenizer_bench, then open_clip's tokenizer with all of CLIP's merges on
the same texts, one thread too.

--hugging-face counts the texts to which transformers' CLIPTokenizer gives other ids.
"""
import gzip
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unicodedata

import regex
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from tokenizer_texts import COUNT, Texts

HERE = pathlib.Path(__file__).parent
MERGES = 2000
BLOCK = 64  # texts of one hash

SENTENCES = """a photo of a cat.|a bad photo of the large dog|An itap of my Golden Retriever!
the quick brown fox jumps over the lazy dog|I'm sure we'll see that they've won, don't you?
IT'S WHAT HE'D SAID: I'LL GO, YOU'RE LATE, WE'VE LEFT, I'M HERE, DON'T|'s't're've'm'll'd 'super 'tis
''s '''t ' s "'re"|'ſt 'ſ ſafe|rock'n'roll o'clock 90's|3 apples, 14 pears & 1,234.50 dollars (+5%)
2023-04-01T12:30:45Z v2.0.1-rc1|e=mc² ½ cup ① Ⅷ ٣٤ ৩|http://www.example.com/a_b?c=d&e=f#g
user@example.org #hashtag @name $9.99|snake_case camelCase kebab-case UPPER_CASE|...!!! ???—–-- ;;;
café naïve résumé Zürich Ångström São Paulo|cafe\u0301 nai\u0308ve|İstanbul IĞDIR ıI ẞ ß STRASSE
ΟΔΥΣΣΕΥΣ Σ ΣΑΣ ΑΣ'Α όμορφος|Привет, мир! ЁЖИК|שלום עולם|مرحبا بالعالم|नमस्ते दुनिया|สวัสดีชาวโลก
一只猫坐在垫子上|日本語のテキスト、カタカナ。|한국어 문장입니다|ＡＢＣ　１２３！ ｶﾞｷﾞｸﾞ ﾊﾟ ￥ ￦
🐶🐱 two pets 👍🏽|👨‍👩‍👧‍👦 family 🏳️‍🌈 🇩🇪|➜ ✓ ★ ♥ ☃ ∑ ∞ ≠ → €100 £5 ¥8|“Don’t” ‘quote’ „so“ «ici» ‹x›
ﬁne ﬂow oﬀer ﬆ ﬅ ŉ ĳ ǆ ǅ|Tom &amp; Jerry|Tom &amp;amp; Jerry|Tom &amp;amp;amp;amp; Jerry|AT&T R&D &c
caf&eacute; caf&eacute caf&EACUTE; P&NTILDE;A|&lt;b&gt;bold&lt;/b&gt;|<b>caf&eacute; &EACUTE; &amp;lt;</b>
1 &lt 2 &gt 0 &notit; &ampx &amp &; & &#; &#x; &#xg;|&#233;&#xE9;&#xe9 &#39;s &#8217;s &#x2019;LL &#59;
&#0; &#1; &#128; &#150; &#xD800; &#x110000; &#99999999999999; &#xFFFE; &#128512;|&quot;hi&quot;&nbsp;there&hellip;
&copy; 2020 &reg; &trade; &COPY &REG; &deg;C &frac12; &times; &euro; &mdash; &ndash; &bull; &rarr; &hearts;
&apos;s &comma; &lpar;x&rpar; &num;1 &commat; &ccaron; &Scaron;koda &lstrok; &check; &star; &nosuchname; &SZLIG;
one line\nanother line\r\nthird\rfourth| \t  many   spaces\t\there \u00a0\u2003 x \u3000 y  |a\u2028b\u2029c\x0bd\x0ce
zero\u200bwidth\u200dand\ufeffmarks\u202e|a\x00b\x07c\x1b[31;1mred\x1b[0m\x7f|\x85 \x91quoted\x92 \x80
x\u0345y \u0345 α\u0345|<|startoftext|>|a <|endoftext|> b|<|STARTOFTEXT|>x<|endoftext|>|!<|endoftext|>|<|endof text|>
<|ſtartoftext|>||  |aaaaaaaaaaaaaaaaaaaaaaaaa|thethethethethethe inginging|hahahahahaha|0123456789|!|a|é|犬|🐕"""


WRONGLY_DECODED = """schÃ¶n|donâ€™t, â€œwellâ€\x9d|â€œ like this â€\ufffd|Ã la carte, Ã  vous, Ã s sete|voilÃ le travail
a photo of a cafÃƒÂ©|l’humanitÃ© et le cœur|Ð¼Ð¸Ñ€|РјРёСЂ|ÎºÎ±Î»Î·Î¼Î­ÏÎ±|ΞΊΞ±Ξ»|ØµÙˆØ±Ø©|æ—¥æœ¬èªž
ðŸ˜€ ðŸ\x8d• smile|ðŸ˜‚ and “good” text|caf√© na√Øve|voil‚Ä¶ ‚Äútext‚Äù|r├®sum├®|tÅ‚umacz â€“ Ä‡wiczenie|MÃœNCHEN STRASÃŸE
Â£5 Â½ Â°C Â© 2020|\x93quoted\x94 \x96 dash \x80 5|good café © 2020 — “fine”|Åland ÅÄÖ ÀÉ Œuvre|ÃƒÆ’Ã‚Â©
Î¤ÎµÏƒÏ„|â‚¬ 100|cliché&nbsp;Ã©tude|Ã©&lt;b>|í\xa0½í¸\x80 pair|À\x80 nul|ÐºÐ¾ÑˆÐºÐ° Ð½Ð° ÐºÐ¾Ð²Ñ€Ðµ|à¤¹à¤¿""".replace("|", "\n")


def literal_texts():
    # "||" would end a text inside "<|endoftext|>": protect the special tokens while splitting.
    marked = SENTENCES.replace("<|", "\ue000").replace("|>", "\ue001").replace("\n", "|")
    texts = [t.replace("\ue000", "<|").replace("\ue001", "|>") for t in marked.split("|")]
    texts += WRONGLY_DECODED.split("\n")
    return texts + ["one line\nanother line\r\nthird\rfourth", "é &EACUTE;\n<b>\n&EACUTE;"]


def random_texts(count):
    rng = random.Random(1)
    letters = "etaoinshrdlu" * 3 + "cmfwypvbgkjqxz"
    blocks = [(0x20, 0x7E), (0xA1, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x6FF),
              (0x900, 0x97F), (0x1E00, 0x1FFF), (0x2010, 0x20BF), (0x2100, 0x218F),
              (0x2460, 0x24FF), (0x2600, 0x26FF), (0x3041, 0x30FF), (0x4E00, 0x4FFF),
              (0xAC00, 0xACFF), (0xFF01, 0xFFEE), (0x1F300, 0x1F64F), (0x300, 0x36F)]

    def character(block):
        while True:
            c = chr(rng.randint(*block))
            if unicodedata.category(c) not in ("Cn", "Cs", "Co"):
                return c

    texts = []
    for i in range(count):
        parts = []
        for _ in range(rng.randint(1, 5)):
            if i % 2 == 0:
                parts.append("".join(rng.choice(letters) for _ in range(rng.randint(1, 9))))
            else:
                block = rng.choice(blocks)
                parts.append("".join(character(block) for _ in range(rng.randint(1, 5))))
            parts.append(rng.choice([" ", " ", " ", "'s ", "'LL ", ", ", "’re ", "7", " &amp; ", "-"]))
        texts.append("".join(parts))
    return texts


def openai_tokenizer(merges):
    """SimpleTokenizer with these merges and OpenAI's spelling of the special tokens."""
    with tempfile.NamedTemporaryFile(suffix=".gz") as file:
        file.write(gzip.compress(("#version\n" + "\n".join(merges)).encode()))
        file.flush()
        tokenizer = SimpleTokenizer(file.name)
    first_special = 512 + len(merges)
    for i, token in enumerate(["<|startoftext|>", "<|endoftext|>"]):
        tokenizer.encoder[token] = first_special + i
        tokenizer.cache[token] = token
    pattern = tokenizer.pat.pattern.replace(
        "<start_of_text>|<end_of_text>", r"<\|startoftext\|>|<\|endoftext\|>")
    tokenizer.pat = regex.compile(pattern, regex.IGNORECASE)
    return tokenizer


def clip_merges():
    return gzip.open(default_bpe()).read().decode().split("\n")[1:49152 - 256 - 2 + 1]


def hash_of(lists):
    """FNV-1a over ids of four bytes, the lowest first; -1 ends a text."""
    value = 0xCBF29CE484222325
    for ids in lists:
        for byte in b"".join(i.to_bytes(4, "little", signed=True) for i in ids + [-1]):
            value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def make():
    assert unicodedata.unidata_version == "14.0.0", "texts that others would leave out are stored: Python 3.11"
    merges = clip_merges()
    (HERE / "tokenizer_merges.txt").write_text("#version: 0.2\n" + "\n".join(merges[:MERGES]) + "\n",
                                               encoding="utf-8")
    small, whole = openai_tokenizer(merges[:MERGES]), openai_tokenizer(merges)
    rows = ",\n".join(json.dumps({"text": text, "ids": small.encode(text)}, separators=(",", ":"))
                      for text in literal_texts() + random_texts(260))
    (HERE / "tokenizer_ids.json").write_text("[\n" + rows + "\n]\n", encoding="utf-8")
    texts = Texts()
    hashes = {"left out": [], "2000 merges": [], "all merges": []}
    for first in range(0, COUNT, BLOCK):
        block = []
        for i in range(first, first + BLOCK):
            if any(unicodedata.category(c) == "Cn" for c in small.clean_fn(texts.text(i))):
                hashes["left out"].append(i)
            else:
                block.append(texts.text(i))
        for tokenizer, name in ((small, "2000 merges"), (whole, "all merges")):
            hashes[name].append(hash_of([tokenizer.encode(text) for text in block]))
    print(COUNT - len(hashes["left out"]), "texts")
    (HERE / "tokenizer_hashes.json").write_text(json.dumps(hashes, indent=0) + "\n", encoding="utf-8")


def compare(path):
    lines = pathlib.Path(path).read_text().splitlines()
    merges = clip_merges()
    tokenizer = openai_tokenizer(merges if lines[0].startswith("all") else merges[:MERGES])
    texts, different = Texts(), 0
    for line in lines[1:]:
        index, ids = line.split(":")
        text, ids = texts.text(int(index)), [int(i) for i in ids.split()]
        expected = tokenizer.encode(text)
        if ids != expected:
            different += 1
            print(f"{index}: {text!r} cleaned {tokenizer.clean_fn(text)!r}\n  expected {expected}\n  found    {ids}")
    print(different, "of", len(lines) - 1, "differ")


def speed(program):
    with tempfile.NamedTemporaryFile() as file:
        print(subprocess.run([program, file.name], check=True, capture_output=True, text=True).stdout, end="")
        lines = pathlib.Path(file.name).read_bytes().decode().split("\n")[:-1]
    for name, texts in (("captions", lines[:-COUNT]), ("damaged", lines[-COUNT:])):
        tokenizer, best = openai_tokenizer(clip_merges()), 1e9
        for _ in range(3):
            start = time.process_time()
            for text in texts:
                tokenizer.encode(text)
            best = min(best, time.process_time() - start)
        print(f"open_clip  {name:9} {len(texts) / best:9.0f} texts/s  {1e6 * best / len(texts):6.2f} us each")


def hugging_face():
    from transformers import CLIPTokenizer
    merges = clip_merges()
    reference = openai_tokenizer(merges)
    with tempfile.TemporaryDirectory() as folder:
        vocab = {token: i for token, i in reference.encoder.items() if i < 512 + len(merges)}
        vocab.update({"<|startoftext|>": 49406, "<|endoftext|>": 49407})
        (pathlib.Path(folder) / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
        (pathlib.Path(folder) / "merges.txt").write_text(
            "#version: 0.2\n" + "\n".join(" ".join(m) if isinstance(m, tuple) else m for m in merges) + "\n",
            encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    texts, kinds = Texts(), [0] * 8
    for i in range(COUNT):
        text = texts.text(i)
        kinds[i % 8] += tokenizer(text, add_special_tokens=False)["input_ids"] != reference.encode(text)
    print("different of", COUNT // 8, "by kind of text:", kinds)


def check(folder):
    from open_clip.tokenizer import get_clean_fn
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
    clean = get_clean_fn("whitespace")  # what open_clip's HFTokenizer does first
    cases = json.loads((HERE / "tokenizer_ids.json").read_text(encoding="utf-8"))
    wrong = [c["text"] for c in cases
             if tokenizer.encode(clean(c["text"]), add_special_tokens=False).ids != c["ids"]]
    print(len(cases) - len(wrong), "of", len(cases), "equal; others:", wrong)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        check(sys.argv[2])
    elif sys.argv[1:2] == ["--compare"]:
        compare(sys.argv[2])
    elif sys.argv[1:2] == ["--speed"]:
        speed(sys.argv[2])
    elif sys.argv[1:2] == ["--hugging-face"]:
        hugging_face()
    else:
        make()
