"""Measure one GPU in less than eight minutes, with PyTorch alone: kernels, training steps, prefill and decode.

    python benchmarks/gpu/measure.py --out DIR [--minutes 8]
    python benchmarks/gpu/measure.py --out DIR --toy        # tiny sizes, on a CPU: does it run?

Writes, a row as soon as it is measured, so that Ctrl-C or the end of the time keeps what there is:

    kernels.csv     matrix products by format and shape, attention forward and backward, copies
    training.csv    seconds of an AdamW step and the peak of memory (allocated, reserved)
    inference.csv   seconds of reading a prompt and of one more token, over batch and context

The models are Llamas of random weights in plain PyTorch, since shapes, not weights, take time. Times are medians
between device events, after warm-up. Every row says device, versions and date. `llmhw validate` compares them.
"""

from __future__ import annotations

import argparse
import csv
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# hidden, feed-forward, layers, heads, KV heads, vocabulary
SIZES = {
    "124M": (768, 2048, 12, 12, 12, 50304),
    "1B": (2048, 8192, 16, 32, 8, 128256),
    "3B": (3072, 8192, 28, 24, 8, 128256),
    "8B": (4096, 14336, 32, 32, 8, 128256),
    "toy": (64, 128, 2, 4, 2, 512),
}
# size, precision, sequences, tokens, recompute
STEPS = [
    ("124M", "amp", 8, 1024, False), ("124M", "amp", 8, 1024, True), ("1B", "amp", 4, 2048, False),
    ("1B", "bf16", 8, 2048, False), ("1B", "bf16", 1, 16384, False), ("3B", "amp", 2, 4096, False),
    ("3B", "bf16", 4, 4096, True), ("8B", "bf16", 1, 4096, False), ("8B", "bf16", 2, 4096, True),
    ("8B", "bf16", 1, 16384, True),
]  # fmt: skip
PASSES = [("8B", (1, 8, 64), (512, 4096)), ("1B", (1, 32), (1024,)), ("3B", (1, 16), (2048,))]
TOY_STEPS, TOY_PASSES = [("toy", "amp", 1, 64, False), ("toy", "bf16", 1, 64, True)], [("toy", (1, 2), (32,))]


