#include "models/features.h"

#include <algorithm>
#include <cstring>

namespace clip {
namespace {

constexpr int64_t kBatch =
    128;  // rows encoded at once: enough to keep the products fast, little memory

/// Encodes rows [begin, end) for each batch and gathers the unit vectors on the CPU.
Tensor in_batches(const Clip& clip, int64_t count,
                  const std::function<Variable(int64_t begin, int64_t end)>& encode) {
  Tensor all = Tensor::empty(cpu_backend(), {count, clip.config.embed_dim}, DType::kF32);
  TapePause inference;
  for (int64_t begin = 0; begin < count; begin += kBatch) {
    const int64_t end = std::min(begin + kBatch, count);
    const Tensor features = l2_normalize(encode(begin, end)).value();
    Tensor single = Tensor::empty(features.backend(), features.shape(), DType::kF32);
    features.backend().convert(single, features);
    Tensor rows = all.slice(begin, end);
    single.copy_to_host(rows.raw());
  }
  return all;
}

}  // namespace

Tensor image_features(const Clip& clip, int64_t count, const std::function<Image(int64_t)>& image) {
  const int64_t size = clip.config.vision.image_size, bytes = size * size * 3;
  return in_batches(clip, count, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> pixels(static_cast<size_t>((end - begin) * bytes));
    for (int64_t i = begin; i < end; ++i) {
      const Image picture = image(i);
      CLIP_CHECK(picture.width == size && picture.height == size,
                 "[image_features] pictures must be ", size, " x ", size, ", got ", picture.width,
                 " x ", picture.height);
      std::memcpy(pixels.data() + (i - begin) * bytes, picture.pixels.data(),
                  static_cast<size_t>(bytes));
    }
    return clip.encode_image(
        Tensor::from<uint8_t>(clip.logit_scale.backend(), {end - begin, size, size, 3}, pixels));
  });
}

Tensor text_features(const Clip& clip, const Tokenizer& tokenizer,
                     const std::vector<std::string>& texts) {
  return in_batches(clip, static_cast<int64_t>(texts.size()), [&](int64_t begin, int64_t end) {
    std::vector<std::vector<int32_t>> tokens;
    for (int64_t i = begin; i < end; ++i)
      tokens.push_back(
          tokenizer.tokenize(texts[static_cast<size_t>(i)], clip.config.text.context_length));
    return clip.encode_text(pack_tokens(tokens, clip.logit_scale.backend()));
  });
}

Tensor cosines(const Tensor& a, const Tensor& b) {
  Tensor result = Tensor::empty(a.backend(), {a.size(0), b.size(0)}, a.dtype());
  a.backend().matmul(result, a, Transpose::kNo, b, Transpose::kYes, {});
  return result;
}

}  // namespace clip
