// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/core/vocabulary_part.h"

namespace braise::embedding {

/// The rows of a table, and of a second one, that integers name.
///     y[b,t,:] = scale * token_table[ids[b,t],:]
///     y[b,t,:] = scale * token_table[ids[b,t],:] + position_table[positions[b,t],:]
/// A token that the table has no row for, but others have, counts as zeros: y of all parts, in fp32, with the positions
/// in one of them, adds up to the very bits of the whole table's.
/// y: B x T x C, any floating-point dtype, its rows evenly spaced. ids: int32 B x T, strides are free. token_table: V x
/// C, any floating-point dtype, rows may be padded. positions (int32 B x T) and position_table (P x C) are given both
/// or, default-made, neither. One fp32 multiplication and one addition, each rounded, then rounded once on store: equal
/// on every device and tier. y overlaps nothing. Errors: core::Error for an id outside [0, V) or a position outside [0,
/// P), naming its place; nothing was written.
void embedding_forward(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& ids,
                       const core::ConstTensorView& token_table, const core::ConstTensorView& positions = {},
                       const core::ConstTensorView& position_table = {}, float scale = 1.0f,
                       const core::VocabularyPart& part = {});

/// Adds the gradients to those of the tables.
///     dtoken[v,:] += scale * sum of dy[b,t,:] over all (b,t) with ids[b,t] = v
///     dposition[p,:] += sum of dy[b,t,:] over all (b,t) with positions[b,t] = p
/// dtoken: fp32 V x C; dposition: fp32 P x C; rows may be padded. Either may be default-made: that gradient is not
/// asked for (a frozen table). dy: as y above. ids and positions: as above; positions is given with dposition only. A
/// row's terms are added in fp32 in the order of (b,t), row-major, starting with the first; the sum is multiplied by
/// scale (rounded), and added to what the row holds. So a row depends on its own terms only: same bits for any number
/// of threads, and on every device and tier. Rows that no id names are neither read nor written, and the cost is that
/// of reading dy; so are tokens left out that the table has no row for. Workspace from the stream's arena: 16 bytes for
/// each element of ids. Errors: core::Error as above, before anything is written.
void embedding_backward(core::Stream& stream, const core::TensorView& dtoken, const core::TensorView& dposition,
                        const core::ConstTensorView& dy, const core::ConstTensorView& ids,
                        const core::ConstTensorView& positions = {}, float scale = 1.0f,
                        const core::VocabularyPart& part = {});

}  // namespace braise::embedding
