#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the polynomial coefficients of kernels/core/math.h. Needs mpmath; run by hand, never by a build or a test.

Each is the polynomial of least maximal weighted error on an interval (Remez' exchange on a dense grid). The
coefficients are rounded to fp32 one after another, lowest power first, and the rest is fitted again after each, so that
later coefficients make up for the rounding of earlier ones.
"""

import struct

import mpmath
from mpmath import mp, mpf

mp.dps = 40
GRID = 601  # odd, so that no node is 0, where a weight may vanish


def fp32(value):
    return mpf(struct.unpack("f", struct.pack("f", float(value)))[0])


def text(value):
    mantissa, exponent = float(value).hex().split("p")
    return f"{mantissa.rstrip('0')}p{exponent}f"


def remez(target, weight, nodes, powers):
    """Coefficients of sum c_k x^powers[k] with the least max |weight (target - sum)| over `nodes`; and that maximum."""
    count = len(powers)
    values = [(x, target(x), weight(x)) for x in nodes]
    chosen = [(len(nodes) - 1) * i // count for i in range(count + 1)]
    best = (None, mpf(10))
    for _ in range(60):  # a dozen suffice
        system = mpmath.matrix(count + 1, count + 1)
        right = mpmath.matrix(count + 1, 1)
        for row, index in enumerate(chosen):
            x, f, w = values[index]
            for column, power in enumerate(powers):
                system[row, column] = x**power
            system[row, count] = (-1) ** row / w
            right[row] = f
        solution = mpmath.lu_solve(system, right)
        errors = [w * (f - sum(solution[k] * x**p for k, p in enumerate(powers))) for x, f, w in values]
        # The largest error of each run of equal signs; of those the best alternating count + 1.
        runs = []
        for index, error in enumerate(errors):
            if runs and (error >= 0) == (errors[runs[-1]] >= 0):
                if abs(error) > abs(errors[runs[-1]]):
                    runs[-1] = index
            else:
                runs.append(index)
        while len(runs) > count + 1:
            runs.pop(0 if abs(errors[runs[0]]) < abs(errors[runs[-1]]) else -1)
        worst = max(abs(e) for e in errors)
        if worst < best[1]:
            best = ([solution[k] for k in range(count)], worst)
        if len(runs) < count + 1 or worst <= abs(solution[count]) * (1 + mpf(10) ** -4):
            break
        chosen = runs
    return best


def rounded_fit(name, target, weight, low, high, degree):
    nodes = [low + (high - low) * (1 - mpmath.cos(mpmath.pi * i / GRID)) / 2 for i in range(GRID + 1)]
    fixed = []
    for power in range(degree + 1):
        rest, _ = remez(
            lambda x: target(x) - sum(c * x**k for k, c in enumerate(fixed)),
            weight,
            nodes,
            list(range(power, degree + 1)),
        )
        fixed.append(fp32(rest[0]))
    worst = max(abs(weight(x) * (target(x) - sum(c * x**k for k, c in enumerate(fixed)))) for x in nodes)
    print(f"// {name}: error 2^{float(mpmath.log(worst, 2)):.1f}")
    print("{" + ", ".join(text(c) for c in fixed) + "}")


def around_zero(function, series):
    """The function, or its first Taylor term where it is 0 / 0."""
    return lambda x: mpf(series) if abs(x) < mpf(10) ** -12 else function(x)


def main():
    ln2 = mpmath.log(2)
    half = ln2 / 2 * (1 + mpf(2) ** -20)
    rounded_fit(
        "exp(r) = 1 + r + r^2 P(r), |r| <= ln 2 / 2",
        around_zero(lambda r: (mpmath.expm1(r) - r) / r**2, 0.5),
        around_zero(lambda r: r**2 / abs(mpmath.expm1(r)), 0),
        -half,
        half,
        5,
    )
    rounded_fit(
        "log(1 + f) = f - f^2 / 2 + f^3 P(f), sqrt(1/2) <= 1 + f <= sqrt 2",
        around_zero(lambda f: (mpmath.log1p(f) - f + f**2 / 2) / f**3, mpf(1) / 3),
        around_zero(lambda f: abs(f**3 / mpmath.log1p(f)), 0),
        mpmath.sqrt(mpf(1) / 2) - 1,
        mpmath.sqrt(2) - 1,
        8,
    )
    rounded_fit(
        "tanh(x) = x + x^3 P(x^2), |x| <= 5/8",
        around_zero(lambda s: (mpmath.tanh(mpmath.sqrt(s)) / mpmath.sqrt(s) - 1) / s, -mpf(1) / 3),
        around_zero(lambda s: s * mpmath.sqrt(s) / mpmath.tanh(mpmath.sqrt(s)), 0),
        mpf(10) ** -9,
        mpf(25) / 64,
        4,
    )
    edge = mpf(15) / 16
    rounded_fit(
        "erf(x) = x + x P(x^2), |x| <= 15/16",
        around_zero(lambda s: mpmath.erf(mpmath.sqrt(s)) / mpmath.sqrt(s) - 1, 2 / mpmath.sqrt(mpmath.pi) - 1),
        around_zero(lambda s: mpmath.sqrt(s) / mpmath.erf(mpmath.sqrt(s)), 1),
        mpf(10) ** -9,
        edge**2,
        6,
    )
    rounded_fit(
        "erf(x) = 1 - exp(P(x)), 15/16 <= x <= 4",
        lambda x: mpmath.log(mpmath.erfc(x)),
        lambda x: mpmath.erfc(x) / mpmath.erf(x),
        edge,
        mpf(4),
        7,
    )
    two_pi = 2 * mpmath.pi
    print("2 pi:", text(fp32(two_pi)), text(fp32(two_pi - fp32(two_pi))))
    print("ln 2:", end=" ")
    high = fp32(mpmath.floor(ln2 * 2**16) / 2**16)  # so few bits that its product with an exponent is exact
    print(text(high), text(fp32(ln2 - high)), "1 / ln 2:", text(fp32(1 / ln2)))
    eighth = mpf(1) / 64
    rounded_fit(
        "sin(2 pi r) = r (2 pi + r^2 P(r^2)), |r| <= 1/8",
        around_zero(lambda s: (mpmath.sin(two_pi * mpmath.sqrt(s)) / mpmath.sqrt(s) - two_pi) / s, -(two_pi**3) / 6),
        around_zero(lambda s: s * mpmath.sqrt(s) / mpmath.sin(two_pi * mpmath.sqrt(s)), 0),
        mpf(10) ** -9,
        eighth,
        3,
    )
    rounded_fit(
        "cos(2 pi r) = 1 + r^2 P(r^2), |r| <= 1/8",
        around_zero(lambda s: (mpmath.cos(two_pi * mpmath.sqrt(s)) - 1) / s, -(two_pi**2) / 2),
        lambda s: s / mpmath.cos(two_pi * mpmath.sqrt(s)),
        mpf(10) ** -9,
        eighth,
        3,
    )
    scale = mpf(1) / 4
    rounded_fit(
        "Phi(-a) = exp(-a^2 / 2) q P(q), q = 1 / (1 + a / 4), 0 <= a <= 15",
        lambda q: mpmath.exp(((1 / q - 1) / scale) ** 2 / 2) * mpmath.ncdf(-(1 / q - 1) / scale) / q,
        lambda q: q / (mpmath.exp(((1 / q - 1) / scale) ** 2 / 2) * mpmath.ncdf(-(1 / q - 1) / scale)),
        1 / (1 + 15 * scale),
        mpf(1),
        9,
    )


if __name__ == "__main__":
    main()
