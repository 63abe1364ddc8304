"""Settings of `make notebooks`: run again and keep what a reader needs, nothing that changes from run to run."""

from typing import Any

c: Any = get_config()  # type: ignore[name-defined]  # noqa: F821  nbconvert puts it there
c.ExecutePreprocessor.kernel_name = "python3"
c.ExecutePreprocessor.timeout = 300
c.ExecutePreprocessor.record_timing = False
c.ClearMetadataPreprocessor.enabled = True
c.ClearMetadataPreprocessor.clear_cell_metadata = False
c.ClearMetadataPreprocessor.preserve_nb_metadata_mask = {"kernelspec", ("language_info", "name")}
# How a kernel cuts its prints into messages depends on the clock; joined, the same run gives the same file.
c.NotebookExporter.preprocessors = ["nbconvert.preprocessors.CoalesceStreamsPreprocessor"]
