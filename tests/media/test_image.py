from __future__ import annotations

import io
import pickle
import struct
import threading
import time
import typing
import zlib

import numpy as np
import PIL.Image
import pytest

from mlkit.errors import InputError, PayloadTooLarge, UnsupportedMedia
from mlkit.media.image import Image, decode, encode_png, source_bytes

RED, GREEN, BLUE = (220, 30, 40), (20, 170, 60), (30, 60, 200)


def corners(width: int = 64, height: int = 48) -> PIL.Image.Image:
    """Return a blue picture whose upper left quarter is red and upper right one green."""
    picture = PIL.Image.new("RGB", (width, height), BLUE)
    picture.paste(RED, (0, 0, width // 2, height // 2))
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    return picture


def file(picture: PIL.Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def close(pixel: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= tolerance)


def png_header(width: int, height: int) -> bytes:
    """Return the start of a PNG that claims a size: all that a bomb needs."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + crc + b"\0\0\x10\0IDAT"


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(file(corners()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_each_kind_gives_upright_rgb(kind: str) -> None:
    picture = decode(file(corners(), kind))
    assert (picture.width, picture.height, picture.pixels.shape) == (64, 48, (48, 64, 3))
    assert picture.pixels.dtype == np.uint8
    assert close(picture.pixels[12, 16], RED)
    assert close(picture.pixels[40, 32], BLUE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    # The inverse of each orientation, applied to what the camera should have seen.
    stored = {
        1: lambda p: p,
        2: lambda p: p.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda p: p.transpose(PIL.Image.Transpose.ROTATE_180),
        4: lambda p: p.transpose(PIL.Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda p: p.transpose(PIL.Image.Transpose.TRANSPOSE),
        6: lambda p: p.transpose(PIL.Image.Transpose.ROTATE_90),
        7: lambda p: p.transpose(PIL.Image.Transpose.TRANSVERSE),
        8: lambda p: p.transpose(PIL.Image.Transpose.ROTATE_270),
    }[orientation](corners())
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture = decode(file(stored, kind, exif=exif))
    assert (picture.width, picture.height) == (64, 48)
    assert close(picture.pixels[12, 16], RED)
    assert close(picture.pixels[12, 48], GREEN)
    assert picture.pixels.flags.c_contiguous


def test_a_damaged_exif_block_is_ignored() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = bytearray(file(corners(), exif=exif))
    at = data.index(b"Exif\0\0")
    data[at + 6 : at + 14] = b"\xff" * 8
    assert decode(bytes(data)).width == 64


def ramp16() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(file(corners().convert("L")), id="grey JPEG"),
        pytest.param(file(corners().convert("CMYK")), id="CMYK JPEG"),
        pytest.param(file(corners(), progressive=True), id="progressive JPEG"),
        pytest.param(file(corners().convert("1"), "PNG"), id="bilevel PNG"),
        pytest.param(file(corners().convert("LA"), "PNG"), id="grey PNG with alpha"),
        pytest.param(file(corners().quantize(8), "PNG"), id="palette PNG"),
        pytest.param(file(ramp16(), "PNG"), id="16-bit PNG"),
        pytest.param(
            file(corners(), "WEBP", save_all=True, append_images=[corners()]), id="animated WebP"
        ),
        pytest.param(
            file(corners(), "PNG", save_all=True, append_images=[ramp16().convert("RGB")]),
            id="animated PNG",
        ),
        pytest.param(
            file(corners(), "GIF", save_all=True, append_images=[ramp16().convert("L")]),
            id="animated GIF",
        ),
    ],
)
def test_unusual_pictures_are_answered(data: bytes) -> None:
    picture = decode(data)
    assert picture.pixels.shape == (48, 64, 3)
    assert picture.pixels.std() > 10


def test_cmyk_keeps_its_colours() -> None:
    assert close(decode(file(corners().convert("CMYK"))).pixels[12, 16], RED)


def test_sixteen_bits_keep_their_range() -> None:
    grey = decode(file(ramp16(), "PNG")).pixels[..., 0]
    assert grey.min() == 0
    assert grey.max() == 255
    assert abs(float(grey.mean()) - 127.5) < 1


def test_an_animation_gives_its_first_frame() -> None:
    data = file(corners(), "WEBP", save_all=True, append_images=[PIL.Image.new("RGB", (64, 48))])
    assert close(decode(data).pixels[12, 16], RED)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(kind: str) -> None:
    clear = PIL.Image.new("RGBA", (8, 8), (*RED, 0))
    clear.paste((*BLUE, 255), (4, 0, 8, 8))
    pixels = decode(file(clear, kind, lossless=True)).pixels
    assert close(pixels[0, 0], (255, 255, 255), 0)
    assert close(pixels[0, 7], BLUE, 0)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_that_is_declared_transparent_is_laid_on_white(mode: str) -> None:
    picture = PIL.Image.new(mode, (8, 8), 0)
    clear = (0, 0, 0) if mode == "RGB" else 0
    pixels = decode(file(picture, "PNG", transparency=clear)).pixels
    assert close(pixels[0, 0], (255, 255, 255), 0)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [((400, 533), (250, 334)), ((533, 400), (334, 250)), ((1600, 1200), (400, 300))],
)
def test_a_jpeg_is_scaled_to_the_least_size_that_is_enough(
    size: tuple[int, int], scaled: tuple[int, int]
) -> None:
    picture = decode(file(corners(*size)), min_side=224)
    assert (picture.width, picture.height) == size
    assert picture.pixels.shape[1::-1] == scaled


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_small_jpeg_is_not_scaled_up(mode: str) -> None:
    assert decode(file(corners().convert(mode)), min_side=224).pixels.shape == (48, 64, 3)


def test_a_large_png_is_scaled_too() -> None:
    picture = decode(file(corners(1000, 700), "PNG"), min_side=224)
    assert (picture.width, picture.height) == (1000, 700)
    assert min(picture.pixels.shape[:2]) >= 224
    assert picture.pixels.shape[0] < 300


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(png_header(10_000, 10_000), id="PNG"),
        pytest.param(png_header(2**31 - 1, 2**31 - 1), id="PNG of the largest size"),
        pytest.param(jpeg_claiming(10_000, 10_000), id="JPEG"),
        pytest.param(b"GIF89a" + struct.pack("<HH", 10_000, 10_000), id="GIF"),
        pytest.param(
            b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 8 + (9_999).to_bytes(3, "little") * 2, id="WebP"
        ),
        pytest.param(
            b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + (9_999 | 9_999 << 14).to_bytes(4, "little"),
            id="lossless WebP",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_by_its_header(bomb: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(PayloadTooLarge, match="pixels"):
        decode(bomb)
    assert time.process_time() - begun < 0.25


def test_what_cannot_be_scaled_while_decoding_may_have_half_the_pixels() -> None:
    decode(file(corners(), "PNG"), max_pixels=2 * 64 * 48)
    with pytest.raises(PayloadTooLarge):
        decode(file(corners(), "PNG"), max_pixels=2 * 64 * 48 - 2)
    decode(file(corners(), "JPEG"), max_pixels=64 * 48)


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    data = file(corners())
    at = data.index(b"\xff\xda")
    with pytest.raises(PayloadTooLarge, match="scans"):
        decode(data[:at] + data[at:-2] * 1000)


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(PayloadTooLarge, match="too large"):
        decode(b"\0" * 11, max_bytes=10)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"%PDF-1.7 ...", "PDF"),
        (b"\n<!doctype html><html>", "HTML"),
        (b"\0\0\0\x20ftypheic....", "heic"),
        (b"BM" + b"\0" * 40, "BMP"),
        (b"II*\0" + b"\0" * 40, "TIFF"),
        (b"\xff\xd8", "2 bytes"),
        (b"just words", "just words"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, named: str) -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        decode(data)
    assert named in str(caught.value)


def test_an_empty_body_is_at_fault_itself() -> None:
    with pytest.raises(InputError, match="empty") as caught:
        decode(b"")
    assert caught.value.status == 422


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_at_fault(kind: str, share: float) -> None:
    noise = np.random.default_rng(7).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    data = file(PIL.Image.fromarray(noise), kind)
    with pytest.raises(InputError, match="truncated") as caught:
        decode(data[: int(len(data) * share)])
    assert caught.value.status == 422


def test_stray_bytes_between_markers_do_no_harm() -> None:
    data = file(corners())
    for marker in (b"\xff\xda", b"\xff\xd9"):
        at = data.index(marker)
        assert decode(data[:at] + b"\0\0\0" + data[at:]).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(np.asarray(corners()), id="uint8"),
        pytest.param(np.asarray(corners()) / 255, id="floats"),
        pytest.param(corners(), id="PIL"),
        pytest.param(corners().convert("RGBA"), id="PIL with alpha"),
        pytest.param(np.asarray(corners().convert("RGBA")), id="array with alpha"),
        pytest.param(file(corners(), "PNG"), id="bytes"),
        pytest.param(memoryview(file(corners(), "PNG")), id="memoryview"),
        pytest.param(Image(np.asarray(corners()), 64, 48), id="Image"),
    ],
)
def test_whatever_holds_a_picture_opens_and_uploads_the_same(source: object) -> None:
    for picture in (Image.open(source), decode(source_bytes(source))):
        np.testing.assert_array_equal(picture.pixels, np.asarray(corners()))


def test_a_path_opens_and_its_bytes_travel_untouched(tmp_path: typing.Any) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(file(corners()))
    assert Image.open(str(path)).width == 64
    assert Image.open(path).width == 64
    assert source_bytes(path) == path.read_bytes()
    with pytest.raises(FileNotFoundError):
        Image.open(tmp_path / "none.jpg")


def test_a_pil_image_is_uploaded_upright() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    stored = corners().transpose(PIL.Image.Transpose.ROTATE_90)
    lying = PIL.Image.open(io.BytesIO(file(stored, exif=exif)))
    picture = decode(encode_png(lying))
    assert (picture.width, picture.height) == (64, 48)
    assert close(picture.pixels[12, 16], RED)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 2), np.uint8), np.zeros((4,)), np.zeros((0, 4, 3), np.uint8)],
)
def test_an_array_of_another_shape_is_refused_with_the_right_ones(array: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"\[H, W, 3\]"):
        Image.open(array)


def test_an_array_of_unclear_range_is_not_guessed_at() -> None:
    with pytest.raises(InputError, match="floats from 0 to 1"):
        Image.open(np.full((4, 4, 3), 200.0))


@pytest.mark.parametrize("source", [17, None, "https://example.org/a.jpg", "DATA:image/png,x"])
def test_what_holds_no_picture_is_refused(source: object) -> None:
    with pytest.raises(InputError):
        Image.open(source)


def test_resized_is_square_and_bilinear() -> None:
    small = Image.open(corners(640, 480)).resized(32)
    assert small.shape == (32, 32, 3)
    assert small.dtype == np.uint8
    assert close(small[8, 8], RED, 0)
    assert close(small[24, 8], BLUE, 0)


def test_the_thumbnail_keeps_proportions_and_the_repr_is_one_line() -> None:
    picture = Image.open(corners(640, 480))
    assert Image.open(picture.thumbnail_png(100)).pixels.shape == (75, 100, 3)
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert repr(picture) == "Image(pixels=<uint8 480x640x3>, width=640, height=480)"


def test_a_picture_survives_pickling() -> None:
    picture = pickle.loads(pickle.dumps(Image.open(corners())))
    np.testing.assert_array_equal(picture.pixels, np.asarray(corners()))


def test_field_types_resolve_for_tracing() -> None:
    assert typing.get_type_hints(Image)["width"] is int


def test_threads_decode_side_by_side() -> None:
    files = [file(corners(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF")]
    wanted = [decode(data).pixels for data in files]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(20):
            got = [decode(data).pixels for data in files]
            wrong.extend(i for i in range(4) if not np.array_equal(got[i], wanted[i]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
