// Training on a random part of each picture's patches. Source: Li et al. 2022, arXiv:2212.00794
// (FLIP); numbers of kept patches as open_clip's PatchDropout has them.
#pragma once

#include "models/training.h"

namespace clip {

/// max(1, whole part of patches (1 - share)) of a picture's patches, ascending; every such set is
/// equally likely. share is in [0, 1). The draw depends on (seed, position) alone.
std::vector<int32_t> kept_patches(int64_t patches, double share, uint64_t seed, int64_t position);

/// Sets kept_tokens: of each picture its class token and the kept patches. The picture in row i of
/// all micro-batches stands at position first_position + i of the data order, so that neither ranks
/// nor micro-batches change a draw, and a batch keeps it whenever it is encoded again.
void drop_patches(std::vector<Batch>& micro_batches, int64_t patches, double share, uint64_t seed,
                  int64_t first_position);

}  // namespace clip
