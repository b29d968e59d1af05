"""Which file a path means, what counts as a picture, and which frames of a video are taken."""

import hashlib
import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFile

from factories import bomb, png
from r1reward_verl import media
from r1reward_verl.data.media_folder import MediaFolder, MediaSettler, NoMediaRoot
from r1reward_verl.data.preference import Preference
from r1reward_verl.media import Media, frame_names, look_at, resolve, sampled, video_frames


def put(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png() if data is None else data)
    return path


def write_video(path, frames=50):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 5, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightness(data):
    return np.asarray(Image.open(io.BytesIO(data))).mean()


def test_sides_that_no_model_can_be_trained_on_are_refused(tmp_path):
    settler = MediaSettler(tmp_path, None, 32, check=True)

    def settle(size):
        image = Media(data=png(size=size))
        return settler.settle([Preference("1", "s", "c", "What?", "Yes.", "No.", 1, images=(image,))])

    assert settle((2000, 10))
    assert settle((10, 2000))
    with pytest.raises(ValueError, match="2,001 x 10 pixels, one side more than 200 times the other"):
        settle((2001, 10))


# Paths


def test_relative_paths_are_meant_below_the_root(tmp_path):
    file = put(tmp_path / "long" / "a.png")
    assert resolve(str(tmp_path), "long/a.png") == str(file)
    assert os.path.samefile(resolve(str(tmp_path), "long/../long/a.png"), file)
    put(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"no file 'elsewhere/b\.png' below the media root"):
        resolve(str(tmp_path), "elsewhere/b.png")


def test_an_authors_absolute_path_means_its_longest_end_that_is_there(tmp_path):
    put(tmp_path / "two.jpg")
    assert resolve(str(tmp_path), "/home/author/povid/two.jpg") == str(tmp_path / "two.jpg")
    longer = put(tmp_path / "povid" / "two.jpg")
    assert resolve(str(tmp_path), "/home/author/povid/two.jpg") == str(longer)
    assert resolve(str(tmp_path), str(longer)) == str(longer)
    with pytest.raises(ValueError, match="no file '/etc/passwd' below"):
        resolve(str(tmp_path), "/etc/passwd")


def test_pictures_of_coco_are_found_in_whatever_folders_they_were_put(tmp_path):
    names = ["COCO_train2014_000000000123.jpg", "000000000456.jpg"]
    for picture in (tmp_path / "coco" / "train2014" / names[0], tmp_path / "coco" / "train2017" / names[1]):
        picture.parent.mkdir(parents=True)
        picture.touch()
    for root in ("coco", "coco/train2014"):
        for path in (f"./data/coco/{names[0]}", f"coco/train2014/{names[0]}", f"train2014/{names[0]}", names[0]):
            found = resolve(os.path.realpath(tmp_path / root), path)
            assert os.path.samefile(found, tmp_path / "coco" / "train2014" / names[0])
    root = os.path.realpath(tmp_path / "coco" / "train2017")
    assert os.path.exists(resolve(root, f"data/train2017/{names[1]}"))
    for path in ("data/train2017/kite.jpg", f"../{names[1]}"):
        with pytest.raises(ValueError, match=r"no file|leads out"):
            resolve(root, path)


def test_nothing_leads_out_of_the_root(tmp_path):
    root = tmp_path / "root"
    outside = put(tmp_path / "outside.png")
    root.mkdir()
    (root / "link.png").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    put(tmp_path / "root2" / "a.png")  # begins with the root's name
    for path in ("link.png", "../outside.png", "folder/outside.png", "../root2/a.png", f"{root}/../outside.png"):
        with pytest.raises(ValueError, match="leads out of the media root"):
            resolve(str(root), path)
    for path in ("loop", "x" * 5000, "link.png/x" * 50):
        with pytest.raises(ValueError, match=r"leads out|no file"):
            resolve(str(root), path)
    inside = put(root / "a.png")
    (root / "alias.png").symlink_to(inside)
    assert resolve(str(root), "alias.png") == str(root / "alias.png")


