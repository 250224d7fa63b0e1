"""Samples written for other programs, and read back without loss.

forms.py says how a sample becomes a row of each form, pictures.py which path stands for a picture, files.py how rows
become files; writing.py puts them together. `llava` and `unimedvl` files are read back by the data set `conversations`,
`parquet` and `jsonl` files by `read_export`.
"""

from medvqa_cli.data.export.files import read_export
from medvqa_cli.data.export.writing import FORMS, ExportReport, Form, export_samples

__all__ = ["FORMS", "ExportReport", "Form", "export_samples", "read_export"]
