// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace braise::report {

/// The reference page of the recipe language, in Markdown, made from the embedded schemas alone (recipes/REFERENCE.md).
std::string reference_page();

}  // namespace braise::report
