"""From rows to chat messages and pictures. The engine itself is tested end to end, with a real model."""

import io
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from r1reward_verl.cpu import environment
from r1reward_verl.inference.vllm_engine import VLLMEngine, build_messages


def png(colour, size=(8, 6), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def row(text, images=()):
    return {"prompt": [{"role": "user", "content": text}], "images": list(images)}


def test_each_placeholder_becomes_its_image_in_order():
    (message,) = build_messages(row("a<image>b<image>", [{"bytes": png("red")}, {"bytes": png("blue")}]))
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["text", "image", "text", "image"]
    colours = [part["image"].convert("RGB").getpixel((0, 0)) for part in message["content"] if "image" in part]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    assert [part["text"] for part in message["content"] if "text" in part] == ["a", "b"]


def test_without_images_the_text_stays_as_it_is():
    assert build_messages(row("what is <image>?")) == [{"role": "user", "content": "what is <image>?"}]
    assert build_messages({"prompt": [{"role": "user", "content": "x"}]})[0]["content"] == "x"


def test_the_row_itself_is_not_changed():
    given = row("<image>", [{"bytes": png("red")}])
    build_messages(given)
    assert given["prompt"] == [{"role": "user", "content": "<image>"}]


def test_size_limits_stay_beside_the_picture():
    image = {"bytes": png("red"), "min_pixels": None, "max_pixels": 501_760}
    (part,) = build_messages(row("<image>", [image]))[0]["content"]
    assert part["max_pixels"] == 501_760
    assert "min_pixels" not in part


@pytest.mark.parametrize(("text", "count"), [("no placeholder", 0), ("<image><image>", 2)])
def test_placeholders_and_images_must_match(text, count):
    with pytest.raises(ValueError, match=f"{count} <image> placeholders and 1 images"):
        build_messages(row(text, [{"bytes": png("red")}]))


def test_an_unreadable_picture_is_named():
    with pytest.raises(ValueError, match=re.escape("the picture '/nowhere/p.png' does not exist")):
        build_messages(row("<image>", [{"path": "/nowhere/p.png"}]))


def test_the_environment_of_the_cpu_is_applied_before_torch_is_imported_and_leaves_the_users_values():
    code = (
        "import os, sys; from r1reward_verl.cpu import environment; environment.apply(); "
        "print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'], os.environ['VLLM_CPU_KVCACHE_SPACE'])"
    )
    clean = {name: value for name, value in os.environ.items() if name not in environment.ENVIRONMENT}
    given = {**clean, "VLLM_CPU_KVCACHE_SPACE": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "PASSIVE", "7"]


def test_a_folder_without_a_checkpoint_is_refused_before_vllm_is_imported(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{str(tmp_path)!r} has no config.json")):
        VLLMEngine(tmp_path)
    heavy = "{'torch', 'vllm', 'transformers', 'pandas', 'pyarrow', 'matplotlib', 'verl'}"
    code = f"import sys, r1reward_verl.evaluation.report; print({heavy} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
