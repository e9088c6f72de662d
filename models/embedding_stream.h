// Long lists of pictures or texts to rows of features, in bounded memory.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "models/clip.h"
#include "models/image.h"
#include "models/tokenizer.h"

namespace clip {

/// Unit vectors; as the projection gives them; as Clip::probe_features does (pictures alone).
enum class FeatureForm { kUnitLength, kProjected, kBeforeProjection };

struct EmbeddingOptions {
  int64_t batch_size = 0;  ///< rows that the tower takes at once
  int64_t workers = 2;     ///< threads, of lowered priority; 0 prepares everything in next()
  FeatureForm form = FeatureForm::kUnitLength;
  /// Called in next() with the sentence of each picture that cannot be read; it is left out then.
  /// Unset: next() throws that.
  std::function<void(const std::string& sentence)> left_out = {};
};

struct EmbeddedBatch {
  std::vector<std::string> items;  ///< N paths or texts
  std::vector<float> features;     ///< [N, E]
};

/// What a tower is given for one item: one of the two.
struct TowerInput {
  std::vector<uint8_t> pixels;  ///< [S, S, 3]
  std::vector<int32_t> tokens;
};

/// Items in, batches out, in the same order and with the same values at any number of workers. While
/// the tower runs in next(), workers read, decode and resize what comes after, at most kAhead
/// batches of it. Items are asked for in next() alone, so a source may wait for its writer.
class EmbeddingStream {
 public:
  static constexpr int64_t kAhead = 2;
  using NextItem = std::function<std::optional<std::string>()>;  ///< nothing: the end

  /// prepare    called by workers; throws clip::Error if the item cannot be read
  /// encode     inputs to [N, E]; called in next()
  /// throws     clip::Error if an option makes no sense
  EmbeddingStream(NextItem next_item, std::function<TowerInput(const std::string& item)> prepare,
                  std::function<Variable(const std::vector<TowerInput>&)> encode,
                  EmbeddingOptions options);
  ~EmbeddingStream();
  EmbeddingStream(const EmbeddingStream&) = delete;
  EmbeddingStream& operator=(const EmbeddingStream&) = delete;

  /// The next batch, whole but for the last; nothing at the end.
  /// throws    clip::Error about the first item, in their order, that cannot be read
  std::optional<EmbeddedBatch> next();

 private:
  /// An item on its way. Written by the worker that claimed it, until it is ready.
  struct Row {
    std::string item;
    TowerInput input = {};
    std::exception_ptr error = nullptr;
    bool ready = false;
  };

  void read_ahead();
  std::optional<Row> take_row();
  void prepare(Row& row) const;  ///< keeps what it throws
  void work(std::stop_token stop);

  NextItem next_item_;
  std::function<TowerInput(const std::string&)> prepare_;
  std::function<Variable(const std::vector<TowerInput>&)> encode_;
  EmbeddingOptions options_;
  bool ended_ = false;

  std::mutex mutex_;                  ///< guards the members below
  std::condition_variable_any work_;  ///< a row can be claimed
  std::condition_variable finished_;  ///< a row is ready
  std::deque<Row> rows_;              ///< in order; its ends change, which moves no row
  size_t claimed_ = 0;                ///< the first rows of it

  std::vector<std::jthread> threads_;  ///< last: they stop before anything they use goes
};

/// Files by the checkpoint's own rules for pictures.
EmbeddingStream embed_pictures(const Clip& clip, EmbeddingStream::NextItem next_path,
                               EmbeddingOptions options);
/// Pictures 0 ... count - 1 of any source, `picture` called by workers; items are the numbers.
EmbeddingStream embed_pictures(const Clip& clip, int64_t count,
                               std::function<Image(int64_t)> picture, EmbeddingOptions options);
EmbeddingStream embed_texts(const Clip& clip, const Tokenizer& tokenizer,
                            EmbeddingStream::NextItem next_text, EmbeddingOptions options);

/// Features of a numbered list of items, as far as they could be read.
struct NumberedFeatures {
  std::vector<int64_t> numbers;  ///< of the items, ascending
  Tensor rows;                   ///< F32 [numbers, width] on the CPU
};
/// throws    clip::Error if none of the `count` pictures can be read
NumberedFeatures picture_features(const Clip& clip, int64_t count,
                                  std::function<Image(int64_t)> picture, EmbeddingOptions options);

}  // namespace clip
