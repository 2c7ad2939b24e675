#!/usr/bin/env python3
"""Writes assets/fonts/DejaVuSans-subset.ttf, the only font that the pictures of a report use.

Needs fonttools (`pip install fonttools`) and DejaVu Sans 2.37 (Debian: fonts-dejavu-core).

    python3 scripts/subset_font.py /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
"""

import argparse
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

OUTPUT = Path(__file__).parent.parent / "assets/fonts/DejaVuSans-subset.ttf"
RANGES = [
    (0x20, 0x7E),  # ASCII
    (0xA0, 0x17F),  # Latin-1, Latin Extended-A
    (0x384, 0x3CE),  # Greek
    (0x2010, 0x2027),  # dashes, quotation marks, bullet, ellipsis
    (0x2030, 0x2033),  # per mille, primes
    (0x2070, 0x209C),  # superscripts and subscripts
    (0x2190, 0x2195),  # arrows
]
SINGLE = "€™Ω∂∆∏∑−∕√∞∫≈≠≤≥■□▲△▼●○◆◇"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("font", type=Path)
    # The old time stamp stays, so that the same font gives the same bytes.
    font = TTFont(parser.parse_args().font, recalcTimestamp=False)
    # No hinting, no bytecode: the picture is drawn at twice its size, and browsers use their own font.
    # The .notdef box keeps its outline: it stands for every other character.
    options = subset.Options(hinting=False, notdef_outline=True, layout_features=["kern"], name_IDs=["*"], drop_tables=["FFTM"])
    subsetter = subset.Subsetter(options)
    characters = {c for first, last in RANGES for c in range(first, last + 1)} | set(map(ord, SINGLE))
    subsetter.populate(unicodes=characters)
    subsetter.subset(font)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    font.save(OUTPUT, reorderTables=True)
    print(f"{OUTPUT.name}: {len(font.getGlyphOrder())} glyphs, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
