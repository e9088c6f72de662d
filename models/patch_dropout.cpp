#include "models/patch_dropout.h"

#include <algorithm>
#include <numeric>

#include "engine/random.h"

namespace clip {

std::vector<int32_t> kept_patches(int64_t patches, double share, uint64_t seed, int64_t position) {
  CLIP_CHECK(share >= 0 && share < 1, "the share of dropped patches must be in [0, 1), got ",
             share);
  const auto whole = static_cast<int64_t>(static_cast<double>(patches) * (1 - share));
  const int64_t kept = std::max<int64_t>(1, whole);
  Random random(seed, random_stream("patch dropout"));
  random.skip_to(static_cast<uint64_t>(2 * patches * position));  // two words a draw
  std::vector<int32_t> all(static_cast<size_t>(patches));
  std::iota(all.begin(), all.end(), 0);
  for (int64_t i = 0; i < kept; ++i)  // the first steps of a shuffle
    std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(i + random.below(patches - i))]);
  all.resize(static_cast<size_t>(kept));
  std::sort(all.begin(), all.end());
  return all;
}

void drop_patches(std::vector<Batch>& micro_batches, int64_t patches, double share, uint64_t seed,
                  int64_t first_position) {
  int64_t position = first_position;
  for (Batch& batch : micro_batches) {
    std::vector<int32_t> rows;
    for (int64_t i = 0; i < batch.images.size(0); ++i) {
      const auto class_row = static_cast<int32_t>(i * (patches + 1));
      rows.push_back(class_row);
      for (const int32_t patch : kept_patches(patches, share, seed, position++))
        rows.push_back(class_row + 1 + patch);
    }
    batch.kept_tokens =
        Tensor::from<int32_t>(batch.images.backend(), {static_cast<int64_t>(rows.size())}, rows);
  }
}

}  // namespace clip
