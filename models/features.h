// Pictures and texts to unit vectors, in batches of bounded size. Results lie on the CPU in F32.
// `ranks`, over host memory, may share the batches among them, with the same bits for each of them
// as one process has; every rank has the same weights then.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/communicator.h"
#include "models/clip.h"
#include "models/image.h"
#include "models/tokenizer.h"

namespace clip {

/// Which of `count` rows this rank encodes: the same number on each rank, so that the last ones may
/// reach beyond `count`.
struct RowRange {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};
RowRange share_of_rows(int64_t count, const Communicator* ranks);
/// mine [share_of_rows(count).size(), ...]; returns [count, ...] on every rank
Tensor gather_shares(const Tensor& mine, int64_t count, Communicator& ranks);
/// Rank 0's text, on every rank.
std::string text_of_first_rank(std::string mine, Communicator& ranks);

/// Rows of unit length: image(i) gives picture i at the model's size; asked for this rank's share.
/// returns [count, E]
Tensor image_features(const Clip& clip, int64_t count, const std::function<Image(int64_t)>& image,
                      Communicator* ranks = nullptr);

/// returns [texts, E], rows of unit length
Tensor text_features(const Clip& clip, const Tokenizer& tokenizer,
                     const std::vector<std::string>& texts, Communicator* ranks = nullptr);

/// Features [N, E] of any float dtype and device as F32 on the host.
std::vector<float> on_host(const Tensor& features);

/// Cosines of all rows of a [N, E] with all rows of b [M, E]; returns [N, M].
Tensor cosines(const Tensor& a, const Tensor& b);

}  // namespace clip
