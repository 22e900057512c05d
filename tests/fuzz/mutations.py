"""Hostile files: a valid one, changed in ways that know its format, or in none that do.

Every function takes the randomness it draws from: hypothesis gives its own, which shrinks; the benchmark a seed.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeAlias

Mutation: TypeAlias = Callable[[bytes, Random], bytes]

TEXTS = (
    "", " ", "x" * 10_000, "\x00", "\x1b[2J\x1b]0;owned\x07", "<script>alert(1)</script>", "\"'><img src=x onerror=y>",
    "../../../../tmp/canary", "/etc/passwd", "a/../../b", "..", ".", "CON", "a\\b", "C:\\x", "\ud800", "\u202e\u0000",
    "é" * 200, "²", "١٢٣", "%s%n", "{0.__class__}", "${HOME}", "__import__('os').system('touch canary')",
    "!!python/object/apply:os.system [id]", "nan", "inf", "-inf", "1e999", "9" * 5000, "0x" + "f" * 5000, "1_000",
    "a\nb", "a,b", '"', "=cmd|' /C calc'!A0", "1;1;1", "x" + "." * 500, "(" * 400, "a" * 200 + "*" * 8, "--help",
    "aten.save.default", "aten.from_file.default", "torch.os.system", "os:system", "../x:y", "@" * 100,
    "1 +- " + " " * 5000,
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 255, 65_535, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30), int("7" * 4000),
    0.0, -0.0, 0.5, 1.5, 1e-320, 1e-9, 1e9, 1e18, 1e100, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
BYTES = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\xed\xa0\x80", b"\n", b"\r", b"{", b"}", b"[", b"]", b'"', b",",
    b":", b"- ", b"&a ", b"*a", b"!!set ", b"<<: ", b"---\n", b"? ", b"| ", b"#end 0\n", b"1e999", b"NaN",
    b"\x1b[31m", b"<b>",
)  # fmt: skip


def value(random: Random, depth: int = 0) -> Any:
    """Any hostile value."""
    kind = random.randrange(8)
    if kind < 2:
        return random.choice(NUMBERS)
    if kind < 5 or depth > 2:
        return random.choice(TEXTS)
    if kind == 5:
        return random.choice((None, True, False, [], {}, [[]], [None], {"": None}))
    if kind == 6:
        return nested(random.choice((10, 40, 200, 990, 5000)), random.random() < 0.5)
    if random.random() < 0.5:
        return [value(random, depth + 1)] * random.choice((1, 3, 3 if depth else 1000))
    return {random.choice(TEXTS): value(random, depth + 1) for _ in range(random.choice((1, 3, 3 if depth else 100)))}


class Raw(str):
    """Text that stands in JSON as it is."""


def nested(depth: int, lists: bool) -> Raw:
    """Lists or objects in each other, as JSON text: Python's own would not write so many."""
    return Raw("[" * depth + "]" * depth) if lists else Raw('{"a":' * depth + "1" + "}" * depth)


def changed(data: Any, random: Random) -> Any:
    """JSON data with one place changed: another value, a key gone, renamed or new, a list longer or shorter."""
    places = _places(data)
    path = random.choice(places)
    parent, key = _at(data, path)
    kind = random.randrange(7)
    if key is None:
        return value(random) if kind == 0 else data
    if kind < 3:
        parent[key] = value(random)
    elif kind == 3:
        del parent[key]
    elif kind == 4 and isinstance(parent, dict):
        parent[random.choice(TEXTS)] = parent.pop(key)
    elif kind == 5:
        _, other = random.choice([(None, data), *((path, _value(data, path)) for path in places)])
        parent[key] = json.loads(json.dumps(other, default=str)) if _small(other) else value(random)
    elif isinstance(parent, list):
        parent[key:key] = [parent[key]] * random.choice((1, 5, 2000))
    else:
        parent[random.choice(TEXTS)] = value(random)
    return data


def _small(data: Any) -> bool:
    try:
        return len(str(data)) < 20_000
    except (ValueError, RecursionError):
        return False


def _places(data: Any, most: int = 3000) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [()]
    for path in found:
        here = _value(data, path)
        if len(found) > most:
            break
        if isinstance(here, dict):
            found += [(*path, key) for key in list(here)[:200]]
        elif isinstance(here, list):
            found += [(*path, index) for index in range(min(len(here), 20))]
    return found