# Pictures


def test_a_picture_is_known_by_its_content(tmp_path):
    file = put(tmp_path / "a.png")
    assert look_at(str(file))[0] == look_at(png())[0] == hashlib.sha256(png()).hexdigest()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 9_000)], ids=["Pillow refuses", "Pillow warns"])
def test_bombs_are_refused_undecoded(tmp_path, monkeypatch, size):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)
    with pytest.raises(ValueError, match="more than 89,478,485 pixels"):
        look_at(str(put(tmp_path / "bomb.png", bomb(*size))))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a JPEG, PNG"),
        (b"<html>404</html>", "not a JPEG, PNG"),
        (png()[:20], "not a JPEG, PNG|cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a JPEG, PNG"),
        (b"P6 1 1 255 abc", "not a JPEG, PNG"),
    ],
)
def test_what_is_no_picture(tmp_path, data, reason):
    with pytest.raises(ValueError, match=reason):
        look_at(str(put(tmp_path / "x.png", data)))


def test_devices_pipes_folders_and_huge_files_are_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    for path in ("/dev/zero", str(tmp_path / "pipe.png"), str(tmp_path)):
        with pytest.raises(ValueError, match=r"is a folder|is a device"):
            look_at(path)
    monkeypatch.setattr(media, "MAX_FILE", len(png()) - 1)
    with pytest.raises(ValueError, match="more than"):
        look_at(png())


# Videos


def test_frames_are_sampled_evenly_from_first_to_last():
    assert sampled(5, 32) == [0, 1, 2, 3, 4]
    assert sampled(10, 4) == [0, 3, 6, 9]
    assert sampled(100, 32) == [int(position) for position in np.linspace(0, 99, 32)]
    assert sampled(9, 1) == [0]


def test_a_folder_of_frames_is_sorted_by_name_and_number(tmp_path):
    for name in ("f_10.jpg", "f_9.jpg", "f_1.JPG", "f_100.jpg", "notes.txt", ".hidden.jpg"):
        put(tmp_path / name)
    assert frame_names(str(tmp_path), 32) == ["f_1.JPG", "f_9.jpg", "f_10.jpg", "f_100.jpg"]
    assert frame_names(str(tmp_path), 2) == ["f_1.JPG", "f_100.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture in the folder of frames"):
        frame_names(str(tmp_path / "empty"), 32)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_video_file_gives_its_frames_in_order(tmp_path, suffix):
    path = write_video(tmp_path / f"v.{suffix}")
    expected = [5 * position for position in sampled(50, 6)]
    for source in (str(path), path.read_bytes()):
        assert [brightness(frame) for frame in video_frames(source, 6)] == pytest.approx(expected, abs=6)
    assert len(list(video_frames(str(path), 100))) == 50


def test_what_is_no_video(tmp_path, monkeypatch):
    video = write_video(tmp_path / "v.mp4")
    for data in (b"", b"no video", video.read_bytes()[:700]):
        with pytest.raises(ValueError, match="not a video that can be read"):
            list(video_frames(str(put(tmp_path / "x.mp4", data)), 4))
    monkeypatch.setattr(media, "MAX_VIDEO_FRAMES", 49)
    with pytest.raises(ValueError, match="more than 49 frames"):
        list(video_frames(str(video), 4))
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match="pixels a frame"):
        list(video_frames(str(video), 4))


def test_a_playlist_opens_no_other_file(tmp_path):
    video = write_video(tmp_path / "v.mp4")
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile://{video}\n#EXT-X-ENDLIST\n"
    playlist = put(tmp_path / "list.m3u8", text.encode())
    with playlist.open("rb") as file, av.open(file) as container:
        assert sum(1 for _ in container.decode(video=0)) == 50, "PyAV by itself follows it"
    with pytest.raises(ValueError, match="not a video that can be read"):
        list(video_frames(str(playlist), 4))


# Both together


def preference(*images, video=None):
    return Preference("1", "s", "c", "Which?", "a", "b", 1, images=images, video=video)


