// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Elementary functions in fp64 for what the host prepares (tables, schedules) and every machine must find alike:
/// unlike those of a C library they have the same bits everywhere, being made of IEEE 754 operations only. Relative
/// errors below 2^-50.
namespace braise::core::portable {

double exp(double x);

/// The natural logarithm of a positive finite x. For others: NaN.
double log(double x);

/// base^exponent for a positive finite base, as exp(exponent log(base)): its relative error is 2^-50 times
/// 1 + |exponent log(base)|.
double pow(double base, double exponent);

struct SinCos {
  double sin;
  double cos;
};

/// sin and cos of an angle in radians, |x| <= 2^20; their errors are below 2^-50 and, for larger angles, that of the
/// reduction, 2^-66 |x|.
SinCos sin_cos(double x);

}  // namespace braise::core::portable
