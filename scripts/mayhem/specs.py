"""What torrents there can be: drawn, not made yet."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

MIB = 1024 * 1024
KIB = 1024
PIECE = 16 * KIB
CROSS_SEEDS = "xs"  #: the category of those that are hardlinks
CATEGORY_FOLDERS = {"tv": "tv", "movies/hd": "movies/hd", CROSS_SEEDS: "cross"}
"""Save paths of qBittorrent's categories, below the SSD."""
CATEGORIES = ("tv", "movies/hd", "")
LINKED_NAME = "main.bin"  #: the file that one of one file shares
VERSIONS = ("v1", "v2", "hybrid")
SUFFIXES = ("", "", " ünï", " [x] 'q'", ".mkv", " 日本", ' "&$(x)')


class Layout(StrEnum):
    """How a torrent lies on the disk."""

    SINGLE = "single file"
    NESTED = "nested folders"
    FLAT = "without a folder of its own"
    UNWANTED_ABSENT = "an unwanted file, absent"
    UNWANTED_PRESENT = "an unwanted file, there"
    SAME_PATH = "cross-seed of the same files"
    LINKED = "cross-seed of hardlinks"
    LINKED_FILE = "cross-seed of one hardlinked file"


#: How often each family of layouts is drawn.
FAMILIES = {
    (Layout.SINGLE,): 5.0,
    (Layout.NESTED,): 6.0,
    (Layout.FLAT,): 2.0,
    (Layout.UNWANTED_ABSENT,): 2.0,
    (Layout.UNWANTED_PRESENT,): 0.7,
    (Layout.NESTED, Layout.SAME_PATH): 3.0,
    (Layout.NESTED, Layout.LINKED): 2.0,
    (Layout.NESTED, Layout.LINKED_FILE): 1.5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One torrent to be made and added."""

    number: int
    family: int  #: of torrents that share files
    name: str
    layout: Layout
    version: str
    piece_bytes: int
    category: str
    folder: str  #: its save path, below the SSD
    sizes: Mapping[str, int]  #: bytes of its files, by their names in qBittorrent
    unwanted: str = ""  #: one of these
    contents: str  #: what the bytes are drawn from
    stopped: bool = False  #: by its user
    auto_management: bool = False
    download_path: bool = False  #: of its own

    @property
    def total_bytes(self) -> int:
        """Of all of its files."""
        return sum(self.sizes.values())

    def bytes_of(self, file: str) -> bytes:
        """The contents of one file."""
        return random.Random(f"{self.contents} {file}").randbytes(self.sizes[file])


def draw_family(
    rng: random.Random, root: str, family: int, numbers: Iterator[int]
) -> tuple[Spec, ...]:
    """Draw one torrent, or some that share files."""
    layouts = rng.choices(list(FAMILIES), list(FAMILIES.values()))[0]
    first = _first(rng, root, family, next(numbers), layouts[0])
    return (first, *(_sibling(rng, first, next(numbers), layout) for layout in layouts[1:]))


def _first(rng: random.Random, root: str, family: int, number: int, layout: Layout) -> Spec:
    category = rng.choice(CATEGORIES)
    name = f"T{number}{rng.choice(SUFFIXES)}"
    version = rng.choices(VERSIONS, (3, 1, 2))[0]
    folder = category or "plain"
    unwanted = ""
    match layout:
        case Layout.SINGLE:
            size = rng.choice((rng.randrange(1, 4000), rng.randrange(200_000, 3_000_000)))
            sizes = {name: size}
            # libtorrent cannot take over the copy of a single file of version 2: few of them.
            if version == "v2" and rng.random() < 0.8:
                version = "hybrid"
        case Layout.FLAT:
            folder = f"flat/F{number}"
            sizes = {f"F{number}-{n}": rng.randrange(1, 300_000) for n in range(3)}
            sizes[f"sub/g{number}"] = 70_000
        case Layout.UNWANTED_ABSENT | Layout.UNWANTED_PRESENT:
            # Whole pieces: what is wanted needs nothing of what is not.
            sizes = {f"{name}/{file}": PIECE * rng.randrange(1, 24) for file in ("a", "s/b", "u")}
            unwanted = f"{name}/u"
        case _:
            sizes = {
                f"{name}/d{n % 3}/s{n % 2}/f{n}": rng.choice(
                    (0, rng.randrange(1, 20_000), rng.randrange(20_000, 500_000))
                )
                for n in range(rng.randrange(2, 8))
            }
            sizes[f"{name}/{LINKED_NAME}"] = rng.randrange(50_000, 900_000)
    simple = not unwanted and layout is not Layout.FLAT
    return Spec(
        number=number,
        family=family,
        name=name,
        layout=layout,
        version=version,
        piece_bytes=PIECE if unwanted else rng.choice((1, 1, 2, 4)) * PIECE,
        category=category,
        folder=folder,
        sizes=sizes,
        unwanted=unwanted,
        contents=f"{root} family {family}",
        stopped=rng.random() < 0.2,
        auto_management=simple and bool(category) and rng.random() < 0.3,
        download_path=simple and rng.random() < 0.25,
    )


def _sibling(rng: random.Random, first: Spec, number: int, layout: Layout) -> Spec:
    same = replace(
        first,
        number=number,
        layout=layout,
        version=rng.choice(VERSIONS),
        piece_bytes=first.piece_bytes * 2,
        stopped=rng.random() < 0.2,
        auto_management=False,
    )
    match layout:
        case Layout.SAME_PATH:
            return replace(same, category=rng.choice((first.category, "")))
        case Layout.LINKED:
            return replace(same, category=CROSS_SEEDS, folder=CATEGORY_FOLDERS[CROSS_SEEDS])
        case _:
            name = f"X{number}.bin"
            return replace(
                same,
                name=name,
                version="v1" if same.version == "v2" else same.version,
                category=CROSS_SEEDS,
                folder=CATEGORY_FOLDERS[CROSS_SEEDS],
                sizes={name: first.sizes[f"{first.name}/{LINKED_NAME}"]},
            )
