"""What image processors of transformers do with images of unusual sizes."""

from __future__ import annotations

import pytest
import transformers
from PIL import Image
from support.images import encode

from mtrl_judge.judge_tasks.images import fault_of, shown

PROCESSORS = (
    "Gemma3ImageProcessor",
    "Glm4vImageProcessor",
    "Idefics3ImageProcessor",
    "LlavaOnevisionImageProcessor",
    "Qwen2VLImageProcessor",
    "VideoLlavaImageProcessor",
)


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_is_shown_is_accepted(name: str) -> None:
    processor = getattr(transformers, name)()
    for size in ((1, 1), (200, 1), (10, 10), (3, 27), (4000, 20)):
        data = encode(Image.new("RGB", size, "red"))
        assert fault_of(data) is None
        processor(images=[shown(data)], return_tensors="pt")


def test_a_strip_is_refused_by_processor_and_check() -> None:
    strip = Image.new("RGB", (2000, 3))
    with pytest.raises(ValueError, match="aspect ratio"):
        transformers.Qwen2VLImageProcessor()(images=[strip], return_tensors="pt")
    assert "aspect ratio" in str(fault_of(encode(strip)))
