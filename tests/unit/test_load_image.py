"""What stands in a row for a picture, which picture it is, and what is said where it is none."""

import io
import zlib

import pytest
from PIL import Image

from r1reward_verl.media import for_verl, load_image


def png(colour="green", size=(8, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_from_bytes_and_from_paths(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(png())
    same = [{"bytes": png()}, {"bytes": None, "path": str(path)}, {"path": str(path)}, {"image": f"file://{path}"}]
    for image in [*same, str(path), path, {"bytes": png(), "path": "/only/a/name.png"}]:
        assert load_image(image).size == (8, 6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            {"bytes": b"not a picture"},
            r"not a JPEG, PNG.* picture \(13 bytes\)",
        ),
        ({"bytes": b""}, r"not a JPEG, PNG.* picture \(0 bytes\)"),
        ({"bytes": png(size=(64, 64))[:60]}, "cannot be read"),
        # Pillow would start Ghostscript for it.
        (
            {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\n"},
            "not a JPEG, PNG",
        ),
        ("/nowhere/p.png", "the picture '/nowhere/p.png' does not exist"),
        ("/dev/zero", "is a device"),  # no endless reading
        ("https://example.org/p.png", "does not exist"),  # never fetched
        ({"path": None}, "neither the bytes"),
        (7, "missing: 7"),
    ],
)
def test_unreadable_images_are_named(image, message):
    with pytest.raises(ValueError, match=message):
        load_image(image)


def test_a_decompression_bomb_is_refused_from_its_header():
    # A header of 60,000 x 60,000 pixels and no pixels behind it: decoding would fail otherwise.
    bomb = bytearray(png())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(ValueError, match="more than 89,478,485 pixels"):
        load_image({"bytes": bytes(bomb)})


def test_it_is_refused_whatever_another_thread_makes_of_the_warnings(monkeypatch):
    monkeypatch.setattr("warnings.simplefilter", lambda *_: None)
    big = bytearray(png())
    big[16:24] = (10_000).to_bytes(4, "big") * 2
    big[29:33] = zlib.crc32(bytes(big[12:29])).to_bytes(4, "big")
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ValueError, match="more than 89,478,485 pixels"):
        load_image({"bytes": bytes(big)})


def test_verl_gets_no_nulls_and_paths_where_it_looks_for_them():
    assert for_verl({"bytes": None, "path": "/a.png", "max_pixels": 9}) == {"image": "/a.png", "max_pixels": 9}
    assert for_verl({"bytes": b"x", "path": "a.png", "min_pixels": None}) == {"bytes": b"x"}
    assert for_verl("/a.png") == "/a.png"
