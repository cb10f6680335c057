"""What the pictures of the docs are made with."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode, b64encode
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tools.browser import Browser

PALETTE: Final = """(async (png) => {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
  const pen = new OffscreenCanvas(image.width, image.height).getContext("2d");
  pen.drawImage(image, 0, 0);
  const pixels = new Uint32Array(pen.getImageData(0, 0, image.width, image.height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const common = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 256).map(([colour]) => colour);
  const parts = (colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  const far = (a, b) => parts(a).reduce((sum, part, i) => sum + (part - parts(b)[i]) ** 2, 0);
  const nearest = new Map([...counts.keys()].map((colour) =>
    [colour, common.reduce((best, each, i) => (far(each, colour) < far(common[best], colour) ? i : best), 0)]));
  const indices = Uint8Array.from(pixels, (pixel) => nearest.get(pixel));
  let text = "";
  for (let at = 0; at < indices.length; at += 8192) text += String.fromCharCode(...indices.subarray(at, at + 8192));
  return [image.width, image.height, common.flatMap(parts), btoa(text)];
})"""
"""The 256 colours that are most frequent in a picture, and which of them each pixel has."""


async def smaller(chromium: Browser, png: bytes) -> bytes:
    """A picture with a palette, which takes a third of the room."""
    tab = await chromium.open("about:blank")
    width, height, palette, indices = await tab.evaluate(f"{PALETTE}({b64encode(png).decode()!r})")
    pixels = b64decode(indices)
    rows = b"".join(b"\0" + pixels[row * width : (row + 1) * width] for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = {b"IHDR": head, b"PLTE": bytes(palette), b"IDAT": zlib.compress(rows, 9), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bars_of(events: list[dict[str, Any]], begin: float, end: float) -> str:
    """What a recording has between two moments, in microseconds, as SVG: as Perfetto draws it, a row for each slot."""
    names = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    bars = [each for each in events if each["ph"] == "X" and each["ts"] < end and each["ts"] + each["dur"] > begin]
    rows = sorted({(each["pid"], each["tid"]) for each in bars})
    colours = dict(zip(sorted({each["name"] for each in bars}), _COLOURS, strict=False))
    lost = [each for each in events if each["name"].startswith("lost:") and begin < each["ts"] < end]

    def x(moment: float) -> float:
        return 130 + 740 * (min(end, max(begin, moment)) - begin) / (end - begin)

    def y(each: dict[str, Any]) -> int:
        return rows.index((each["pid"], each.get("tid", 0))) * 20 + 8

    parts = [f'<text x="6" y="{y({"pid": pid}) + 12}">{escape(names[pid])}</text>' for pid, row in rows if row == 0]
    for each in bars:
        left, right = x(each["ts"]), x(each["ts"] + each["dur"])
        place = f'x="{left:.1f}" y="{y(each)}" width="{max(0.8, right - left - 0.6):.1f}" height="16"'
        parts.append(f'<rect {place} fill="{colours[each["name"]]}"/>')
    for each in lost:
        at, top = x(each["ts"]), y({"pid": each["pid"]})
        parts.append(f'<path d="M{at - 5:.1f} {top + 3}l10 10m0 -10l-10 10" stroke="#b3261e" stroke-width="3"/>')
        parts.append(f'<text x="{at + 10:.1f}" y="{top + 12}" fill="#b3261e">lost</text>')
    high = len(rows) * 20 + 40
    for index, (name, colour) in enumerate(colours.items()):
        parts.append(f'<rect x="{130 + index * 150}" y="{high - 22}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{148 + index * 150}" y="{high - 12}">{escape(name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 {high}" font-family="sans-serif" font-size="12">'
    return f'{head}<rect width="880" height="{high}" fill="#fff"/>{"".join(parts)}</svg>\n'


_COLOURS: Final = ("#2b6cb8", "#d0792a", "#9aa3ad", "#8a57b5")
