// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>

#include "stages/api/stage.h"
#include "stages/infer/generation.h"
#include "stages/shared/io/json_lines.h"
#include "stages/shared/text/tokenizer.h"

namespace braise::infer {

/// The completions that this rank has finished in this attempt, in finished.<rank>.jsonl of the attempt's folder, from
/// which a later attempt takes them over. Not synced: what a crash of the machine loses is generated again.
class Finished {
 public:
  explicit Finished(stages::StageContext& context);

  /// Errors: core::Error naming the file.
  void add(std::size_t request, const Generation& generation);

 private:
  stages::StageContext& context_;
  io::JsonLinesWriter file_;
};

/// What earlier attempts at this very job have finished, by request. What cannot be read is told in the log and left
/// out.
std::map<std::size_t, Generation> take_over(stages::StageContext& context, const text::Tokenizer& tokenizer);

}  // namespace braise::infer
