"""Medical images slice by slice: DICOM by pydicom, NIfTI by nibabel, NRRD and MetaImage by SimpleITK.

The packages are the extra ``medical``. Slices have the values that the format defines, such as Hounsfield units:
  - DICOM: rescaled as its modality says, MONOCHROME1 inverted, a palette applied; each frame is a slice.
  - NIfTI: scaled by its slope and intercept. A slice is a plane (y, x) of the axes as stored; slices follow one another
    along z, and then along time.
  - NRRD and MetaImage: a plane (y, x) too.
Only one slice at a time is in memory if the format allows it: in DICOM, NIfTI and uncompressed MetaImage.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from anogan_jax.data.pixels import check_size
from anogan_jax.errors import UserError

_DICOM, _NIFTI, _ITK = (".dcm", ".dicom", ".ima"), (".nii", ".nii.gz"), (".nrrd", ".nhdr", ".mha", ".mhd")
SUFFIXES = (*_DICOM, *_NIFTI, *_ITK)
_OPEN = 64  # NIfTI files that stay open, with their headers and positions in compressed ones
_OF_MAPS = {".nhdr": ".nrrd", ".mhd": ".mha"}  # a header and its data file become one file


class Contents(NamedTuple):
    """The number of slices in an image file, and their series."""

    depth: int  # number of slices or pages
    series: str = ""  # the DICOM series that it is a part of


def is_volume(path: Path) -> bool:
    """Return whether a file is of these formats: by its suffix, or for DICOM without a suffix by its first bytes."""
    return path.name.lower().endswith(SUFFIXES) or _is_dicom(path)


def contents_of(path: Path) -> Contents:
    """Return what a file of these formats holds: one slice if it cannot be read; reading it raises the error."""
    try:
        with _user_errors(path):
            found = _reader_of(path)[0](path)
            return found._replace(depth=max(1, found.depth))  # without a slice it cannot be read either
    except UserError:
        return Contents(depth=1)


def series_of(path: Path) -> str:
    """Return the series that a DICOM file is a part of; empty for other files and for files that cannot be read."""
    return contents_of(path).series if is_volume(path) else ""


def read_slice(path: Path, number: int) -> np.ndarray:
    """Return slice ``number`` of a file, (H, W) or (H, W, C), of the type that its values have.

    Raises:
      UserError: it cannot be read, or is too large.
    """
    with _user_errors(path):
        return _reader_of(path)[1](path, number)


def read_by_itk(path: Path, number: int) -> np.ndarray:
    """Return slice ``number`` of a file in any format of SimpleITK, as ``read_slice``."""
    with _user_errors(path):
        return _read_itk(path, number)


def name_of_maps(name: str) -> str | None:
    """Return the name of the file with a volume's maps, by the volume's name; None for formats without such a file.

    >>> [name_of_maps(name) for name in ("a/scan.nii.gz", "scan.mhd", "scan.dcm")]
    ['a/scan.nii.gz', 'scan.mhd.mha', None]
    """
    suffix = PurePath(name.lower()).suffix
    if not name.lower().endswith((*_NIFTI, *_ITK)):
        return None
    return name + _OF_MAPS.get(suffix, "")


def write_maps(source: Path, target: Path, maps: Iterable[np.ndarray]) -> None:
    """Write the maps of a volume's slices, each (H, W) float32, in the format and the geometry of the volume.

    Args:
      source: the file of the volume, NIfTI, NRRD or MetaImage.
      target: the file to write.
      maps: as many as there are slices.
    """
    stack = np.stack(list(maps))
    with _user_errors(source):
        if target.name.lower().endswith(_NIFTI):
            import nibabel

            volume = _nifti(source)
            header = volume.header.copy()
            header.set_data_dtype(np.float32)
            header.set_slope_inter(1, 0)
            values = stack.transpose(2, 1, 0).reshape(volume.shape, order="F")
            nibabel.save(type(volume)(values, volume.affine, header), target)
            return
        import SimpleITK as itk

        reader = _itk_reader(source)
        size = reader.GetSize()
        image = itk.GetImageFromArray(stack.reshape(size[::-1]), isVector=False)
        image.SetOrigin(reader.GetOrigin())
        image.SetSpacing(reader.GetSpacing())
        image.SetDirection(reader.GetDirection())
        itk.WriteImage(image, str(target), useCompression=True)


def _is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM does and has no suffix, or a number for one, as identifiers have."""
    if not (path.suffix == "" or path.suffix[1:].isdecimal()) or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _dicom_contents(path: Path) -> Contents:
    header = _dicom_header(path)
    return Contents(int(header.get("NumberOfFrames") or 1), str(header.get("SeriesInstanceUID", "")))


