#include "models/embedding_stream.h"

#include <unistd.h>

#include <system_error>
#include <utility>

#include "autograd/tape.h"
#include "models/features.h"
#include "models/image.h"
#include "models/preprocess.h"

namespace clip {

EmbeddingStream::EmbeddingStream(NextItem next_item,
                                 std::function<TowerInput(const std::string&)> prepare,
                                 std::function<Variable(const std::vector<TowerInput>&)> encode,
                                 EmbeddingOptions options)
    : next_item_(std::move(next_item)),
      prepare_(std::move(prepare)),
      encode_(std::move(encode)),
      options_(std::move(options)) {
  CLIP_CHECK(options_.batch_size > 0, "the batch size must be positive, got ", options_.batch_size);
  CLIP_CHECK(options_.workers >= 0, "the number of workers must not be negative, got ",
             options_.workers);
  try {
    for (int64_t i = 0; i < options_.workers; ++i)
      threads_.emplace_back([this](std::stop_token stop) { work(stop); });
  } catch (const std::system_error& error) {
    throw Error(concat("cannot start ", options_.workers, " worker threads: ", error.what()));
  }
}

EmbeddingStream::~EmbeddingStream() {
  for (std::jthread& thread : threads_) thread.request_stop();  // all at once
}

std::optional<EmbeddedBatch> EmbeddingStream::next() {
  EmbeddedBatch batch;
  std::vector<TowerInput> inputs;
  while (std::ssize(inputs) < options_.batch_size) {
    std::optional<Row> row = take_row();
    if (!row) break;
    try {
      if (row->error) std::rethrow_exception(row->error);
      inputs.push_back(std::move(row->input));
      batch.items.push_back(std::move(row->item));
    } catch (const Error& error) {
      if (!options_.left_out) throw;
      options_.left_out(error.what());
    }
  }
  if (inputs.empty()) return std::nullopt;
  const TapePause inference;
  const Variable features = encode_(inputs);
  const bool unit = options_.form == FeatureForm::kUnitLength;
  batch.features = on_host((unit ? l2_normalize(features) : features).value());
  return batch;
}

/// The next row, prepared.
std::optional<EmbeddingStream::Row> EmbeddingStream::take_row() {
  read_ahead();
  if (rows_.empty()) return std::nullopt;  // only this thread adds and takes rows
  if (threads_.empty()) {
    prepare(rows_.front());
  } else {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [this] { return rows_.front().ready; });
  }
  const std::lock_guard lock(mutex_);
  Row row = std::move(rows_.front());
  rows_.pop_front();
  if (!threads_.empty()) --claimed_;
  return row;
}

void EmbeddingStream::read_ahead() {
  while (!ended_ && std::ssize(rows_) < kAhead * options_.batch_size) {
    std::optional<std::string> item = next_item_();
    ended_ = !item.has_value();
    if (ended_) return;
    const std::lock_guard lock(mutex_);
    rows_.push_back({.item = std::move(*item)});
    work_.notify_one();
  }
}

void EmbeddingStream::prepare(Row& row) const {
  try {
    row.input = prepare_(row.item);
  } catch (...) {
    row.error = std::current_exception();
  }
}

void EmbeddingStream::work(std::stop_token stop) {
  // On Linux this is the calling thread's own priority: the tower's threads go first.
  [[maybe_unused]] const int priority = nice(10);
  std::unique_lock lock(mutex_);
  while (work_.wait(lock, stop, [this] { return claimed_ < rows_.size(); })) {
    if (stop.stop_requested()) return;
    Row& row = rows_[claimed_++];
    lock.unlock();
    prepare(row);
    lock.lock();
    row.ready = true;
    finished_.notify_one();
  }
}

namespace {

EmbeddingStream embed_loaded(const Clip& clip, EmbeddingStream::NextItem next_item,
                             std::function<Image(const std::string& item)> load,
                             EmbeddingOptions options) {
  const auto prepare = [&vision = clip.config.vision,
                        load = std::move(load)](const std::string& item) {
    Image image = prepare_image(load(item), vision.image_size, vision.preprocess);
    return TowerInput{.pixels = std::move(image.pixels), .tokens = {}};
  };
  const auto encode = [&clip, form = options.form](const std::vector<TowerInput>& inputs) {
    const int64_t size = clip.config.vision.image_size;
    std::vector<uint8_t> pixels;
    pixels.reserve(inputs.size() * inputs.front().pixels.size());
    for (const TowerInput& input : inputs)
      pixels.insert(pixels.end(), input.pixels.begin(), input.pixels.end());
    const Tensor images = Tensor::from<uint8_t>(clip.logit_scale.backend(),
                                                {std::ssize(inputs), size, size, 3}, pixels);
    return form == FeatureForm::kBeforeProjection ? clip.probe_features(images)
                                                  : clip.encode_image(images);
  };
  return {std::move(next_item), prepare, encode, std::move(options)};
}

}  // namespace

EmbeddingStream embed_pictures(const Clip& clip, EmbeddingStream::NextItem next_path,
                               EmbeddingOptions options) {
  return embed_loaded(clip, std::move(next_path), load_image, std::move(options));
}

EmbeddingStream embed_pictures(const Clip& clip, int64_t count,
                               std::function<Image(int64_t)> picture, EmbeddingOptions options) {
  const auto next = [count, i = int64_t{0}]() mutable {
    return i < count ? std::optional(std::to_string(i++)) : std::nullopt;
  };
  const auto load = [picture = std::move(picture)](const std::string& number) {
    return picture(std::stoll(number));
  };
  return embed_loaded(clip, next, load, std::move(options));
}

EmbeddingStream embed_texts(const Clip& clip, const Tokenizer& tokenizer,
                            EmbeddingStream::NextItem next_text, EmbeddingOptions options) {
  const auto prepare = [&clip, &tokenizer](const std::string& text) {
    return TowerInput{.pixels = {},
                      .tokens = tokenizer.tokenize(text, clip.config.text.context_length)};
  };
  const auto encode = [&clip](const std::vector<TowerInput>& inputs) {
    std::vector<std::vector<int32_t>> tokens;
    for (const TowerInput& input : inputs) tokens.push_back(input.tokens);
    return clip.encode_text(pack_tokens(tokens, clip.logit_scale.backend()));
  };
  return {std::move(next_text), prepare, encode, std::move(options)};
}

NumberedFeatures picture_features(const Clip& clip, int64_t count,
                                  std::function<Image(int64_t)> picture, EmbeddingOptions options) {
  EmbeddingStream stream = embed_pictures(clip, count, std::move(picture), std::move(options));
  NumberedFeatures all;
  while (const std::optional<EmbeddedBatch> batch = stream.next()) {
    const auto width = std::ssize(batch->features) / std::ssize(batch->items);
    if (!all.rows.defined()) all.rows = Tensor::empty(cpu_backend(), {count, width}, DType::kF32);
    const int64_t first = std::ssize(all.numbers);
    std::copy(batch->features.begin(), batch->features.end(),
              all.rows.data<float>() + first * width);
    for (const std::string& item : batch->items) all.numbers.push_back(std::stoll(item));
  }
  CLIP_CHECK(!all.numbers.empty(), "none of the ", count, " pictures can be read");
  all.rows = all.rows.slice(0, std::ssize(all.numbers));
  return all;
}

}  // namespace clip
