"""What a training job has where nobody says: sequences of a step."""

from __future__ import annotations

from llmhw.cost import Default
from llmhw.job import TrainingJob

_FEW, _USUAL, _MANY = 2**19, 2**22, 2**24
_BATCH = (
    (1e9, _FEW, "0.5 M tokens a step, as GPT-3's models below a billion parameters (arXiv 2005.14165, table 2.1)"),
    (2e11, _USUAL, "4 M tokens a step, as all of Llama 2 (arXiv 2307.09288, section 2.2)"),
    (float("inf"), _MANY, "16 M tokens a step, as Llama 3 405B most of the time (arXiv 2407.21783, section 3.4.1)"),
)
TUNED = Default("global_batch", 128, "128 sequences a step, as Tulu 3's fine-tuning (arXiv 2411.15124, table 10)")


def usual_batch(job: TrainingJob) -> Default:
    """Sequences of a step where nobody says how many.

    >>> from llmhw import Cluster, model
    >>> usual_batch(TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100"), seq_len=8192)).value
    512
    """
    if job.frozen or job.method != "sft":
        return TUNED
    tokens, source = next((t, s) for most, t, s in _BATCH if job.model.parameters.text < most)
    return Default("global_batch", max(1, tokens // job.seq_len), source)
