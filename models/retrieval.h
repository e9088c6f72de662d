// Finding captions by pictures and pictures by captions, where a picture may have several captions.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "models/dataset.h"
#include "models/zero_shot.h"

namespace clip {

/// Places of right answers among all candidates by cosine, from 1 (the first). Others with the same
/// cosine, or one that is NaN, come before a right answer.
struct RetrievalPlaces {
  /// [I] of each picture: its best-placed caption among all captions
  std::vector<int64_t> of_text;
  /// [M] of each caption: its picture among all pictures
  std::vector<int64_t> of_image;
};

/// Cosines are computed in tiles of a fixed size, so memory is O((I + M) E) and equal features tie
/// exactly, wherever they stand.
///
/// images      F32 [I, E] on the CPU, rows of unit length
/// texts       F32 [M, E], likewise
/// image_of    [M] of each caption, the row of its picture: 0, ..., I - 1 in order, none left out
/// throws      clip::Error if these do not fit together
RetrievalPlaces retrieval_places(const Tensor& images, const Tensor& texts,
                                 const std::vector<int64_t>& image_of);

/// How many of these places are among the first k: recall@k.
Proportion recall_at(int64_t k, const std::vector<int64_t>& places);

/// Pictures of a data set, each once, with all their captions.
struct CaptionedPictures {
  std::vector<int64_t> samples;       ///< [I] of each picture, the first sample that shows it
  std::vector<std::string> captions;  ///< [M] of picture 0, then of picture 1, ...
  std::vector<int64_t> image_of;      ///< [M] the picture of each

  int64_t size() const { return std::ssize(samples); }
  /// These pictures alone (ascending), with their captions.
  CaptionedPictures only(const std::vector<int64_t>& pictures) const;

  /// A line "sample caption" for each caption, and back: to hand them to other ranks.
  std::string to_text() const;
  static CaptionedPictures from_text(const std::string& text);
};

/// Groups the first `limit` samples by Dataset::picture_name, in the order of their first ones.
/// Every line of a caption that is not blank is a caption of its own.
///
/// left_out    is told the sentence of each sample whose caption is missing, cannot be read or is
///             blank
CaptionedPictures group_captions(const Dataset& dataset,
                                 const std::function<void(const std::string&)>& left_out,
                                 int64_t limit = std::numeric_limits<int64_t>::max());

}  // namespace clip