class Writer:
    """Rows of CSV files, each written at once, with the machine in front."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        name = torch.cuda.get_device_name() if CUDA else "cpu"
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda or ""}
        self.stamp = {"device": name, **versions, "date": time.strftime("%Y-%m-%d")}

    def write(self, name: str, **row: Any) -> None:
        path, told = self.folder / f"{name}.csv", {**self.stamp, **row}
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(told))
            if new:
                writer.writeheader()
            writer.writerow(told)
        print(name, *(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)


def seconds(call: Callable[[], Any], repeats: int = 10, warmup: int = 3) -> float:
    """Median time of a call."""
    for _ in range(warmup):
        call()
    taken = []
    for _ in range(repeats):
        if CUDA:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            call()
            last.record()
            torch.cuda.synchronize()
            taken.append(first.elapsed_time(last) / 1e3)
        else:
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


# -- kernels ----------------------------------------------------------------------------------


def shapes(toy: bool) -> Iterator[tuple[int, int, int]]:
    """Rows, outputs and inputs of products: those of Llama 8B and 70B, some cut for tensor parallelism."""
    if toy:
        yield from ((1, 64, 64), (128, 128, 64))
        return
    matrices = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096), (8192, 8192), (1280, 8192))
    for m in (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384):
        for n, k in matrices:
            yield m, n, k


def kernels(out: Writer, end: float, toy: bool) -> None:
    count = 1 << (20 if toy else 31)
    x = torch.zeros(count, dtype=torch.uint8, device=DEVICE)
    y = torch.empty_like(x)
    taken = seconds(partial(y.copy_, x))
    out.write("kernels", kind="copy", dtype="uint8", m=count, n="", k="", seconds=taken, rate=2 * count / taken,
              unit="bytes/s")  # fmt: skip
    del x, y
    for m, n, k in shapes(toy):
        if time.monotonic() > end:
            print("time is up for products", flush=True)
            break
        a, b = (torch.randn(rows, k, dtype=torch.bfloat16, device=DEVICE) for rows in (m, n))
        product(out, "bfloat16", m, n, k, lambda a=a, b=b: a @ b.T)
        if CUDA and m % 16 == 0 and hasattr(torch, "_scaled_mm"):
            one, a8, b8 = torch.ones((), device=DEVICE), a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
            try:
                product(
                    out,
                    "float8_e4m3",
                    m,
                    n,
                    k,
                    lambda a=a8, b=b8, one=one: torch._scaled_mm(a, b.T, one, one, out_dtype=torch.bfloat16),
                )
            except RuntimeError as error:  # a card before Ada has no such units
                print("fp8 not measured:", str(error).splitlines()[0][:80], flush=True)
    attention(out, toy)


def product(out: Writer, dtype: str, m: int, n: int, k: int, call: Callable[[], Any]) -> None:
    taken = seconds(call)
    out.write("kernels", kind="matmul", dtype=dtype, m=m, n=n, k=k, seconds=taken, rate=2 * m * n * k / taken,
              unit="flop/s")  # fmt: skip


def attention(out: Writer, toy: bool) -> None:
    """Causal attention; FLOP over the pairs that the mask leaves, 2.5 times as many backward."""
    cases = [(4, 32, 8, 2048, 128), (1, 32, 8, 8192, 128), (1, 32, 8, 32768, 128), (8, 16, 16, 2048, 64)]
    for batch, heads, kv, tokens, width in [(1, 4, 2, 64, 16)] if toy else cases:

        def made(count: int, batch: int = batch, tokens: int = tokens, width: int = width) -> torch.Tensor:
            size = (batch, count, tokens, width)
            return torch.randn(size, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)

        q, k, v = made(heads), made(kv), made(kv)

        def forward(q: Any = q, k: Any = k, v: Any = v) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def both(forward: Any = forward) -> None:
            forward().sum().backward()

        flops = 2.0 * batch * heads * tokens * (tokens + 1) * width
        for kind, call, times in (("attention_forward", forward, 1.0), ("attention_forward_backward", both, 3.5)):
            taken = seconds(call)
            out.write("kernels", kind=kind, dtype="bfloat16", m=batch * heads, n=tokens, k=width, seconds=taken,
                      rate=times * flops / taken, unit="flop/s")  # fmt: skip


# -- a Llama in plain PyTorch -----------------------------------------------------------------


class Block(nn.Module):
    """Attention and SwiGLU, each behind an RMSNorm; returns the keys and values that a cache would hold."""

    def __init__(self, hidden: int, inner: int, heads: int, kv: int) -> None:
        super().__init__()
        self.heads, self.kv, self.width = heads, kv, hidden // heads
        self.norm, self.norm2 = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.q, self.o = (nn.Linear(hidden, hidden, bias=False) for _ in "qo")
        self.k, self.v = (nn.Linear(hidden, kv * self.width, bias=False) for _ in "kv")
        self.gate, self.up = (nn.Linear(hidden, inner, bias=False) for _ in "gu")
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Any, turn: Any, cache: Any = None) -> tuple[Any, Any]:
        y = self.norm(x)
        q, k, v = (f(y).unflatten(-1, (-1, self.width)).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = rotate(q, turn), rotate(k, turn)
        if cache is not None:
            k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None, enable_gqa=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), (k, v)


def rotate(x: Any, turn: Any) -> Any:
    """Rotary position embedding."""
    cos, sin = (t.to(x.dtype) for t in turn)
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Llama(nn.Module):
    def __init__(self, hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(vocab, hidden), nn.Linear(hidden, vocab, bias=False)
        self.blocks = nn.ModuleList(Block(hidden, inner, heads, kv) for _ in range(layers))
        self.norm, self.width, self.recompute = nn.RMSNorm(hidden), hidden // heads, False

    def forward(self, ids: Any, past: Any = None, last: bool = False) -> tuple[Any, list[Any]]:
        start = 0 if past is None else past[0][0].shape[2]
        at = torch.arange(start, start + ids.shape[1], device=ids.device, dtype=torch.float32)
        speeds = 1e4 ** (-torch.arange(0, self.width, 2, device=ids.device) / self.width)
        angles = torch.cat((torch.outer(at, speeds),) * 2, -1)
        x, kept, turn = self.embed(ids), [], (angles.cos(), angles.sin())
        for i, block in enumerate(self.blocks):
            if self.recompute:
                x, cache = torch.utils.checkpoint.checkpoint(block, x, turn, use_reentrant=False)
            else:
                x, cache = block(x, turn, None if past is None else past[i])
            kept.append(cache)
        return self.head(self.norm(x[:, -1:] if last else x)), kept


def made(name: str, dtype: torch.dtype) -> Llama:
    with torch.device(DEVICE):
        return Llama(*SIZES[name]).to(dtype)


def clean() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def shape_of(name: str) -> dict[str, Any]:
    hidden, inner, layers, heads, kv, vocab = SIZES[name]
    sizes = {"n_layers": layers, "d_model": hidden, "n_heads": heads, "n_kv_heads": kv, "d_ff": inner, "vocab": vocab}
    return {"model_name": f"llama-{name}", **sizes}


def train(out: Writer, name: str, precision: str, batch: int, tokens: int, recompute: bool) -> None:
    """A row of training.csv: amp has fp32 weights and multiplies in bf16, bf16 has everything in it."""
    clean()
    row = {**shape_of(name), "seq_len": tokens, "micro_batch": batch, "precision": precision}
    row |= {"recompute": "full" if recompute else "none", "optimizer": "adamw_fused" if CUDA else "adamw"}
    taken: Any = ""
    peak: tuple[Any, Any] = ("", "")
    note = ""
    try:
        model = made(name, torch.float32 if precision == "amp" else torch.bfloat16)
        model.recompute = recompute
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=CUDA)
        ids = torch.randint(0, SIZES[name][-1], (batch, tokens), device=DEVICE)

        def step() -> None:
            with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "amp"):
                logits = model(ids)[0]
            F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        taken = seconds(step, repeats=5 if CUDA else 2, warmup=2)
        if CUDA:
            peak = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    except torch.OutOfMemoryError:
        note = "out of memory"
    rate = batch * tokens / taken if taken else ""
    out.write("training", **row, step_time_s=taken, tokens_per_s=rate, allocated_bytes=peak[0], reserved_bytes=peak[1],
              notes=note)  # fmt: skip


def infer(out: Writer, end: float, name: str, batches: tuple[int, ...], contexts: tuple[int, ...]) -> None:
    """Rows of inference.csv: a loop in Python around the model, without an engine."""
    clean()
    model = made(name, torch.bfloat16).eval()
    for batch in batches:
        for context in contexts:
            if time.monotonic() > end:
                return
            try:
                with torch.inference_mode():
                    ids = torch.randint(0, SIZES[name][-1], (batch, context), device=DEVICE)
                    prompt = seconds(lambda ids=ids: model(ids, last=True), repeats=3, warmup=1)
                    past = model(ids, last=True)[1]
                    token = seconds(lambda ids=ids, past=past: model(ids[:, :1], past))
            except torch.OutOfMemoryError:
                print("out of memory:", name, batch, context, flush=True)
                clean()
                continue
            held = sum(t.nbytes for pair in past for t in pair)
            out.write("inference", **shape_of(name), quant="bf16", batch=batch, context=context, prefill_s=prompt,
                      decode_step_s=token, cache_bytes=held)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder of the CSV files")
    parser.add_argument("--minutes", type=float, default=7.5, help="after which no new row is begun")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, for a CPU")
    asked = parser.parse_args()
    if not CUDA and not asked.toy:
        parser.error("PyTorch sees no GPU here; --toy runs tiny sizes on a CPU")
    if asked.toy:
        torch.set_num_threads(1)
    begin, out = time.monotonic(), Writer(asked.out)
    ends = [begin + 60 * asked.minutes * part for part in (0.3, 0.8, 1.0)]
    try:
        kernels(out, ends[0], asked.toy)
        for row in TOY_STEPS if asked.toy else STEPS:
            if time.monotonic() > ends[1]:
                print("time is up for training", flush=True)
                break
            train(out, *row)
        for name, batches, contexts in TOY_PASSES if asked.toy else PASSES:
            infer(out, ends[2], name, batches, contexts)
    except KeyboardInterrupt:
        print(f"interrupted after {time.monotonic() - begin:.0f} s; what was measured is in {asked.out}")
        sys.exit(130)
    print(f"done in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
