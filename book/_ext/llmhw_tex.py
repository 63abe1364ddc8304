"""A formula's Python as TeX: fractions, roots and limits as on paper, names that notation.md has as its symbols."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

NOTATION = Path(__file__).parents[1] / "notation.md"

# Names whose meaning is another in some formulas, so that their symbol would be false there.
_OF_MANY_MEANINGS = {"tokens", "peak", "bandwidth", "bandwidth_bytes_per_second"}
_BINDS = {ast.Add: 1, ast.Sub: 1, ast.Mult: 2, ast.Div: 9, ast.FloorDiv: 9, ast.Mod: 2, ast.Pow: 3}
_COMPARES = {ast.Gt: ">", ast.GtE: r"\geq", ast.Lt: "<", ast.LtE: r"\leq", ast.Eq: "=", ast.NotEq: r"\neq"}
_AROUND = {"ceil": (r"\lceil ", r" \rceil"), "floor": (r"\lfloor ", r" \rfloor"), "abs": ("|", "|")}
_NAMED = {"maximum": r"\max", "max": r"\max", "minimum": r"\min", "min": r"\min", "log": r"\ln", "exp": r"\exp"}


class Unwritten(ValueError):  # noqa: N818  it is no error: the code stands there
    """A statement that no line of mathematics says, such as a loop."""


@cache
def symbols() -> dict[str, str]:
    """Name in the library -> symbol, from the table of notation.md."""
    rows = re.findall(
        r"^\| ((?:\$[^$]+\$,? ?)+)\| ((?:`\w+`,? ?)+)\|", NOTATION.read_text(encoding="utf-8"), re.MULTILINE
    )
    found: dict[str, str] = {}
    for signs, names in rows:
        written, named = re.findall(r"\$([^$]+)\$", signs), re.findall(r"`(\w+)`", names)
        # one symbol may have several names; several symbols have one each
        found |= {name: written[min(i, len(written) - 1)] for i, name in enumerate(named)}
    return {name: sign for name, sign in found.items() if name not in _OF_MANY_MEANINGS}


def word(name: str) -> str:
    if name in symbols():
        return symbols()[name]
    return name if len(name) == 1 else rf"\text{{{name.replace('_', ' ')}}}"


def tex(node: ast.expr, binds: int = 0) -> str:
    """An expression; in brackets if it binds less than what stands around it."""
    match node:
        case ast.Name(id=name):
            return word(name)
        case ast.Constant(value=bool() | None):
            raise Unwritten(ast.unparse(node))
        case ast.Constant(value=float() | int() as value):
            return number(value)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return f"-{tex(inner, 2)}"
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARES:
            return f"{tex(left)} {_COMPARES[type(op)]} {tex(right)}"
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=0.5)):
            return rf"\sqrt{{{tex(left)}}}"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINDS:
            mine = _BINDS[type(op)]
            written = binary(left, op, right)
            return rf"\left({written}\right)" if mine < binds else written
        case ast.IfExp(test=test, body=body, orelse=other):
            return cases(body, test, other)
        case ast.Call(func=ast.Name(id="where"), args=[test, body, other]):
            return cases(body, test, other)
        case ast.Call(func=ast.Name(id="ceil_div"), args=[over, under]):
            return rf"\left\lceil \frac{{{tex(over)}}}{{{tex(under)}}} \right\rceil"
        case ast.Call(func=ast.Name(id="sqrt"), args=[inner]):
            return rf"\sqrt{{{tex(inner)}}}"
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args, keywords=keywords):
            given = ", ".join([*map(tex, args), *(tex(each.value) for each in keywords)])
            if name in _AROUND:
                return given.join(_AROUND[name])
            return rf"{_NAMED.get(name, word(name))}\left({given}\right)"
    raise Unwritten(ast.unparse(node))


def binary(left: ast.expr, op: ast.operator, right: ast.expr) -> str:
    match op:
        case ast.Div() | ast.FloorDiv():
            below = [right]
            while isinstance(left, ast.BinOp) and isinstance(left.op, ast.Div) and isinstance(op, ast.Div):
                below.insert(0, left.right)  # a / b / c is one fraction
                left = left.left
            under = r"\,".join(tex(each, 2 if len(below) > 1 else 0) for each in below)
            whole = rf"\frac{{{tex(left)}}}{{{under}}}"
            return whole if isinstance(op, ast.Div) else rf"\left\lfloor {whole} \right\rfloor"
        case ast.Pow():
            base = tex(left, 4 if isinstance(left, ast.BinOp) else 0)
            return f"{base}^{{{tex(right)}}}"
        case ast.Mod():
            return rf"{tex(left, 2)} \bmod {tex(right, 3)}"
        case ast.Mult():
            first, second = tex(left, 2), tex(right, 2)
            apart = second[0].isdigit() or r"\text" in first + second  # words side by side would read as one name
            return rf"{first} \cdot {second}" if apart else rf"{first}\,{second}"
    sign = "+" if isinstance(op, ast.Add) else "-"
    return f"{tex(left, 1)} {sign} {tex(right, 2 if sign == '-' else 1)}"


def cases(body: ast.expr, test: ast.expr, other: ast.expr) -> str:
    lines = rf"{tex(body)} & \text{{if }} {tex(test)} \\ {tex(other)} & \text{{else}}"
    return rf"\begin{{cases}} {lines} \end{{cases}}"


def number(value: float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e4:
        return str(int(value))
    digits, _, power = f"{value:g}".partition("e")
    if not power:
        return f"{value:,}".replace(",", "{,}") if isinstance(value, int) else digits
    ten = f"10^{{{int(power)}}}"
    return ten if digits == "1" else rf"{digits} \cdot {ten}"


def formula_tex(name: str, expression: str) -> str:
    """The lines of a formula, its own name before the last one. Raises `Unwritten` where no line says it."""
    lines: list[str] = []
    for statement in ast.parse(expression).body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=given)], value=value)
                | ast.AnnAssign(target=ast.Name(id=given), value=ast.expr() as value)
            ):
                lines.append(f"{word(given)} &= {tex(value)}")
            case ast.Expr(value=value):
                lines.append(f"{word(name)} &= {tex(value)}")
            case _:
                raise Unwritten(ast.unparse(statement))
    return r"\begin{aligned} " + r" \\ ".join(lines) + r" \end{aligned}"
