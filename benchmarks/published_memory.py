"""Peak memory of training beside published measurements, source by source, and with whole sources left out.

The constants of the allocator and of the context are fitted again without each source, then judged on that source.
"""

from __future__ import annotations

from llmhw.units import GIB
from llmhw.validation import fit_constants, validate

# What the only source with nvidia-smi readings says of its devices before any tensor is there: 1573 MiB on an A100
STATED_CONTEXT = 1573 * 2**20


def main() -> None:
    found = validate(None, "training-memory")
    print(found)
    print("\nsigned errors by meter:")
    for meter in ("allocated", "reserved", "device"):
        errors = [g.error for g in found.groups if g.meter == meter]
        print(f"  {meter:<10} {len(errors):>3} groups, {min(errors):+.1%} to {max(errors):+.1%}")
    share, context = fit_constants(found.rows)
    print(f"\nfitted to all: reserved / allocated {share:.2f}, context {(context or 0) / GIB:.1f} GiB")
    print("constants fitted without a source, judged on it:")
    for source, part in found.by_source().items():
        if not part.groups or part.groups[0].meter == "allocated":
            continue
        share, context = fit_constants(found.rows, without=source)
        note = "" if context is not None else " as the source states for an empty device"
        context = STATED_CONTEXT if context is None else context
        constants = {"reserved_over_allocated": share, "context_bytes": context}
        alone = validate(None, "training-memory", calibration=constants).by_source()[source]
        print(f"  {source}: {share:.2f}, {context / GIB:.1f} GiB{note}")
        print(f"    median {alone.median_abs_error:.1%}, p90 {alone.p90_abs_error:.1%}, bias {alone.bias:+.1%}")
    for title, _, rows in found.sections(worst=12)[1:]:
        print(f"\n{title}:")
        for row in rows:
            print("  " + "  ".join(row))


if __name__ == "__main__":
    main()
