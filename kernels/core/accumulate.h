// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace braise::core {

/// What an operation does with the content of its output.
enum class Accumulate {
  kOverwrite,  ///< the content is not read: it may be anything, NaN too
  kAdd,        ///< the result is added to it
};

}  // namespace braise::core