def _read_dicom(path: Path, number: int) -> np.ndarray:
    from pydicom import pixels, uid

    header = _dicom_header(path)
    if "Rows" not in header:
        raise UserError(f"{path}: holds no pixels")
    check_size(path, header.Columns, header.Rows)
    implicit, little = header.original_encoding
    without_meta = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    syntax = header.file_meta.get("TransferSyntaxUID") or (without_meta if little else uid.ExplicitVRBigEndian)
    frame = pixels.pixel_array(path, index=number, transfer_syntax_uid=syntax)
    kind = header.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        return pixels.apply_color_lut(frame, header)
    if kind == "MONOCHROME1":
        bits, is_signed = header.BitsStored, header.PixelRepresentation
        frame = (-1 if is_signed else 2**bits - 1) - frame  # the sum of the least and the largest value
    rescale = _rescale(header, number)
    is_identity = rescale.get("RescaleSlope", 1) == 1 and rescale.get("RescaleIntercept", 0) == 0
    return frame if is_identity and "ModalityLUTSequence" not in rescale else pixels.apply_rescale(frame, rescale)


def _rescale(header: Any, number: int) -> Any:
    """Return the part of a DICOM header that rescales a frame: the frame's own, that of all frames, or the header."""
    groups = [*header.get("PerFrameFunctionalGroupsSequence", [])[number : number + 1]]
    groups += header.get("SharedFunctionalGroupsSequence", [])
    found = (each for group in groups for each in group.get("PixelValueTransformationSequence", []))
    return next(found, header)


def _dicom_header(path: Path) -> Any:
    import pydicom

    return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def _nifti_contents(path: Path) -> Contents:
    return Contents(int(np.prod(_nifti(path).shape[2:], dtype=int)))


def _read_nifti(path: Path, number: int) -> np.ndarray:
    volume = _nifti(path)
    if len(volume.shape) < 2 or 0 in volume.shape:
        raise UserError(f"{path}: holds no slice, its shape is {volume.shape}")
    check_size(path, *volume.shape[:2])
    plane = np.asarray(volume.dataobj[(..., *np.unravel_index(number, volume.shape[2:], order="F"))])
    if plane.dtype.names:  # colours
        plane = np.stack([plane[name] for name in plane.dtype.names], axis=-1)
    return plane.swapaxes(0, 1)


def _nifti(path: Path) -> Any:
    return _opened_nifti(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=_OPEN)
def _opened_nifti(path: Path, changed: int) -> Any:
    import nibabel

    return nibabel.load(path)


def _itk_contents(path: Path) -> Contents:
    return Contents(int(np.prod(_itk_reader(path).GetSize()[2:], dtype=int)))


def _read_itk(path: Path, number: int) -> np.ndarray:
    import SimpleITK as itk

    reader = _itk_reader(path)
    width, height, *others = reader.GetSize()
    check_size(path, width, height)
    reader.SetExtractSize([width, height, *[0] * len(others)])
    reader.SetExtractIndex([0, 0, *(int(place) for place in np.unravel_index(number, others, order="F"))])
    return itk.GetArrayFromImage(reader.Execute())


def _itk_reader(path: Path) -> Any:
    import SimpleITK as itk

    itk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = itk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _reader_of(path: Path) -> tuple[Callable[[Path], Contents], Callable[[Path, int], np.ndarray]]:
    """Return the functions that find a file's contents and read a slice of it."""
    if path.name.lower().endswith(_NIFTI):
        return _nifti_contents, _read_nifti
    if path.name.lower().endswith(_ITK):
        return _itk_contents, _read_itk
    return _dicom_contents, _read_dicom


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """Turn what the packages raise, which are many types, into a UserError; a damaged file must cost this file only."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: needs {error.name}: pip install 'anogan_jax[medical]'") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else ""
        raise UserError(f"{path}: not a readable image ({type(error).__name__}: {reason})") from error
