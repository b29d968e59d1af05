"""A source of one's own for `r1reward data convert`, in ten lines: here, rows with a score for each of two captions.

In a package of yours the entry point that makes it known is (pyproject.toml)

    [project.entry-points."r1reward_verl.sources"]
    captions = "my_package.captions:Captions"

python examples/data_source.py
"""

from collections.abc import Iterator, Mapping
from typing import Any

from r1reward_verl.data.preference import Preference, place
from r1reward_verl.data.sources.base import Skipped
from r1reward_verl.media import Media


class Captions:
    """Pictures with two captions, each with the number of people who liked it."""

    name = "captions"

    def read(self, row: Mapping[str, Any], number: int) -> Iterator[Preference]:
        """Yield the preference in a row; a bad row raises ValueError with the reason."""
        (one, likes), (other, other_likes) = row["captions"]
        if likes == other_likes:
            raise Skipped(f"both captions have {likes} likes")
        better, worse = (one, other) if likes > other_likes else (other, one)
        image = Media(path=row["file"])
        yield Preference(row["key"], self.name, "caption", "Describe it.", better, worse, 1, images=(image,))


ROWS = [
    {"key": "17", "file": "pictures/17.jpg", "captions": [("A kite above a beach.", 9), ("A bird.", 2)]},
    {"key": "18", "file": "pictures/18.jpg", "captions": [("A red door.", 4), ("A door, and a cat.", 4)]},
]


def main() -> None:
    """Print what the rows become, with the order of the responses that seed 0 gives them."""
    source = Captions()
    for number, row in enumerate(ROWS, 1):
        try:
            for preference in source.read(row, number):
                print(place(preference, seed=0))
        except Skipped as reason:
            print(f"row {number} skipped: {reason}")


if __name__ == "__main__":
    main()
