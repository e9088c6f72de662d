#include "models/training.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "autograd/gradient_reducer.h"
#include "models/features.h"

namespace clip {

namespace {

std::vector<Batch> in_parts(const Tensor& images, const std::vector<std::vector<int32_t>>& captions,
                            int64_t parts) {
  const int64_t rows = images.size(0) / parts;
  CLIP_CHECK(rows * parts == images.size(0), "[to_device] a batch of ", images.size(0),
             " cannot be cut into ", parts, " equal micro-batches");
  std::vector<Batch> micro_batches;
  for (int64_t begin = 0; begin < images.size(0); begin += rows) {
    const auto first = captions.begin() + begin;
    micro_batches.push_back(
        {images.slice(begin, begin + rows), pack_tokens({first, first + rows}, images.backend())});
  }
  return micro_batches;
}

Shape shape_of(const HostBatch& batch, int64_t image_size) {
  return {static_cast<int64_t>(batch.tokens.size()), image_size, image_size, 3};
}

}  // namespace

std::vector<Batch> to_device(const HostBatch& batch, int64_t image_size, Backend& backend,
                             int64_t parts) {
  return in_parts(Tensor::from<uint8_t>(backend, shape_of(batch, image_size), batch.images),
                  batch.tokens, parts);
}

std::vector<Batch> BatchUploader::operator()(const HostBatch& batch, int64_t parts) {
  const Shape shape = shape_of(batch, size_);
  std::swap(images_, other_images_);
  if (!has_shape(images_, shape)) {
    images_ = Tensor::empty(backend_, shape, DType::kU8);
    backend_.synchronize();  // its memory may have been somebody's who is still at work
  }
  backend_.upload(images_, batch.images.data());
  return in_parts(images_, batch.tokens, parts);
}

namespace {

struct Features {
  Variable image, text;  // [N, E], unit rows
};

using Running = BatchNormMode::Running;

/// In training: a BatchNorm normalises by the batch, all ranks' rows of it; one of a locked tower by
/// its running statistics.
Features encode(const Clip& clip, const Batch& batch, Communicator& comm, Running running) {
  TowerOptions options = clip.towers;
  if (!clip.locked.image) options.batch_norm = {&comm, running};
  return {batch.image_features
              ? Variable(batch.image_features)
              : l2_normalize(clip.encode_image(batch.images, batch.kept_tokens, options)),
          batch.text_features ? Variable(batch.text_features)
                              : l2_normalize(clip.encode_text(batch.tokens))};
}

/// Rows of all micro-batches, computed without a tape; leaves, so that the loss leaves its gradient
/// there. This pass moves the running statistics, once for each micro-batch.
Features encode_without_tape(const Clip& clip, const std::vector<Batch>& micro_batches,
                             Communicator& comm) {
  TapePause pause;
  Tensor image, text;
  int64_t done = 0;
  for (const Batch& batch : micro_batches) {
    const Features part = encode(clip, batch, comm, Running::kMoved);
    Backend& backend = part.image.backend();
    const int64_t end = done + part.image.size(0);
    if (done == 0) {
      const int64_t parts = static_cast<int64_t>(micro_batches.size());
      image =
          Tensor::empty(backend, part.image.shape().with_first(parts * end), part.image.dtype());
      text = Tensor::like(image);
    }
    Tensor image_rows = image.slice(done, end), text_rows = text.slice(done, end);
    backend.copy(image_rows, part.image.value());
    backend.copy(text_rows, part.text.value());
    done = end;
  }
  return {Variable(image, !clip.locked.image), Variable(text, !clip.locked.text)};
}

Variable loss_of(const Clip& clip, const Features& features, Communicator& comm) {
  if (clip.config.loss() == LossKind::kSigmoid)
    return siglip_loss(features.image, features.text, clip.logit_scale, clip.logit_bias, comm);
  return clip_loss(features.image, features.text, clip.logit_scale, comm);
}

/// Backward of one micro-batch from the gradients of its rows [begin, end).
void backward_of_rows(Tape& tape, const Features& part, const Features& all, int64_t begin,
                      int64_t end, const Tape::Ready& ready) {
  std::vector<Variable> outputs;
  std::vector<Tensor> gradients;
  const auto add = [&](const Variable& output, const Variable& rows) {
    if (!output.requires_grad()) return;  // a locked tower
    outputs.push_back(output);
    gradients.push_back(rows.grad().slice(begin, end));
  };
  add(part.image, all.image);
  add(part.text, all.text);
  tape.backward(outputs, gradients, ready);
}

}  // namespace

Contrast contrast(const Clip& clip, const Batch& batch, Communicator& comm) {
  const Features features = encode(clip, batch, comm, Running::kMoved);  // unit rows [N, E]
  const Variable loss = loss_of(clip, features, comm);                   // []
  return {loss, features.image, features.text};
}

Contrast contrast_and_gradients(ClipModel& model, const std::vector<Batch>& micro_batches,
                                Communicator& comm) {
  GradientReducer reducer(model.parameters, comm);
  const Tape::Ready ready = [&](const Variable& leaf) { reducer.ready(leaf); };
  Contrast result;
  if (micro_batches.size() == 1) {
    Tape tape;
    result = contrast(model.clip, micro_batches[0], comm);
    tape.backward(result.loss, ready);
  } else {
    const Features all = encode_without_tape(model.clip, micro_batches, comm);
    {
      Tape tape;
      const Variable loss = loss_of(model.clip, all, comm);
      result = {loss, all.image, all.text};
      tape.backward(loss, ready);
    }
    int64_t begin = 0;
    for (Batch batch : micro_batches) {
      const int64_t end = begin + batch.images.size(0);
      const bool last = end == all.image.size(0);
      // What has no gradient need not run again.
      if (model.clip.locked.image) batch.image_features = all.image.value().slice(begin, end);
      if (model.clip.locked.text) batch.text_features = all.text.value().slice(begin, end);
      Tape tape;
      const Features part = encode(model.clip, batch, comm, Running::kLeft);
      backward_of_rows(tape, part, all, begin, end, last ? ready : Tape::Ready());
      begin = end;
    }
  }
  reducer.finish();
  return result;
}

StepMetrics train_step(ClipModel& model, AdamW& optimizer, const std::vector<Batch>& micro_batches,
                       double lr, Communicator& comm) {
  // A skipped step must leave running statistics too. Forward moves them, so what was is kept; to
  // know whether to put it back, a model that has some waits here for the device.
  Tensor running_statistics;
  if (!model.parameters.buffers().empty())
    running_statistics = model.parameters.buffer_values().clone();
  const Contrast result = contrast_and_gradients(model, micro_batches, comm);
  Tensor loss = result.loss.value();
  comm.all_reduce_sum(loss);
  comm.wait();
  tell_observer("reduce");
  const Tensor sum_of_squares = optimizer.step(lr);
  if (running_statistics && !std::isfinite(sum_of_squares.item()))
    loss.backend().copy(model.parameters.buffer_values(), running_statistics);
  Tensor logit_scale = model.clip.logit_scale.value();
  logit_scale.backend().clamp(logit_scale, 0.0, std::log(100.0));
  tell_observer("optimizer");
  return {loss, sum_of_squares, result.image_features.value(), result.text_features.value()};
}

double StepMetrics::gradient_norm() const { return std::sqrt(sum_of_squares.item()); }

bool StepMetrics::skipped() const { return !std::isfinite(gradient_norm()); }

double loss_of_copies(LossKind loss, int64_t copies) {
  const auto m = static_cast<double>(copies);
  const bool has_mismatches = loss == LossKind::kSigmoid && copies > 1;
  return std::log(m) + (has_mismatches ? (m - 1) * std::log(m / (m - 1)) : 0.0);
}

namespace {

/// The numbers of all ranks, in their order; as many on each.
template <class T>
std::vector<T> gathered(const std::vector<T>& mine, Communicator& ranks) {
  const auto count = static_cast<int64_t>(mine.size());
  Tensor all = Tensor::empty(cpu_backend(), {count * ranks.size()}, kDTypeOf<T>);
  ranks.all_gather(all, Tensor::from(cpu_backend(), {count}, mine));
  ranks.wait();
  return all.to_vector<T>();
}

}  // namespace

Captions all_captions(const Captions& mine, Communicator& ranks) {
  if (ranks.size() == 1) return mine;
  constexpr int32_t kEnd = -1;  // no token
  size_t longest = 0;
  for (const auto& caption : mine) longest = std::max(longest, caption.size());
  for (const int32_t other : gathered<int32_t>({static_cast<int32_t>(longest)}, ranks))
    longest = std::max(longest, static_cast<size_t>(other));
  std::vector<int32_t> padded;
  for (const auto& caption : mine) {
    padded.insert(padded.end(), caption.begin(), caption.end());
    padded.insert(padded.end(), longest - caption.size(), kEnd);
  }
  const std::vector<int32_t> tokens = gathered(padded, ranks);
  Captions all;
  for (auto row = tokens.begin(); row < tokens.end(); row += static_cast<std::ptrdiff_t>(longest))
    all.emplace_back(row, std::find(row, row + static_cast<std::ptrdiff_t>(longest), kEnd));
  return all;
}

double loss_floor(const Captions& captions, LossKind loss) {
  std::map<std::vector<int32_t>, int64_t> copies;
  for (const auto& caption : captions) ++copies[caption];
  double total = 0;
  for (const auto& [caption, count] : copies)
    total += static_cast<double>(count) * loss_of_copies(loss, count);
  return total / static_cast<double>(captions.size());
}

double in_batch_top1(const Tensor& image_features, const Tensor& text_features,
                     const Captions& captions, Communicator& ranks) {
  constexpr int64_t kRows = 256;  // rows of similarities in memory at once
  const int64_t rows = image_features.size(0), columns = rows * ranks.size();
  const Tensor texts = Tensor::from(text_features.backend(), {columns, text_features.size(1)},
                                    gathered(text_features.to_vector<float>(), ranks));
  const auto own = captions.begin() + ranks.rank() * rows;
  int32_t right = 0;
  for (int64_t begin = 0; begin < rows; begin += kRows) {
    const Tensor part = image_features.slice(begin, std::min(begin + kRows, rows));
    const auto similarity = cosines(part, texts).to_vector<float>();
    for (int64_t i = 0; i < part.size(0); ++i) {
      const float* row = similarity.data() + i * columns;
      const auto nearest = std::max_element(row, row + columns) - row;
      right += captions[static_cast<size_t>(nearest)] == own[begin + i] ? 1 : 0;
    }
  }
  const std::vector<int32_t> parts = gathered<int32_t>({right}, ranks);
  return std::accumulate(parts.begin(), parts.end(), 0.0) / static_cast<double>(columns);
}

}  // namespace clip
