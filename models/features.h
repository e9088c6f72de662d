// Pictures and texts to unit vectors, in batches of bounded size. Results lie on the CPU in F32.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/clip.h"
#include "models/image.h"
#include "models/tokenizer.h"

namespace clip {

/// Rows of unit length: image(i) gives picture i at the model's size.
/// returns [count, E]
Tensor image_features(const Clip& clip, int64_t count, const std::function<Image(int64_t)>& image);

/// returns [texts, E], rows of unit length
Tensor text_features(const Clip& clip, const Tokenizer& tokenizer,
                     const std::vector<std::string>& texts);

/// Cosines of all rows of a [N, E] with all rows of b [M, E]; returns [N, M].
Tensor cosines(const Tensor& a, const Tensor& b);

}  // namespace clip