def _value(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def _at(data: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    return (_value(data, path[:-1]), path[-1]) if path else (None, None)


def written(data: Any) -> str:
    """JSON text, also of what no JSON is: NaN, raw text, numbers of thousands of digits."""
    if isinstance(data, Raw):
        return str(data)
    if isinstance(data, dict):
        return "{" + ",".join(f"{json.dumps(str(key))}:{written(item)}" for key, item in data.items()) + "}"
    if isinstance(data, (list, tuple)):
        return "[" + ",".join(map(written, data)) + "]"
    return json.dumps(data)


def json_file(content: bytes, random: Random) -> bytes:
    """A JSON file, changed in up to three places, or as bytes."""
    if random.random() < 0.2:
        return plain(content, random)
    data = json.loads(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = changed(data, random) if isinstance(data, (dict, list)) and not isinstance(data, Raw) else data
    text = written(data)
    if random.random() < 0.1 and text.startswith("{"):  # a key twice
        text = text[:-1] + "," + text[1:] if len(text) > 2 else text
    return text.encode("utf-8", errors="surrogatepass")


def yaml_file(content: bytes, random: Random) -> bytes:
    """A YAML file: as JSON, which it contains, with what only YAML has put in, or as bytes."""
    import yaml

    if random.random() < 0.35:
        return plain(content, random)
    data = json.loads(json.dumps(yaml.safe_load(content), default=str))
    text = written(changed(data, random))
    if random.random() < 0.3:
        laughs = "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
        extra = (
            "a: &a [x, x]\n" + laughs,
            "<<: *a\n",
            "? [1]\n: 2\n",
            "---\n",
            "x: !!binary abc\n",
            "1: 2\n",
            "x: 1:2:3\n",
        )
        text = random.choice(extra) + text
    return text.encode("utf-8", errors="surrogatepass")


def csv_file(content: bytes, random: Random) -> bytes:
    """A CSV file: cells, rows or columns changed, or as bytes."""
    if random.random() < 0.25:
        return plain(content, random)
    rows = list(csv.reader(io.StringIO(content.decode())))
    for _ in range(random.choice((1, 1, 2, 4))):
        row = random.choice(rows) if random.random() < 0.8 else rows[0]
        kind = random.randrange(6)
        place = random.randrange(len(row)) if row else 0
        if kind < 3 and row:
            found = value(random)
            row[place] = found if isinstance(found, str) else str(written(found))[:20_000]
        elif kind == 3 and row:
            del row[place]
        elif kind == 4:
            rows.insert(random.randrange(len(rows) + 1), list(row))
        else:
            row.extend([random.choice(TEXTS)] * random.choice((1, 3, 2000)))
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8", errors="surrogatepass")


def plain(content: bytes, random: Random) -> bytes:
    """Bytes cut, flipped, repeated, moved, put in or replaced by others; formats unseen."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        place = random.randrange(len(data) + 1)
        end = min(len(data), place + random.choice((1, 2, 8, 64, 1000)))
        kind = random.randrange(8)
        if kind == 0:
            del data[place:]
        elif kind == 1 and place < len(data):
            data[place] ^= 1 << random.randrange(8)
        elif kind == 2:
            del data[place:end]
        elif kind == 3:
            data[place:place] = data[place:end] * random.choice((1, 2, 100))
        elif kind == 4:
            data[place:place] = random.choice(BYTES) * random.choice((1, 1, 3, 3000))
        elif kind == 5:
            data[place:end] = random.randbytes(end - place)
        elif kind == 6:
            data[place:place] = random.choice(TEXTS).encode("utf-8", errors="surrogatepass")
        else:
            data[place:end] = b"\x00" * (end - place)
    return bytes(data)


def text_file(content: bytes, random: Random) -> bytes:
    """Lines moved, left out, repeated or replaced; or as bytes."""
    if random.random() < 0.4:
        return plain(content, random)
    lines = content.split(b"\n")
    for _ in range(random.choice((1, 2, 4))):
        place = random.randrange(len(lines))
        kind = random.randrange(4)
        if kind == 0:
            lines[place] = random.choice(TEXTS).encode("utf-8", errors="surrogatepass")
        elif kind == 1 and len(lines) > 1:
            del lines[place]
        elif kind == 2:
            lines[place:place] = [lines[place]] * random.choice((1, 3, 1000))
        else:
            words = lines[place].split(b" ")
            words[random.randrange(len(words))] = random.choice(TEXTS).encode("utf-8", errors="surrogatepass")
            lines[place] = b" ".join(words)
    return b"\n".join(lines)


def tensors_file(content: bytes, random: Random) -> bytes:
    """A safetensors file: its header changed as JSON, its length wrong, or as bytes."""
    if random.random() < 0.3:
        return plain(content, random)
    (length,) = struct.unpack("<Q", content[:8])
    header = written(changed(json.loads(content[8 : 8 + length]), random)).encode("utf-8", errors="surrogatepass")
    told = random.choice((len(header), len(header), len(header), 0, 2**63, 2**40, len(header) - 1, 100_000_000))
    return struct.pack("<Q", max(told, 0)) + header + content[8 + length :]


def tar_file(files: Mapping[str, bytes], random: Random) -> bytes:
    """A tar of files with one that should not be there; or packed, cut or flipped."""
    out = io.BytesIO()
    form = random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        names = list(files)
        odd = random.randrange(len(names) + 1)
        for index, name in enumerate(names):
            if index == odd:
                _add_odd(tar, random)
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            tar.addfile(info, io.BytesIO(files[name]))
        if odd == len(names):
            _add_odd(tar, random)
    data = out.getvalue()
    if random.random() < 0.4:
        data = _broken_header(data, random)
    return gzip.compress(data, 1) if random.random() < 0.5 else data


def _add_odd(tar: tarfile.TarFile, random: Random) -> None:
    info = tarfile.TarInfo(
        random.choice(("../canary", "/tmp/canary", "a/../../canary", "kit/x", random.choice(TEXTS) or "y"))
    )
    kind = random.randrange(7)
    content = b"x" * 100
    if kind < 4:
        info.type = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)[kind]
        info.linkname = random.choice(("/etc/passwd", "../canary", "manifest.json"))
        content = b""
    elif kind == 4:
        content = bytes(3_000_000)
    elif kind == 5 and tar.format == tarfile.PAX_FORMAT:
        info.pax_headers = {
            "path": random.choice(TEXTS),
            "size": random.choice(("-1", "9" * 30, "x", "100")),
            "comment": "c" * 5000,
        }
    info.size = len(content)
    try:
        tar.addfile(info, io.BytesIO(content))
    except (ValueError, UnicodeError, OverflowError):  # not even a tar can say it
        tar.addfile(tarfile.TarInfo("../canary"))


def _broken_header(data: bytes, random: Random) -> bytes:
    """One header's size or type replaced, its checksum made right again."""
    block = 512 * random.randrange(max(1, len(data) // 512))
    header = bytearray(data[block : block + 512])
    if len(header) < 512:
        return data
    sizes = (
        b"\xff" * 12,
        b"\x80" + b"\x00" * 10 + b"\x01",
        b"77777777777\x00",
        b"-0000000001\x00",
        b"\x80\x7f" + b"\xff" * 10,
    )
    header[124:136] = random.choice(sizes)
    header[156:157] = random.choice((b"0", b"x", b"L", b"K", b"g", b"S", b"5", b"7", b"\x00"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    return data[:block] + bytes(header) + data[block + 512 :]


def zip_file(files: Mapping[str, bytes], random: Random) -> bytes:
    """A zip of files with one that should not be there; or cut or flipped."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        kind = random.randrange(6)
        odd = zipfile.ZipInfo(random.choice(("../canary", "/tmp/canary", "a\\b", "C:/x", next(iter(files)))))
        if kind == 0:
            odd.external_attr = random.choice((0o120777, 0o010644, 0o060644)) << 16
        if kind == 1:
            archive.writestr("models/bomb.onnx", bytes(20_000_000), zipfile.ZIP_DEFLATED)
        elif kind == 2:
            archive.writestr("logs/x.log", b"x", random.choice((zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)))
        elif kind < 5:
            archive.writestr(odd, b"x")
    data = out.getvalue()
    return plain(data, random) if random.random() < 0.4 else data


def packed(files: Mapping[str, bytes]) -> bytes:
    """A zip of files, stored."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def gzip_bomb(megabytes: int) -> bytes:
    """A gzip of so many megabytes of zeros, made without having them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(2**20)
    return b"".join([*(packer.compress(block) for _ in range(megabytes)), packer.flush()])


MUTATIONS: Mapping[str, Mutation] = {
    "json": json_file,
    "yaml": yaml_file,
    "csv": csv_file,
    "text": text_file,
    "tensors": tensors_file,
    "bytes": plain,
}
