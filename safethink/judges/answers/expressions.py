"""Equality of expressions in LaTeX, by value: exactly where they are rational, numerically at sample points elsewhere.

Two expressions of the same variables that agree at several random points are the same (Schwartz, JACM 27 (1980)), up to
rounding. Nothing is evaluated that would take long: powers and nesting are bounded.
"""

from __future__ import annotations

import cmath
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, TypeAlias

Value: TypeAlias = Fraction | complex
"""Exact as long as everything is rational."""

POINTS: Final = 3
"""Sample points at which two expressions are compared."""
DEEPEST: Final = 40
"""Nesting of brackets beyond which an expression is not read."""
LARGEST: Final = 4096
"""Bits of the largest exact number."""
_TOKEN: Final = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\.\d+|[A-Za-z]|\S")
_FUNCTIONS: Final[dict[str, Callable[[complex], complex]]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
    "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan, "exp": cmath.exp, "ln": cmath.log,
    "cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x),
}  # fmt: skip
_CONSTANTS: Final[dict[str, Value]] = {
    "pi": complex(math.pi),
    "infty": complex(math.inf),
    "e": complex(math.e),
    "i": 1j,
}
_GREEK: Final = re.compile(
    r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|theta|lambda|mu|nu|xi|rho|sigma|tau|(?:var)?phi|chi|psi|omega"
    r"|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell)"
)
_TIMES: Final = ("*", "\\times", "\\cdot", "\\ast")
_OVER: Final = ("/", "\\div")
_CLOSING: Final = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}


class Unreadable(ValueError):
    """A text that is no expression, or one whose value cannot be had."""


def same(one: str, other: str) -> bool:
    """Whether two expressions are equal at every sample point.

    Raises:
        Unreadable: one of them is no expression.
    """
    return all(_near(value(one, point), value(other, point)) for point in range(POINTS))


def proportional(one: str, other: str) -> bool:
    """Whether one expression is a constant multiple of the other, so that both vanish together.

    Raises:
        Unreadable: one of them is no expression.
    """
    pairs = [(complex(value(one, point)), complex(value(other, point))) for point in range(POINTS)]
    first, second = pairs[0]
    return bool(first) and bool(second) and all(_near(a * second, b * first) for a, b in pairs)


def value(text: str, point: int = 0) -> Value:
    """Value of an expression at one of the sample points.

    Raises:
        Unreadable: it is no expression, or too large, or divides by zero.
    """
    reader = _Reader(_TOKEN.findall(text), point)
    try:
        found = reader.sum()
    except (ArithmeticError, ValueError) as error:
        raise Unreadable(f"{text!r}: {error}") from error
    if reader.tokens or cmath.isnan(found):
        raise Unreadable(f"{text!r} is no expression")
    return found


def _near(one: Value, other: Value) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    first, second = complex(one), complex(other)
    size = max(abs(first), abs(second))
    return first == second or (size < math.inf and abs(first - second) <= 1e-9 * size)


