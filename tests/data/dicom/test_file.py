"""DICOM: grey levels against windows worked out by hand, every layout of pixels, and no word of a header anywhere."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medvqa_cli.data.dicom import file as dicom
from medvqa_cli.data.dicom import stream as dicom_stream
from medvqa_cli.data.images import check_image, hash_image, make_thumbnail, read_image, warn_burned_in
from medvqa_cli.data.prepared.store import read_split, write_store
from medvqa_cli.errors import DataError, MedVQAError, MissingDependencyError
from tests.data.builders import draw_image, make_sample

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'medvqa-cli[dicom]')")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
SECRET = "Zyxwv"


def build_dicom(pixels: np.ndarray, *, frames: int = 0, **elements) -> Dataset:
    """A file of one frame [rows, columns] or [rows, columns, 3], or of several with one more axis in front."""
    rows, columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    colours = pixels.shape[-1] == 3 and pixels.ndim == 3 + bool(frames)
    values = {"PatientName": f"{SECRET}^Name", "PatientID": f"{SECRET}-1", "StudyDate": "19700102",
              "InstitutionName": f"{SECRET} Hospital", "SOPClassUID": SecondaryCaptureImageStorage,
              "SOPInstanceUID": generate_uid(), "Modality": "CT", "Rows": rows, "Columns": columns,
              "SamplesPerPixel": 3 if colours else 1, "PhotometricInterpretation": "RGB" if colours else "MONOCHROME2",
              "BitsAllocated": pixels.itemsize * 8, "BitsStored": pixels.itemsize * 8,
              "HighBit": pixels.itemsize * 8 - 1, "PixelRepresentation": int(pixels.dtype.kind == "i")}
    values |= {"NumberOfFrames": frames} if frames else {}
    values |= {"PlanarConfiguration": 0} if colours else {}
    data = Dataset()
    for name, value in (values | elements).items():
        setattr(data, name, value)
    content = pixels.tobytes()
    data.add_new(0x7FE00010, "OW" if pixels.itemsize > 1 else "OB", content + b"\0" * (len(content) % 2))
    return data


def save(path: Path, data: Dataset, syntax=ExplicitVRLittleEndian) -> Path:
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(path, enforce_file_format=True)
    return path


def write_dicom(path: Path, pixels, syntax=ExplicitVRLittleEndian, **elements) -> Path:
    return save(path, build_dicom(np.asarray(pixels), **elements), syntax)


def write_run_lengths(path: Path, data: Dataset) -> Path:
    save(path, data)  # compressing needs to know what it was before
    data.compress(RLELossless)
    return save(path, data, RLELossless)


def read_grey(path: Path, **options) -> list:
    shown = np.asarray(read_image(path, **options))
    assert (shown[..., 0] == shown[..., 1]).all()
    assert (shown[..., 0] == shown[..., 2]).all()
    return shown[..., 0].tolist()


def item(**elements) -> Dataset:
    data = Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


HOUNSFIELD = np.array([[-1000, -160, 0], [40, 239, 3000]], np.int16)
SOFT_TISSUE = [[0, 0, 102], [128, 255, 255]]
"""Center 40, width 400: (x - 39.5) / 399 + 0.5, times 255; 0 up to -160, 255 from 239 on."""


def test_the_window_is_that_of_the_standard(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", HOUNSFIELD, WindowCenter=40, WindowWidth=400)
    assert read_grey(path) == SOFT_TISSUE
    assert read_image(path).mode == "RGB"


def test_the_first_of_several_windows_counts_and_one_asked_for_before_it(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", HOUNSFIELD, WindowCenter=[40, -600], WindowWidth=[400, 1500])
    assert read_grey(path) == SOFT_TISSUE
    lung = read_grey(path, window=(-600, 1500))  # (x + 600.5) / 1499 + 0.5
    assert lung == [[60, 202, 230], [236, 255, 255]]
    assert read_grey(path, window=(40, 1)) == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(("function", "center", "expected"), [
    ("LINEAR_EXACT", 0, [0, 128, 191, 255]),  # (x / 100 + 0.5) * 255
    ("SIGMOID", 0, [30, 128, 186, 225]),  # 255 / (1 + exp(-4 x / 100))
])
def test_the_other_window_functions(tmp_path, function, center, expected):
    path = write_dicom(tmp_path / "a.dcm", np.array([[-50, 0, 25, 50]], np.int16), WindowCenter=center, WindowWidth=100,
                       VOILUTFunction=function)
    assert read_grey(path) == [expected]


def test_stored_values_are_rescaled_first(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", (HOUNSFIELD + 1024).astype(np.uint16),
                       RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    assert read_grey(path) == SOFT_TISSUE
    path = write_dicom(tmp_path / "b.dcm", np.array([[0, 10, 20]], np.uint8), RescaleSlope="2.5",
                       RescaleIntercept="-25", WindowCenter=0.5, WindowWidth=51)  # x / 50 + 0.5 of -25, 0, 25
    assert read_grey(path) == [[0, 128, 255]]


def test_without_a_window_levels_are_stretched_but_padding_does_not_count(tmp_path):
    levels = np.array([[-2000, 100, 150, 200]], np.int16)
    assert read_grey(write_dicom(tmp_path / "a.dcm", levels)) == [[0, 243, 249, 255]]  # (x + 2000) / 2200
    padded = write_dicom(tmp_path / "b.dcm", levels, PixelPaddingValue=-2000)
    assert read_grey(padded) == [[0, 0, 128, 255]]
    ranged = write_dicom(tmp_path / "c.dcm", levels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=100)
    assert read_grey(ranged) == [[0, 0, 0, 255]]
    flat = write_dicom(tmp_path / "d.dcm", np.full((2, 2), 7, np.uint8), PixelPaddingValue=7)
    assert read_grey(flat) == [[0, 0], [0, 0]]
    none = write_dicom(tmp_path / "e.dcm", np.array([[0, 100]], np.uint8), WindowCenter=40, WindowWidth=0)
    assert read_grey(none) == [[0, 255]]  # a window without width is none


def test_monochrome1_is_inverted(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", HOUNSFIELD, PhotometricInterpretation="MONOCHROME1", WindowCenter=40,
                       WindowWidth=400)
    assert read_grey(path) == [[255 - level for level in row] for row in SOFT_TISSUE]
    stretched = write_dicom(tmp_path / "b.dcm", np.array([[0, 50, 100]], np.uint8),
                            PhotometricInterpretation="MONOCHROME1")
    assert read_grey(stretched) == [[255, 127, 0]]


def test_bits_that_are_not_stored_and_big_endian_bytes(tmp_path):
    levels = np.array([[0, 2048, 4095]], np.uint16)
    twelve = write_dicom(tmp_path / "a.dcm", levels, BitsStored=12, HighBit=11)
    assert read_grey(twelve) == [[0, 128, 255]]
    big = write_dicom(tmp_path / "b.dcm", levels.byteswap(), ExplicitVRBigEndian)
    assert read_grey(big) == [[0, 128, 255]]
    assert read_grey(write_dicom(tmp_path / "c.dcm", levels, ImplicitVRLittleEndian)) == [[0, 128, 255]]
    assert read_grey(write_dicom(tmp_path / "d.dcm", levels, DeflatedExplicitVRLittleEndian)) == [[0, 128, 255]]


def test_tables_of_values(tmp_path):
    levels = np.array([[0, 1, 2, 3]], np.uint8)
    table = item(LUTDescriptor=[4, 0, 8], LUTData=[255, 0, 51, 102])
    table["LUTData"].VR = "US"
    table["LUTDescriptor"].VR = "US"
    path = write_dicom(tmp_path / "a.dcm", levels, VOILUTSequence=[table])
    assert read_grey(path) == [[255, 0, 51, 102]]
    assert read_grey(write_dicom(tmp_path / "b.dcm", levels, ModalityLUTSequence=[table], WindowCenter=0.5,
                                 WindowWidth=256)) == [[255, 128, 178, 230]]  # x / 255 + 0.5


def test_one_frame_of_several_is_shown(tmp_path):
    frames = np.stack([np.full((2, 3), level, np.uint8) for level in (10, 20, 30)])
    frames[:, 0, 0] = 0
    path = write_dicom(tmp_path / "a.dcm", frames, frames=3, WindowCenter=20.5, WindowWidth=41)  # x / 40
    assert read_grey(path)[1] == [64] * 3
    assert read_grey(path, frame=2)[1] == [191] * 3
    for frame in (3, -1):
        with pytest.raises(DataError) as failure:
            read_image(path, frame=frame)
        assert failure.value.message == f"The DICOM file '{path}' has 3 frames: there is no frame {frame}."
        assert failure.value.hint == "Frames count from 0 to 2."
    assert check_image(path, max_pixels=6) == "DICOM"  # one frame is decoded, so one frame counts


def test_windows_of_functional_groups(tmp_path):
    """Enhanced CT and MR keep window and rescaling once for all frames, or frame by frame."""
    def group(center, intercept):
        return item(FrameVOILUTSequence=[item(WindowCenter=center, WindowWidth=400)],
                    PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=intercept)])

    frames = np.stack([HOUNSFIELD, HOUNSFIELD])
    shared = write_dicom(tmp_path / "a.dcm", frames, frames=2, SharedFunctionalGroupsSequence=[group(40, 0)])
    assert read_grey(shared, frame=1) == SOFT_TISSUE
    own = write_dicom(tmp_path / "b.dcm", frames, frames=2, SharedFunctionalGroupsSequence=[group(900, 0)],
                      PerFrameFunctionalGroupsSequence=[group(900, 0), group(140, 100)])
    assert read_grey(own, frame=1) == SOFT_TISSUE


COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)


def test_colours(tmp_path):
    assert np.array_equal(read_image(write_dicom(tmp_path / "a.dcm", COLOURS)), COLOURS)
    data = build_dicom(COLOURS, PlanarConfiguration=1)
    data.PixelData = COLOURS.transpose(2, 0, 1).tobytes()
    assert np.array_equal(read_image(save(tmp_path / "b.dcm", data)), COLOURS)
    deep = write_dicom(tmp_path / "c.dcm", COLOURS.astype(np.uint16) * 257)
    assert np.array_equal(read_image(deep), COLOURS)
    coded = np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))
    full = write_dicom(tmp_path / "d.dcm", coded, PhotometricInterpretation="YBR_FULL")
    assert np.abs(np.asarray(read_image(full)).astype(int) - COLOURS).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette(tmp_path, bits):
    data = build_dicom(np.array([[0, 1, 2]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for number, name in enumerate(("Red", "Green", "Blue")):
        levels = np.array([0, 255, 10 * number, 0], f"uint{bits}") * (257 if bits == 16 else 1)
        data.add_new(pydicom.tag.Tag(f"{name}PaletteColorLookupTableDescriptor"), "US", [4, 0, bits])
        setattr(data, f"{name}PaletteColorLookupTableData", levels.tobytes())
    assert np.asarray(read_image(save(tmp_path / "a.dcm", data))).tolist() == [[[0] * 3, [255] * 3, [0, 10, 20]]]


def test_run_lengths(tmp_path):
    path = write_run_lengths(tmp_path / "a.dcm", build_dicom(HOUNSFIELD, WindowCenter=40, WindowWidth=400))
    assert read_grey(path) == SOFT_TISSUE
    assert len(path.read_bytes()) != len(write_dicom(tmp_path / "plain.dcm", HOUNSFIELD).read_bytes())


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless",
                                  "MR_small_jpeg_ls_lossless", "MR_small_padded", "MR_small_expb"])
def test_lossless_files_show_the_same_picture(name):
    if "jp" in name:
        pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
        pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg is not installed")
    assert hash_image(FILES / f"{name}.dcm") == hash_image(FILES / "MR_small.dcm")


@pytest.mark.parametrize("name", ["MR_small", "693_J2KI", "examples_overlay", "J2K_pixelrep_mismatch"])
def test_real_files_against_pydicoms_own_window(name):
    from pydicom.pixels import apply_modality_lut, apply_windowing

    data = pydicom.dcmread(FILES / f"{name}.dcm")
    reference = apply_windowing(apply_modality_lut(data.pixel_array, data), data).astype(np.float64)
    extremes = apply_windowing(np.array([-(10**6), 10**6]), data)
    expected = (reference - extremes[0]) / (extremes[1] - extremes[0]) * 255
    assert np.abs(read_grey(FILES / f"{name}.dcm") - expected).max() <= 0.5 + 1e-6
    assert expected.max() - expected.min() > 100


@pytest.mark.parametrize("name", ["JPGExtended", "JPEG2000", "SC_rgb_jpeg_gdcm", "SC_rgb_jpeg_dcmtk", "SC_rgb_gdcm_KY",
                                  "JPEGLSNearLossless_16", "GDCMJ2K_TextGBR", "examples_ybr_color", "image_dfl"])
def test_compressed_real_files_are_read(name):
    path = FILES / f"{name}.dcm"
    header = pydicom.dcmread(path, stop_before_pixels=True)
    assert check_image(path) == "DICOM"
    image = read_image(path)
    assert image.size == (header.Columns, header.Rows)
    assert np.asarray(image).std() > 10


def test_the_same_scene_looks_the_same_however_it_is_kept():
    """SC_rgb_*: one test picture, plain, in run lengths, and as lossy JPEG and JPEG-LS."""
    lossless = np.asarray(read_image(FILES / "SC_rgb_rle.dcm")).astype(int)
    assert np.array_equal(lossless, np.asarray(read_image(FILES / "SC_rgb_jpeg_gdcm.dcm")))
    for name in ("SC_rgb_dcmtk_+eb+cr", "SC_rgb_jpeg_dcmtk", "SC_ybr_full_422_uncompressed", "SC_rgb_jls_lossy_line"):
        assert np.abs(lossless - np.asarray(read_image(FILES / f"{name}.dcm"))).mean() < 12, name


def test_files_are_known_by_their_mark_or_their_name(tmp_path):
    path = write_dicom(tmp_path / "noname", HOUNSFIELD)
    assert check_image(path) == "DICOM"
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, build_dicom(HOUNSFIELD), implicit_vr=True, little_endian=True)
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(stream.getvalue())
    assert hash_image(bare) == hash_image(path)
    both = tmp_path / "both.tif"  # PS3.10 7.1 lets the first 128 bytes be a TIFF header
    both.write_bytes(b"II*\0" + path.read_bytes()[4:])
    assert hash_image(both) == hash_image(path)


def test_thumbnails(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.arange(10_000, dtype=np.uint16).reshape(100, 100))
    assert Image.open(io.BytesIO(make_thumbnail(path, 20))).size == (20, 20)


BURNED_IN = "'{}' says that text is burned into its pixels: look whether it shows names."
NOT_DENIED = "'{}' is ultrasound that does not deny burned-in text: look whether it shows names."


@pytest.mark.parametrize(("elements", "warning"), [
    ({"BurnedInAnnotation": "YES"}, BURNED_IN), ({"Modality": "US"}, NOT_DENIED),
    ({"Modality": "US", "BurnedInAnnotation": "YES"}, BURNED_IN),
    ({"Modality": "US", "BurnedInAnnotation": "NO"}, ""), ({"BurnedInAnnotation": "NO"}, ""), ({}, "")])
def test_burned_in_text_is_warned_of(tmp_path, elements, warning):
    path = write_dicom(tmp_path / "a.dcm", HOUNSFIELD, **elements)
    assert warn_burned_in(path) == warning.format(path)
    assert warn_burned_in(draw_image(tmp_path / "a.png")) == ""


def bad_dicoms(folder: Path) -> dict[str, str]:
    whole = write_dicom(folder / "whole.dcm", HOUNSFIELD).read_bytes()
    mark, rows = b"\0" * 128 + b"DICM", b"\x28\0\x10\0US\2\0"
    contents = {"mark": mark, "cut": whole[:-4], "noise": mark + bytes(range(256)) * 4, "empty": b"",
                "text": b"no picture", "bad_rows": whole.replace(rows, rows.replace(b"US", b"ZZ")),
                "bad_name": whole.replace(b"PN", b"IS")}
    contents["cut_rle"] = write_run_lengths(folder / "rle.dcm", build_dicom(HOUNSFIELD)).read_bytes()[:-20]
    paths = {}
    for name, content in contents.items():
        (folder / f"{name}.dcm").write_bytes(content)
    for name in contents:
        paths[str(folder / f"{name}.dcm")] = "The DICOM file '"
    return paths


def test_bad_files_are_named_and_quote_nothing(tmp_path, caplog, recwarn):
    caplog.set_level(0)
    for path, message in bad_dicoms(tmp_path).items():
        for work in (read_image, check_image, hash_image):
            if "bad_name" in path:
                work(path)  # the name is never looked at
                continue
            with pytest.raises(DataError) as failure:
                work(path)
            assert failure.value.message.startswith(f"{message}{path}'"), failure.value.message
            assert SECRET not in failure.value.message + failure.value.hint
            assert failure.value.__cause__ is None
    assert SECRET not in caplog.text
    assert not [warning for warning in recwarn.list if "pydicom" in str(warning.filename)]


def test_cut_files_of_every_kind_are_found_without_decoding(tmp_path):
    for name in ("CT_small", "SC_rgb_rle", "JPEG2000", "MR_small_implicit", "ExplVR_BigEnd"):
        content = (FILES / f"{name}.dcm").read_bytes()
        path = tmp_path / f"{name}.dcm"
        start = max(content.rfind(b"\xe0\x7f\x10\0"), content.rfind(b"\x7f\xe0\0\x10"))
        path.write_bytes(content[: (start + len(content)) // 2])
        with pytest.raises(DataError, match="is broken or cut off"):
            check_image(path)


@pytest.mark.parametrize("name", ["rtplan", "test-SR", "reportsi", "waveform_ecg", "rtstruct", "no_meta"])
def test_files_without_a_picture(name):
    with pytest.raises(DataError, match=r"The DICOM file '.*' holds no picture\."):
        check_image(FILES / f"{name}.dcm")


def test_other_kinds_of_pixels_and_compressions_are_refused(tmp_path):
    strange = write_dicom(tmp_path / "a.dcm", HOUNSFIELD, PhotometricInterpretation=f"{SECRET.upper()}")
    with pytest.raises(DataError) as failure:
        read_image(strange)
    assert failure.value.message == (f"The DICOM file '{strange}' holds no picture of a known kind (MONOCHROME1, "
                                     "MONOCHROME2, PALETTE COLOR, RGB, YBR_FULL, YBR_FULL_422, YBR_ICT, YBR_RCT).")
    content = write_dicom(tmp_path / "b.dcm", HOUNSFIELD).read_bytes()
    for syntax, name in ((b"1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level"),
                         (b"1.2.3.4.5.6.7.8.9.10.11", "an unknown transfer syntax")):
        video = tmp_path / "video.dcm"
        video.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", syntax).replace(
            b"\2\0\x10\0UI\x14\0", b"\2\0\x10\0UI" + len(syntax).to_bytes(2, "little")))
        padded = video.read_bytes()
        if len(syntax) % 2:
            place = padded.index(syntax) + len(syntax)
            video.write_bytes(padded[:place].replace(b"UI" + len(syntax).to_bytes(2, "little"),
                                                     b"UI" + (len(syntax) + 1).to_bytes(2, "little"))
                              + b"\0" + padded[place:])
        with pytest.raises(DataError) as failure:
            check_image(video)
        assert f"is compressed in a way that cannot be decoded ({name}" in failure.value.message


def test_limits_are_checked_before_decoding(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", HOUNSFIELD)
    for work in (read_image, check_image):
        with pytest.raises(DataError) as failure:
            work(path, 5)
        assert failure.value.message == f"The image '{path}' has 3 x 2 pixels; at most 5 are allowed."
    huge = write_dicom(tmp_path / "b.dcm", HOUNSFIELD, Rows=60_000, Columns=60_000)
    with pytest.raises(DataError, match="has 60000 x 60000 pixels; at most 64,000,000 are allowed"):
        read_image(huge)
    lying = write_dicom(tmp_path / "c.dcm", HOUNSFIELD, Rows=8000, Columns=8000)
    with pytest.raises(DataError, match="is broken or cut off"):
        check_image(lying)
    monkeypatch.setattr(dicom_stream, "MAX_INFLATED_BYTES", 10_000)
    bomb = write_dicom(tmp_path / "d.dcm", np.zeros((100, 101), np.uint8), DeflatedExplicitVRLittleEndian)
    assert bomb.stat().st_size < 2000
    with pytest.raises(DataError, match="is broken or cut off"):
        check_image(bomb)


def test_a_compressed_picture_must_have_the_size_its_header_says(tmp_path):
    """A decoder given a codestream of another size takes the memory, or the hours, that the codestream asks for."""
    for name, place in (("MR_small_jpeg_ls_lossless", b"\xff\xf7"), ("SC_rgb_jpeg_gdcm", b"\xff\xc3")):
        content = bytearray((FILES / f"{name}.dcm").read_bytes())
        start = content.index(place, content.index(b"\xff\xd8")) + 5
        content[start : start + 4] = b"\x40\0\x40\0"
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(content)
        with pytest.raises(DataError, match="is broken or cut off"):
            read_image(path)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", HOUNSFIELD)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pydicom", None)
        for work in (read_image, check_image, warn_burned_in):
            with pytest.raises(MissingDependencyError) as failure:
                work(path)
            assert failure.value.message == "Reading DICOM files needs the package 'pydicom', which is not installed."
            assert failure.value.hint == "Install it with: pip install 'medvqa-cli[dicom]'"
        assert failure.value.exit_code == 6
        assert check_image(draw_image(tmp_path / "a.png")) == "PNG"
        with pytest.raises(MissingDependencyError):  # never a reason to leave questions out
            write_store(tmp_path / "store", [make_sample(1, path)], {"fingerprint": "f"}, max_pixels=100,
                        skip_missing=True)
    monkeypatch.setattr(dicom, "DECODERS", ())
    name = FILES / "SC_rgb_jpeg_gdcm.dcm"
    with pytest.raises(MissingDependencyError) as failure:
        check_image(name)
    assert failure.value.message == (
        f"Decoding the DICOM file '{name}' (JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 "
        "[Selection Value 1])) needs the package 'pylibjpeg-libjpeg', which is not installed.")
    assert check_image(path) == "DICOM"


def test_an_embedded_store_holds_no_header(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", HOUNSFIELD, WindowCenter=40, WindowWidth=400)
    write_store(tmp_path / "store", [make_sample(1, path)], {"fingerprint": "f"}, max_pixels=100, embed_images=True)
    copy = read_split(tmp_path / "store", "train")[0].images[0]
    assert Path(copy).suffix == ".png"
    assert read_grey(copy) == SOFT_TISSUE
    for file in (tmp_path / "store").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()
    assert SECRET.encode() in path.read_bytes()
    assert SECRET.encode() not in make_thumbnail(path, 10)


SEEDS = [FILES / f"{name}.dcm" for name in ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless",
                                            "SC_rgb_small_odd", "MR_small_implicit", "SC_rgb_small_odd_jpeg")]
CONTENTS = [path.read_bytes() for path in SEEDS]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_damage_brings_down_the_reader(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(CONTENTS)))
    pixels = content.rfind(b"\xe0\x7f\x10\0")
    places = st.integers(132, len(content) - 1) | st.integers(pixels, min(pixels + 200, len(content) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    for work in (check_image, read_image):
        fault = ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                work(path, 1_000_000)
            except MedVQAError as error:
                fault = error.message
        assert not fault or str(path) in fault
        assert not [warning for warning in warned if "pydicom" in warning.filename]


def test_a_deflated_file_that_is_cut_off(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.arange(10_000, dtype=np.uint16).reshape(100, 100),
                       DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is broken or cut off"):
        check_image(path)
