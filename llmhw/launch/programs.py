"""What runs a form on a machine: its container, its package, and where it answers."""

from __future__ import annotations

from dataclasses import dataclass

from llmhw.job import ServingJob


@dataclass(frozen=True)
class Program:
    """A program that serves, for devices of a vendor.

    image     of its container
    package   for pip; "": it is none of Python
    port      where it answers
    health    path that answers once the model is loaded
    """

    image: str
    package: str
    port: int
    health: str


def program(form: str, job: ServingJob) -> Program | None:
    """The program of a form for a job's devices and its engine's version; without an image where none is usual.

    >>> from llmhw import ServingJob
    >>> program("vllm", ServingJob(model="llama-3-8b", cluster="h100", engine="vllm:0.9.2")).image
    'vllm/vllm-openai:v0.9.2'
    """
    from llmhw.catalog import read_table

    engine, _, version = job.engine.partition(":")
    vendor = job.cluster.accelerator.vendor or "NVIDIA"
    for row in sorted(read_table("serving_programs"), key=lambda row: row["vendor"] != vendor):
        if row["program"] == form and (form != "triton" or row["name"][7:10] == _backend(engine)):
            chosen = row["version"] if form == "triton" else version or row["version"]
            image, package = (row[key].replace("{version}", chosen) for key in ("image", "package"))
            return Program(image if row["vendor"] == vendor else "", package, int(row["port"]), row["health"])
    return None


def _backend(engine: str) -> str:
    return "trt" if engine.startswith("tensorrt") else "vll"
