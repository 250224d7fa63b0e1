"""DICOM files as pictures: header, pixel data, grey levels."""
