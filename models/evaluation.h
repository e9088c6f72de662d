// What a model has learned.
#pragma once

#include <cstdint>

#include "models/emoji_scenes.h"
#include "models/zero_shot.h"

namespace clip {

/// Nearest neighbour in the other kind. Ties count as wrong.
struct Retrieval {
  Proportion text_of_image;  ///< R@1 of the picture's own caption among all captions
  Proportion image_of_text;
};

/// images, texts [N, E], rows of unit length; row i of both is a pair
Retrieval retrieve(const Tensor& images, const Tensor& texts);

/// Zero-shot answers on emoji scenes. A scene is named right if, among the captions of all (object,
/// color) pairs with its count and size words kept true, its own is nearest.
struct SceneReport {
  Proportion seen, unseen_cells, unseen_objects;
  int64_t objects = 0, colors = 0;  ///< chance is 1 / (objects * colors)
  Proportion object, color, size,
      count;            ///< one word in question, the rest kept true; on unseen cells
  Retrieval retrieval;  ///< among unseen-cell scenes whose captions differ
};

/// `scenes` of each split, the same for every model. `ranks` as in models/features.h.
SceneReport evaluate_scenes(const Clip& clip, const Tokenizer& tokenizer, const EmojiScenes& scenes,
                            Communicator* ranks = nullptr, int64_t scenes_per_split = 1000);

/// Retrieval between the pictures and captions of a data set (at most `limit` samples, its first
/// ones, broken ones left out), grouped as models/retrieval.h has it.
Retrieval evaluate_retrieval(const Clip& clip, const Tokenizer& tokenizer, const Dataset& dataset,
                             Communicator* ranks = nullptr, int64_t limit = 5000);

}  // namespace clip