@dataclass(slots=True)
class _Reader:
    """Recursive descent over the tokens that are left, which evaluates as it reads."""

    tokens: list[str]
    point: int
    depth: int = field(default=0)

    def sum(self) -> Value:
        self._take("+")
        total = self.product()
        while self._next() in ("+", "-"):
            is_plus = self.tokens.pop(0) == "+"
            part = self.product()
            total = _add(total, part if is_plus else -part)
        return total

    def product(self) -> Value:
        result = self._signed()
        while True:
            token = self._next()
            if token in _TIMES:
                self.tokens.pop(0)
                result = _multiply(result, self._signed())
            elif token in _OVER:
                self.tokens.pop(0)
                result = _divide(result, self._signed())
            elif self._starts_a_factor(token):
                result = _multiply(result, self.power())
            else:
                return result

    def power(self) -> Value:
        whole = self._next()
        base = self.atom()
        if whole.isdigit() and self._next() in ("\\frac", "\\dfrac", "\\tfrac"):
            mixed = self._mixed(Fraction(whole))
            if mixed is not None:
                return mixed
        while self._take("!"):
            base = _factorial(base)
        return _raise(base, self._argument()) if self._take("^") else base

    def atom(self) -> Value:
        token = self._pop()
        if token[0].isdigit() or token[0] == ".":
            return _exact(Fraction(token))
        if token in _CLOSING:
            return self._group(_CLOSING[token])
        if token == "|":
            return _size(self._group("|"))
        name = token.lstrip("\\")
        if name in ("frac", "dfrac", "tfrac"):
            return _divide(self._argument(one_digit=True), self._argument(one_digit=True))
        if name == "binom" and token != name:
            return _binomial(self._argument(one_digit=True), self._argument(one_digit=True))
        if name == "sqrt":
            degree = self._group("]") if self._take("[") else Fraction(2)
            return _root(self._argument(), degree)
        if name in ("log", "lg") or name in _FUNCTIONS:
            return self._function(name)
        if name in _CONSTANTS and (token == name or name in ("pi", "infty")) and self._next() != "_":
            return _CONSTANTS[name]
        if (token == name and name.isalpha()) or _GREEK.fullmatch(token):
            return self._variable(name)
        raise Unreadable(f"{token!r} is not understood")

    def _function(self, name: str) -> Value:
        base = self._argument() if self._take("_") else Fraction(10)
        power = self._argument() if self._take("^") else Fraction(1)
        argument = self.power()
        while self._starts_a_factor(self._next()) and self._next().lstrip("\\") not in _FUNCTIONS:
            argument = _multiply(argument, self.power())
        applied = cmath.log(argument, base) if name in ("log", "lg") else _FUNCTIONS[name](complex(argument))
        return _raise(applied, power)

    def _variable(self, name: str) -> Value:
        if self._take("_"):
            name += "_" + "".join(self._bracketed() if self._take("{") else [self._pop()])
        return complex(0.5 + 2 * zlib.crc32(f"{self.point} {name}".encode()) / 2**32)

    def _mixed(self, whole: Fraction) -> Value | None:
        r"""The rest of a mixed number such as 1\frac{4}{5}, where it is one."""
        left = list(self.tokens)
        part = self.atom()
        taken = left[1 : len(left) - len(self.tokens)]
        if isinstance(part, Fraction) and part < 1 and all(token in "{}" or token.isdigit() for token in taken):
            return whole + part
        self.tokens = left
        return None

    def _argument(self, one_digit: bool = False) -> Value:
        """The argument of a command or a power: a group in braces, or one token; of a fraction one digit."""
        if self._take("{"):
            return self._group("}")
        token = self._next()
        if one_digit and token.isdigit() and len(token) > 1:
            self.tokens[0] = token[1:]
            return Fraction(token[0])
        return -self.atom() if self._take("-") else self.atom()

    def _signed(self) -> Value:
        return -self.power() if self._take("-") else self.power()

    def _group(self, closing: str) -> Value:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable("nested too deeply")
        result = self.sum()
        if not self._take(closing):
            raise Unreadable(f"{closing!r} is missing")
        self.depth -= 1
        return result

    def _bracketed(self) -> list[str]:
        end = self.tokens.index("}")
        inside, self.tokens = self.tokens[:end], self.tokens[end + 1 :]
        return inside

    def _starts_a_factor(self, token: str) -> bool:
        if token in _CLOSING:
            return token != "["
        name = token.lstrip("\\")
        known = name in _FUNCTIONS or name in _CONSTANTS or _GREEK.fullmatch(token) is not None
        return token.isalnum() or known or name in ("frac", "dfrac", "tfrac", "sqrt", "binom", "log", "lg")

    def _next(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def _pop(self) -> str:
        if not self.tokens:
            raise Unreadable("it ends too early")
        return self.tokens.pop(0)

    def _take(self, token: str) -> bool:
        if self._next() != token:
            return False
        self.tokens.pop(0)
        return True


def _exact(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > LARGEST:
        raise Unreadable("too large")
    return number


def _add(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _exact(one + other)
    return complex(one) + complex(other)


def _multiply(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _exact(one * other)
    return complex(one) * complex(other)


def _divide(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _exact(one / other)
    return complex(one) / complex(other)


def _size(number: Value) -> Value:
    return abs(number) if isinstance(number, Fraction) else complex(abs(number))


def _raise(base: Value, power: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(power, Fraction):
        if power.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(power) * bits > LARGEST:
                raise Unreadable("too large")
            return base**power.numerator
        if power == Fraction(1, 2):
            return _root(base, Fraction(2))
    return complex(base) ** complex(power)


def _root(radicand: Value, degree: Value) -> Value:
    if isinstance(radicand, Fraction) and degree == 2 and radicand >= 0:
        top, bottom = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
        if (top * top, bottom * bottom) == (radicand.numerator, radicand.denominator):
            return Fraction(top, bottom)
    is_odd = isinstance(degree, Fraction) and degree.denominator == 1 and degree.numerator % 2 == 1
    if is_odd and isinstance(radicand, Fraction) and radicand < 0:
        return -(complex(-radicand) ** (1 / complex(degree)))
    return complex(radicand) ** (1 / complex(degree))


def _factorial(number: Value) -> Fraction:
    if not isinstance(number, Fraction) or number.denominator != 1 or not 0 <= number <= 300:
        raise Unreadable("a factorial of what is no small natural number")
    return Fraction(math.factorial(number.numerator))


def _binomial(top: Value, bottom: Value) -> Fraction:
    if not (isinstance(top, Fraction) and isinstance(bottom, Fraction) and top.denominator == bottom.denominator == 1):
        raise Unreadable("a binomial coefficient of what is no natural number")
    if not 0 <= bottom <= top <= 1000:
        raise Unreadable("too large")
    return Fraction(math.comb(top.numerator, bottom.numerator))
