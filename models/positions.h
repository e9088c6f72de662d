// Position embeddings for pictures and texts of other sizes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "models/clip.h"

namespace clip {

/// positions   [1 + side * side, width]: the class token's, then the grid's, row by row
/// returns     [1 + new_side * new_side, width]: the class token's as it was, the grid resized by
///             antialiased bicubic interpolation (a = -0.5, weights as Pillow's)
/// source      open_clip model.py, resize_pos_embed; equal to it but for F32 rounding
std::vector<float> resize_image_positions(const std::vector<float>& positions, int64_t side,
                                          int64_t new_side);

/// positions   [length, width]
/// returns     [new_length, width], by linear interpolation between the centres of the places
/// source      open_clip model.py, resize_text_pos_embed
std::vector<float> resize_text_positions(const std::vector<float>& positions, int64_t length,
                                         int64_t new_length);

/// The model for pictures of another size and texts of another length, F32 on the CPU: all weights
/// and buffers are copied but for the positions, which are resized.
/// throws clip::Error if image_size is no multiple of the patch size, or another one than a ResNet's
std::unique_ptr<ClipModel> with_positions(const ClipModel& model, int64_t image_size,
                                          int64_t context_length);

}  // namespace clip
