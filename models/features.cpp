#include "models/features.h"

#include <algorithm>
#include <cstring>

namespace clip {
namespace {

// Rows encoded at once: enough to keep the products fast, little memory.
constexpr int64_t kBatch = 128;

/// Encodes rows [begin, end) for each batch and gathers the unit vectors on the CPU. Each rank takes
/// whole batches, so that their number changes no bit.
Tensor in_batches(const Clip& clip, int64_t count, Communicator* ranks,
                  const std::function<Variable(int64_t begin, int64_t end)>& encode) {
  const RowRange share = share_of_rows(count, ranks);
  Tensor mine = Tensor::zeros(cpu_backend(), {share.size(), clip.config.embed_dim}, DType::kF32);
  TapePause inference;
  for (int64_t begin = share.begin; begin < std::min(share.end, count); begin += kBatch) {
    const int64_t end = std::min(begin + kBatch, count);
    const std::vector<float> features = on_host(l2_normalize(encode(begin, end)).value());
    mine.slice(begin - share.begin, end - share.begin).copy_from_host(features.data());
  }
  if (ranks == nullptr) return mine.slice(0, count);
  return gather_shares(mine, count, *ranks);
}

}  // namespace

RowRange share_of_rows(int64_t count, const Communicator* ranks) {
  const int64_t size = ranks == nullptr ? 1 : ranks->size(),
                rank = ranks == nullptr ? 0 : ranks->rank();
  const int64_t batches = (count + kBatch - 1) / kBatch, share = (batches + size - 1) / size;
  return {rank * share * kBatch, (rank + 1) * share * kBatch};
}

Tensor gather_shares(const Tensor& mine, int64_t count, Communicator& ranks) {
  const Tensor all = gathered(mine, ranks);
  ranks.wait();
  return all.slice(0, count);
}

std::string text_of_first_rank(std::string mine, Communicator& ranks) {
  const auto share = [&](void* data, int64_t size) {
    Tensor bytes = Tensor::from_bytes(cpu_backend(), {size}, DType::kU8, data);
    ranks.broadcast(bytes, 0);
    ranks.wait();
    bytes.copy_to_host(data);
  };
  int64_t size = std::ssize(mine);
  share(&size, sizeof size);
  mine.resize(static_cast<size_t>(size));
  if (size > 0) share(mine.data(), size);
  return mine;
}

Tensor image_features(const Clip& clip, int64_t count, const std::function<Image(int64_t)>& image,
                      Communicator* ranks) {
  const int64_t size = clip.config.vision.image_size, bytes = size * size * 3;
  return in_batches(clip, count, ranks, [&](int64_t begin, int64_t end) {
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
                     const std::vector<std::string>& texts, Communicator* ranks) {
  return in_batches(
      clip, static_cast<int64_t>(texts.size()), ranks, [&](int64_t begin, int64_t end) {
        std::vector<std::vector<int32_t>> tokens;
        for (int64_t i = begin; i < end; ++i)
          tokens.push_back(
              tokenizer.tokenize(texts[static_cast<size_t>(i)], clip.config.text.context_length));
        return clip.encode_text(pack_tokens(tokens, clip.logit_scale.backend()));
      });
}

std::vector<float> on_host(const Tensor& features) {
  return features.as_dtype(DType::kF32).to_vector<float>();
}

Tensor cosines(const Tensor& a, const Tensor& b) {
  Tensor result = Tensor::empty(a.backend(), {a.size(0), b.size(0)}, a.dtype());
  a.backend().matmul(result, a, Transpose::kNo, b, Transpose::kYes, {});
  return result;
}

}  // namespace clip