def settle(root, found, *, store=None, frames=4, check=True):
    (settled,) = MediaSettler(root, store, frames, check).settle([found])
    return settled


def test_files_are_referenced_and_bytes_get_a_file(tmp_path):
    put(tmp_path / "root" / "a.png", png("red"))
    store = MediaFolder(tmp_path / "out.media")
    settled = settle(tmp_path / "root", preference(Media("a.png"), Media(data=png())), store=store)
    store.commit()
    named, stored = settled.images
    assert named == Media(str(tmp_path / "root" / "a.png"), sha256=hashlib.sha256(png("red")).hexdigest())
    assert stored.path == str(tmp_path / "out.media" / f"{stored.sha256}.png")
    assert Path(stored.path).read_bytes() == png()
    assert sorted(os.listdir(tmp_path)) == ["out.media", "root"]


def test_without_a_store_all_is_inlined(tmp_path):
    put(tmp_path / "a.png", png("red"))
    settled = settle(tmp_path, preference(Media("a.png"), Media(data=png())))
    assert [image.data for image in settled.images] == [png("red"), png()]


def test_unchecked_paths_stay_and_nothing_is_opened(tmp_path):
    found = preference(Media("nowhere.png"), video=(Media("clip"),))
    assert settle(None, found, check=False) == found
    store = MediaFolder(tmp_path / "m")
    (image,) = settle(None, preference(Media(data=b"anything")), store=store, check=False).images
    assert image.path == str(tmp_path / "m" / f"{image.sha256}.bin")


def test_a_path_needs_a_root(tmp_path):
    with pytest.raises(NoMediaRoot, match=r"a row names the file 'a\.png'"):
        settle(None, preference(Media("a.png")))
    with pytest.raises(ValueError, match="is no folder"):
        MediaSettler(tmp_path / "none", None, 4, True)


def test_videos_become_frames(tmp_path):
    names = [f"clip/f_{index}.jpg" for index in range(1, 12)]
    for index, name in enumerate(names):
        put(tmp_path / name, png(size=(4, 4 + index)))
    write_video(tmp_path / "v.mp4")
    store = MediaFolder(tmp_path / "out.media")
    expected = [str(tmp_path / names[position]) for position in (0, 3, 6, 10)]
    folder = settle(tmp_path, preference(video=(Media("clip"),)), store=store)
    assert [frame.path for frame in folder.video] == expected
    listed = settle(tmp_path, preference(video=tuple(map(Media, names))), store=store)
    assert listed.video == folder.video
    file = settle(tmp_path, preference(video=(Media("v.mp4"),)), store=store)
    store.commit()
    assert len(file.video) == 4
    assert all(look_at(frame.path)[0] == frame.sha256 for frame in file.video)
    single = settle(tmp_path, preference(video=(Media(names[0]),)), store=store)
    assert [frame.path for frame in single.video] == [str(tmp_path / names[0])]


def test_a_frame_that_leads_out_of_the_root_is_refused(tmp_path):
    outside = put(tmp_path / "outside.png")
    (tmp_path / "root" / "clip").mkdir(parents=True)
    (tmp_path / "root" / "clip" / "f1.png").symlink_to(outside)
    with pytest.raises(ValueError, match="leads out of the media root"):
        settle(tmp_path / "root", preference(video=(Media("clip"),)))


def test_a_store_is_there_when_it_is_complete_and_keeps_what_was_there(tmp_path):
    first = MediaFolder(tmp_path / "m")
    first.put(png(), "0" * 64)
    assert not (tmp_path / "m").exists()
    first.commit()
    second = MediaFolder(tmp_path / "m")
    second.put(png("red"), "1" * 64)
    second.commit()
    assert sorted(os.listdir(tmp_path / "m")) == ["0" * 64 + ".png", "1" * 64 + ".png"]
    third = MediaFolder(tmp_path / "m")
    third.put(png("blue"), "2" * 64)
    third.discard()
    assert sorted(os.listdir(tmp_path)) == ["m"]
