// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <optional>

namespace braise::train {

/// How long the parts of a training take, as measured in this attempt: from which it can tell how long it will be until
/// one more step is done and saved. Seconds throughout.
class Pace {
 public:
  void note_step(double seconds);        ///< without validation and saving
  void note_validation(double seconds);
  void note_save(double seconds);        ///< from its begin to a whole checkpoint on the disk

  /// What one more step, with a validation after it or not, and then a save will take: the longest of the latest of
  /// each, and a quarter more. Nothing until both a step and a save were measured.
  std::optional<double> next_s(bool validates) const;

 private:
  /// The longest of the latest few.
  class Latest {
   public:
    void note(double seconds) { seconds_[next_++ % seconds_.size()] = seconds; }
    bool is_known() const { return next_ > 0; }
    double longest() const;

   private:
    std::array<double, 8> seconds_{};
    std::size_t next_ = 0;
  };

  Latest step_, validation_, save_;
};

}  // namespace braise::train
